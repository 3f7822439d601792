"""What a network costs: parameters and multiply-accumulates, counted exactly and without computing anything.

A convolution of kernel k x k from C to K channels in g groups costs H' * W' * K * k * k * C / g multiply-accumulates
(MACs) for an output of H' x W'; a linear layer from C to K costs C * K for each vector. Normalisation, activations and
pooling, which multiply nothing by weights or fold into convolutions, are not counted, as is usual in papers.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


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


@dataclass(frozen=True)
class LayerCosts:
    """Of one layer in one forward pass of one image.

    Attributes:
        name: in the network, such as "stage1.0.layers.0.0".
        kind: its class.
        output: shape without the batch.
        params: weights and biases; 0 when the layer computes again.
        macs: multiply-accumulates.
        weight_bytes: of parameters and buffers as they are stored; 0 when the layer computes again.
        activation_bytes: of the output, which training keeps for the way back.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    params: int
    macs: int
    weight_bytes: int
    activation_bytes: int


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


def layer_costs(module: nn.Module, *shape: int) -> list[LayerCosts]:
    """Costs of each layer (each part without parts), in the order in which they compute; arguments as `count_costs`.

    Layers are modules: the sum of a residual block or a function called in between is not among them.
    """
    rows: list[LayerCosts] = []
    met: set[str] = set()

    def record(name: str, layer: nn.Module, input: Tensor, output: Tensor) -> None:
        tensors = [] if name in met else [*layer.parameters(), *layer.buffers()]
        rows.append(
            LayerCosts(
                name=name,
                kind=type(layer).__name__,
                output=tuple(output.shape[1:]),
                params=0 if name in met else sum(p.numel() for p in layer.parameters()),
                macs=_layer_macs(layer, input, output),
                weight_bytes=sum(t.numel() * t.element_size() for t in tensors),
                activation_bytes=output.numel() * output.element_size(),
            )
        )
        met.add(name)

    _run(module, shape, record)
    return rows


def output_shape(module: nn.Module, *shape: int) -> tuple[int, ...]:
    """Shape of `module`'s output for one input of `shape`, both without the batch; nothing is computed."""
    return _shape_of(without_weights(module), *shape)


def without_weights(module: Module) -> Module:
    """A copy on the meta device, which computes shapes alone; the module itself is left alone, its weights unread.

    To run the module itself with such weights in their place (`torch.func.functional_call`) is not for several threads:
    one puts the other's meta tensors back as the weights.
    """
    memo: dict[int, object] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        hollow = tensor.detach().to("meta")
        memo[id(tensor)] = nn.Parameter(hollow, False) if isinstance(tensor, nn.Parameter) else hollow
    return copy.deepcopy(module, memo)


def _count_macs(module: nn.Module, shape: tuple[int, ...]) -> int:
    counts: list[int] = []
    _run(module, shape, lambda _, *layer: counts.append(_layer_macs(*layer)))
    return sum(counts)


def _layer_macs(layer: nn.Module, input: Tensor, output: Tensor) -> int:
    if isinstance(layer, nn.ConvTranspose2d):  # every input value is spread by kernel * kernel * K / groups weights
        return input.numel() * layer.weight[0].numel()
    if isinstance(layer, nn.Conv2d | nn.Linear):  # every output value is a product with kernel * kernel * C / groups
        return output.numel() * layer.weight[0].numel()
    return 0


def _run(module: nn.Module, shape: tuple[int, ...], record: Callable[[str, nn.Module, Tensor, Tensor], None]) -> None:
    """One pass without computing; `record` gets name, layer, input and output of each layer, in order."""
    hollow = without_weights(module)
    for name, part in hollow.named_modules():
        if not [*part.children()]:
            part.register_forward_hook(lambda layer, inputs, output, name=name: record(name, layer, inputs[0], output))
    _shape_of(hollow, *shape)


def _shape_of(hollow: nn.Module, *shape: int) -> tuple[int, ...]:
    with torch.no_grad():
        output: Tensor = hollow.eval()(torch.empty(1, *shape, device="meta"))
    return tuple(output.shape[1:])
