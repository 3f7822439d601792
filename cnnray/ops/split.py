"""Seeded, stratified splits of a data set."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cnnray.errors import DataError, OptionError


def parse_fractions(text: str) -> dict[str, float]:
    """Read "train=0.8,val=0.2" into names and fractions.

    Raises:
        OptionError: not of that form, a fraction outside (0, 1], or a sum other than 1.
    """
    form = 'split is written like "train=0.8,val=0.2"'
    try:
        pairs = [(name.strip(), float(value)) for name, value in (part.split("=") for part in text.split(","))]
    except ValueError:
        raise OptionError(f"{form}; got {text!r}") from None
    fractions = dict(pairs)
    if len(fractions) != len(pairs) or "" in fractions:
        raise OptionError(f"{form}, every name once; got {text!r}")
    if min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise OptionError(f"split fractions must be above 0 and sum to 1; got {text!r}")
    return fractions


def stratified_split(
    ids: Sequence[str], labels: Sequence[str | None], fractions: Mapping[str, float], seed: int
) -> npt.NDArray[np.object_]:
    """The split name of every item, so that each label is divided by `fractions` to the nearest item.

    An item's place depends on its id, the seed and its label's other items only, not on the order given. Every
    label keeps at least one item in the first split, and has one in each other split where it has enough items.

    Args:
        ids: unique names of the n items.
        labels: their n labels; None counts as a label.
        fractions: name -> fraction, summing to 1.
        seed: of the assignment.

    Returns:
        [n] array of str.

    Raises:
        DataError: a label has fewer than two items, so it cannot be divided.
    """
    groups: dict[str | None, list[int]] = {}
    for row, label in enumerate(labels):
        groups.setdefault(label, []).append(row)
    small = [label for label, rows in groups.items() if len(rows) < 2]
    if small:
        raise DataError(
            f"a split needs at least 2 images of every class, but {len(small)} of {len(groups)} have only one, "
            f"such as {small[0]!r}; add images of it or remove the class"
        )
    result = np.empty(len(ids), dtype=object)
    for rows in groups.values():
        rows.sort(key=lambda row: hashlib.blake2b(f"{ids[row]}|split|{seed}".encode(), digest_size=8).digest())
        for name, part in zip(
            fractions, np.split(np.array(rows), _cuts(len(rows), list(fractions.values()))), strict=True
        ):
            result[part] = name
    return result


def hold_out(ids: Sequence[str], fraction: float, seed: int) -> list[str]:
    """ "train" or "val" of every item: a seeded fraction validates, see `stratified_split`; one label for all."""
    fractions = {"train": 1 - fraction, "val": fraction}
    return [str(name) for name in stratified_split(ids, ["all"] * len(ids), fractions, seed)]


def _cuts(count: int, fractions: Sequence[float]) -> list[int]:
    """Where to cut `count` items: rounded counts, but one item each for as many splits as there are items."""
    sizes = np.floor(np.asarray(fractions) * count + 0.5).astype(int)
    for need in range(min(count, len(sizes))):
        if sizes[need] == 0:
            sizes[need] = 1
    sizes[0] = max(1, count - sizes[1:].sum())
    return [int(cut) for cut in np.minimum(np.cumsum(sizes)[:-1], count)]


def split_label_sets(
    ids: Sequence[str], label_sets: Sequence[Sequence[int]], fractions: Mapping[str, float], seed: int
) -> npt.NDArray[np.object_]:
    """The split name of every item that has any number of labels, so that each label is divided by `fractions`.

    The rarest label that is left goes first; each of its items goes where most of that label is still wanted.
    Sechidis et al. 2011, On the Stratification of Multi-Label Data, algorithm 1. An item's place depends on the ids,
    labels and seed alone, not on the order given.

    Args:
        ids: unique names of the n items.
        label_sets: of each item; a label that comes more than once counts so often.
        fractions: name -> fraction, summing to 1.
        seed: of the assignment.

    Returns:
        [n] array of str.
    """
    order = sorted(range(len(ids)), key=lambda row: hashlib.blake2b(f"{ids[row]}|{seed}".encode()).digest())
    names, shares = list(fractions), np.array(list(fractions.values()))
    num_labels = max((max(labels) for labels in label_sets if labels), default=-1) + 1
    counts = np.zeros((len(ids), num_labels), np.int64)
    for row, labels in enumerate(label_sets):
        np.add.at(counts[row], labels, 1)
    wanted, wanted_items = shares[:, None] * counts.sum(0), shares * len(ids)
    result = np.empty(len(ids), dtype=object)
    left = list(order)
    while left:
        holders = (counts[left] > 0).sum(0)
        rarest = int(np.argmin(np.where(holders > 0, holders, len(ids) + 1))) if num_labels else -1
        chosen = [row for row in left if counts[row, rarest]] if num_labels and holders[rarest] else left
        for row in chosen:
            need = wanted[:, rarest] if chosen is not left else wanted_items
            place = max(range(len(names)), key=lambda at: (need[at], wanted_items[at], -at))
            result[row] = names[place]
            wanted[place] -= counts[row]
            wanted_items[place] -= 1
        taken = set(chosen)
        left = [row for row in left if row not in taken]
    return result
