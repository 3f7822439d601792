"""Progress of reading and of downloading, as of any job: in MB, or in kB of what is small."""

from types import TracebackType
from typing import Self

from cnnray.data.progress import JobProgress

_UNITS = (("MB", 10**6), ("kB", 10**3))
_SMALL = 10**7  # bytes


class ByteProgress:
    """A context that shows how many of `num_bytes` are done.

    Args:
        title: what is read.
        num_bytes: in all.
    """

    def __init__(self, title: str, num_bytes: int) -> None:
        unit, self._unit = _UNITS[num_bytes < _SMALL]
        self._total, self._shown = -(-num_bytes // self._unit), 0
        self._progress = JobProgress(f"{title}, {unit}", self._total)

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._show(self._total)
        self._progress.__exit__(kind, error, trace)

    def reach(self, num_bytes: int) -> None:
        """So many are done; fewer than before where it had to begin again."""
        self._show(num_bytes // self._unit)

    def _show(self, count: int) -> None:
        if count != self._shown:
            self._progress.advance(count - self._shown)
            self._shown = count
