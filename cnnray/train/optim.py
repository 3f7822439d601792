"""What moves the weights: which layers learn when and how fast, the optimizer, the schedule, the moving average.

Decoupled Weight Decay Regularization (AdamW), Loshchilov and Hutter 2017, arXiv:1711.05101
SGDR: Stochastic Gradient Descent with Warm Restarts, Loshchilov and Hutter 2016, arXiv:1608.03983
Acceleration of Stochastic Approximation by Averaging, Polyak and Juditsky 1992
"""

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from cnnray.config import TrainConfig
from cnnray.train.state import Tensors

MOMENTUM = 0.9
SCALER = "scaler"


class Group(NamedTuple):
    """Layers that learn alike.

    Attributes:
        modules: no parameter may be in two groups.
        lr_scale: their learning rate as a share of the schedule's.
        first_epoch: before it they are frozen: no gradients, and evaluation mode, so that statistics stay as they are.
        frozen_norms: whether their batch norms keep using their stored statistics while they learn.
    """

    modules: tuple[nn.Module, ...]
    lr_scale: float = 1.0
    first_epoch: int = 0
    frozen_norms: bool = False


def set_trainable(model: nn.Module, groups: Sequence[Group], epoch: int) -> tuple[int, ...]:
    """Put what learns in `epoch` into training mode, all else into evaluation mode without gradients.

    Returns:
        numbers of the groups that learn.
    """
    model.eval().requires_grad_(False)
    active = tuple(number for number, group in enumerate(groups) if group.first_epoch <= epoch)
    for number in active:
        for module in groups[number].modules:
            module.train().requires_grad_(True)
            if groups[number].frozen_norms:
                freeze_norms(module)
    return active


def freeze_norms(module: nn.Module) -> None:
    """Batch norms inside `module` normalise by their stored statistics, which stay as they are."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()


def build_optimizer(groups: Sequence[Group], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of all layers that will ever learn; decays matrices and kernels only.

    Biases and scales (one axis) have no size to keep small.
    """
    parts = []
    for group in groups:
        learned = [p for module in group.modules for p in module.parameters()]
        for decay, params in (
            (config.weight_decay, [p for p in learned if p.ndim > 1]),
            (0.0, [p for p in learned if p.ndim <= 1]),
        ):
            if params:
                parts.append({"params": params, "weight_decay": decay, "lr_scale": group.lr_scale})
    if config.optimizer == "sgd":
        return torch.optim.SGD(parts, lr=config.lr, momentum=MOMENTUM, nesterov=True)
    return torch.optim.AdamW(parts, lr=config.lr)


def learning_rate(step: int, num_steps: int, config: TrainConfig) -> float:
    """The rate of a step counted from the run's start: linear rise over `warmup` epochs, then a half cosine to 0.

    Loshchilov and Hutter, SGDR, equation 5, one period. Past the last epoch's end it is 0.
    """
    rise, total = min(config.warmup, config.epochs) * num_steps, config.epochs * num_steps
    if step < rise:
        return config.lr * (step + 1) / rise
    return config.lr * 0.5 * (1 + math.cos(math.pi * min((step - rise) / max(total - rise, 1), 1.0)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """`rate` times each group's own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def start_average(model: nn.Module, decay: float) -> nn.Module | None:
    """A copy that follows the model's weights; None where `decay` is 0."""
    return copy.deepcopy(model).eval().requires_grad_(False) if decay else None


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """One step of the exponential moving average of weights and statistics; counters are copied.

    The decay grows from 0.1 as (1 + step) / (10 + step), so that the start is forgotten soon.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    own, others = average.state_dict(), model.state_dict()
    floats = [name for name, tensor in own.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([own[name] for name in floats], [others[name] for name in floats], share)
    for name in own.keys() - set(floats):
        own[name].copy_(others[name])


def optimizer_tensors(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> Tensors:
    """The optimizer's moments, and the loss scale where one is used, as flat named tensors on the CPU."""
    state = optimizer.state_dict()["state"]
    moments = {f"{index}.{name}": t for index, named in state.items() for name, t in named.items() if t is not None}
    scale = {f"{SCALER}.{name}": torch.tensor(float(value)) for name, value in scaler.state_dict().items()}
    return to_host(moments | scale)


def restore_optimizer(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, tensors: Tensors) -> None:
    """Put back what `optimizer_tensors` gave."""
    state: dict[int, Tensors] = {}
    scale: dict[str, float] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        if index == SCALER:
            scale[name] = tensor.item()
        else:
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    if scale:
        counters = {"growth_interval", "_growth_tracker"}
        scaler.load_state_dict({name: int(value) if name in counters else value for name, value in scale.items()})


def to_host(tensors: Tensors) -> Tensors:
    """Copies on the CPU, which later steps do not change."""
    return {name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}
