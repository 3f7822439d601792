"""Detectors as tasks of the training loop; see `cnnray.nn.detectors` for the models.

Legend: b pictures of a worker's part of a batch, S px side of the scenes, M boxes of the fullest one, W windows of a
picture, K classes. A batch is (images_bCHW uint8 [b, 3, S, S], boxes_bM4 float32 xyxy px, labels_bM int64 with PADDING
and CROWD), of windows (windows uint8 [b, W, 3, 32, 32], labels_bW int64); see `cnnray.train.detect_data`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnray.config import DetectConfig
from cnnray.nn.detect import Losses, detection_loss
from cnnray.nn.detectors import build_detector
from cnnray.nn.grid import grid_loss, grid_targets
from cnnray.nn.torchvision_detectors import DETECTORS
from cnnray.nn.windows import WindowNet
from cnnray.ops.detections import pick, picture_precision
from cnnray.train.loop import Step
from cnnray.train.optim import Group

_LEAST_SCORE = 0.01
_PUBLISHED_LR = 0.1  # of layers that were trained for COCO and are near their goal


def architecture(config: DetectConfig) -> dict[str, Any]:
    """What `build_detector` builds the network from."""
    own: dict[str, dict[str, Any]] = {
        "yolo": {"backbone": config.backbone, "width": config.width},
        "grid": {"backbone": config.backbone, "cells": config.cells},
        "windows": {},
    }
    return {"model": config.model} | own.get(config.model, {"size": config.size})


@dataclass(frozen=True)
class DetectTask:
    """A network that is shown whole scenes; see `loop.Task`.

    Attributes:
        config: of the run.
        num_classes: K.
    """

    config: DetectConfig
    num_classes: int

    def build(self) -> nn.Module:
        """The network before training."""
        network: nn.Module = build_detector(architecture(self.config), self.num_classes, self.config.weights)
        return network

    def groups(self, model: Any) -> Sequence[Group]:
        """All above the frozen stages learns from the start, a pre-trained backbone more slowly."""
        stages, num_low, others = model.layers()
        config, fresh = self.config, self.config.weights == "none"
        published = config.model in DETECTORS and not fresh
        rate = _PUBLISHED_LR if published else 1.0
        frozen = config.freeze if config.freeze >= 0 else 0 if fresh else num_low
        backbone = Group(stages[frozen:], rate * (1.0 if fresh else config.backbone_lr), frozen_norms=published)
        return [backbone, Group(others, rate, frozen_norms=published)]

    def step(self, model: Any, batch: tuple[Tensor, ...]) -> Step:
        """Loss of the batch; the score is the mean average precision of each picture at IoU 0.5.

        In evaluation only: suppression would take a third of the time of a small network's training step.
        """
        images, boxes, labels = batch
        evaluates = not torch.is_grad_enabled()
        output = model(images) if evaluates or self.config.model not in DETECTORS else None
        if self.config.model in DETECTORS:
            losses = Losses(model(images, boxes, labels) * len(images), boxes.new_tensor(float(len(images))))
        else:
            losses = self._losses(output, images, boxes, labels)
        score = self._score(model, output, images, boxes, labels) if evaluates else math.nan
        return Step(losses.total, losses.weight, losses.total.new_tensor(score), len(images))

    def _losses(self, output: Any, images: Tensor, boxes: Tensor, labels: Tensor) -> Losses:
        if self.config.model == "yolo":
            return detection_loss(output, boxes, labels)
        target = grid_targets(boxes, labels, self.config.cells, self.num_classes, images.shape[-1])
        return Losses(grid_loss(output, target.to(output)).sum(), output.new_tensor(float(len(images))))

    def _score(self, net: Any, output: Any, images: Tensor, boxes: Tensor, labels: Tensor) -> float:
        found = [pick(c, _LEAST_SCORE, self.config.overlap) for c in net.candidates(output, images.shape[-1])]
        return sum(picture_precision(f, b, n) for f, b, n in zip(found, boxes.cpu(), labels.cpu(), strict=True))


@dataclass(frozen=True)
class WindowTask:
    """A classifier of windows, the background among its classes; see `loop.Task`.

    Attributes:
        num_classes: K, without the background.
    """

    num_classes: int

    def build(self) -> WindowNet:
        """The classifier before training."""
        return WindowNet(self.num_classes + 1)

    def groups(self, model: nn.Module) -> Sequence[Group]:
        """All of it."""
        return [Group((model,))]

    def step(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Step:
        """Cross-entropy of the windows; the score is the share that is right."""
        windows, labels = (part.flatten(0, 1) for part in batch)
        logits = model(windows / 255).float()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        score = (logits.argmax(1) == labels).sum()
        return Step(loss, loss.new_tensor(float(len(labels))), score, len(labels))
