"""Features that finished runs already hold, found by key."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cnnray import files
from cnnray.config import FeaturesConfig
from cnnray.data.feature_store import FEATURES, feature_array, read_parquet
from cnnray.errors import RunFolderError, StorageError

Vector = npt.NDArray[np.generic]


class KnownFeatures:
    """A key -> feature lookup over the parts of finished runs.

    Holds 44 bytes a row; the features themselves are read from the part when asked for, a few parts cached.

    Args:
        runs: URIs of finished feature runs; a damaged part in them is left out, its rows are computed again.
    """

    def __init__(self, runs: list[str]) -> None:
        self._parts = [uri for run in runs for uri in files.list_files(files.join(run, FEATURES), ".parquet")]
        keys, rows = [], []
        for number, uri in enumerate(self._parts):
            column = _keys(uri)
            keys.append(np.frombuffer(b"".join(column), dtype="V32") if column else np.empty(0, "V32"))
            rows.append(np.stack([np.full(len(column), number), np.arange(len(column))], axis=1))
        self._sorted = np.concatenate(keys).view("S32") if keys else np.empty(0, "S32")
        self._rows = np.concatenate(rows).astype(np.int64) if rows else np.empty((0, 2), np.int64)
        order = np.argsort(self._sorted, kind="stable")
        self._sorted, self._rows = self._sorted[order], self._rows[order]
        self._read = lru_cache(maxsize=8)(_features)

    def __len__(self) -> int:
        return len(self._sorted)

    def get(self, key: bytes) -> tuple[Vector, float] | None:
        """The stored feature [D] of `key` and its mixup share, or None."""
        if not len(self._sorted):
            return None
        wanted = key.rstrip(b"\0")  # as numpy gives back what it holds in an array of bytes
        at = int(np.searchsorted(self._sorted, np.bytes_(wanted)))
        if at == len(self._sorted) or self._sorted[at] != wanted:
            return None
        part, row = self._rows[at]
        try:
            features, lams = self._read(self._parts[part])
        except (RunFolderError, StorageError):
            return None  # the other run was deleted or damaged meanwhile: compute it
        return features[row], float(lams[row])


def find_runs(out: str, config: FeaturesConfig) -> list[str]:
    """Finished runs in the same folder as `out` that may hold features of `config`'s network; others are not read."""
    base = out.rstrip("/").rsplit("/", 1)[0] if "/" in out.rstrip("/") else "."
    runs = [files.join(base, name) for name in files.list_folders(base)]
    return [run for run in runs if _may_hold(run, config)]


def _may_hold(run: str, config: FeaturesConfig) -> bool:
    try:
        manifest = files.read_json(files.join(run, "manifest.json"))
    except (FileNotFoundError, NotADirectoryError, ValueError, StorageError):
        return False
    made = manifest.get("config", {})
    same = all(made.get(name) == getattr(config, name) for name in ("backbone", "pool", "dtype"))
    return bool(manifest.get("kind") == "features") and same


def _keys(uri: str) -> list[bytes]:
    try:
        return [bytes(key) for key in read_parquet(uri, ["key"])["key"].to_pylist()]
    except (RunFolderError, StorageError):
        return []


def _features(uri: str) -> tuple[Vector, Vector]:
    table: pa.Table = read_parquet(uri, ["feature", "lam"])
    return feature_array(table["feature"]), table["lam"].to_numpy()
