"""Stored features as training data: which rows train, which validate, and the seeded batches of an epoch.

Legend: K classes, b examples of a worker's part of a batch, ... the axes of a feature: [D], or [C, H, W] of a map. A
batch is (features_b... float32, targets_bK float32 with rows that sum to 1, weights_b float32).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnray.config import LabelConfig
from cnnray.data.feature_store import FeatureTable
from cnnray.errors import DataError
from cnnray.train.division import Rows, divide
from cnnray.train.plan import BatchPlan, Planner

VAL_ELEMENTS = 2**22  # numbers in a validation batch
CHUNK_ELEMENTS = 2**24


@dataclass(frozen=True)
class FeatureData:
    """Rows of a feature table, divided; implements `loop.Data`.

    Attributes:
        features: [n, ...] in the stored dtype; views of an image lie together, view 0 first.
        ids: [n] of their images.
        labels, labels_b, lams: [n]; a row's target is lam of its class and the rest of class b; -1 is no class.
        first: row of each training image's view 0.
        val: rows (view 0) of the validation images.
        classes: names of the K classes, sorted.
        class_weights: [K] float32.
        mean: [D] float32, of the training images' features over all their views; [C] of maps.
        scale: root of their mean variance: one number for all features, not one each. A network's features differ in
            how much they vary because they differ in how much they say; dividing each by its own deviation
            would let the rarest ones speak loudest.
        planner: of the epochs.
        smoothing: of the labels.
        dropout: share of the features that a training example lacks.
    """

    features: Tensor
    ids: npt.NDArray[np.object_]
    labels: Tensor
    labels_b: Tensor
    lams: Tensor
    first: Rows
    val: Rows
    classes: tuple[str, ...]
    class_weights: Tensor
    mean: Tensor
    scale: float
    planner: Planner
    smoothing: float
    dropout: float

    @property
    def num_steps(self) -> int:
        """Global batches in an epoch."""
        return self.planner.num_steps

    def batch_ids(self, epoch: int, step: int) -> list[str]:
        """Ids of the images in a global batch."""
        plan = list(self.planner.epoch(epoch))[step]
        return [str(self.ids[self.first[item]]) for item in plan.items]

    def train_batches(self, epoch: int, rank: int, world: int) -> Iterator[tuple[Tensor, ...]]:
        """This worker's part of each batch of an epoch: every training image once, at one of its views by seed."""
        for plan in self.planner.epoch(epoch):
            features, targets = self._mixed(plan.part(rank, world))
            if self.dropout:
                # drawn for the whole batch on every worker, so that no result depends on their number
                rng = np.random.default_rng(plan.seed)
                noise = rng.random((len(plan.items), self.features.shape[1]), dtype=np.float32)[rank::world]
                features = self._dropped(features, torch.from_numpy(noise >= self.dropout))
            smooth = targets * (1 - self.smoothing) + self.smoothing / len(self.classes)
            yield features, smooth, targets @ self.class_weights

    def val_batches(self, rank: int, world: int) -> Iterator[tuple[Tensor, ...]]:
        """This worker's part of the validation images, plain, with the same class weights."""
        size = max(1, VAL_ELEMENTS // self.features[0].numel())
        for rows in torch.from_numpy(self.val[rank::world]).split(size):
            targets = self._targets(rows)
            yield self.features[rows].float(), targets, targets @ self.class_weights

    def _mixed(self, plan: BatchPlan) -> tuple[Tensor, Tensor]:
        """Feature mixup (Zhang et al. 2018, at the features) of rows with their partners; lam 1 is the rows alone."""
        rows = torch.from_numpy(self.first[plan.items] + plan.views)
        features, targets = self.features[rows].float(), self._targets(rows)
        if plan.lam < 1:
            partner = torch.from_numpy(self.first[plan.partners] + plan.partner_views)
            features = features.lerp(self.features[partner].float(), 1 - plan.lam)
            targets = targets.lerp(self._targets(partner), 1 - plan.lam)
        return features, targets

    def _dropped(self, features_bD: Tensor, keep_bD: Tensor) -> Tensor:
        """Dropout (Srivastava et al. 2014) on centred features: a dropped one takes its mean, the others grow."""
        return self.mean + (features_bD - self.mean) * keep_bD / (1 - self.dropout)

    def _targets(self, rows: Tensor) -> Tensor:
        """Soft labels [b, K] of rows."""
        targets = torch.zeros(len(rows), len(self.classes))
        lams = self.lams[rows, None]
        targets.scatter_add_(1, self.labels[rows, None], lams)
        return targets.scatter_add_(1, self.labels_b[rows, None], 1 - lams)


def build_feature_data(table: FeatureTable, config: LabelConfig, batch_size: int, seed: int) -> FeatureData:
    """Divide a table into training and validation images and check that a classifier can be trained on it.

    Where the table has splits "train" and "val" they are used; without "val", `val_fraction` of the training images is
    taken, stratified, by id: all views of an image stay on one side. The same table gives the same division.

    Args:
        table: of vectors [n, D] or maps [n, C, H, W].
        config: of labels; its dropout is for vectors only, a map is dropped from in its network.
        batch_size: of all workers together.
        seed: of division, order and mixup.

    Raises:
        DataError: what `divide` refuses, features that are not finite, mixup views without a validation split of
            their own.
    """
    features = _checked(table)
    plain = np.flatnonzero(table.views == 0)
    mixed = any(label is not None for label in table.labels_b)
    if mixed and "val" not in set(table.splits):
        raise DataError(
            "expected a validation split in features with mixup views (their partners would be in both parts); "
            'build them with --split "train=0.9,val=0.1"'
        )
    division = divide(table.ids[plain], table.labels[plain], table.splits[plain], config, seed)
    number = {name: index for index, name in enumerate(division.classes)}
    labels = np.array([number.get(label, -1) for label in table.labels])
    labels_b = np.array([number.get(label, own) for label, own in zip(table.labels_b, labels, strict=True)])
    ends = np.append(plain, len(table.ids))
    first, counts = plain[division.train], ends[division.train + 1] - plain[division.train]
    mean, scale = _moments(features, first, counts)
    return FeatureData(
        features=features,
        ids=table.ids,
        labels=torch.from_numpy(labels),
        labels_b=torch.from_numpy(labels_b),
        lams=torch.from_numpy(np.where(table.labels_b == None, 1.0, table.lams).astype(np.float32)),  # noqa: E711
        first=first,
        val=plain[division.val],
        classes=division.classes,
        class_weights=torch.from_numpy(division.class_weights),
        mean=mean,
        scale=scale,
        planner=Planner(
            counts=counts, num_items=len(first), batch_size=batch_size, seed=seed, mixup_alpha=config.mixup_alpha
        ),
        smoothing=config.label_smoothing,
        dropout=config.dropout if features.ndim == 2 else 0.0,
    )


def _checked(table: FeatureTable) -> Tensor:
    if not len(table.features):
        raise DataError("expected features of labelled images, got none")
    features = torch.from_numpy(np.require(table.features, requirements=["C", "W"]))
    size = _chunk(features)
    for start in range(0, len(features), size):
        bad = ~torch.isfinite(features[start : start + size]).flatten(1).all(dim=1)
        if bad.any():
            row = start + int(bad.nonzero()[0])
            raise DataError(f"expected finite features, got NaN or infinity in image {table.ids[row]!r}; rebuild them")
    return features


def _chunk(features: Tensor) -> int:
    """Rows that together have about CHUNK_ELEMENTS numbers."""
    return max(1, CHUNK_ELEMENTS // features[0].numel())


def _moments(features: Tensor, first: Rows, count: Rows) -> tuple[Tensor, float]:
    """Mean [D] or [C] of the features of all views of some images, and the root of their mean variance."""
    used = np.concatenate([np.arange(f, f + c) for f, c in zip(first, count, strict=True)])
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    squares = total.clone()
    for rows in torch.from_numpy(used).split(_chunk(features)):
        chunk = features[rows].double().flatten(2).mean(2) if features.ndim > 2 else features[rows].double()
        total += chunk.sum(0)
        squares += chunk.square().sum(0)
    mean = total / len(used)
    return mean.float(), float((squares / len(used) - mean.square()).clamp(min=0).mean().sqrt())
