"""Labelled images divided into those that train and those that validate, with everything checked that can go wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cnnray.config import LabelConfig
from cnnray.errors import DataError
from cnnray.ops.split import stratified_split

Rows = npt.NDArray[np.int64]
Texts = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Division:
    """Rows of a table of images.

    Attributes:
        train, val: row numbers.
        classes: names of the K classes, sorted.
        labels: [n] class number of every row; -1 is none of the classes.
        class_weights: [K] float32, mean 1 over the training images.
    """

    train: Rows
    val: Rows
    classes: tuple[str, ...]
    labels: Rows
    class_weights: npt.NDArray[np.float32]


def divide(ids: Texts, labels: Texts, splits: Texts, config: LabelConfig, seed: int) -> Division:
    """Divide images [n] by their splits, or by `config.val_fraction` where there is no split "val".

    Args:
        ids, labels, splits: [n] text; label and split may be None.
        config: fraction and class weights.
        seed: of the division, which is stratified and by id: the same images give the same one.

    Raises:
        DataError: no training images, missing labels, one class, a class with one image, validation labels that
            training does not know.
    """
    train, val = _sides(ids, labels, splits, config, seed)
    classes = _check_labels(labels[train], labels[val])
    number = {name: index for index, name in enumerate(classes)}
    numbers = np.array([number.get(label, -1) for label in labels], np.int64)
    counts = np.bincount(numbers[train], minlength=len(classes))
    weights = counts.sum() / (len(classes) * counts) if config.class_weights == "balanced" else np.ones(len(classes))
    return Division(train, val, classes, numbers, weights.astype(np.float32))


def _sides(ids: Texts, labels: Texts, splits: Texts, config: LabelConfig, seed: int) -> tuple[Rows, Rows]:
    rows = np.arange(len(ids))
    names = {name for name in splits if name}
    if names and "train" not in names:
        raise DataError(f"expected a split named 'train', got {', '.join(sorted(names))}")
    pool = rows[splits == "train"] if names else rows
    _check_pool(labels[pool])
    if "val" in names:
        return pool, rows[splits == "val"]
    fractions = {"train": 1 - config.val_fraction, "val": config.val_fraction}
    side = stratified_split(list(ids[pool]), list(labels[pool]), fractions, seed)
    return pool[side == "train"], pool[side == "val"]


def _check_pool(labels: npt.NDArray[Any]) -> None:
    if not len(labels):
        raise DataError("expected labelled training images, got none")
    missing = sum(label is None for label in labels)
    if missing:
        raise DataError(
            f"expected a label on every training image, but {missing} of {len(labels)} have none; "
            "use class folders or a manifest with labels"
        )
    names, counts = np.unique(labels.astype(str), return_counts=True)
    if len(names) < 2:
        raise DataError(f"expected images of at least 2 classes to tell apart, got only {', '.join(names)!r}")
    single = names[counts == 1].tolist()
    if single:
        raise DataError(
            f"expected at least 2 training images of every class, got 1 of {_first(single)}; "
            "add images of it or remove the class"
        )


def _check_labels(train: npt.NDArray[Any], val: npt.NDArray[Any]) -> tuple[str, ...]:
    """The class names, sorted, after a look at the validation labels."""
    classes = tuple(sorted(set(train)))
    unknown = sorted({str(label) for label in val} - set(classes))
    if unknown:
        raise DataError(
            f"expected validation labels among the {len(classes)} classes of the training images, got {_first(unknown)}"
        )
    return classes


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
