"""What a network costs: parameters and multiply-accumulates, counted exactly and without computing anything.

A convolution of kernel k x k from C to K channels in g groups costs H' * W' * K * k * k * C / g multiply-accumulates
(MACs) for an output of H' x W'; a linear layer from C to K costs C * K for each vector. Normalisation, activations and
pooling, which multiply nothing by weights or fold into convolutions, are not counted, as is usual in papers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


@dataclass(frozen=True)
class Costs:
    """Of one forward pass of one image.

    Attributes:
        params: weights and biases; buffers, like a batch norm's statistics, are not parameters.
        macs: multiply-accumulates.
        size_bytes: of parameters and buffers as they are stored.
    """

    params: int
    macs: int
    size_bytes: int


def count_costs(module: nn.Module, *shape: int) -> Costs:
    """Costs of `module` for one input of `shape` without the batch, for example (3, 224, 224).

    The pass runs on meta tensors, in evaluation mode: it needs neither memory nor time, and `module` may itself be on
    the meta device. `module` is left as it was.
    """
    tensors = [*module.parameters(), *module.buffers()]
    return Costs(
        params=sum(p.numel() for p in module.parameters()),
        macs=_count_macs(module, shape),
        size_bytes=sum(t.numel() * t.element_size() for t in tensors),
    )


def output_shape(module: nn.Module, *shape: int) -> tuple[int, ...]:
    """Shape of `module`'s output for one input of `shape`, both without the batch; nothing is computed."""
    meta = {name: t.to("meta") for name, t in (*module.named_parameters(), *module.named_buffers())}
    with torch.no_grad(), _evaluating(module):
        output: Tensor = functional_call(module, meta, torch.empty(1, *shape, device="meta"))
    return tuple(output.shape[1:])


def _count_macs(module: nn.Module, shape: tuple[int, ...]) -> int:
    counts: list[int] = []

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        # Every output value is one dot product with one filter, of kernel * kernel * C / groups weights.
        counts.append(output.numel() * layer.weight[0].numel())

    layers = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        output_shape(module, *shape)
    finally:
        for handle in handles:
            handle.remove()
    return sum(counts)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, and every part's own mode again afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
