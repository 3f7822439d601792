"""Style and content as a network sees them: activations at named taps, and the losses on them.

A tap is a stage of a backbone ("stage3"), or a module inside one ("block1.1"), with an optional magnification of the
picture before the network looks at it: "stem@2" sees it at twice its size. Networks that halve the picture in their
first layer do not see single pixels otherwise, and a picture that is made for them is full of coloured noise.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnray.errors import OptionError, UnknownNameError
from cnnray.nn.backbones import Backbone
from cnnray.nn.fold import fold_batch_norms
from cnnray.ops.style import gram_matrix, relative_error, smoothed, total_variation

Maps = dict[str, Tensor]


class Taps(NamedTuple):
    """Where a network is looked at: for style, finest first, and for content."""

    style: tuple[str, ...]
    content: tuple[str, ...]

    @property
    def every(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys((*self.style, *self.content)))


# Of VGG those of Gatys et al.: relu1_1 to relu5_1, and relu4_2.
_VGG16 = Taps(("block1.1", "block2.1", "block3.1", "block4.1", "block5.1"), ("block4.3",))
DEFAULT_TAPS = {
    "efficientnet_lite0": Taps(("stem@2", "stage1@2", "stage2@2", "stage3", "stage5"), ("stage3",)),
    "squeezenet1_0": Taps(("stem@2", "fire3@2", "fire5", "fire7"), ("fire5",)),
    "squeezenet1_1": Taps(("stem@2", "fire3@2", "fire5", "fire7"), ("fire5",)),
    "vgg16": _VGG16,
    "vgg19": _VGG16,
}


class Losses(NamedTuple):
    """Per picture [N], see `cnnray.ops.style`: style and content relative errors, mean over their taps; variation."""

    style: Tensor
    content: Tensor
    variation: Tensor


class Perceiver(nn.Module):
    """A frozen backbone that gives its activations at taps; it is changed: nothing in it works in place any more, and
    its batch norms are in its convolutions.

    Args:
        backbone: whose stages give maps at these taps.
        taps: names, see above.
        smooth: whether activations are smoothed, see `cnnray.ops.style.smoothed`.
        border: px by which the network is shown more of a picture (after magnification), mirrored; what it sees there
            is left out. Without it the zeros that networks pad with are painted against: pictures get a coloured rim.

    Raises:
        UnknownNameError: no such stage or module.
        OptionError: a magnification that is no number from 0.25 to 4.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, taps: Sequence[str], *, smooth: bool = False, border: int = 0) -> None:
        super().__init__()
        self.taps, self._smooth, self._border = tuple(taps), smooth, border
        self._places = {tap: _parse_tap(tap, backbone) for tap in taps}
        self.body = backbone.body.eval().requires_grad_(False)
        for module in self.body.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]
        tapped = [self.body.get_submodule(path) for _, path in self._places.values()]
        if not any(isinstance(module, nn.Conv2d) for module in tapped):  # whose output would be another one
            fold_batch_norms(self.body)
        self.register_buffer("mean", torch.tensor(backbone.spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.spec.std).view(1, 3, 1, 1))

    def train(self, mode: bool = True) -> "Perceiver":
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, images_N3HW: Tensor, taps: Sequence[str] = ()) -> Maps:
        """Activations [N, C, h, w] by tap.

        Args:
            images_N3HW: RGB in [0, 1].
            taps: of those that it was made with, the ones that are wanted; empty is all.

        Raises:
            OptionError: pictures so small that nothing is left of them at a tap, or too large for the memory; or a tap
                that gives no map.
        """
        places = {tap: self._places[tap] for tap in taps or self.taps}
        wanted: dict[float, list[str]] = {}
        for scale, path in places.values():
            wanted.setdefault(scale, []).append(path)
        seen = {scale: self._look(images_N3HW, scale, paths) for scale, paths in wanted.items()}
        found = {tap: seen[scale][path] for tap, (scale, path) in places.items()}
        for tap, maps in found.items():
            if maps.ndim != 4:
                raise OptionError(
                    f"expected taps with a map, but {tap} gives vectors of {maps.shape[1:].numel()} numbers"
                )
        return {tap: smoothed(maps) for tap, maps in found.items()} if self._smooth else found

    def _look(self, images_N3HW: Tensor, scale: float, paths: Sequence[str]) -> Maps:
        """Outputs of the modules at these paths, without the border."""
        seen: Maps = {}
        hooks = [
            self.body.get_submodule(path).register_forward_hook(
                lambda _m, _i, maps, path=path: seen.__setitem__(path, maps)
            )
            for path in dict.fromkeys(paths)
        ]
        names = [name for name, _ in self.body.named_children()]
        last = max(names.index(path.partition(".")[0]) for path in paths)
        try:
            x = images_N3HW
            if scale != 1:
                x = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False, antialias=scale < 1)
            rows, columns = (min(self._border, side - 1) for side in x.shape[2:])
            x = F.pad((x - self.mean) / self.std, (columns, columns, rows, rows), mode="reflect")
            shares = rows / x.shape[2], columns / x.shape[3]
            for stage in list(self.body)[: last + 1]:
                x = stage(x)
        except RuntimeError as error:
            size = "{1} x {0} px".format(*images_N3HW.shape[-2:])
            if isinstance(error, torch.OutOfMemoryError) or "memory" in str(error):
                raise OptionError(f"not enough memory for a picture of {size}; choose a smaller size") from error
            raise OptionError(f"a picture of {size} is too small for the taps {', '.join(paths)}") from error
        finally:
            for hook in hooks:
                hook.remove()
        return {path: _inside(maps, *shares) for path, maps in seen.items()}


