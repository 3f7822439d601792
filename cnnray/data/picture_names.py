"""Names of the pictures that a run writes, one for each input."""

import posixpath
from collections.abc import Callable, Iterable

from cnnray.errors import DataError


def picture_name(item: str, suffix: str = "png") -> str:
    """The file of an input's picture in its folder: the id with another suffix, kept inside the folder."""
    return f"{inside(posixpath.splitext(item)[0])}.{suffix}"


def inside(item: str) -> str:
    """An id as a path that leads out of no folder: "/data/a.jpg" is data/a.jpg, "../a.jpg" is a.jpg."""
    return "/".join(part for part in item.split("/") if part not in ("", ".", ".."))


def check_names(ids: Iterable[str], name: Callable[[str], str] = picture_name) -> None:
    """Refuse inputs that would have one file together.

    Args:
        name: of the file of an id.

    Raises:
        DataError: names two of them.
    """
    names: dict[str, str] = {}
    for item in ids:
        other = names.setdefault(name(item), item)
        if other != item:
            what = "images whose names differ in more than their suffix and what leads out of a folder"
            raise DataError(f"expected {what}, got {other} and {item}")
