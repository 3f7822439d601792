"""Pairs of faces to verify, made up from identity folders in LFW's format, see `cnnray.data.face_pairs`."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cnnray import files
from cnnray.data.face_pairs import FOLDS, image_numbers
from cnnray.errors import DataError

_Numbers = Mapping[str, Sequence[int]]
_Line = tuple[str | int, ...]


def write_face_pairs(
    uri: str, people: Mapping[str, Sequence[str]], *, folds: int = FOLDS, pairs_per_fold: int = 300, seed: int = 0
) -> None:
    """Write `make_face_pairs` to a file."""
    files.write_bytes(uri, make_face_pairs(people, folds=folds, pairs_per_fold=pairs_per_fold, seed=seed).encode())


def make_face_pairs(
    people: Mapping[str, Sequence[str]], *, folds: int = FOLDS, pairs_per_fold: int = 300, seed: int = 0
) -> str:
    """Pairs in LFW's format, drawn at random; no person is in two folds, no pair comes twice.

    A pair of one person: a random person of the fold with two images or more, two of them. A pair of two people: two
    random people of the fold, an image of each. Same people, files and seed: the same text.

    Args:
        people: names of the image files by person, such as `list_people` gives, or some of them.
        folds: from 2.
        pairs_per_fold: of each kind.
        seed: of all that is random.

    Raises:
        DataError: too few people or images for so many pairs.
    """
    rng = np.random.default_rng(seed)
    numbers = {name: sorted(image_numbers(name, people[name])) for name in sorted(people)}
    shuffled = [list(numbers)[at] for at in rng.permutation(len(numbers))]
    # people with several images are dealt first, so that every fold gets as many of them
    dealt = sorted((name for name in shuffled if numbers[name]), key=lambda name: len(numbers[name]) < 2)
    lines = [f"{folds}\t{pairs_per_fold}"]
    for fold in range(folds):
        own = {name: numbers[name] for name in sorted(dealt[fold::folds])}
        _check_fold(own, pairs_per_fold, fold)
        lines += ["\t".join(map(str, pair)) for pair in _draw(rng, own, pairs_per_fold, _draw_same)]
        lines += ["\t".join(map(str, pair)) for pair in _draw(rng, own, pairs_per_fold, _draw_different)]
    return "\n".join(lines) + "\n"


def _check_fold(own: _Numbers, wanted: int, fold: int) -> None:
    counts = [len(images) for images in own.values()]
    same = sum(count * (count - 1) // 2 for count in counts)
    different = (sum(counts) ** 2 - sum(count**2 for count in counts)) // 2
    if min(same, different) < wanted:
        raise DataError(
            f"expected {wanted} pairs of each kind in every fold, but the {sum(counts)} images of the {len(counts)} "
            f"people of fold {fold + 1} make {same} of one person and {different} of two; ask for fewer folds or pairs"
        )


def _draw(
    rng: np.random.Generator, own: _Numbers, wanted: int, draw: Callable[[np.random.Generator, _Numbers], _Line]
) -> list[_Line]:
    """So many different ones, sorted by name; there are as many, see `_check_fold`."""
    chosen: set[_Line] = set()
    while len(chosen) < wanted:
        chosen.add(draw(rng, own))
    return sorted(chosen)


def _draw_same(rng: np.random.Generator, own: _Numbers) -> _Line:
    several = [name for name, images in own.items() if len(images) > 1]
    name = several[rng.integers(len(several))]
    return (name, *sorted(own[name][at] for at in rng.choice(len(own[name]), 2, replace=False)))


def _draw_different(rng: np.random.Generator, own: _Numbers) -> _Line:
    names = sorted(list(own)[at] for at in rng.choice(len(own), 2, replace=False))
    return tuple(part for name in names for part in (name, own[name][int(rng.integers(len(own[name])))]))
