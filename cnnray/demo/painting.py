"""A photo of the demo in the styles that come along.

FOLDER/cat.jpg            scikit-image's photo of Chelsea the cat (by Stéfan van der Walt, public domain)
FOLDER/STYLE.jpg          as the service painted it
"""

import statistics
from pathlib import Path
from typing import Any

import skimage.data
from PIL import Image

from cnnray.config import PaintConfig
from cnnray.data.paint import style_names
from cnnray.page import Gallery, Picture, Section, Text

PHOTO = "cat.jpg"

_ABOUT = (
    "One network paints any of the styles that come with cnnray: a scale and a shift of each of its channels make one "
    "style of it or another. It was trained once (Ray Train) and paints in one pass; over HTTP this photo of {width} x "
    "{height} px took {paint_ms_median:.0f} ms. Any other picture gives its style by optimisation, in minutes."
)


def write_photo(folder: Path) -> Path:
    """Write the photo, see above; where it is then."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(skimage.data.chelsea()).save(folder / PHOTO, quality=95)
    return folder / PHOTO


def styles() -> list[str]:
    """Names of the styles that come along."""
    return style_names(PaintConfig())


def painting_section(folder: Path, answers: list[dict[str, Any]]) -> Section:
    """What a page says about the paintings; stores them.

    Args:
        folder: of `write_photo`.
        answers: of the service, see `cnnray.demo.service.ask_gallery_and_painter`.
    """
    for one in answers:
        (folder / f"{one['style']}.jpg").write_bytes(one["content"])
    facts = {name: answers[0][name] for name in ("width", "height")} | add_up_paintings(answers)
    pictures = [Picture((folder / PHOTO).read_bytes(), "the photo")]
    pictures += [Picture(one["content"], one["style"].replace("_", " ")) for one in answers]
    return Section("Painted like somebody else", [Text(_ABOUT.format(**facts)), Gallery(pictures, width=280)])


def add_up_paintings(answers: list[dict[str, Any]]) -> dict[str, float]:
    """For the summary: how many there are, and how long one took."""
    return {"paintings": len(answers), "paint_ms_median": round(statistics.median(one["ms"] for one in answers), 1)}
