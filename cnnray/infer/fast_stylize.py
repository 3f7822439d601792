"""A trained painter from its checkpoint: photos in, paintings in its styles out.

On a GPU pictures of one size go through the network together, on a CPU one after the other: what a layer leaves is in
the cache for the next then. Large ones in float32 go in bands (see `cnnray.nn.transform_net`), so that memory stays
within a few copies of the picture at the network's first width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnray.errors import CheckpointError, ImageError, OptionError, UnknownNameError
from cnnray.nn.checkpoint import Card, load_checkpoint, load_into
from cnnray.nn.device import choose_device, native_precision
from cnnray.nn.transform_net import TransformNet
from cnnray.nn.transform_phases import PhasedNet
from cnnray.ops.decode import read_pixels
from cnnray.ops.style import keep_colors
from cnnray.ops.style_pictures import fit_longest

TASK = "stylize"
SHIPPED = str(Path(__file__).resolve().parent.parent / "paintings")  # the checkpoint that comes with cnnray
SMALLEST = 16  # px
BANDS_FROM = 2_000_000  # px of a picture in float32
_AT_ONCE = 1_000_000  # px of a batch on a GPU
_ARCH = ("num_styles", "width", "blocks")

Pixels = NDArray[np.uint8]
Wish = str | Mapping[str, float]


class Stylizer:
    """Paints; safe to call from several threads at once.

    Args:
        net: the network.
        card: the checkpoint's.
        device, precision: as in `load`.
    """

    def __init__(self, net: TransformNet, card: Card, *, device: str = "auto", precision: str = "auto") -> None:
        self.card = card
        self.device = choose_device(device)
        self.precision = native_precision(self.device) if precision == "auto" else precision
        self._net = net.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)
        self._phased = PhasedNet(self._net, torch.bfloat16 if self.precision == "bfloat16" else torch.float32)

    @classmethod
    def load(cls, uri: str, *, device: str = "auto", precision: str = "auto") -> Self:
        """The painter of a checkpoint, which needs nothing else.

        Args:
            uri: the checkpoint's folder.
            device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
            precision: "float32", "bfloat16", or "auto" (bfloat16 where the hardware multiplies it natively).

        Raises:
            CheckpointError: absent, cut short, changed, of another task, or of an architecture that does not fit.
            OptionError: a device that is not there.
        """
        tensors, card = load_checkpoint(uri, TASK)
        missing = [name for name in _ARCH if not isinstance(card.arch.get(name), int)]
        if missing or len(card.classes) != card.arch.get("num_styles"):
            raise CheckpointError(f"the card of {uri} lacks {', '.join(missing) or 'names of its styles'}")
        net = TransformNet(*(card.arch[name] for name in _ARCH))
        load_into(net, tensors, uri)
        return cls(net, card, device=device, precision=precision)

    @property
    def name(self) -> str:
        """The task and the first digits of the weights' hash: changes when the weights do."""
        return f"painter@{self.card.weights_sha256[:12]}"

    @property
    def styles(self) -> tuple[str, ...]:
        """Names of the styles."""
        return tuple(self.card.classes)

    def predict(
        self,
        images: Sequence[bytes | Pixels],
        wishes: Wish | Sequence[Wish],
        *,
        strength: float | Sequence[float] = 1.0,
        colors: bool | Sequence[bool] = False,
        longest_side: int | Sequence[int] = 0,
    ) -> list[Pixels | ImageError]:
        """Paintings, uint8 RGB [H, W, 3].

        Args:
            images: encoded files, or decoded uint8 RGB [H, W, 3].
            wishes: of all photos, or of each: a style, or shares of several, which are brought to a sum of 1.
            strength: of all, or of each: share of the painting, 0 to 1; the rest is the photo.
            colors: of all, or of each: whether the photo's colours stay.
            longest_side: of all, or of each: px to which larger photos are brought; 0 leaves them as they are.

        Returns:
            One entry per photo, in their order. A bad one has its error there and changes no other's answer.

        Raises:
            UnknownNameError: a style that it does not paint.
            OptionError: shares that are negative or all 0; a strength out of range; an array of another shape or type.
        """
        count = len(images)
        asked = [wishes] * count if isinstance(wishes, str | Mapping) else list(wishes)
        strengths, kept, sides = (_each(given, count) for given in (strength, colors, longest_side))
        weights_NS = torch.tensor([self.shares(wish) for wish in asked]).view(count, len(self.styles))
        _check_strengths(strengths)
        answers: list[Pixels | ImageError] = [_read(image, side) for image, side in zip(images, sides, strict=True)]
        for some in _batches(answers, _AT_ONCE if self.device.type == "cuda" else 1):
            with torch.inference_mode():  # belongs to the thread
                photos = self._photos([answers[at] for at in some])
                paintings = self._painted(photos, weights_NS[some].to(self.device))
                for photo, painting, at in zip(photos, paintings, some, strict=True):
                    answers[at] = _finished(photo[None], painting[None], strengths[at], kept[at])
        return answers

    def shares(self, wish: Wish) -> list[float]:
        """Share of each style, of a sum of 1.

        Raises:
            UnknownNameError, OptionError: as `predict`.
        """
        given = {wish: 1.0} if isinstance(wish, str) else dict(wish)
        for name in given:
            if name not in self.styles:
                raise UnknownNameError("style", name, self.styles)
        total = sum(given.values())
        if min(given.values(), default=0.0) < 0 or not 0 < total < float("inf"):
            raise OptionError(f"expected shares of styles that are not negative and not all 0, got {given}")
        return [given.get(name, 0.0) / total for name in self.styles]

    def describe(self) -> dict[str, Any]:
        """What a user of the model wants to know, see `Classifier.describe`; classes are styles."""
        return {
            "name": self.name,
            "task": TASK,
            "classes": len(self.styles),
            "input_size": 0,
            "weights_sha256": self.card.weights_sha256,
            "backbone": "transform network",
            "metrics": self.card.metrics,
            "styles": list(self.styles),
        }

    def self_test(self) -> None:
        """Paint a grey picture, to see that the whole way works.

        Raises:
            CheckpointError: the answer is the picture, so the weights are damaged.
        """
        grey = np.full((64, 64, 3), 128, np.uint8)
        paintings = self.predict([grey] * len(self.styles), self.styles)
        if any(isinstance(painting, ImageError) or (painting == grey).all() for painting in paintings):
            raise CheckpointError(f"{self.name} failed its self-test: it paints nothing")

    def _photos(self, images: Sequence[Any]) -> Tensor:
        stacked = images[0][None] if len(images) == 1 else np.stack(images)
        return torch.from_numpy(np.require(stacked, requirements="W")).permute(0, 3, 1, 2).to(self.device)

    def _painted(self, photos_N3HW: Tensor, weights_NS: Tensor) -> Tensor:
        if self.precision == "float32" and photos_N3HW.shape[2] * photos_N3HW.shape[3] >= BANDS_FROM:
            painted: Tensor = self._net(photos_N3HW, weights_NS, bands=True)
            return painted
        return self._phased(photos_N3HW, weights_NS)


