"""Photos with handwritten digits in them, and the boxes of these: data for detectors that can be made anywhere.

The digits are real ones (UCI's optical recognition of handwritten digits, as scikit-learn ships them), as are the
photos (those that scikit-learn and scikit-image ship). What a test scene shows, digit or photo, is in no other scene.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

HEIGHT, WIDTH = 240, 320  # px
MOST = 6  # digits in a scene
SMALL, LARGE = (32, 96), (90, 200)  # px, of a digit's square
_TEST_SHARE = 0.2  # of the digits
_INK = 0.5  # of full ink: more is the digit, for its box
_CONTRAST = 90  # least difference between ink and the photo behind it, of 255
_TRIES = 60

Pixels = NDArray[np.uint8]


class Scene(NamedTuple):
    """uint8 RGB [240, 320, 3], boxes xyxy px and digits."""

    image_HWC: Pixels
    boxes: list[tuple[int, int, int, int]]
    digits: list[int]


def write_scenes(
    folder: Path, counts: dict[str, int], seed: int = 0, most: int = MOST, sides: tuple[int, int] = SMALL
) -> str:
    """Write scenes as a COCO data set: FOLDER/NAME.json for each name of `counts`, and FOLDER/images.

    Args:
        counts: scenes of each name; those of "test" have digits and photos of their own.
        seed: of everything.
        most: digits in a scene.
        sides: range of their squares in px.

    Returns:
        the folder.
    """
    stock = _stock(seed)
    for number, (name, count) in enumerate(counts.items()):
        rng = np.random.default_rng([seed, number, most])
        digits, photos = stock["test" if name == "test" else "train"]
        _write_coco(folder, name, [compose(digits, photos, rng, most, sides) for _ in range(count)])
    return str(folder)


def compose(
    digits: Sequence[tuple[Pixels, int]],
    photos: Sequence[Pixels],
    rng: np.random.Generator,
    most: int = MOST,
    sides: tuple[int, int] = SMALL,
) -> Scene:
    """One scene: a part of a photo, and digits on it that do not touch.

    Args:
        digits: ink [8, 8] in 0..16, and which digit it is.
        photos: uint8 RGB, at least 240 x 320 px.
    """
    image = _part_of(photos[int(rng.integers(len(photos)))], rng)
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    wanted = int(rng.integers(1, most + 1))
    for _ in range(_TRIES):
        if len(boxes) == wanted:
            break
        ink, label = digits[int(rng.integers(len(digits)))]
        side = int(np.exp(rng.uniform(*np.log(sides))))
        top, left = int(rng.integers(HEIGHT - side)), int(rng.integers(WIDTH - side))
        cover = _enlarged(ink, side)
        rows, columns = (np.flatnonzero((cover > _INK).any(axis)) for axis in (1, 0))
        box = (left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1)
        if any(_near(box, other) for other in boxes):
            continue
        place = image[top : top + side, left : left + side]
        color = _color(place, rng)
        image[top : top + side, left : left + side] = (place + (color - place) * cover[..., None]).astype(np.uint8)
        boxes.append(box)
        labels.append(label)
    return Scene(image, boxes, labels)


def _enlarged(ink: Pixels, side: int) -> NDArray[np.float64]:
    """Ink in [0, 1], [side, side], with a margin: it reaches the edge, where it would end in a straight line."""
    levels = (np.pad(ink, 1) / 16 * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(levels).resize((side, side), Image.Resampling.BICUBIC)) / 255


def _stock(seed: int) -> dict[str, tuple[list[tuple[Pixels, int]], list[Pixels]]]:
    """Digits and photos of training and of test scenes."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    held = round(_TEST_SHARE * len(order))
    digits = {
        name: [(data.images[at].astype(np.uint8), int(data.target[at])) for at in part]
        for name, part in (("test", order[:held]), ("train", order[held:]))
    }
    temple, flower = load_sample_images().images
    names = {
        "train": ("astronaut", "brick", "chelsea", "gravel", "hubble_deep_field", "immunohistochemistry"),
        "test": ("camera", "coffee", "grass", "rocket"),
    }
    photos = {part: [_rgb(getattr(skimage.data, name)()) for name in own] for part, own in names.items()}
    photos["train"] += [temple, skimage.data.stereo_motorcycle()[0]]
    photos["test"] += [flower]
    return {name: (digits[name], photos[name]) for name in photos}


def _rgb(photo: Pixels) -> Pixels:
    return photo if photo.ndim == 3 else np.repeat(photo[..., None], 3, axis=2)


def _part_of(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """A random part, at half its size or up to twice as near, mirrored or not."""
    height, width = photo.shape[:2]
    largest = min(height / HEIGHT, width / WIDTH)
    share = rng.uniform(min(1.0, largest), largest)
    high, wide = int(HEIGHT * share), int(WIDTH * share)
    top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
    part = photo[top : top + high, left : left + wide]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    return np.array(Image.fromarray(part).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))


def _color(place: Pixels, rng: np.random.Generator) -> NDArray[np.float64]:
    """A colour that can be told from what is behind it."""
    behind = place.mean((0, 1))
    for _ in range(_TRIES):
        color = rng.uniform(0, 255, 3)
        if abs(color.mean() - behind.mean()) > _CONTRAST:
            return color
    return np.full(3, 255.0 if behind.mean() < 128 else 0.0)


def _near(a: tuple[int, ...], b: tuple[int, ...], gap: int = 4) -> bool:
    """Whether boxes overlap or nearly do."""
    apart = (b[0] - a[2], a[0] - b[2], b[1] - a[3], a[1] - b[3])
    return max(apart) < gap


def _write_coco(folder: Path, name: str, scenes: Sequence[Scene]) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes, start=1):
        file_name = f"{name}-{number:04d}.jpg"
        Image.fromarray(scene.image_HWC).save(folder / "images" / file_name, quality=90)
        images.append({"id": number, "file_name": file_name, "height": HEIGHT, "width": WIDTH})
        for (x1, y1, x2, y2), digit in zip(scene.boxes, scene.digits, strict=True):
            note = {"id": len(notes) + 1, "image_id": number, "category_id": digit + 1, "iscrowd": 0}
            notes.append(note | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
    content = {"images": images, "annotations": notes, "categories": [{"id": n + 1, "name": str(n)} for n in range(10)]}
    (folder / f"{name}.json").write_text(json.dumps(content))
