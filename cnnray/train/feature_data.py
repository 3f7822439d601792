"""Stored features as training data: which rows train, which validate, and the seeded batches of an epoch.

Legend: D features, K classes, b examples of a worker's part of a batch. A batch is
(features_bD float32, targets_bK float32 with rows that sum to 1, weights_b float32).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnray.config import ClassifyConfig
from cnnray.data.feature_store import FeatureTable
from cnnray.errors import DataError
from cnnray.ops.split import stratified_split

VAL_BATCH = 4096
CHUNK_ROWS = 65536

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FeatureData:
    """Rows of a feature table, divided; implements `loop.Data`.

    Attributes:
        features: [n, D] in the stored dtype; views of an image lie together, view 0 first.
        labels, labels_b, lams: [n]; a row's target is lam of its class and the rest of class b; -1 is no class.
        first, count: [images] row of each training image's view 0, and its number of views.
        val: rows (view 0) of the validation images.
        classes: names of the K classes, sorted.
        class_weights: [K] float32.
        mean: [D] float32, of the training images' features over all their views.
        scale: root of their mean variance: one number for all features, not one each. A network's features differ in
            how much they vary because they differ in how much they say; dividing each by its own deviation
            would let the rarest ones speak loudest.
        config: batch size, mixup, label smoothing and seed are read from it.
    """

    features: Tensor
    labels: Tensor
    labels_b: Tensor
    lams: Tensor
    first: Rows
    count: Rows
    val: Rows
    classes: tuple[str, ...]
    class_weights: Tensor
    mean: Tensor
    scale: float
    config: ClassifyConfig

    @property
    def num_steps(self) -> int:
        """Global batches in an epoch, the last of which may be smaller."""
        return ceil(len(self.first) / self.config.batch_size)

    def train_batches(self, epoch: int, rank: int, world: int) -> Iterator[tuple[Tensor, ...]]:
        """This worker's part of each batch of an epoch: every training image once, at one of its views by seed."""
        config, mine = self.config, slice(rank, None, world)
        rng = np.random.default_rng([config.seed, epoch])
        views = rng.integers(0, self.count)
        rows = torch.from_numpy((self.first + views)[rng.permutation(len(self.first))])
        for batch in rows.split(config.batch_size):
            # every draw is for the whole batch on every worker, so that no result depends on their number
            partner = batch[torch.from_numpy(rng.permutation(len(batch)))]
            lam = float(rng.beta(config.mixup_alpha, config.mixup_alpha)) if config.mixup_alpha else 1.0
            noise = rng.random((len(batch), self.features.shape[1]), dtype=np.float32) if config.dropout else None
            features, targets = self._mixed(batch[mine], partner[mine], lam)
            if noise is not None:
                features = self._dropped(features, torch.from_numpy(noise[mine]) >= config.dropout)
            smooth = targets * (1 - config.label_smoothing) + config.label_smoothing / len(self.classes)
            yield features, smooth, targets @ self.class_weights

    def val_batches(self, rank: int, world: int) -> Iterator[tuple[Tensor, ...]]:
        """This worker's part of the validation images, plain, with the same class weights."""
        for rows in torch.from_numpy(self.val[rank::world]).split(VAL_BATCH):
            targets = self._targets(rows)
            yield self.features[rows].float(), targets, targets @ self.class_weights

    def _mixed(self, rows: Tensor, partner: Tensor, lam: float) -> tuple[Tensor, Tensor]:
        """Feature mixup (Zhang et al. 2018, at the features) of rows with their partners; lam 1 is the rows alone."""
        features, targets = self.features[rows].float(), self._targets(rows)
        if lam < 1:
            features = features.lerp(self.features[partner].float(), 1 - lam)
            targets = targets.lerp(self._targets(partner), 1 - lam)
        return features, targets

    def _dropped(self, features_bD: Tensor, keep_bD: Tensor) -> Tensor:
        """Dropout (Srivastava et al. 2014) on centred features: a dropped one takes its mean, the others grow."""
        return self.mean + (features_bD - self.mean) * keep_bD / (1 - self.config.dropout)

    def _targets(self, rows: Tensor) -> Tensor:
        """Soft labels [b, K] of rows."""
        targets = torch.zeros(len(rows), len(self.classes))
        lams = self.lams[rows, None]
        targets.scatter_add_(1, self.labels[rows, None], lams)
        return targets.scatter_add_(1, self.labels_b[rows, None], 1 - lams)


