"""Threads of which each computes by itself."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cnnray.infer.cores import Cores


def test_everywhere_is_once_in_each_thread():
    seen = []
    cores = Cores(3)
    for _ in range(20):
        seen.clear()
        cores.everywhere(lambda: seen.append((threading.get_ident(), torch.get_num_threads())))
        assert len(seen) == len(set(seen)) == 3 and {threads for _, threads in seen} == {1}


def test_what_one_thread_raises_is_raised_and_the_others_go_on():
    cores, seen = Cores(2), []

    def fail_in_one():
        seen.append(1)
        if len(seen) == 1:
            raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        cores.everywhere(fail_in_one)
    cores.everywhere(lambda: seen.append(2))
    assert sorted(seen) == [1, 1, 2, 2]


def test_two_that_ask_at_once_do_not_wait_for_each_other():
    cores, seen = Cores(2), []
    with ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(cores.everywhere, lambda: seen.append(1)) for _ in range(200)]
        asked += [callers.submit(cores.submit, seen.append, 2) for _ in range(200)]
        for one in asked:
            one.result(timeout=60)
    cores.shutdown()
    assert (seen.count(1), seen.count(2)) == (400, 200)
