"""Work that kills its worker: tried again, then image by image, until the one that does it is in quarantine.

A decoder that crashes, or memory that runs out, ends the process without an exception, and Ray starts it again and
hands it the same work: for ever. So a note is stored before work begins and removed when it has ended. Units are worked
on side by side in one process, and each gets a note when it dies; an image that is suspected alone is worked on alone.
"""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator

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
        self._turns = Turns()

    def __call__(self, unit: pa.Table) -> pa.Table:
        """What the stage returns: one row, or one row per image."""
        return self._attempt(unit, "unit", self._turns.beside_others, self._one_by_one)

    def _attempt(
        self,
        part: pa.Table,
        kind: str,
        turn: Callable[[], contextlib.AbstractContextManager[None]],
        instead: Callable[[pa.Table], pa.Table],
    ) -> pa.Table:
        ids = "\n".join(part["id"].to_pylist())
        note = files.join(self._outputs.run, ATTEMPTS, hashlib.sha256(f"{kind}|{ids}".encode()).hexdigest()[:32])
        begun = int(files.read_bytes(note)) if files.exists(note) else 0
        if begun < MAX_DEATHS:
            with turn():
                files.write_bytes(note, str(begun + 1).encode())
                result = self._stage(part)
        else:
            result = instead(part)
        files.remove(note)
        return result

    def _one_by_one(self, unit: pa.Table) -> pa.Table:
        images = (unit.slice(at, 1) for at in range(unit.num_rows))
        rows = [self._attempt(image, "image", self._turns.alone, self._give_up) for image in images]
        return pa.concat_tables(rows, promote_options="default")

    def _give_up(self, image: pa.Table) -> pa.Table:
        (row,) = image.select(["id", "path"]).to_pylist()
        message = f"the worker died {MAX_DEATHS} times while it worked on this image alone"
        self._outputs.quarantine([quarantine_row(row, CODE, message)])
        return pa.table({"images": [1], "quarantined": [1]})


class Turns:
    """Lets threads work beside others, or alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside, self._is_alone = 0, False

    @contextlib.contextmanager
    def beside_others(self) -> Iterator[None]:
        """Wait while somebody is alone, or wants to be."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody else is at work, and keep all others out."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone)
            self._is_alone = True
            self._changed.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()


def forget_attempts(run: str) -> None:
    """Start counting anew: a command that was killed says nothing against the work it was at."""
    files.remove(files.join(run, ATTEMPTS))
