"""What options are checked by, and how they are written down."""

import dataclasses
import json
from typing import Any

from cnnray.errors import OptionError


def to_toml(config: Any) -> str:
    """A dataclass of strings, numbers, booleans and tuples of them as TOML text (such JSON values are valid TOML)."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in dataclasses.asdict(config).items())


def at_least(name: str, value: float, low: float) -> None:
    """Refuse an option `name` whose value is below `low`, with an OptionError."""
    if value < low:
        raise OptionError(f"{name} must be at least {low}, got {value}")


def fraction(name: str, value: float) -> None:
    """Refuse what is not at least 0 and below 1."""
    if not 0 <= value < 1:
        raise OptionError(f"{name} must be at least 0 and below 1, got {value}")


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse what is not among `known`."""
    if value not in known:
        raise OptionError(f"{name} must be one of {', '.join(known)}; got {value!r}")


def count_range(name: str, value: int | str, least: int = 1) -> tuple[int, int]:
    """The two numbers of "MIN:MAX", or a number twice.

    Args:
        least: that MIN may be; MAX is at least 1 in any case.

    Raises:
        OptionError: it is neither.
    """
    low, colon, high = str(value).partition(":")
    try:
        found = int(low), int(high if colon else low)
    except ValueError:
        found = -1, -1
    if not least <= found[0] <= found[1] or found[1] < 1:
        raise OptionError(f"{name} must be a number from 1 or MIN:MAX with {least} <= MIN <= MAX, got {value!r}")
    return found
