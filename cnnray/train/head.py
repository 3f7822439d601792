"""The head of a classifier as a task of the training loop.

Apart from `classify`, which writes checkpoint and report: a worker that only trains need not load what draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cnnray.config import ClassifyConfig
from cnnray.data.feature_store import FeatureTable, load_features
from cnnray.errors import DataError
from cnnray.nn.device import choose_device, native_precision
from cnnray.nn.heads import Head, build_head
from cnnray.train.feature_data import FeatureData, build_feature_data
from cnnray.train.loop import DTYPES, Data, Step
from cnnray.train.optim import Group


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

    def groups(self, model: nn.Module) -> Sequence[Group]:
        """The whole head learns all the time."""
        return [Group((model,))]

    def step(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Step:
        """See `soft_label_step`."""
        return soft_label_step(model, batch)


def soft_label_step(model: nn.Module, batch: tuple[Tensor, ...]) -> Step:
    """Weighted cross-entropy of soft targets; the score counts where the likeliest class is the target's.

    Args:
        model: gives logits [b, K].
        batch: its input [b, ...], targets [b, K], weights [b].
    """
    inputs, targets_bK, weights_b = batch
    logits_bK = model(inputs).float()
    losses_b = nn.functional.cross_entropy(logits_bK, targets_bK, reduction="none")
    right_b = logits_bK.argmax(dim=1) == targets_bK.argmax(dim=1)
    return Step((losses_b * weights_b).sum(), weights_b.sum(), right_b.sum(), len(targets_bK))


def build_parts(features_run: str, config: ClassifyConfig) -> tuple[ClassifyTask, FeatureData]:
    """Task and data of a run, the same in every process."""
    data = build_head_data(load_features(features_run), config)
    return build_task(data, config), data


def build_head_data(table: FeatureTable, config: ClassifyConfig) -> FeatureData:
    """The data of a head.

    Raises:
        DataError: as `build_feature_data`, and maps instead of vectors.
    """
    if table.features.ndim != 2:
        raise DataError(
            f"expected feature vectors [n, D], got maps of shape {list(table.features.shape[1:])}; build the features "
            "with --pool avg to train a head on them, or train the layers above them: cnnray train finetune"
        )
    return build_feature_data(table, config, config.batch_size, config.seed)


def build_task(data: FeatureData, config: ClassifyConfig) -> ClassifyTask:
    """The task that fits the data."""
    return ClassifyTask(config, len(data.classes), data.mean, data.scale)


def predict_val(
    model: nn.Module, data: Data, *, precision: str = "float32", device: str = "cpu"
) -> npt.NDArray[np.float32]:
    """Probabilities [n, K] of all validation examples of `data`, in its order; `model` gives logits."""
    place = choose_device(device)
    dtype = DTYPES[native_precision(place) if precision == "auto" else precision]
    model = model.eval().to(place).to(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast(place.type, dtype, enabled=dtype != torch.float32):
        parts = [model(batch[0].to(place)).float().softmax(1).cpu() for batch in data.val_batches(0, 1)]
    return torch.cat(parts).numpy()
