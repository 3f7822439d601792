"""Threads of which each computes by itself."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

R = TypeVar("R")


class Cores(ThreadPoolExecutor):
    """A thread for each core: images side by side are sooner done than the parts of one.

    Args:
        count: of threads.
        each: cores that torch takes for an operation in each of them.
    """

    def __init__(self, count: int, each: int = 1) -> None:
        super().__init__(count, initializer=torch.set_num_threads, initargs=(each,))
        self._count, self._one_at_a_time = count, threading.Lock()

    def everywhere(self, call: Callable[[], object]) -> None:
        """Call it once in each thread, at the same time; raises what it raises.

        What torch keeps for an operation, it keeps for each thread: whoever wants all of it now, asks for it so.
        """
        together = threading.Barrier(self._count)

        def when_all_are_there(_: int) -> None:
            together.wait()
            call()

        with self._one_at_a_time:  # two of them would wait for each other's threads
            list(self.map(when_all_are_there, range(self._count)))


class ImageCores:
    """Cores for images: one for each of several, and with `join` all of them for one that comes alone.

    Args:
        count: of cores.
        join: as said; the last bits of an answer then depend on whether others came with it.

    Attributes:
        each: a thread for each core.
    """

    def __init__(self, count: int, *, join: bool) -> None:
        self.each = Cores(count)
        self._alone = Cores(1, each=count) if join and count > 1 else self.each

    def map(self, call: Callable[..., R], images: Sequence[Any], *others: Iterable[Any]) -> list[R]:
        """What it returns for each image, and what stands beside it in `others`; in their order."""
        return list((self.each if len(images) > 1 else self._alone).map(call, images, *others))

    def everywhere(self, call: Callable[[], object]) -> None:
        """Call it once in each thread that there is; raises what it raises."""
        for cores in {self.each, self._alone}:
            cores.everywhere(call)
