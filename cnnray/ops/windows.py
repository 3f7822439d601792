"""Windows that slide over a picture at several scales: how objects were found with a classifier alone.

OverFeat, Sermanet et al. 2013, arXiv:1312.6229
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from cnnray.errors import OptionError
from cnnray.ops.transforms import resize_image


def plan_windows(height: int, width: int, size: int, stride: int) -> Tensor:
    """Corners (top, left) of all windows that lie inside a picture, row after row: int64 [n, 2], in px.

    Args:
        size: side of a window.
        stride: px from one window to the next.

    Raises:
        OptionError: a size or stride below 1.
    """
    if size < 1 or stride < 1:
        raise OptionError(f"windows need a size and a stride of at least 1 px, got {size} and {stride}")
    tops, lefts = (torch.arange(0, side - size + 1, stride) for side in (height, width))
    return torch.cartesian_prod(tops, lefts).reshape(-1, 2)


def cut_windows(image_CHW: Tensor, corners_N2: Tensor, size: int) -> Tensor:
    """The windows as a batch [N, C, size, size], copied."""
    if not len(corners_N2):
        return image_CHW.new_zeros(0, image_CHW.shape[0], size, size)
    return torch.stack([image_CHW[:, top : top + size, left : left + size] for top, left in corners_N2.tolist()])


def pyramid(image_CHW: Tensor, size: int, factor: float = 2**-0.5) -> Iterator[tuple[float, Tensor]]:
    """The picture at smaller and smaller scales, while a window of `size` fits: (scale, uint8 [3, h, w]).

    Args:
        image_CHW: uint8 [3, H, W]; the first scale is 1.
        size: side of the window in px.
        factor: from each scale to the next.

    Raises:
        OptionError: a factor outside of (0, 1).
    """
    if not 0 < factor < 1:
        raise OptionError(f"a pyramid needs a factor between 0 and 1, got {factor}")
    height, width = image_CHW.shape[1:]
    scale = 1.0
    while round(min(height, width) * scale) >= size:
        rows, columns = round(height * scale), round(width * scale)
        yield scale, image_CHW if scale == 1 else resize_image(image_CHW, rows, columns, "bilinear")
        scale *= factor


def window_boxes(corners_N2: Tensor, size: int, scale: float) -> Tensor:
    """Windows of a scaled picture as boxes xyxy [N, 4] in px of the picture itself."""
    corners = corners_N2.flip(1).float()
    return torch.cat([corners, corners + size], dim=1) / scale