def build_feature_data(table: FeatureTable, config: ClassifyConfig) -> FeatureData:
    """Divide a table into training and validation images and check that a classifier can be trained on it.

    Where the table has splits "train" and "val" they are used; without "val", `val_fraction` of the training images is
    taken, stratified, by id: all views of an image stay on one side. The same table gives the same division.

    Raises:
        DataError: maps instead of vectors, no training images, missing labels, one class, a class with one image,
            validation labels that training does not know, features that are not finite, mixup views without a
            validation split of their own.
    """
    features = _vectors(table)
    plain = np.flatnonzero(table.views == 0)
    train, val = _divide(table, plain, config)
    classes = _check_labels(table.labels[train], table.labels[val])
    number = {name: index for index, name in enumerate(classes)}
    labels = np.array([number.get(label, -1) for label in table.labels])
    labels_b = np.array([number.get(label, own) for label, own in zip(table.labels_b, labels, strict=True)])
    counts = np.bincount(labels[train], minlength=len(classes))
    balanced = counts.sum() / (len(classes) * counts) if config.class_weights == "balanced" else np.ones(len(classes))
    ends = np.append(plain, len(table.ids))
    count = ends[np.searchsorted(plain, train) + 1] - train
    mean, scale = _moments(features, train, count)
    return FeatureData(
        features=features,
        labels=torch.from_numpy(labels),
        labels_b=torch.from_numpy(labels_b),
        lams=torch.from_numpy(np.where(table.labels_b == None, 1.0, table.lams).astype(np.float32)),  # noqa: E711
        first=train,
        count=count,
        val=val,
        classes=classes,
        class_weights=torch.from_numpy(balanced.astype(np.float32)),
        mean=mean,
        scale=scale,
        config=config,
    )


def _vectors(table: FeatureTable) -> Tensor:
    if table.features.ndim != 2:
        raise DataError(
            f"expected feature vectors [n, D], got maps of shape {list(table.features.shape[1:])}; "
            "build the features with --pool avg to train a head on them"
        )
    if not len(table.features):
        raise DataError("expected features of labelled images, got none")
    features = torch.from_numpy(np.require(table.features, requirements=["C", "W"]))
    for start in range(0, len(features), CHUNK_ROWS):
        bad = ~torch.isfinite(features[start : start + CHUNK_ROWS]).all(dim=1)
        if bad.any():
            row = start + int(bad.nonzero()[0])
            raise DataError(f"expected finite features, got NaN or infinity in image {table.ids[row]!r}; rebuild them")
    return features


def _moments(features: Tensor, first: Rows, count: Rows) -> tuple[Tensor, float]:
    """Mean [D] of the features of all views of some images, and the root of their mean variance."""
    used = np.concatenate([np.arange(f, f + c) for f, c in zip(first, count, strict=True)])
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    squares = total.clone()
    for rows in torch.from_numpy(used).split(CHUNK_ROWS):
        chunk = features[rows].double()
        total += chunk.sum(0)
        squares += chunk.square().sum(0)
    mean = total / len(used)
    return mean.float(), float((squares / len(used) - mean.square()).clamp(min=0).mean().sqrt())


def _divide(table: FeatureTable, plain: Rows, config: ClassifyConfig) -> tuple[Rows, Rows]:
    """Rows (view 0) of the training images and of the validation images."""
    splits = table.splits[plain]
    names = {name for name in splits if name}
    if names and "train" not in names:
        raise DataError(f"expected a split named 'train' in the features, got {', '.join(sorted(names))}")
    pool = plain[splits == "train"] if names else plain
    _check_pool(table.labels[pool])
    if "val" in names:
        return pool, plain[splits == "val"]
    if any(label is not None for label in table.labels_b):
        raise DataError(
            "expected a validation split in features with mixup views (their partners would be in both parts); "
            'build them with --split "train=0.9,val=0.1"'
        )
    fractions = {"train": 1 - config.val_fraction, "val": config.val_fraction}
    side = stratified_split(list(table.ids[pool]), list(table.labels[pool]), fractions, config.seed)
    return pool[side == "train"], pool[side == "val"]


def _check_pool(labels: npt.NDArray[Any]) -> None:
    missing = sum(label is None for label in labels)
    if missing:
        raise DataError(
            f"expected a label on every training image, but {missing} of {len(labels)} have none; "
            "build the features from class folders or a manifest with labels"
        )
    names, counts = np.unique(labels.astype(str), return_counts=True)
    if len(names) < 2:
        raise DataError(f"expected images of at least 2 classes to tell apart, got only {', '.join(names)!r}")
    single = names[counts == 1].tolist()
    if single:
        more = f" and {len(single) - 3} more" if len(single) > 3 else ""
        raise DataError(
            f"expected at least 2 training images of every class, got 1 of {', '.join(map(repr, single[:3]))}{more}; "
            "add images of it or remove the class"
        )


def _check_labels(train: npt.NDArray[Any], val: npt.NDArray[Any]) -> tuple[str, ...]:
    """The class names, sorted, after a look at the validation labels."""
    classes = tuple(sorted(set(train)))
    unknown = sorted({str(label) for label in val} - set(classes))
    if unknown:
        raise DataError(
            f"expected validation labels among the {len(classes)} classes of the training images, got "
            f"{', '.join(map(repr, unknown[:3]))}{f' and {len(unknown) - 3} more' if len(unknown) > 3 else ''}"
        )
    return classes
