"""The images of a folder by name, and their sizes where a format does not say them."""

import functools
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

from cnnray import files
from cnnray.data.annotations import Problem
from cnnray.data.fetch import fetch
from cnnray.data.readers import IMAGE_SUFFIXES
from cnnray.errors import DataError, ImageError
from cnnray.ops.decode import image_size


@dataclass(frozen=True)
class Pictures:
    """Images below a folder.

    Attributes:
        root: URI of the folder.
        stems: path relative to it by the same without suffix.
    """

    root: str
    stems: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """Paths relative to the folder, sorted."""
        return sorted(self.stems.values())

    def find(self, stem: str) -> str | None:
        """The image of that name without suffix; None where there is none."""
        return self.stems.get(stem)

    def uri(self, name: str) -> str:
        """Where it is."""
        return posixpath.join(self.root.rstrip("/"), name)

    def size(self, name: str) -> tuple[int, int] | None:
        """Height and width in px of the upright image; None where its header cannot be read."""
        return _look(self.uri(name))[0]

    def unreadable(self, name: str) -> Problem:
        """What to say of an image whose size is None."""
        return Problem(name, self.uri(name), "unreadable_image", f"{self.uri(name)}: {_look(self.uri(name))[1]}")


def list_pictures(root: str) -> Pictures:
    """All images below `root`, hidden ones left out.

    Raises:
        DataError: two differ in their suffix alone: their annotations would have one name.
    """
    found: dict[str, str] = {}
    for name in files.find(root):
        stem, suffix = posixpath.splitext(name)
        if suffix.lower() in IMAGE_SUFFIXES:
            if stem in found:
                raise DataError(f"expected one image named {stem} in {root}, but there are {found[stem]} and {name}")
            found[stem] = name
    return Pictures(root, found)


@functools.lru_cache(maxsize=2**16)
def _look(uri: str) -> tuple[tuple[int, int] | None, str]:
    data, problem = fetch(uri)
    if data is None:
        return None, problem
    try:
        return image_size(data), ""
    except ImageError as error:
        return None, str(error)
