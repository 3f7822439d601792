"""What the commands print: answers for people on stderr, stdout is for --json."""

import sys
import time
from typing import Any, Self

_LINE_SECONDS = 10.0


def say(line: str) -> None:
    """A line for people."""
    print(line, file=sys.stderr, flush=True)


def table(title: str, rows: list[dict[str, Any]], columns: list[str]) -> None:
    """A table for people, on stderr: stdout is for --json."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=title)
    for column in columns:
        grid.add_column(column.replace("_", " "), justify="right" if _is_number(rows, column) else "left")
    for row in rows:
        grid.add_row(*(_cell(row[column]) for column in columns))
    Console(stderr=True).print(grid)


class ProgressLine:
    """How far something is, on stderr: in one line on a terminal, in a new one every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._terminal, self._last = sys.stderr.isatty(), time.monotonic()
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._shown and self._terminal:
            print(file=sys.stderr, flush=True)

    def show(self, text: str, *, last: bool = False) -> None:
        """Replace the line; the last one is shown in any case."""
        now = time.monotonic()
        if not self._terminal and now - self._last < _LINE_SECONDS and not last:
            return
        self._last, self._shown = now, True
        start, end = ("\r", "\x1b[K") if self._terminal else ("", "\n")
        print(f"{start}{text}", end=end, file=sys.stderr, flush=True)


def _is_number(rows: list[dict[str, Any]], column: str) -> bool:
    return any(isinstance(row[column], int | float) for row in rows)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:,.4g}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
