"""Progress of a job: a bar on a terminal, a plain line every ten seconds elsewhere, always on stderr."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0


class JobProgress:
    """A context that counts items up to `total`.

    Args:
        title: what is counted, for example "features".
        total: items.
    """

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total = title, total
        self._done, self._started, self._last_line = 0, time.monotonic(), time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            rate = (TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
            self._bar = Progress(*columns, *rate, console=Console(stderr=True))
            self._task = self._bar.add_task(title, total=total, rate="")

    def __enter__(self) -> "JobProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif kind is None and self._done:
            self._line()

    def advance(self, count: int) -> None:
        """Count `count` more items."""
        self._done += count
        if self._bar:
            self._bar.update(self._task, completed=self._done, rate=f"{self._rate():.0f}/s")
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._line()

    def _rate(self) -> float:
        return self._done / max(time.monotonic() - self._started, 1e-9)

    def _line(self) -> None:
        self._last_line = time.monotonic()
        print(f"{self._title}: {self._done:,} of {self._total:,} ({self._rate():.0f}/s)", file=sys.stderr, flush=True)
