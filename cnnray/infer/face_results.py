"""What the pipeline of faces answers, and which of several faces is meant."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnray.errors import FaceError
from cnnray.ops.draw import draw_faces
from cnnray.ops.face_quality import FaceQuality

LANDMARKS = ("left_eye_outer", "left_eye_inner", "right_eye_outer", "right_eye_inner", "nose")  # the person's own left


@dataclass(frozen=True)
class Face:
    """One face in a photo.

    Attributes:
        box: left, top, right, bottom in px of the photo; cut off at its borders.
        confidence: score of the detector, above 0 where it is sure, seldom above 1.2.
        landmarks_52: float32 (x, y) in px: outer and inner corner of the person's left eye, of the right one, nose;
            they may lie outside of the photo.
        quality: of the picture of the face.
        crop_HWC: uint8 RGB [150, 150, 3], turned upright; black where there is no photo.
        embedding_D: float32 of length 1; empty where none was asked for.
    """

    box: tuple[float, float, float, float]
    confidence: float
    landmarks_52: NDArray[np.float32] = field(repr=False)
    quality: FaceQuality
    crop_HWC: NDArray[np.uint8] = field(repr=False)
    embedding_D: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True)
class Faces:
    """What is in one photo: its height and width in px, upright, and its faces, surest first."""

    height: int
    width: int
    faces: tuple[Face, ...]


@dataclass(frozen=True)
class Verification:
    """Whether two faces are one person's.

    Attributes:
        same: what the threshold says.
        distance: of the embeddings, 0 to 2.
        threshold: that was compared with.
        probability: by the verification head; None of an embedder without one, where the distance decides.
    """

    same: bool
    distance: float
    threshold: float
    probability: float | None


@dataclass(frozen=True)
class VerifiedPair:
    """Two photos compared.

    Attributes:
        answer: of the two faces that were meant.
        faces: the two.
        found: faces in each photo.
    """

    answer: Verification
    faces: tuple[Face, Face]
    found: tuple[int, int]


def pick_face(photo: Faces, how: str, name: str = "the image") -> Face:
    """The one face that is meant.

    Args:
        how: "largest" box, "central" (nearest to the middle, in sizes of the face), or "only".
        name: of the photo, for messages.

    Raises:
        FaceError: there is none, or several where there should be one.
    """
    if not photo.faces:
        raise FaceError("no_face", f"expected a face in {name}, but none was found")
    if how == "only" and len(photo.faces) > 1:
        raise FaceError("several_faces", f"expected one face in {name}, but {len(photo.faces)} were found")
    if how == "central":
        return min(photo.faces, key=lambda face: _off_centre(face, photo))
    return max(photo.faces, key=lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))


def _off_centre(face: Face, photo: Faces) -> float:
    left, top, right, bottom = face.box
    away = math.hypot((left + right - photo.width) / 2, (top + bottom - photo.height) / 2)
    return away / max(face.quality.size, 1.0)


def face_json(
    box: Iterable[float], confidence: float, landmarks: Iterable[float], quality: Mapping[str, float]
) -> dict[str, Any]:
    """A face as JSON values, rounded: box in px, confidence, landmarks by name as [x, y] px, quality by name.

    Args:
        landmarks: x and y of each in the order of LANDMARKS, ten numbers.
    """
    numbers = [round(float(value), 2) for value in landmarks]
    return {
        "box": [round(float(value), 2) for value in box],
        "confidence": round(float(confidence), 4),
        "landmarks": {name: numbers[2 * at : 2 * at + 2] for at, name in enumerate(LANDMARKS)},
        "quality": {name: round(float(value), 4) for name, value in quality.items()},
    }


def to_json(face: Face) -> dict[str, Any]:
    """See `face_json`."""
    return face_json(face.box, face.confidence, face.landmarks_52.reshape(-1), dataclasses.asdict(face.quality))


def draw_photo(image_HWC: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.uint8]:
    """A copy of the photo with its faces and their confidences."""
    boxes = np.array([face.box for face in faces], np.float32).reshape(-1, 4)
    landmarks = np.array([face.landmarks_52 for face in faces], np.float32).reshape(-1, 5, 2)
    return draw_faces(image_HWC, boxes, landmarks, [f"{face.confidence:.2f}" for face in faces])