def _each(given: Any, count: int) -> list[Any]:
    """One value for each photo."""
    return list(given) if isinstance(given, Sequence) else [given] * count


def _check_strengths(strengths: Sequence[float]) -> None:
    for strength in strengths:
        if not 0 <= strength <= 1:
            raise OptionError(f"strength must be from 0 to 1, got {strength}")


def _read(image: bytes | Pixels, longest_side: int) -> Pixels | ImageError:
    """Pixels to paint, or what is wrong with them."""
    photo = read_pixels(image)
    if isinstance(photo, ImageError):
        return photo
    photo = fit_longest(photo, longest_side)
    height, width = photo.shape[:2]
    if min(height, width) < SMALLEST:
        return ImageError("too_small", f"expected a photo of at least {SMALLEST} px to paint, got {width} x {height}")
    return photo


def _batches(images: Sequence[Pixels | ImageError], most: int) -> list[list[int]]:
    """Places of pictures that go through the network together: of one size, and of at most so many px, or one."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for at, image in enumerate(images):
        if not isinstance(image, ImageError):
            by_size.setdefault(image.shape, []).append(at)
    batches = []
    for (height, width, _), places in by_size.items():
        step = max(1, most // (height * width))
        batches += [places[at : at + step] for at in range(0, len(places), step)]
    return batches


def _finished(photo_13HW: Tensor, painting_13HW: Tensor, strength: float, colors: bool) -> Pixels:
    """Pixels of a painting (float in [0, 1], which is overwritten) of a photo (uint8)."""
    if colors:
        painting_13HW = keep_colors(painting_13HW, photo_13HW.float().div_(255))
    painting_13HW.mul_(255)
    if strength < 1:
        painting_13HW.lerp_(photo_13HW.float(), 1 - strength)
    pixels: Pixels = painting_13HW[0].round_().clamp_(0, 255).byte().permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels
