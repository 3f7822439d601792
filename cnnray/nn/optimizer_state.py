"""What an optimiser remembers, as tensors by name and the facts that JSON can hold: for files without pickle."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

Tensors = dict[str, Tensor]
_TENSOR = "tensor"


def flat_state(optimizer: Optimizer) -> tuple[Tensors, Any]:
    """The memory of an optimiser of any class: moments, past steps and the like.

    Returns:
        tensors on the CPU by name, and numbers, lists and dicts in which they are named; exact in JSON.
    """
    tensors: Tensors = {}
    return tensors, _taken_apart(optimizer.state_dict()["state"], "state", tensors)


def restore_state(optimizer: Optimizer, tensors: Tensors, facts: Any) -> None:
    """Into an optimiser of the same class with parameters of the same shapes; `facts` may have been JSON."""
    state = {int(number): memory for number, memory in _joined(facts, tensors).items()}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _taken_apart(value: Any, name: str, tensors: Tensors) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().clone()
        return {_TENSOR: name}
    if isinstance(value, dict):
        return {str(key): _taken_apart(item, f"{name}.{key}", tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_taken_apart(item, f"{name}.{number}", tensors) for number, item in enumerate(value)]
    return value


def _joined(facts: Any, tensors: Tensors) -> Any:
    if isinstance(facts, dict):
        if set(facts) == {_TENSOR}:
            return tensors[facts[_TENSOR]]
        return {key: _joined(item, tensors) for key, item in facts.items()}
    return [_joined(item, tensors) for item in facts] if isinstance(facts, list) else facts
