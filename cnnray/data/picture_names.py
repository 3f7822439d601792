"""Names of the pictures that a run writes, one for each input."""

import posixpath
from collections.abc import Iterable

from cnnray.errors import DataError


def picture_name(item: str, suffix: str = "png") -> str:
    """The file of an input's picture in its folder: the id with another suffix, kept inside the folder."""
    parts = [part for part in posixpath.splitext(item)[0].split("/") if part not in ("", ".", "..")]
    return f"{'/'.join(parts)}.{suffix}"


def check_picture_names(ids: Iterable[str]) -> None:
    """Refuse inputs that would have one file together.

    Raises:
        DataError: names two of them.
    """
    names: dict[str, str] = {}
    for item in ids:
        other = names.setdefault(picture_name(item), item)
        if other != item:
            raise DataError(f"expected images whose names differ in more than their suffix, got {other} and {item}")
