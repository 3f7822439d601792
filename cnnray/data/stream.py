"""Batches of training data made on the cluster's CPUs by Ray Data while a trainer computes.

Every trainer streams its own part: a unit is one batch, planned by the trainer, so that what is in it and its order do
not depend on which worker is faster. Ray Data's split of one shared data set would deal out blocks as they come.
"""

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray.data

from cnnray.data.pipelines import FAULT, quiet_ray_data
from cnnray.errors import CnnrayError

Batch = dict[str, npt.NDArray[Any]]
Make = Callable[[pa.Table], Batch]
Stream = Callable[[Sequence[pa.Table], Make], Iterator[Batch]]


def stream_here(units: Sequence[pa.Table], make: Make) -> Iterator[Batch]:
    """Batches made one after the other in this process, without Ray."""
    return map(make, units)


@dataclass(frozen=True)
class RayStream:
    """Batches made by tasks on whatever node has CPUs free, some ahead of the one that is trained on.

    Attributes:
        cpus: that one task holds.
        tasks: at once.
    """

    cpus: float
    tasks: int

    def __call__(self, units: Sequence[pa.Table], make: Make) -> Iterator[Batch]:
        """One batch for each unit, in their order.

        Raises:
            CnnrayError: what `make` raised.
        """
        quiet_ray_data()
        # not from_arrow: it measures the tables in tasks of one CPU each, for which trainers may have left no room
        dataset = ray.data.from_blocks(list(units)).map_batches(
            _Guarded(make),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=self.cpus,
            compute=ray.data.TaskPoolStrategy(size=self.tasks),
        )
        dataset.context.execution_options.preserve_order = True
        blocks = dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)
        return _whole(blocks, [unit.num_rows for unit in units])


class _Guarded:
    """`make` as Ray gets it: our errors come back as values, since Ray drops the cause of what a task raises."""

    def __init__(self, make: Make) -> None:
        self._make = make

    def __call__(self, unit: pa.Table) -> Batch:
        try:
            return self._make(unit)
        except CnnrayError as error:
            return {FAULT: np.array([pickle.dumps(error)], dtype=object)}


def _whole(blocks: Iterable[Any], sizes: Sequence[int]) -> Iterator[Batch]:
    """Batches of these sizes: Ray Data cuts a block that is large."""
    kept: list[Batch] = []
    number = 0
    for block in blocks:
        if FAULT in block:
            raise pickle.loads(block[FAULT][0])
        kept.append(block)
        count = sum(len(next(iter(part.values()))) for part in kept)
        assert count <= sizes[number], (count, sizes[number])
        if count == sizes[number]:
            yield {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
            kept, number = [], number + 1
