"""Windows cut out of a scene to train a classifier on: some with an object, most with background.

A classifier that slides over pictures sees far more background than objects, and every object many times: a little
aside, too large, in part. All of these are to be background, so that the best window is the one that fits.
"""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from cnnray.ops.assign import CROWD
from cnnray.ops.boxes import iou
from cnnray.ops.scenes import Labelled
from cnnray.ops.transforms import resize_image, uniform

_MISPLACED = 0.08  # of the side: a window may be so far aside and still has the object
_SCALE_STEP = 2**0.25  # half a step of a pyramid whose scales are 2^0.5 apart
_OTHER = 0.35  # IoU with every object's own window below which a window is background
_TRIES = 20


class Windows(NamedTuple):
    """Windows of one scene: uint8 [W, 3, size, size], and int64 [W] class numbers."""

    images_W3SS: Tensor
    labels_W: Tensor


def sample_windows(
    scene: Labelled, count: int, size: int, filled: float, background: int, generator: Generator
) -> Windows:
    """Up to half of the windows have an object each, the others have none; near objects and anywhere in turn.

    Args:
        count: W.
        size: side of the windows in px, to which what is cut out is resized.
        filled: share of a window's side that the longer side of its object takes on average.
        background: number of the class of windows without an object.
    """
    squares = own_windows(scene.boxes_M4, filled)
    objects = (scene.labels_M >= 0).nonzero().flatten()
    chosen = objects[torch.randperm(len(objects), generator=generator)[: count // 2]]
    height, width = scene.image_CHW.shape[1:]
    moved = (_moved(squares[at], _MISPLACED, _SCALE_STEP, generator) for at in chosen)
    places = [_inside(place, height, width) for place in moved]
    labels = scene.labels_M[chosen].tolist()
    while len(places) < count:
        near = len(objects) > 0 and len(places) % 2 == 0
        place = _background(scene, squares, squares[objects] if near else None, size, generator)
        places.append(place)
        labels.append(background)
    return Windows(torch.stack([_cut(scene.image_CHW, place, size) for place in places]), torch.tensor(labels))


def own_windows(boxes_M4: Tensor, filled: float) -> Tensor:
    """The square window [M, 4] of each object, px: in its middle, `filled` by its longer side."""
    middle = (boxes_M4[:, :2] + boxes_M4[:, 2:]) / 2
    half = (boxes_M4[:, 2:] - boxes_M4[:, :2]).amax(1, keepdim=True) / filled / 2
    return torch.cat([middle - half, middle + half], dim=1)


def _moved(square_4: Tensor, aside: float, factor: float, generator: Generator) -> Tensor:
    """A window moved by at most `aside` of its side, and scaled by at most `factor` up or down."""
    side = float(square_4[2] - square_4[0])
    half = side / 2 * math.exp(uniform(-1, 1, generator) * math.log(factor))
    x, y = (float(low + high) / 2 for low, high in zip(square_4[:2], square_4[2:], strict=True))
    x, y = x + uniform(-aside, aside, generator) * side, y + uniform(-aside, aside, generator) * side
    return torch.tensor([x - half, y - half, x + half, y + half])


def _background(scene: Labelled, squares: Tensor, near: Tensor | None, size: int, generator: Generator) -> Tensor:
    """A window that is no object's, or the last one tried where objects are everywhere."""
    height, width = scene.image_CHW.shape[1:]
    crowds = scene.boxes_M4[scene.labels_M == CROWD]
    place = torch.zeros(4)
    for _ in range(_TRIES):
        if near is not None:
            one = near[int(torch.randint(len(near), (), generator=generator))]
            place = _moved(one, 0.8, 3.0, generator)
        else:
            side = math.exp(uniform(math.log(min(size, height, width)), math.log(min(height, width)), generator))
            x, y = uniform(0, width - side, generator), uniform(0, height - side, generator)
            place = torch.tensor([x, y, x + side, y + side])
        place = _inside(place, height, width)
        taken = len(squares) > 0 and float(iou(place[None], squares).max()) >= _OTHER
        middle = (place[:2] + place[2:]) / 2
        crowded = bool(((middle > crowds[:, :2]) & (middle < crowds[:, 2:])).all(1).any())
        if not taken and not crowded:
            break
    return place


def _inside(place_4: Tensor, height: int, width: int) -> Tensor:
    """The window at whole px, no larger than the picture and moved into it."""
    side = max(1, min(round(float(place_4[2] - place_4[0])), height, width))
    left = min(max(round(float(place_4[0])), 0), width - side)
    top = min(max(round(float(place_4[1])), 0), height - side)
    return torch.tensor([left, top, left + side, top + side], dtype=torch.float32)


def _cut(image_CHW: Tensor, place_4: Tensor, size: int) -> Tensor:
    left, top, right, bottom = (int(value) for value in place_4)
    return resize_image(image_CHW[:, top:bottom, left:right], size, size, "bilinear")
