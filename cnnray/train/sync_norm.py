"""Batch norms that share their statistics among workers, so that the number of workers does not change what is learned.

On GPUs it is PyTorch's own, which has no version for CPUs.

Batch Normalization, Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1, over the batch of all workers
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

_CONVERTED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over all workers' examples; [N, C, ...], N may differ between workers."""

    def forward(self, input: Tensor) -> Tensor:
        """The same shape and dtype; in evaluation mode by the stored statistics, as everywhere."""
        if not self.training:
            result: Tensor = super().forward(input)
            return result
        mean, variance, count = shared_statistics(input)
        self._keep(mean, variance * count / (count - 1))
        weight = torch.ones_like(mean) if self.weight is None else self.weight
        bias = torch.zeros_like(mean) if self.bias is None else self.bias
        normalised: Tensor = _Normalise.apply(input, weight, bias, mean, variance, count, self.eps)
        return normalised

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


@torch.no_grad()
def shared_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [C], variance [C] (biased) and count [] over the examples and places of all workers, float32.

    Each worker's mean and variance travel, not its sums: the difference of two large sums of squares would lose the
    digits of a small variance. Put together as in Chan, Golub and LeVeque 1979, equation 2.1.
    """
    channels = x.shape[1]
    zeros, ones = x.new_zeros(channels, dtype=torch.float32), x.new_ones(channels, dtype=torch.float32)
    # the kernel of PyTorch's own batch norm; a momentum of 0 keeps its running statistics, here none, as they are
    mean, variance = torch.ops.aten.batch_norm_update_stats(x, zeros, ones, 0.0)
    own = torch.cat([mean, variance, mean.new_tensor([x.numel() / channels])])
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    means, variances, counts = torch.stack(gathered).split([channels, channels, 1], dim=1)
    count = counts.sum()
    mean = (means * counts).sum(0) / count
    variance = ((variances + (means - mean).square()) * counts).sum(0) / count
    return mean, variance, count


class _Normalise(torch.autograd.Function):
    """By given statistics that depend on the examples of all workers, which the gradient takes into account.

    Fused kernels over the maps and one exchange, where autograd over plain operations took five times as long.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, count: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        given = (grad, x, weight, mean, variance, None, None, False, ctx.eps)
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(*given, [False, True, True])
        sums = torch.stack([of_weight, of_bias])
        dist.all_reduce(sums)
        along, level = sums / count
        # d x = scale (d y - level - x_normalised along), with what multiplies x and what does not taken together
        slope = torch.rsqrt(variance + ctx.eps)
        scale = weight * slope
        steepness = scale * slope * along
        of_x = affine(grad, scale, -scale * level) - affine(x, steepness, -steepness * mean)
        return of_x, of_weight, of_bias, None, None, None, None


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x * scale + shift, [N, C, ...] with [C]; computed in float32 inside one kernel whatever the precision of x."""
    return F.batch_norm(x, torch.zeros_like(scale), torch.ones_like(scale), scale, shift, False, 0.0, 0.0)


def synchronise_norms(model: nn.Module, world: int) -> None:
    """Let all batch norms of `model` share their statistics with the other workers; in place, nothing else changes.

    Args:
        world: number of workers; 1 leaves the model as it is.
    """
    if world == 1:
        return
    for module in model.modules():
        if type(module) in _CONVERTED:
            on_cpu = next(iter(module.state_dict().values())).device.type == "cpu"
            # the object stays the same, with its parameters and whoever refers to it
            module.__class__ = SharedBatchNorm if on_cpu else nn.SyncBatchNorm
            if not on_cpu:
                # all workers; the group itself cannot be copied, and the model is, for a moving average
                setattr(module, "process_group", None)  # noqa: B010