class StyleTargets(NamedTuple):
    """What style is wanted: by tap the Gram matrix [S, C, C] of each of S styles, blended by weights."""

    grams: Mapping[str, Tensor]

    @classmethod
    def of(cls, perceiver: Perceiver, taps: Sequence[str], styles: Sequence[Tensor]) -> "StyleTargets":
        """Of pictures [1, 3, H, W], each of a size of its own."""
        with torch.no_grad():
            seen = [perceiver(style, taps) for style in styles]
            return cls({tap: torch.cat([gram_matrix(maps[tap]) for maps in seen]) for tap in taps})

    def blend(self, weights_NS: Tensor) -> dict[str, Tensor]:
        """[N, C, C] by tap: Gram matrices of the styles, mixed."""
        return {tap: torch.einsum("ns,scd->ncd", weights_NS, grams) for tap, grams in self.grams.items()}


def style_losses(
    maps: Maps,
    grams: Mapping[str, Tensor],
    content: Mapping[str, Tensor],
    images: Tensor,
    mask_N1HW: Tensor | None = None,
) -> Losses:
    """How far pictures are from a style and a content.

    Args:
        maps: of the perceiver, of the pictures.
        grams: wanted, [N or 1, C, C] by tap.
        content: wanted maps by tap.
        images: the pictures.
        mask_N1HW: in [0, 1], how much each of their pixels counts; None counts all alike.
    """
    weights = {} if mask_N1HW is None else {tap: _at(mask_N1HW, maps[tap]) for tap in maps}
    style = [relative_error(gram_matrix(maps[tap], weights.get(tap)), wanted) for tap, wanted in grams.items()]
    likeness = [
        relative_error(maps[tap], wanted, weights[tap][:, None] if weights else None) for tap, wanted in content.items()
    ]
    return Losses(torch.stack(style).mean(0), torch.stack(likeness).mean(0), total_variation(images, mask_N1HW))


def _inside(maps_NCHW: Tensor, above: float, left: float) -> Tensor:
    """Without these shares of the rows at either end, and of the columns, rounded; at least one place stays."""
    if maps_NCHW.ndim != 4 or not (above or left):
        return maps_NCHW
    height, width = maps_NCHW.shape[2:]
    rows, columns = min(round(above * height), (height - 1) // 2), min(round(left * width), (width - 1) // 2)
    return maps_NCHW[:, :, rows : height - rows, columns : width - columns]


def _at(mask_N1HW: Tensor, maps_NCHW: Tensor) -> Tensor:
    """[N, h, w]: the mask in the size of a map."""
    return F.interpolate(mask_N1HW, size=maps_NCHW.shape[2:], mode="area")[:, 0]


def find_taps(backbone: Backbone, style: Sequence[str] = (), content: Sequence[str] = ()) -> Taps:
    """The taps that are asked for; of a known backbone, what suits it where nothing is asked.

    Raises:
        OptionError: nothing is asked, and the backbone is none of DEFAULT_TAPS.
    """
    default = DEFAULT_TAPS.get(backbone.name)
    if default is None and not (style and content):
        raise OptionError(
            f"expected taps of {backbone.name} for style and content; its stages: {', '.join(backbone.taps[:-1])}; "
            f"taps are known of {', '.join(DEFAULT_TAPS)}"
        )
    default = default or Taps((), ())
    return Taps(tuple(style) or default.style, tuple(content) or default.content)


def _parse_tap(tap: str, backbone: Backbone) -> tuple[float, str]:
    """Magnification and path of the module."""
    path, _, scale = tap.partition("@")
    stages = [name for name in backbone.taps if name != "logits"]
    if path.partition(".")[0] not in stages:
        raise UnknownNameError(f"tap of {backbone.name}", tap, stages)
    try:
        backbone.body.get_submodule(path)
    except AttributeError:
        inner = [name for name, _ in backbone.body.named_modules() if name.startswith(path.partition(".")[0] + ".")]
        raise UnknownNameError(f"tap of {backbone.name}", tap, inner) from None
    try:
        factor = float(scale or 1)
    except ValueError:
        factor = 0.0
    if not 0.25 <= factor <= 4:
        raise OptionError(f"expected a magnification from 0.25 to 4 after the @ of a tap, got {tap!r}")
    return factor, path
