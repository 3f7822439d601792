"""What an epoch consists of: the order of the images, a view of each, and who is mixed with whom.

Planned for the whole batch from (seed, epoch) alone and only then divided among workers, so that nothing depends on
their number. Training on stored features and training on images follow the same plan.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from cnnray.config import TrainConfig
from cnnray.errors import OptionError

Numbers = npt.NDArray[np.int64]


def num_batches(num_items: int, batch_size: int) -> int:
    """Batches in an epoch of a `Planner`."""
    return ceil(num_items / batch_size)


def check_batches(num_items: int, config: TrainConfig) -> None:
    """Every worker needs an example in every batch: the others would wait for one that has none for ever.

    Args:
        num_items: to train on, images or crops, that a `Planner` divides.

    Raises:
        OptionError: there can be more workers than that.
    """
    workers, smallest = config.worker_range[1], num_items // num_batches(num_items, config.batch_size)
    if smallest < workers:
        raise OptionError(
            f"expected batches in which each of {workers} workers has an image, but {num_items:,} images in batches of "
            f"{config.batch_size} make some of {smallest}; use fewer --workers or a larger --batch-size"
        )


@dataclass(frozen=True)
class BatchPlan:
    """One global batch, or a worker's part of it.

    Attributes:
        items: numbers of the training images.
        views: of each, the number of its view.
        partners, partner_views: with which it is mixed.
        lam: share of the image itself; 1 where nothing is mixed in.
        mix: "mixup", "cutmix" or "".
        seed: of the rectangle of cutmix and of dropout.
    """

    items: Numbers
    views: Numbers
    partners: Numbers
    partner_views: Numbers
    lam: float
    mix: str
    seed: int

    def part(self, rank: int, world: int) -> "BatchPlan":
        """The examples of worker `rank` out of `world`."""
        mine = slice(rank, None, world)
        own = (self.items[mine], self.views[mine], self.partners[mine], self.partner_views[mine])
        return BatchPlan(*own, self.lam, self.mix, self.seed)


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Plans epochs.

    Attributes:
        counts: [n] views of each image to choose from; None takes view `epoch` + 1 of each: a fresh one every epoch.
        num_items: n.
        batch_size: of all workers; batches differ by one example at most, so that none is too small for batch norms.
        seed: of the run.
        mixup_alpha, cutmix_alpha: Beta(a, a) of the shares; 0 is off. Where both are on, each batch gets one.
    """

    counts: Numbers | None
    num_items: int
    batch_size: int
    seed: int
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    @property
    def num_steps(self) -> int:
        """Batches in an epoch."""
        return num_batches(self.num_items, self.batch_size)

    def epoch(self, epoch: int) -> Iterator[BatchPlan]:
        """Every image once, in random order, at one of its views."""
        rng = np.random.default_rng([self.seed, epoch])
        fresh = np.full(self.num_items, epoch + 1)
        views = fresh if self.counts is None else rng.integers(0, self.counts)
        for items in np.array_split(rng.permutation(self.num_items), self.num_steps):
            partners = items[rng.permutation(len(items))]
            lam, mix = self._mix(rng)
            yield BatchPlan(items, views[items], partners, views[partners], lam, mix, int(rng.integers(2**62)))

    def _mix(self, rng: np.random.Generator) -> tuple[float, str]:
        alphas = {name: a for name, a in (("mixup", self.mixup_alpha), ("cutmix", self.cutmix_alpha)) if a}
        if not alphas:
            return 1.0, ""
        name = list(alphas)[int(rng.integers(len(alphas)))]
        return float(rng.beta(alphas[name], alphas[name])), name
