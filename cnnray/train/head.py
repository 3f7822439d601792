"""The head of a classifier as a task of the training loop.

Apart from `classify`, which writes checkpoint and report: a worker that only trains need not load what draws.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cnnray.config import ClassifyConfig
from cnnray.data.feature_store import load_features
from cnnray.nn.heads import Head, build_head
from cnnray.train.feature_data import VAL_BATCH, FeatureData, build_feature_data
from cnnray.train.loop import Step


@dataclass(frozen=True)
class ClassifyTask:
    """Softmax regression, or a network with one hidden layer, on features; see `loop.Task`.

    Attributes:
        mean, scale: the head computes with (features - mean [D]) / scale.
    """

    config: ClassifyConfig
    num_classes: int
    mean: Tensor
    scale: float

    def build(self) -> Head:
        """The head before training, standardising by the training features."""
        head = build_head(self.config.head, len(self.mean), self.num_classes, self.config.hidden)
        head.set_standardisation(self.mean, torch.full_like(self.mean, self.scale))
        return head

    def step(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Step:
        """Weighted cross-entropy of soft targets; the score counts where the likeliest class is the target's."""
        features_bD, targets_bK, weights_b = batch
        logits_bK = model(features_bD)
        losses_b = nn.functional.cross_entropy(logits_bK, targets_bK, reduction="none")
        right_b = logits_bK.argmax(dim=1) == targets_bK.argmax(dim=1)
        return Step((losses_b * weights_b).sum(), weights_b.sum(), right_b.sum(), len(features_bD))


def build_parts(features_run: str, config: ClassifyConfig) -> tuple[ClassifyTask, FeatureData]:
    """Task and data of a run, the same in every process."""
    data = build_feature_data(load_features(features_run), config)
    return build_task(data), data


def build_task(data: FeatureData) -> ClassifyTask:
    """The task that fits the data."""
    return ClassifyTask(data.config, len(data.classes), data.mean, data.scale)


def predict_rows(head: Head, data: FeatureData, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Probabilities [len(rows), K] of rows of the feature table."""
    head.eval()
    with torch.inference_mode():
        parts = [head(data.features[part].float()).softmax(1) for part in torch.from_numpy(rows).split(VAL_BATCH)]
    return torch.cat(parts).numpy()
