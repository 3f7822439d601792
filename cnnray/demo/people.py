"""A gallery of faces for the demo: people enrolled by one photo each, and photos to ask about.

The faces are those that scikit-image ships: its portrait of the astronaut Eileen Collins (NASA, public domain), and 100
faces of 25 x 25 px from Labeled Faces in the Wild, which come without names.

FOLDER/enrolled/NAME/photo.jpg    a folder for each person
FOLDER/asked/copies, strangers    altered copies of the portrait; faces of lfw_subset that were not enrolled
FOLDER/enrolment, calibration, galleries.db    what the gallery's commands wrote
"""

import io
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from PIL import Image, ImageEnhance, ImageOps

from cnnray.config import CalibrateConfig, EnrollConfig, RecordConfig
from cnnray.data.calibrate_gallery import calibrate_gallery
from cnnray.data.enroll_faces import enroll_faces
from cnnray.infer.gallery.gallery import Gallery
from cnnray.infer.gallery.record import Record
from cnnray.page import Gallery as Pictures
from cnnray.page import Picture, Section, Text

GALLERY = "people"
ASTRONAUT = "Eileen Collins"
ENROLLED = 30  # of the 100 faces of lfw_subset; the others are strangers
FPIR = 0.02  # share of strangers who may be taken for somebody
_ASKED = ("copies", "strangers")
_SHOWN = 8  # strangers
_FACES = 100
_SIDE, _BORDER = 160, 30  # px, of a grey photo with an enlarged face in it: a detector looks for whole heads

_ABOUT = (
    "A gallery (Ray Data, SQLite, FAISS) has {people_enrolled} people, each enrolled by one photo: the portrait of "
    "Eileen Collins, and 30 faces of 25 x 25 pixels from scikit-image's lfw_subset. The service recognised altered "
    "copies of the portrait, {copies_recognised} of {copies}; a request took {recognise_ms_median:.0f} ms."
)
_STRANGERS = (
    "It was also asked about {strangers} faces of lfw_subset that were not enrolled. With the threshold that is usual "
    "for two photos, {strangers_with_the_usual_threshold} of them would have been taken for somebody: among many "
    "people, and on such small pictures, someone always looks alike. The command cnnray faces calibrate measured a "
    "threshold of {people_threshold:.3f} for this gallery, which leaves {strangers_taken_for_somebody}. Below, on the "
    "left the face, on the right whom it is most like. lfw_subset does not say who anyone is: judge for yourself."
)


def write_people(folder: Path) -> None:
    """Write the photos, see above."""
    portrait = Image.fromarray(skimage.data.astronaut())
    _save(portrait, folder / "enrolled" / ASTRONAUT / "photo.jpg")
    for name, copy in _alter(portrait).items():
        _save(copy, folder / "asked" / "copies" / f"{name}.jpg")
    for number, face_HW in enumerate(skimage.data.lfw_subset()[:_FACES]):
        name = f"face-{number:02}"
        place = (
            folder / "enrolled" / name / "photo.jpg"
            if number < ENROLLED
            else folder / "asked" / "strangers" / f"{name}.jpg"
        )
        _save(_enlarge(face_HW), place)


def enroll_people(folder: Path) -> dict[str, Any]:
    """Enrol the people of `write_people` and measure the gallery's threshold.

    Returns:
        enrolled; base_threshold (the embedder's own for two photos) and threshold (for strangers among so many people).
    """
    record = RecordConfig(record=str(folder / "galleries.db"))
    # Faces of 25 px resemble each other more than the embedder's own threshold allows.
    config = EnrollConfig(accept_conflict=True, accept_quality=True)
    done = enroll_faces(str(folder / "enrolled"), str(folder / "enrolment"), GALLERY, config, record=record)
    opened = Record(record.record)
    try:
        gallery = Gallery.open(opened, GALLERY, record)
        found = calibrate_gallery(gallery, str(folder / "calibration"), CalibrateConfig(fpir=FPIR))
    finally:
        opened.close()
    return {"enrolled": done["enrolled"], "base_threshold": done["threshold"], "threshold": found["threshold"]}


