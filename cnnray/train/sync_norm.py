"""Batch norms that share their statistics among workers, so that the number of workers does not change what is learned.

On GPUs it is PyTorch's own, which has no version for CPUs.

Batch Normalization, Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1, over the batch of all workers
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

_CONVERTED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over all workers' examples; [N, C, ...], N may differ between workers."""

    def forward(self, input: Tensor) -> Tensor:
        """The same shape and dtype; in evaluation mode by the stored statistics, as everywhere."""
        if not self.training:
            result: Tensor = super().forward(input)
            return result
        x = input.float()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        own = x.new_tensor([x.numel() / x.shape[1]])
        totals = all_reduce(torch.cat([x.sum(axes), own]))
        mean, count = totals[:-1] / totals[-1], totals[-1]
        # centred first: the difference of two large sums of squares would lose the digits of a small variance
        centred = x - mean.view(shape)
        variance = all_reduce(centred.square().sum(axes)) / count
        self._keep(mean.detach(), variance.detach() * count / (count - 1))
        scale = torch.rsqrt(variance + self.eps)
        x = centred * (scale if self.weight is None else scale * self.weight).view(shape)
        x = x if self.bias is None else x + self.bias.view(shape)
        normalised: Tensor = x.to(input.dtype)
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


def synchronise_norms(model: nn.Module, world: int) -> None:
    """Let all batch norms of `model` share their statistics with the other workers; in place, nothing else changes.

    Args:
        world: number of workers; 1 leaves the model as it is.
    """
    if world == 1:
        return
    for module in model.modules():
        if type(module) in _CONVERTED:
            on_gpu = next(iter(module.state_dict().values())).is_cuda
            # the object stays the same, with its parameters and whoever refers to it
            module.__class__ = nn.SyncBatchNorm if on_gpu else SharedBatchNorm
            if on_gpu:
                setattr(module, "process_group", dist.group.WORLD)  # noqa: B010 (as its constructor does)
