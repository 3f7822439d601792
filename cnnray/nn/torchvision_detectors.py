"""torchvision's detectors by name, with its weights for COCO or for classes of one's own.

ssdlite320_mobilenet_v3_large        Liu et al. 2016, arXiv:1512.02325; Howard et al. 2019, arXiv:1905.02244
fasterrcnn_mobilenet_v3_large_fpn    Ren et al. 2015, arXiv:1506.01497
retinanet_resnet50_fpn_v2            Lin et al. 2017, arXiv:1708.02002; Zhang et al. 2019, arXiv:1912.02424
fcos_resnet50_fpn                    Tian et al. 2019, arXiv:1904.01355
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models

from cnnray.errors import CheckpointError, UnknownNameError
from cnnray.nn.checkpoint import load_into, load_state_dict
from cnnray.nn.encoder import LOW_STRIDE, Layers
from cnnray.nn.weights import download_once
from cnnray.ops.costs import output_shape
from cnnray.ops.detections import Candidates

DETECTORS = (
    "ssdlite320_mobilenet_v3_large",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
)


class TorchvisionDetector(nn.Module):
    """A detector that resizes, normalises and suppresses by itself.

    Args:
        name: one of DETECTORS.
        num_classes: K, without the background, which torchvision numbers 0.
        size: side in px of the squares that it is shown, which it then does not resize again (SSD does); 0 lets it
            choose, as it was published.
    """

    multiple = 0

    def __init__(self, name: str, num_classes: int, size: int = 0) -> None:
        super().__init__()
        if name not in DETECTORS:
            raise UnknownNameError("detector", name, DETECTORS)
        sizes = {"min_size": size, "max_size": size} if size and not name.startswith("ssd") else {}
        options = {"weights": None, "weights_backbone": None, "num_classes": num_classes + 1, **sizes}
        self.name, self.num_classes = name, num_classes
        self.net: Any = models.get_model(name, **options)
        self._answer_all()

    def forward(
        self, images: Sequence[Tensor], boxes: Sequence[Tensor] | None = None, labels: Sequence[Tensor] | None = None
    ) -> Any:
        """Answers, in evaluation mode; with objects, the sum of torchvision's own losses, in any mode.

        Args:
            images: uint8 [3, H, W], sizes may differ.
            boxes, labels: of each picture, xyxy px [M, 4] and class numbers [M]; what is below 0 is left out.
        """
        with torch.autocast(images[0].device.type, enabled=False):  # 8 bits of precision move boxes by several px
            pictures = [image / 255 for image in images]
            if boxes is None or labels is None:
                return self.net(pictures)
            targets = [{"boxes": b[n >= 0], "labels": n[n >= 0] + 1} for b, n in zip(boxes, labels, strict=True)]
            with _told_to_train(self.net):
                losses: dict[str, Tensor] = self.net(pictures, targets)
            return torch.stack(list(losses.values())).sum()

    def candidates(self, output: Sequence[dict[str, Tensor]], side: int) -> list[Candidates]:
        """torchvision's answers; see `cnnray.nn.detectors.Net`."""
        found = []
        for answer in output:
            known = answer["labels"] > 0  # RetinaNet and FCOS can answer the background, which no object ever taught
            boxes, scores, labels = (answer[name][known] for name in ("boxes", "scores", "labels"))
            found.append(Candidates(F.one_hot(labels - 1, self.num_classes) * scores[:, None], boxes))
        return found

    def layers(self) -> Layers:
        """See `cnnray.nn.detectors.Learner`."""
        parts = dict(self.net.backbone.named_children())
        body = parts.pop("body", None)
        stages = list(body.children()) if body is not None else [m for half in parts.pop("features") for m in half]
        heads = [module for name, module in self.net.named_children() if name != "backbone"]
        side = 64  # px
        maps = [output_shape(nn.Sequential(*stages[: n + 1]), 3, side, side)[1] for n in range(len(stages))]
        num_low = sum(side // high <= LOW_STRIDE for high in maps)
        return Layers(tuple(stages), num_low, (*parts.values(), *heads))

    def _answer_all(self) -> None:
        """Give answers of any score, and leave suppression to the caller as far as torchvision allows."""
        for head in filter(None, (self.net, getattr(self.net, "roi_heads", None))):
            if hasattr(head, "score_thresh"):
                head.score_thresh = 0.001


@contextlib.contextmanager
def _told_to_train(net: nn.Module) -> Iterator[None]:
    """torchvision's parts compute losses; norms and dropout keep the mode that they are in."""
    told = [m for m in net.modules() if not m.training and not isinstance(m, _BatchNorm | nn.Dropout)]
    for module in told:
        module.training = True
    try:
        yield
    finally:
        for module in told:
            module.training = False


def coco_classes(name: str) -> list[str]:
    """The classes of the published weights, by number from 0 (COCO's number less 1); unused numbers are "N/A n"."""
    names = models.get_model_weights(name).DEFAULT.meta["categories"][1:]
    return [f"N/A {number}" if text == "N/A" else text for number, text in enumerate(names, start=1)]


def build_torchvision_detector(name: str, num_classes: int, weights: str, size: int = 0) -> TorchvisionDetector:
    """A detector in evaluation mode.

    Args:
        num_classes, size: see `TorchvisionDetector`.
        weights: "default" (published for COCO, downloaded; layers whose shape depends on the classes start afresh where
            K is another), "none", or path or URI of a state dict as torchvision names it.

    Raises:
        UnknownNameError: no such detector.
        CheckpointError: the weights' file is absent, damaged or of another network.
        StorageError: the download failed.
    """
    detector = TorchvisionDetector(name, num_classes, size)
    if weights != "none":
        path = download_once(models.get_model_weights(name).DEFAULT.url) if weights == "default" else weights
        found, own = load_state_dict(path), detector.net.state_dict()
        other = {key for key, tensor in found.items() if key in own and own[key].shape != tensor.shape}
        if len(other) > len(own) // 4:  # not only the last layers
            raise CheckpointError(f"weights from {path} do not fit {name}: {len(other)} of {len(own)} differ in shape")
        load_into(detector.net, found | {key: own[key] for key in other}, f"{path} in {name}")
    return detector.eval()
