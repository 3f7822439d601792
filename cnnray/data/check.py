"""Every input of a run looked at once before it is needed: the bad ones go to the run's quarantine."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from cnnray import files
from cnnray.config import BadConfig
from cnnray.data.feature_store import QUARANTINE, Outputs, quarantine_row, read_quarantine
from cnnray.data.fetch import fetch
from cnnray.data.pipelines import quiet_ray_data
from cnnray.data.progress import JobProgress
from cnnray.data.runs import RunFolder, count_by_code, refuse_bad
from cnnray.errors import DataError, ImageError, RunFolderError
from cnnray.ops.decode import decode

CHECKED = "checked.json"
UNIT_ROWS = 128
LOOK_CPUS = 0.5

Facts = dict[str, Any]
Look = Callable[[dict[str, Any]], Facts]


class Unusable(Exception):
    """A bad input.

    Args:
        code, message: for the quarantine.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def look_at_image(row: dict[str, Any]) -> Facts:
    """Decode the image at `path`; nothing more is to be known of it."""
    read_with(decode, row["path"])
    return {}


def read_with(decoder: Callable[[bytes], Any], path: str) -> Any:
    """What `decoder` makes of a file.

    Raises:
        Unusable: the file cannot be read or decoded.
    """
    data, problem = fetch(path)
    if data is None:
        code, _, message = problem.partition(": ")
        raise Unusable(code, message)
    try:
        return decoder(data)
    except ImageError as error:
        raise Unusable(error.code, f"{path}: {error}") from error


def check_rows(
    run: RunFolder, index: pa.Table, config: BadConfig, look: Look = look_at_image
) -> tuple[pa.Table, dict[str, Facts]]:
    """Look at every row of `index`, on all CPUs of the cluster.

    Args:
        run: where the result is kept: a resumed run does not look again, and takes no other inputs.
        index: `id, path, ...`.
        config: says how many may be bad.
        look: gives the facts of a row, or raises Unusable.

    Returns:
        the good rows, and their facts by id.

    Raises:
        RunFolderError: the run began with other inputs.
        DataError: no row is good.
        QuarantineError: more than `config.max_bad` of them are bad.
    """
    marker, inputs = run.path(CHECKED), _digest(index)
    if not files.exists(marker):
        files.remove(run.path(QUARANTINE))
        facts, bad = look_at_all(index, look)
        Outputs(run.uri).quarantine(bad)
        files.write_json(marker, {"inputs": inputs, "facts": facts})
    checked = files.read_json(marker)
    if checked.get("inputs") != inputs:
        raise RunFolderError(
            f"expected the inputs with which {run.uri} began, but now they are others: some came, went or were moved; "
            "choose another --out"
        )
    found = read_quarantine(run.uri)
    codes = dict(sorted(Counter(found["code"].to_pylist()).items()))
    if found.num_rows == index.num_rows:
        raise DataError(
            f"expected images that can be decoded, but all {index.num_rows:,} are bad: {count_by_code(codes)}"
        )
    counts = {"images": index.num_rows, "quarantined": found.num_rows, "quarantine_codes": codes}
    refuse_bad(run.uri, counts, config)
    good = index.filter(pc.invert(pc.is_in(index["id"], value_set=found["id"].combine_chunks())))
    return good, checked["facts"]


def _digest(index: pa.Table) -> str:
    """SHA-256 of all rows, in their order."""
    digest = hashlib.sha256()
    for batch in index.to_batches():
        for row in batch.to_pylist():
            digest.update(f"{json.dumps(row)}\n".encode())
    return digest.hexdigest()


def look_at_all(index: pa.Table, look: Look) -> tuple[dict[str, Facts], list[dict[str, Any]]]:
    """Look at every row, on all CPUs of the cluster.

    Returns:
        facts of the good rows by id, where there are any, and quarantine entries of the bad ones.
    """
    quiet_ray_data()
    units = [index.slice(at, UNIT_ROWS).combine_chunks() for at in range(0, index.num_rows, UNIT_ROWS)]
    dataset = ray.data.from_blocks(units).map_batches(
        lambda unit: _look_at_unit(unit, look), batch_size=None, batch_format="pyarrow", num_cpus=LOOK_CPUS
    )
    facts: dict[str, Facts] = {}
    bad: list[dict[str, Any]] = []
    with JobProgress("images checked", index.num_rows) as progress:
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in pa.table(block).to_pylist():
                facts |= json.loads(row["facts"])
                bad += json.loads(row["bad"])
                progress.advance(row["count"])
    return facts, bad


def _look_at_unit(unit: pa.Table, look: Look) -> pa.Table:
    facts: dict[str, Facts] = {}
    bad = []
    for row in unit.to_pylist():
        try:
            if known := look(row):
                facts[row["id"]] = known
        except Unusable as error:
            bad.append(quarantine_row(row, error.code, str(error)))
    return pa.table({"count": [unit.num_rows], "facts": [json.dumps(facts)], "bad": [json.dumps(bad)]})
