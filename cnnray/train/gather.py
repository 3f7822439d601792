"""Rows of all workers put together in each of them, with gradients that find their way back."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(rows_AD: Tensor, numbers_A: Tensor, total: int) -> Tensor:
    """All rows [total, D] in their order; called by all workers together, which may have different numbers of them.

    The gradient of a row is the sum of what all workers made of it. The training loop multiplies losses by the number
    of workers and averages gradients over them, so that sum is that of one worker with the whole batch.

    Args:
        rows_AD: of this worker, float; A may be 0.
        numbers_A: int64, the place of each in the whole; every place belongs to one worker.
        total: rows of all workers.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows_AD[numbers_A.argsort()]
    gathered: Tensor = _Gather.apply(rows_AD, numbers_A, total)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_AD: Tensor, numbers_A: Tensor, total: int) -> Tensor:
        ctx.save_for_backward(numbers_A)
        whole = rows_AD.new_zeros(total, rows_AD.shape[1])
        whole[numbers_A] = rows_AD
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (numbers_A,) = ctx.saved_tensors
        whole = gradients[0].clone()
        dist.all_reduce(whole)
        return whole[numbers_A], None, None
