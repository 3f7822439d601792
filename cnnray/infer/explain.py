"""Why a classifier says what it says: where it looks in a photo, and which pixels there speak for the class."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cnnray.errors import UnknownNameError
from cnnray.infer.classify import load_parts
from cnnray.nn.backbones import Extractor
from cnnray.nn.checkpoint import Card
from cnnray.nn.device import choose_device
from cnnray.nn.finetune import FinetuneNet
from cnnray.nn.gradcam import enlarged, grad_cam, guided_backprop, guided_grad_cam, stages_with_maps, winners
from cnnray.nn.heads import Head
from cnnray.nn.rectify import other_activations
from cnnray.ops.augment import plain_view
from cnnray.ops.decode import decode
from cnnray.ops.seen import lay_back, seen_box
from cnnray.ops.show import GREY, Pixels, heat_over, signed_picture

_PERCENTILE = 99  # of the signal, see `signed_picture`


@dataclass(frozen=True)
class Explanation:
    """What speaks for one class in one photo.

    Attributes:
        label: the class.
        probability: of the class, softmax, in [0, 1].
        heat_HW: float32 in [0, 1], of the upright photo's size: how much each place speaks for the class (Grad-CAM), as
            a share of the place that does most; 0 where the network did not look, and everywhere if nothing speaks for
            it.
        seen: (top, left, bottom, right) in px of the photo, the part that the network saw.
        view_HWC: uint8 RGB [size, size, 3], that part as the network saw it.
        guided_HWC: float32 [size, size, 3], signed, of the same part: which pixels speak for the class (Guided
            Grad-CAM); None where the network cannot give it.
        note: why `guided_HWC` is None; else "".
    """

    label: str
    probability: float
    heat_HW: NDArray[np.float32]
    seen: tuple[float, float, float, float]
    view_HWC: NDArray[np.uint8]
    guided_HWC: NDArray[np.float32] | None
    note: str


@dataclass(frozen=True)
class Pictures:
    """An explanation to look at: pictures of the whole upright photo, all of one size [H, W].

    Attributes:
        overlay_HWC: uint8 RGB, the photo in grey with the heat in colour over it, from black over red to light yellow.
        heat_HW: uint8, the heat alone: 255 at the place that speaks most, 0 where none does or the network did not
            look.
        guided_HWC: uint8 RGB, the pixels that speak for the class: lighter than grey (128) where more of a colour
            does, darker where less does, grey where the network did not look. None where the explanation has none.
    """

    overlay_HWC: Pixels
    heat_HW: Pixels
    guided_HWC: Pixels | None


def pictures(photo_HWC: Pixels, found: Explanation, longest_side: int) -> Pictures:
    """What `found` says about a photo, as pictures with its proportions.

    Args:
        photo_HWC: uint8 RGB, upright, that was explained.
        longest_side: px, at least 1; smaller photos keep their size.
    """
    share = min(1.0, longest_side / max(photo_HWC.shape[:2]))
    height, width = (max(1, round(side * share)) for side in photo_HWC.shape[:2])
    # reduced before they are mixed: a photo may have 25 million pixels
    photo = np.asarray(Image.fromarray(photo_HWC).resize((width, height), Image.Resampling.BICUBIC))
    heat_HW = np.asarray(Image.fromarray(found.heat_HW).resize((width, height), Image.Resampling.BILINEAR))
    heat_HW = heat_HW / max(heat_HW.max(), np.finfo(np.float32).tiny)
    grey_HW: Pixels = np.rint(255 * heat_HW).astype(np.uint8)
    return Pictures(heat_over(photo, heat_HW), grey_HW, _guided_picture(found, share, height, width))


def _guided_picture(found: Explanation, share: float, height: int, width: int) -> Pixels | None:
    """The guided pixels on grey [height, width, 3], where the network saw them in a photo resized by `share`."""
    if found.guided_HWC is None:
        return None
    top, left, bottom, right = (round(edge * share) for edge in found.seen)
    pixels = Image.fromarray(signed_picture(found.guided_HWC, _PERCENTILE))
    pixels = pixels.resize((max(1, right - left), max(1, bottom - top)), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (width, height), (GREY,) * 3)
    canvas.paste(pixels, (left, top))
    return np.asarray(canvas)


class Explainer:
    """Explains the answers of a classifier, in float32; safe to call from several threads at once.

    Args:
        extractor, head, card: of a classifier's checkpoint, see `cnnray.infer.classify.load_parts`.
        stage: of the backbone, whose map Grad-CAM weighs; "" is the last with a map larger than 1x1.
        device: see `choose_device`.

    Attributes:
        card: the checkpoint's.
        stage: that is used.

    Raises:
        UnknownNameError: no such stage with a map below the classifier.
        OptionError: no stage has a map, or a device that is not there.
    """

    def __init__(self, extractor: Extractor, head: Head, card: Card, *, stage: str = "", device: str = "auto") -> None:
        self.card = card
        self._device = choose_device(device)
        net = FinetuneNet(extractor, head).eval().requires_grad_(False).to(self._device)
        size = card.input["size"]
        maps = stages_with_maps(extractor.lower, 3, size, size)
        if stage and stage not in maps:
            raise UnknownNameError(f"stage of {card.arch['backbone']} with a map", stage, maps)
        self.stage = stage or maps[-1]
        self._extractor, cut = extractor, [name for name, _ in extractor.lower.named_children()].index(self.stage) + 1
        self._below = extractor.lower[:cut].eval()
        self._above = FinetuneNet(extractor, head, cut).eval()
        self._others = other_activations(net, 3, size, size)

    @classmethod
    def load(cls, uri: str, *, stage: str = "", device: str = "auto") -> Self:
        """Of a checkpoint: trained on a frozen backbone or fine-tuned.

        Raises:
            CheckpointError: absent, damaged, of another task, or of an architecture that does not fit.
            UnknownNameError, OptionError: as in the class.
        """
        return cls(*load_parts(uri), stage=stage, device=device)

    def why(self, image: bytes, label: str | None = None) -> Explanation:
        """What speaks for a class in a photo.

        Args:
            image: an encoded file.
            label: of the class; None is the most probable one.

        Raises:
            ImageError: bytes that are not an acceptable image.
            UnknownNameError: no such class; lists the known ones.
        """
        classes = self.card.classes
        if label is not None and label not in classes:
            raise UnknownNameError("class", label, classes)
        image_HWC = decode(image)
        given = self.card.input
        view = plain_view(image_HWC, size=given["size"], resize=given["resize"], interpolation=given["interpolation"])
        chosen = None if label is None else torch.tensor([classes.index(label)])
        heat_HW, number, probability, guided_HWC = self._explain(view[None], chosen)
        geometry = {"size": given["size"], "resize": given["resize"]}
        height, width = image_HWC.shape[:2]
        return Explanation(
            label=classes[number],
            probability=probability,
            heat_HW=lay_back(heat_HW, height, width, **geometry),
            seen=seen_box(height, width, **geometry),
            view_HWC=view.permute(1, 2, 0).numpy(),
            guided_HWC=guided_HWC,
            note=self._note(),
        )

    def _explain(
        self, view_1CHW: Tensor, chosen: Tensor | None
    ) -> tuple[NDArray[np.float32], int, float, NDArray[np.float32] | None]:
        """Heat [size, size], the class's number and probability, and the guided picture [size, size, 3]."""
        x_1CHW = self._extractor.normalised(view_1CHW.to(self._device))
        heat_1HW, logits_1K = grad_cam(self._below, self._above, x_1CHW, chosen)
        chosen = winners(logits_1K) if chosen is None else chosen
        number = int(chosen[0])
        heat_1HW = heat_1HW / heat_1HW.amax().clamp(min=torch.finfo(torch.float32).tiny)
        guided = None
        if not self._others:
            signal_1CHW = guided_backprop(lambda x: self._above(self._below(x)), x_1CHW, chosen)
            guided = guided_grad_cam(signal_1CHW, heat_1HW)[0].permute(1, 2, 0).cpu().numpy()
        heat_HW = enlarged(heat_1HW, *view_1CHW.shape[2:])[0].cpu().numpy()
        return heat_HW, number, float(torch.softmax(logits_1K, 1)[0, number]), guided

    def _note(self) -> str:
        if not self._others:
            return ""
        return (
            f"no guided picture: {self.card.arch['backbone']} has {', '.join(self._others)}, and guided "
            "backpropagation is for networks whose activations are all ReLU or ReLU6"
        )
