"""A trained detector from its checkpoint, or torchvision's by name: encoded images in, boxes out.

On CPUs every core works on pictures of its own, as in `cnnray.infer.classify`; on a GPU one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from cnnray.config import SearchConfig
from cnnray.errors import CheckpointError, ImageError, OptionError, UnknownNameError
from cnnray.infer.cores import ImageCores
from cnnray.nn.checkpoint import Card, load_checkpoint, load_into
from cnnray.nn.detectors import build_detector
from cnnray.nn.device import choose_device, native_precision, num_cores
from cnnray.nn.fold import fold_batch_norms
from cnnray.nn.torchvision_detectors import DETECTORS, coco_classes
from cnnray.nn.weights import content_sha256
from cnnray.ops.decode import read_pixels
from cnnray.ops.detections import Found, pick
from cnnray.ops.letterbox import Letterbox
from cnnray.ops.slices import merge_slices, plan_slices

TASK = "detect"
_DEFAULT = SearchConfig()
_USUAL_SHAPES = ((640, 640), (480, 640), (640, 480), (720, 1280))  # height and width; the network sees each as another


@dataclass(frozen=True)
class Detections:
    """The objects in one image, best first.

    Attributes:
        height, width: of the image in px.
        boxes_N4: float32 xyxy px inside of the image.
        scores_N: float32 in [0, 1].
        labels_N: int64, places in the detector's classes.
    """

    height: int
    width: int
    boxes_N4: NDArray[np.float32]
    scores_N: NDArray[np.float32]
    labels_N: NDArray[np.int64]


class Detector:
    """Finds objects; safe to call from several threads at once.

    Args:
        net: see `cnnray.nn.detectors.Net`; changed, its batch norms are folded.
        card: the checkpoint's.
        device, precision, threads, join: as in `load`.
    """

    def __init__(
        self,
        net: Any,
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
        net.eval().requires_grad_(False)
        if card.arch["model"] not in DETECTORS:
            fold_batch_norms(net)
        self._net = net.to(self.device).to(memory_format=torch.channels_last)

    @classmethod
    def load(
        cls,
        uri: str,
        *,
        weights: str = "default",
        device: str = "auto",
        precision: str = "auto",
        threads: int = 0,
        join: bool = False,
    ) -> Self:
        """The detector of a checkpoint, which needs nothing else, or one of torchvision's.

        Args:
            uri: the checkpoint's folder, or a name that `cnnray.nn.torchvision_detectors` lists.
            weights: of a name: "default" (COCO's, downloaded) or path or URI of a state dict for COCO's classes.
            device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
            precision: "float32", "bfloat16", or "auto" (bfloat16 where the hardware multiplies it natively).
            threads: cores to use; 0 is all that the process may use.
            join: all of them work on an image that comes alone, which is sooner done; its last bits then depend on
                whether others came with it.

        Raises:
            CheckpointError: absent, cut short, changed, of another task, or of an architecture that does not fit.
            OptionError: a device that is not there.
            StorageError: the download failed.
        """
        net, card = _published(uri, weights) if uri in DETECTORS else _trained(uri)
        return cls(net, card, device=device, precision=precision, threads=threads, join=join)

    @property
    def name(self) -> str:
        """Network and first digits of the weights' hash: changes when the weights do."""
        arch = self.card.arch
        return f"{'_'.join(filter(None, (arch['model'], arch.get('backbone'))))}@{self.card.weights_sha256[:12]}"

    @property
    def num_params(self) -> int:
        """Numbers that it has learned; those of batch norms are folded into others where the model is our own."""
        return sum(parameter.numel() for parameter in self._net.parameters())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by number."""
        return tuple(self.card.classes)

    def describe(self) -> dict[str, Any]:
        """What a user of the model wants to know, see `Classifier.describe`."""
        return {
            "name": self.name,
            "task": self.card.task,
            "classes": len(self.card.classes),
            "input_size": self.card.input.get("size", 0),
            "weights_sha256": self.card.weights_sha256,
            "backbone": self.card.arch.get("backbone") or self.card.arch["model"],
            "metrics": self.card.metrics,
        }

    def predict(
        self,
        images: Sequence[bytes | NDArray[np.uint8]],
        search: SearchConfig | Sequence[SearchConfig] = _DEFAULT,
    ) -> list[Detections | ImageError]:
        """Find objects.

        Args:
            images: encoded files, or decoded uint8 RGB [H, W, 3].
            search: what is asked of all images, or of each.

        Returns:
            One entry per image, in their order. A bad image has its error there and changes no other's answer.

        Raises:
            OptionError: an array of another shape or type.
        """
        searches = [search] * len(images) if isinstance(search, SearchConfig) else list(search)
        return self._cores.map(self._answer, images, searches)

    def warm_up(self) -> None:
        """Search pictures of usual shapes in each thread, which then takes the memory that it works in."""
        for height, width in _USUAL_SHAPES:
            self._cores.everywhere(partial(self._answer, np.full((height, width, 3), 128, np.uint8), _DEFAULT))

    def self_test(self) -> None:
        """Search a grey image, to see that the whole way works.

        Raises:
            CheckpointError: the answers are no finite boxes, so the weights are damaged.
        """
        (answer,) = self.predict([np.full((64, 64, 3), 128, np.uint8)], SearchConfig(confidence=0.0, most=10))
        fine = isinstance(answer, Detections) and bool(np.isfinite(answer.boxes_N4).all())
        certain = self.card.arch["model"] == "yolo"  # the others may find nothing in it, or are too small for it
        if not fine or (certain and not len(answer.scores_N)):  # type: ignore[union-attr]
            raise CheckpointError(f"{self.name} failed its self-test: the answer for a grey image is {answer}")

    def _answer(self, source: bytes | NDArray[np.uint8], search: SearchConfig) -> Detections | ImageError:
        image = read_pixels(source)
        if isinstance(image, ImageError):
            return image
        height, width = image.shape[:2]
        whole = (0, 0, height, width)
        found = self._search(image, search)
        if search.slice and max(height, width) > search.slice:
            places = plan_slices(height, width, search.slice, search.slice_overlap)
            parts = [(p, self._search(image[p[0] : p[2], p[1] : p[3]], search)) for p in places]
            found = merge_slices([(whole, found), *parts], height, width, search.overlap, search.class_wise)
            found = Found(*(part[: search.most] for part in found))
        return Detections(height, width, *(part.numpy() for part in found))

    def _search(self, image: NDArray[np.uint8], search: SearchConfig) -> Found:
        box = self._letterbox(*image.shape[:2])
        with torch.inference_mode():  # belongs to the thread, so it is set here and not once
            batch = box.apply(image)[None].to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                output = self._net(batch)
            (candidates,) = self._net.candidates(output, box.outer_width)
            options = (search.confidence, search.overlap, search.suppression, search.class_wise, search.most)
            found = pick(candidates, *options)
            return found._replace(boxes_N4=box.back(found.boxes_N4))

    def _letterbox(self, height: int, width: int) -> Letterbox:
        """How an image is shown; what others have trained gets it as it is."""
        size = self.card.input.get("size", 0)
        return Letterbox.fit(height, width, size, self._net.multiple) if size else Letterbox.none(height, width)


def _trained(uri: str) -> tuple[Any, Card]:
    tensors, card = load_checkpoint(uri, TASK)
    if "model" not in card.arch or "size" not in card.input or not card.classes:
        raise CheckpointError(f"expected model, size and classes on the card of {uri}, got {card.arch}, {card.input}")
    try:
        net = build_detector(card.arch, len(card.classes))
    except (UnknownNameError, OptionError, KeyError) as error:
        raise CheckpointError(f"{uri} was made by another version of cnnray: {error}") from error
    load_into(net, tensors, uri)
    return net, card


def _published(name: str, weights: str) -> tuple[Any, Card]:
    classes = coco_classes(name)
    arch = {"model": name}
    net = build_detector(arch, len(classes), weights)
    return net, replace(Card(task=TASK, arch=arch, classes=classes), weights_sha256=content_sha256(net.state_dict()))
