"""Encoded images of a work unit, read by tasks that load no network: a reader is a small process."""

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from cnnray import files
from cnnray.errors import DataError, StorageError

MAX_FILE_BYTES = 256 * 1024**2
REMOTE_THREADS = 16


def read_unit(unit: pa.Table) -> pa.Table:
    """Fetch the files of a unit.

    Args:
        unit: `id, path, label, split, partner_paths (list), partner_labels (list)`.

    Returns:
        the unit with `bytes` (null where the file could not be read), `problem` ("" or the reason) and
        `partners` (a list of bytes or null for each of `partner_paths`).
    """
    wanted = [*unit["path"].to_pylist(), *(p for paths in unit["partner_paths"].to_pylist() for p in paths if p)]
    fetched = dict(zip(wanted, _fetch_all(wanted), strict=True))
    read = [fetched[path] for path in unit["path"].to_pylist()]
    partners = [[fetched[p][0] if p else None for p in paths] for paths in unit["partner_paths"].to_pylist()]
    unit = unit.append_column("bytes", pa.array([data for data, _ in read], pa.large_binary()))
    unit = unit.append_column("problem", pa.array([problem for _, problem in read], pa.string()))
    return unit.append_column("partners", pa.array(partners, pa.list_(pa.large_binary())))


def fetch(uri: str) -> tuple[bytes | None, str]:
    """The content of a file, or None and why not: it is absent, unreadable or above 256 MiB."""
    try:
        if "://" not in uri:
            with open(uri, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        else:
            fs, path = files.filesystem(uri)
            data = fs.cat_file(path, start=0, end=MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None, "missing: no such file"
    except Exception as error:  # every store has its own exceptions; none may end the job
        return None, f"unreadable: {error}"
    if len(data) > MAX_FILE_BYTES:
        return None, f"too_large: the file has more than {MAX_FILE_BYTES} bytes"
    return data, ""


def fetch_image(uri: str) -> bytes:
    """The content of an image's file that somebody named.

    Raises:
        DataError: it is absent, unreadable or above 256 MiB.
    """
    data, problem = fetch(uri)
    if data is None:
        raise DataError(f"expected an image at {uri}, but: {problem}")
    return data


def fetch_known(uri: str) -> bytes:
    """The content of a file that could be read when the run began.

    Raises:
        StorageError: it no longer can.
    """
    data, problem = fetch(uri)
    if data is None:
        raise StorageError(f"cannot read {uri}, which was there when the run began: {problem}")
    return data


def _fetch_all(uris: list[str]) -> list[tuple[bytes | None, str]]:
    if not any("://" in uri for uri in uris):
        return [fetch(uri) for uri in uris]
    with ThreadPoolExecutor(REMOTE_THREADS) as pool:
        return list(pool.map(fetch, uris))
