"""torchvision's detectors by name, with its weights for COCO or for classes of one's own.

ssdlite320_mobilenet_v3_large        Liu et al. 2016, arXiv:1512.02325; Howard et al. 2019, arXiv:1905.02244
fasterrcnn_mobilenet_v3_large_fpn    Ren et al. 2015, arXiv:1506.01497
retinanet_resnet50_fpn_v2            Lin et al. 2017, arXiv:1708.02002; Zhang et al. 2019, arXiv:1912.02424
fcos_resnet50_fpn                    Tian et al. 2019, arXiv:1904.01355
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from cnnray.errors import CheckpointError, UnknownNameError
from cnnray.nn.checkpoint import load_into, load_state_dict
from cnnray.nn.weights import download_once
from cnnray.ops.detections import Found

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
    """

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        if name not in DETECTORS:
            raise UnknownNameError("detector", name, DETECTORS)
        # what was published was trained with statistics of batches that do not change
        options = {"weights": None, "weights_backbone": None, "num_classes": num_classes + 1}
        self.name = name
        self.net: Any = models.get_model(name, **options)

    def losses(self, images: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        """The sum of torchvision's own losses, a mean over the pictures; in training mode.

        Args:
            images: uint8 [3, H, W], sizes may differ.
            boxes, labels: of each picture, xyxy px [M, 4] and class numbers [M].
        """
        targets = [{"boxes": b, "labels": n + 1} for b, n in zip(boxes, labels, strict=True)]
        found: dict[str, Tensor] = self.net([image / 255 for image in images], targets)
        return torch.stack(list(found.values())).sum()

    def find(self, images: Sequence[Tensor], least: float) -> list[Found]:
        """What is in each picture, in evaluation mode: torchvision's answers with a score of `least` and more."""
        answers = self.net([image / 255 for image in images])
        results = []
        for answer in answers:
            boxes, scores, labels = (answer[name].cpu() for name in ("boxes", "scores", "labels"))
            keep = scores >= least
            results.append(Found(boxes[keep], scores[keep], labels[keep] - 1))
        return results

    def answer_all(self) -> None:
        """Give answers of any score, and leave suppression to the caller as far as torchvision allows."""
        heads = [self.net, getattr(self.net, "roi_heads", None)]
        for head in filter(None, heads):
            if hasattr(head, "score_thresh"):
                head.score_thresh = 0.001


def coco_classes(name: str) -> list[str]:
    """The classes of the published weights, by number from 0 (COCO's number less 1); unused numbers are "N/A n"."""
    names = models.get_model_weights(name).DEFAULT.meta["categories"][1:]
    return [f"N/A {number}" if text == "N/A" else text for number, text in enumerate(names, start=1)]


def build_torchvision_detector(name: str, num_classes: int, weights: str) -> TorchvisionDetector:
    """A detector in evaluation mode.

    Args:
        num_classes: K.
        weights: "default" (published for COCO, downloaded; layers whose shape depends on the classes start afresh where
            K is another), "none", or path or URI of a state dict as torchvision names it.

    Raises:
        UnknownNameError: no such detector.
        CheckpointError: the weights' file is absent, damaged or of another network.
        StorageError: the download failed.
    """
    detector = TorchvisionDetector(name, num_classes)
    if weights != "none":
        path = download_once(models.get_model_weights(name).DEFAULT.url) if weights == "default" else weights
        found, own = load_state_dict(path), detector.net.state_dict()
        other = {key for key, tensor in found.items() if key in own and own[key].shape != tensor.shape}
        if len(other) > len(own) // 4:  # not only the last layers
            raise CheckpointError(f"weights from {path} do not fit {name}: {len(other)} of {len(own)} differ in shape")
        load_into(detector.net, found | {key: own[key] for key in other}, f"{path} in {name}")
    return detector.eval()
