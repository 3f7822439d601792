"""Work that kills its worker: tried again, then image by image, until the one that does it is in quarantine.

A decoder that crashes, or memory that runs out, ends the process without an exception, and Ray starts it again and
hands it the same work: for ever. So a note is stored before work begins and removed when it has ended.
"""

import hashlib
from collections.abc import Callable

import pyarrow as pa

from cnnray import files
from cnnray.data.feature_store import Outputs, quarantine_row

ATTEMPTS = "attempts"
# Two, not one: the worker may have died of something else, such as a node that went away.
MAX_DEATHS = 2
CODE = "crash"


class Cautious:
    """A stage whose worker may die in the middle of a unit.

    A unit that began `MAX_DEATHS` times and never ended is worked off image by image; an image at which the worker
    then dies as often is quarantined as "crash". No Ray in here.

    Args:
        stage: stores the outputs of a unit and returns a table of counts.
        outputs: where it stores.
    """

    def __init__(self, stage: Callable[[pa.Table], pa.Table], outputs: Outputs) -> None:
        self._stage, self._outputs = stage, outputs

    def __call__(self, unit: pa.Table) -> pa.Table:
        """What the stage returns: one row, or one row per image."""
        return self._attempt(unit, "unit", self._one_by_one)

    def _attempt(self, part: pa.Table, kind: str, instead: Callable[[pa.Table], pa.Table]) -> pa.Table:
        ids = "\n".join(part["id"].to_pylist())
        note = files.join(self._outputs.run, ATTEMPTS, hashlib.sha256(f"{kind}|{ids}".encode()).hexdigest()[:32])
        begun = int(files.read_bytes(note)) if files.exists(note) else 0
        if begun < MAX_DEATHS:
            files.write_bytes(note, str(begun + 1).encode())
        result = self._stage(part) if begun < MAX_DEATHS else instead(part)
        files.remove(note)
        return result

    def _one_by_one(self, unit: pa.Table) -> pa.Table:
        rows = [self._attempt(unit.slice(at, 1), "image", self._give_up) for at in range(unit.num_rows)]
        return pa.concat_tables(rows, promote_options="default")

    def _give_up(self, image: pa.Table) -> pa.Table:
        (row,) = image.select(["id", "path"]).to_pylist()
        message = f"the worker died {MAX_DEATHS} times while it worked on this image alone"
        self._outputs.quarantine([quarantine_row(row, CODE, message)])
        return pa.table({"images": [1], "quarantined": [1]})


def forget_attempts(run: str) -> None:
    """Start counting anew: a command that was killed says nothing against the work it was at."""
    files.remove(files.join(run, ATTEMPTS))
