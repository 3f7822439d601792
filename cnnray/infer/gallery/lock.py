"""Many read at once, or one writes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ReadWriteLock:
    """Neither side starves: a reader waits for a writer that waits, the next writer for the readers that waited for it.

    It is not reentrant.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = self._queued = self._writers = self._phase = 0
        self._writing = False

    @contextmanager
    def read(self) -> Iterator[None]:
        """Together with other readers."""
        with self._changed:
            if self._writers:
                self._queued += 1
                phase = self._phase
                self._changed.wait_for(lambda: self._phase != phase)  # the writer has counted us among the readers
            else:
                self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def write(self) -> Iterator[None]:
        """Alone."""
        with self._changed:
            self._writers += 1
            self._changed.wait_for(lambda: not self._writing and not self._readers)
            self._writing = True
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._writers -= 1
                self._readers, self._queued = self._queued, 0
                self._phase += 1
                self._changed.notify_all()
