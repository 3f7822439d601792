"""What the commands print: answers for people on stderr, stdout is for --json."""

import sys
from typing import Any


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
