"""Which part of an image a network saw, and what it found there laid over the whole image."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def seen_box(height: int, width: int, *, size: int, resize: int) -> tuple[float, float, float, float]:
    """Where `plain_view` of an image lies in it: (top, left, bottom, right) in px, not rounded.

    Args:
        height, width: of the image, px.
        size, resize: as in `cnnray.ops.augment.plain_view`; where `size` is the larger, the box is beyond the image.
    """
    long = int(resize * max(height, width) / min(height, width))
    rows, columns = (resize, long) if height <= width else (long, resize)
    (top, bottom), (left, right) = _middle(height, rows, size), _middle(width, columns, size)
    return top, left, bottom, right


def lay_back(map_SS: NDArray[np.float32], height: int, width: int, *, size: int, resize: int) -> NDArray[np.float32]:
    """A map of the view as a map of the image, bilinear; 0 where the network did not look.

    Args:
        map_SS: float32 [size, size].
        height, width: of the image, px.
        size, resize: as in `seen_box`.

    Returns:
        float32 [height, width].
    """
    top, left, bottom, right = seen_box(height, width, size=size, resize=resize)
    (y0, y1), (x0, x1) = _inside(top, bottom, height), _inside(left, right, width)
    scale_y, scale_x = size / (bottom - top), size / (right - left)
    edges = ((x0 - left) * scale_x, (y0 - top) * scale_y, (x1 - left) * scale_x, (y1 - top) * scale_y)
    x_start, y_start, x_stop, y_stop = (min(max(edge, 0.0), float(size)) for edge in edges)
    picture = Image.fromarray(np.ascontiguousarray(map_SS))
    whole = np.zeros((height, width), np.float32)
    box = (x_start, y_start, x_stop, y_stop)
    whole[y0:y1, x0:x1] = np.asarray(picture.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=box))
    return whole


def _middle(length: int, scaled: int, size: int) -> tuple[float, float]:
    """The middle `size` px of an axis of `length` px that is resized to `scaled` px, in px before the resize."""
    start = round((scaled - size) / 2) if size <= scaled else -((size - scaled) // 2)
    return start * length / scaled, (start + size) * length / scaled


def _inside(start: float, stop: float, length: int) -> tuple[int, int]:
    """Whole px of an axis, at least one, that an interval covers."""
    first = min(max(round(start), 0), length - 1)
    return first, max(min(round(stop), length), first + 1)
