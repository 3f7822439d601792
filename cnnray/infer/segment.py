"""A trained segmenter from its checkpoint: encoded images in, a class for every pixel out.

On CPUs every core works on an image of its own, as in `cnnray.infer.classify`; on a GPU one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnray.errors import CheckpointError, ImageError, OptionError, UnknownNameError
from cnnray.infer.cores import ImageCores
from cnnray.nn.checkpoint import Card, load_checkpoint, load_into
from cnnray.nn.device import choose_device, native_precision, num_cores
from cnnray.nn.fold import fold_batch_norms
from cnnray.nn.segment import SegmentNet, build_segmenter
from cnnray.ops.decode import read_pixels
from cnnray.ops.overlay import mask_png
from cnnray.ops.tiles import tiled

TASK = "segment"
_ARCH = ("encoder", "width", "depth")
_INPUT = ("tile", "overlap", "values")


@dataclass(frozen=True)
class Segmentation:
    """The classes of the pixels of one image.

    Attributes:
        classes_HW: class numbers, uint8 [H, W].
        shares: (name, share of the pixels) of every class, in the checkpoint's order.
        confidence: mean over the pixels of the winning class's probability, in [0, 1].
    """

    classes_HW: NDArray[np.uint8]
    shares: tuple[tuple[str, float], ...]
    confidence: float


class Segmenter:
    """A U-Net; safe to call from several threads at once.

    Args:
        net: images_NCHW uint8 to logits [N, K, H, W]; changed, its batch norms are folded.
        card: the checkpoint's.
        device, precision, threads, join: as in `load`.
    """

    def __init__(
        self,
        net: SegmentNet,
        card: Card,
        *,
        device: str = "auto",
        precision: str = "auto",
        threads: int = 0,
        join: bool = False,
    ) -> None:
        self.card = card
        self.device = choose_device(device)
        self.precision = native_precision(self.device) if precision == "auto" else precision
        count = 1 if self.device.type == "cuda" else threads or num_cores()
        self._cores = ImageCores(count, join=join)
        fold_batch_norms(net.eval().requires_grad_(False))
        self._net = net.to(self.device).to(memory_format=torch.channels_last)

    @classmethod
    def load(
        cls, uri: str, *, device: str = "auto", precision: str = "auto", threads: int = 0, join: bool = False
    ) -> Self:
        """The segmenter of a checkpoint, which needs nothing else.

        Args:
            uri: the checkpoint's folder.
            device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
            precision: "float32", "bfloat16", or "auto" (bfloat16 where the hardware multiplies it natively).
            threads: cores to use; 0 is all that the process may use.
            join: all of them work on an image that comes alone, which is sooner done; its last bits then depend on
                whether others came with it.

        Raises:
            CheckpointError: absent, cut short, changed, of another task, or of an architecture that does not fit.
            OptionError: a device that is not there.
        """
        tensors, card = load_checkpoint(uri, TASK)
        missing = [n for n in _ARCH if n not in card.arch] + [n for n in _INPUT if n not in card.input]
        if missing or len(card.classes) < 2:
            raise CheckpointError(f"the card of {uri} lacks {', '.join(missing) or 'classes'}")
        try:
            net = build_segmenter(card.arch, len(card.classes))
        except (UnknownNameError, OptionError) as error:
            raise CheckpointError(f"{uri} was made by another version of cnnray: {error}") from error
        load_into(net, tensors, uri)
        return cls(net, card, device=device, precision=precision, threads=threads, join=join)

    @property
    def name(self) -> str:
        """Encoder and first digits of the weights' hash: changes when the weights do."""
        return f"unet_{self.card.arch['encoder']}@{self.card.weights_sha256[:12]}"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by number."""
        return tuple(self.card.classes)

    def describe(self) -> dict[str, Any]:
        """What a user of the model wants to know, see `Classifier.describe`; input_size is that of the tiles."""
        return {
            "name": self.name,
            "task": self.card.task,
            "classes": len(self.card.classes),
            "input_size": self.card.input["tile"],
            "weights_sha256": self.card.weights_sha256,
            "backbone": self.card.arch["encoder"],
            "metrics": self.card.metrics,
        }

    def predict(self, images: Sequence[bytes | NDArray[np.uint8]]) -> list[Segmentation | ImageError]:
        """Segment images.

        Args:
            images: encoded files, or decoded uint8 RGB [H, W, 3].

        Returns:
            One entry per image, in their order. A bad image has its error there and changes no other's answer.

        Raises:
            OptionError: an array of another shape or type.
        """
        return self._cores.map(self._answer, images)

    def mask_png(self, answer: Segmentation) -> bytes:
        """The answer as a grey PNG with the values of the masks that were trained on."""
        return mask_png(answer.classes_HW, self.card.input["values"])

    def warm_up(self) -> None:
        """Segment a picture of one tile in each thread, which then takes the memory that it works in."""
        side = self.card.input["tile"]
        self._cores.everywhere(partial(self._answer, np.full((side, side, 3), 128, np.uint8)))

    def self_test(self) -> None:
        """Segment a grey image, to see that the whole way works.

        Raises:
            CheckpointError: the answer is no probability, so the weights are damaged.
        """
        (answer,) = self.predict([np.full((64, 64, 3), 128, np.uint8)])
        if not isinstance(answer, Segmentation) or not 0 < answer.confidence <= 1:
            raise CheckpointError(f"{self.name} failed its self-test: the answer for a grey image is {answer}")

    def _answer(self, source: bytes | NDArray[np.uint8]) -> Segmentation | ImageError:
        image = read_pixels(source)
        if isinstance(image, ImageError):
            return image
        with torch.inference_mode():  # belongs to the thread, so it is set here and not once
            pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].to(self.device)
            given = self.card.input
            probabilities = tiled(self._logits, pixels, given["tile"], given["overlap"])[0].softmax(0)
            best, classes = probabilities.max(0)
            counts = torch.bincount(classes.flatten(), minlength=len(self.classes)) / classes.numel()
            shares = tuple(zip(self.classes, counts.tolist(), strict=True))
            return Segmentation(classes.to(torch.uint8).cpu().numpy(), shares, float(best.mean()))

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            found: Tensor = self._net(images.contiguous(memory_format=torch.channels_last))
        return found
