"""What an epoch of faces consists of: batches of P people with K images each.

FaceNet, Schroff et al. 2015, section 3.2: a batch needs several faces of each of its people, or it has no pairs.

Planned for the whole batch from (seed, epoch) alone and only then divided among workers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FaceBatch:
    """One global batch.

    Attributes:
        items_B: numbers of the training images, K of one person after the other.
        views_B: of each, the number of its random view: never the same one twice.
        seed: of the choice of negatives.
    """

    items_B: Numbers
    views_B: Numbers
    seed: int


@dataclass(frozen=True, kw_only=True)
class FacePlanner:
    """Plans epochs: each person's images in random order, K at a time, in batches of P different people.

    Those who have most images left come first, so that they are used up together; where fewer than P people have any
    left, others come again. An image comes again where its person's number of images is no multiple of K. Of somebody
    with more images than the others can be mixed with, some have to wait for another epoch.

    Attributes:
        people_N: number of the person on each of N images; everybody has two or more.
        people: P, at most as many as there are.
        images: K.
        seed: of the run.
    """

    people_N: Numbers
    people: int
    images: int
    seed: int

    @cached_property
    def own(self) -> list[Numbers]:
        """The images of each person."""
        order = np.argsort(self.people_N, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(self.people_N[order])) + 1)

    @property
    def num_steps(self) -> int:
        """Batches in an epoch."""
        groups = sum(-(-len(images) // self.images) for images in self.own)
        return -(-groups // self.people)

    def epoch(self, epoch: int) -> Iterator[FaceBatch]:
        """The batches of an epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        waiting = [self._groups(rng, images) for images in self.own]
        for step in range(self.num_steps):
            left = np.array([len(groups) for groups in waiting]) + rng.random(len(waiting))
            chosen = np.argsort(-left, kind="stable")[: self.people]
            items = [waiting[person].pop() if waiting[person] else self._group(rng, person) for person in chosen]
            items_B = np.concatenate(items)
            first = (epoch * self.num_steps + step) * len(items_B) + 1
            yield FaceBatch(items_B, first + np.arange(len(items_B)), int(rng.integers(2**62)))

    def _groups(self, rng: np.random.Generator, images: Numbers) -> list[Numbers]:
        """A person's images in random order, K at a time; the last ones are filled up with others."""
        order = rng.permutation(images)
        short = -len(order) % self.images
        others = order[: len(order) // self.images * self.images] if len(order) >= self.images else order
        return np.split(np.concatenate([order, _some(rng, others, short)]), (len(order) + short) // self.images)

    def _group(self, rng: np.random.Generator, person: int) -> Numbers:
        return _some(rng, rng.permutation(self.own[person]), self.images)


def _some(rng: np.random.Generator, images: Numbers, count: int) -> Numbers:
    """So many of the images, as different as possible."""
    return np.resize(rng.permutation(images), count)
