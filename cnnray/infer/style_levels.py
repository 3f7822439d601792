"""The pictures of a style transfer in the sizes of a pyramid, and what a network wants to see at each.

Legend: planes [1, 3 (RGB) or 1 (luminance), H, W] in [0, 1].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnray.config import StylizeConfig
from cnnray.errors import OptionError
from cnnray.nn.stylize import Maps, Perceiver, StyleTargets, Taps
from cnnray.ops.planes import resized, size_with_longer, to_planes
from cnnray.ops.style import keep_colors, like_luminance, luminance
from cnnray.ops.style_pictures import check_style

SMALLEST, COARSEST = 16, 64  # px of the shorter side: of any picture, and of a content on the way to its full size

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """What is given, at full size.

    Attributes:
        content: planes of the result's size.
        styles: planes, of their own sizes.
        weights: share of each style, [1, S].
        mask: [1, 1, H, W] in [0, 1] of the content's size; None paints all.
        start: planes of any size; None has none.
        style_scale, colors_kept: see `StylizeConfig`.
    """

    content: Tensor
    styles: tuple[Tensor, ...]
    weights: Tensor
    mask: Tensor | None
    start: Tensor | None
    style_scale: float
    colors_kept: bool

    @classmethod
    def of(
        cls,
        content_HWC: Pixels,
        styles: Sequence[Pixels],
        config: StylizeConfig,
        *,
        mask_HW: Pixels | None = None,
        start_HWC: Pixels | None = None,
    ) -> "Pictures":
        """Checked and resized.

        Raises:
            OptionError: no style, other weights than styles, pictures too small or of one colour, or nothing to paint.
        """
        content = to_planes(content_HWC)
        if max(content.shape[2:]) > config.size:
            content = resized(content, *size_with_longer(content, config.size))
        mask = None if mask_HW is None else _checked_mask(resized(to_planes(mask_HW), *content.shape[2:]))
        start = None if start_HWC is None else to_planes(start_HWC)
        weights = torch.tensor([_shares(config.style_weight, len(styles))])
        planes = tuple(to_planes(style) for style in styles)
        pictures = cls(content, planes, weights, mask, start, config.style_scale, config.keep_colors)
        pictures._check_sides(config)
        for number, style in enumerate(styles, 1):
            check_style(style, f"style {number}")
        return pictures

    def sizes(self, most: int) -> list[tuple[int, int]]:
        """Height and width of at most so many levels, coarse to fine, each half of the next."""
        height, width = self.content.shape[2:]
        halved = [(round(height / 2**by), round(width / 2**by)) for by in range(most)]
        return [size for size in reversed(halved) if size == (height, width) or self._can_be(*size)]

    def canvas(self, height: int, width: int) -> "Canvas":
        """All of it in the size of a level."""
        content = resized(self.content, height, width)
        side = max(height, width) * self.style_scale
        styles = [self.seen(resized(style, *size_with_longer(style, side))) for style in self.styles]
        if self.colors_kept:
            styles = [like_luminance(style, self.seen(content)) for style in styles]
        mask = None if self.mask is None else resized(self.mask, height, width)
        return Canvas(content, self.seen(content), tuple(styles), self.weights, mask)

    def seen(self, planes: Tensor) -> Tensor:
        """In the channels that are painted."""
        return luminance(planes) if self.colors_kept else planes

    def _can_be(self, height: int, width: int) -> bool:
        """Whether a coarse level of that size still shows something."""
        side = max(height, width) * self.style_scale
        styles = [min(size_with_longer(style, side)) for style in self.styles]
        return min(height, width) >= COARSEST and min(styles) >= SMALLEST

    def _check_sides(self, config: StylizeConfig) -> None:
        height, width = self.content.shape[2:]
        if min(height, width) < SMALLEST:
            raise OptionError(
                f"expected a content of at least {SMALLEST} px after it is fitted into size {config.size}, "
                f"got {width} x {height}"
            )
        for number, style in enumerate(self.styles, 1):
            high, wide = size_with_longer(style, max(height, width) * self.style_scale)
            if min(high, wide, *style.shape[2:]) < SMALLEST:
                raise OptionError(
                    f"expected a style of at least {SMALLEST} px, but style {number} is {style.shape[3]} x "
                    f"{style.shape[2]} and seen at {wide} x {high}, by its style_scale of {self.style_scale:g}"
                )


@dataclass(frozen=True)
class Canvas:
    """The pictures in the size of a level.

    Attributes:
        content: RGB planes.
        seen_content, styles: in the channels that are painted.
        weights, mask: as of `Pictures`.
    """

    content: Tensor
    seen_content: Tensor
    styles: tuple[Tensor, ...]
    weights: Tensor
    mask: Tensor | None

    def to(self, device: torch.device) -> "Canvas":
        """All on a device."""
        mask = None if self.mask is None else self.mask.to(device)
        styles = tuple(style.to(device) for style in self.styles)
        moved = {name: getattr(self, name).to(device) for name in ("content", "seen_content", "weights")}
        return replace(self, styles=styles, mask=mask, **moved)

    def shown(self, planes: Tensor) -> Tensor:
        """What the network is shown of planes: [1, 3, H, W], and the content where nothing is painted."""
        return _rgb(self._masked(planes.clamp(0, 1), self.seen_content))

    def finished(self, planes: Tensor) -> Tensor:
        """RGB planes for people; exactly the content where nothing is painted."""
        planes = planes.clamp(0, 1)
        if planes.shape[1] == 1:
            planes = keep_colors(_rgb(planes), self.content)
        return self._masked(planes, self.content)

    def _masked(self, planes: Tensor, content: Tensor) -> Tensor:
        if self.mask is None:
            return planes
        return torch.where(self.mask > 0, content + (planes - content) * self.mask, content)


class Level(NamedTuple):
    """What is wanted of a picture of a size: Gram matrices [1, C, C] by tap, and the content's maps by tap."""

    grams: Mapping[str, Tensor]
    content: Maps

    @classmethod
    def of(cls, canvas: Canvas, perceiver: Perceiver, taps: Taps, config: StylizeConfig) -> "Level":
        """Of the pictures of a canvas."""
        targets = StyleTargets.of(perceiver, taps.style, [_rgb(style) for style in canvas.styles])
        with torch.no_grad():
            content = perceiver(_rgb(canvas.seen_content), taps.content)
        return cls(targets.blend(canvas.weights), content)


def _rgb(planes: Tensor) -> Tensor:
    return planes.expand(-1, 3, -1, -1)


def _checked_mask(mask: Tensor) -> Tensor:
    if mask.max() < 1 / 255:
        raise OptionError("expected a mask with white where is to be painted, but it is black all over")
    return mask


def _shares(weights: Sequence[float], num_styles: int) -> list[float]:
    """Of each style; they sum to 1."""
    if not num_styles:
        raise OptionError("expected at least one style")
    if weights and len(weights) != num_styles:
        raise OptionError(f"expected a style_weight for each of {num_styles} styles, or none; got {len(weights)}")
    weights = weights or [1.0] * num_styles
    return [weight / sum(weights) for weight in weights]