def add_up_people(enrolled: dict[str, Any], answers: list[dict[str, Any]]) -> dict[str, Any]:
    """What the summary says.

    Args:
        enrolled: of `enroll_people`.
        answers: of the service, about the copies and the strangers.
    """
    copies, strangers = _by_kind(answers)
    known = [one for one in strangers if one["decision"] == "identified"]
    return {
        "people_enrolled": enrolled["enrolled"],
        "people_threshold": round(enrolled["threshold"], 4),
        "copies_recognised": sum(one["decision"] == "identified" and one["name"] == ASTRONAUT for one in copies),
        "copies": len(copies),
        "strangers": len(strangers),
        "strangers_taken_for_somebody": len(known),
        "strangers_with_the_usual_threshold": sum(one["score"] >= enrolled["base_threshold"] for one in strangers),
        "recognise_ms_median": round(statistics.median(one["ms"] for one in answers), 1),
    }


def people_section(folder: Path, summary: dict[str, Any], answers: list[dict[str, Any]]) -> Section:
    """What a page says about the gallery.

    Args:
        folder: of `write_people`.
        summary: with what `add_up_people` returns.
        answers: of the service.
    """
    copies, strangers = _by_kind(answers)
    # the most alike first: those who are taken for somebody, then the closest of the others
    strangers = sorted(strangers, key=lambda one: -one["score"])[:_SHOWN]
    portrait = Picture(_thumbnails(folder / "enrolled" / ASTRONAUT / "photo.jpg"), f"{ASTRONAUT}\nthe one photo of her")
    return Section(
        "Who is it, or nobody we know?",
        [
            Text(_ABOUT.format(**summary)),
            Pictures([portrait, *(_asked(one) for one in copies)]),
            Text(_STRANGERS.format(**summary)),
            Pictures([Picture(_pair(folder, one), _caption(one)) for one in strangers], width=220),
        ],
    )


def _by_kind(answers: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Those about copies, and those about strangers."""
    return [[one for one in answers if Path(one["path"]).parent.name == kind] for kind in _ASKED]


def _asked(answer: dict[str, Any]) -> Picture:
    return Picture(_thumbnails(Path(answer["path"])), _caption(answer, told=True))


def _pair(folder: Path, answer: dict[str, Any]) -> bytes:
    """A stranger beside whom the face is most like."""
    return _thumbnails(Path(answer["path"]), folder / "enrolled" / answer["name"] / "photo.jpg", border=_BORDER)


def _caption(answer: dict[str, Any], *, told: bool = False) -> str:
    """What was answered; `told` also says by which photo."""
    score, limit = answer["score"], answer["threshold"]
    asked = f"{Path(answer['path']).stem}: " if told else ""
    if answer["decision"] == "identified":
        return f"{asked}{answer['name']}\n{score:.3f}, at least {limit:.3f}"
    return f"{asked}{answer['decision']}\n{answer['name']} {score:.3f}, below {limit:.3f}"


def _thumbnails(*paths: Path, border: int = 0) -> bytes:
    """Photos side by side, without a border of so many pixels, as a PNG."""
    photos = [ImageOps.contain(ImageOps.crop(Image.open(path), border), (_SIDE, _SIDE)) for path in paths]
    sheet = Image.new("RGB", (_SIDE * len(photos), _SIDE), "white")
    for at, photo in enumerate(photos):
        sheet.paste(photo, (at * _SIDE + (_SIDE - photo.width) // 2, (_SIDE - photo.height) // 2))
    sink = io.BytesIO()
    sheet.save(sink, "PNG")
    return sink.getvalue()


def _alter(portrait: Image.Image) -> dict[str, Image.Image]:
    """What happens to photos on their way."""
    half = portrait.resize((portrait.width // 2, portrait.height // 2), Image.Resampling.LANCZOS)
    return {
        "mirrored": ImageOps.mirror(portrait),
        "half the size": half,
        "darker": ImageEnhance.Brightness(portrait).enhance(0.5),
        "turned": portrait.rotate(12, Image.Resampling.BICUBIC, expand=True),
        "grey": portrait.convert("L"),
        "cut out": portrait.crop((130, 30, 310, 210)),
    }


def _enlarge(face_HW: np.ndarray[Any, Any]) -> Image.Image:
    face = Image.fromarray(np.uint8(face_HW * 255)).resize((_SIDE - 2 * _BORDER,) * 2, Image.Resampling.BICUBIC)
    return ImageOps.expand(face, border=_BORDER, fill=128)


def _save(photo: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    photo.convert("RGB").save(path, quality=95)
