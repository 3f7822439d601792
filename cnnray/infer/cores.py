"""Threads of which each computes by itself."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


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
