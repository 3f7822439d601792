"""What a ReLU does to a signal on its way back to the pixels: the only step in which three methods differ.

    deconv      relu(g)                 DeconvNet, Zeiler and Fergus 2013, arXiv:1311.2901, section 2.1
    gradient    g where the unit fired  Deep Inside Convolutional Networks, Simonyan et al. 2013, arXiv:1312.6034
    guided      both                    Striving for Simplicity, Springenberg et al. 2014, arXiv:1412.6806, section 3.4

g is the signal that comes from above. All else is what autograd does anyway: the backward pass of a convolution is the
convolution with the transposed filters, of a batch norm in evaluation mode the multiplication with its scale, of a
concatenation the split, of a sum the copy, and of a max pooling the unpooling into the switches, the places of the
maxima. Where windows overlap and share a maximum their signals add up. Biases only shift the forward pass and take no
part in the way back.

Under "deconv" only the switches carry what is in the image. A network without max pooling, such as MobileNet or
EfficientNet, gives nearly the same picture for every image; it needs "guided" (Springenberg et al., section 3.4).

The rules work on functions, not on modules: a ReLU may be reused, in place (a network must go on with what it returns),
or called without a module. The network is not changed and no hook is set; a rule holds for one thread, within its
`with` block.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cnnray.errors import OptionError, UnknownNameError
from cnnray.ops.costs import without_weights

RULES = ("deconv", "guided", "gradient")

_OTHERS = frozenset(
    "silu hardswish gelu mish sigmoid hardsigmoid logsigmoid tanh hardtanh elu selu celu leaky_relu rrelu prelu "
    "softplus softsign softmax threshold clamp clamp_min".split()
)


class Rectified(TorchFunctionMode):
    """Within it ReLU and ReLU6 send signals back by a rule; they then never write in place.

    Args:
        rule: one of RULES.

    Raises:
        UnknownNameError: another rule.
    """

    def __init__(self, rule: str) -> None:
        super().__init__()
        if rule not in RULES:
            raise UnknownNameError("rule", rule, RULES)
        self.rule = rule

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by torch for each of its functions."""
        kwargs = kwargs or {}
        top = _ceiling(_name(func), args, kwargs)
        if top is None:
            return func(*args, **kwargs)
        return _Rectify.apply(args[0] if args else kwargs["input"], self.rule, top)


def check_rectified(network: nn.Module, name: str, *shape: int) -> None:
    """Refuse a network with activations that the rules "deconv" and "guided" do not know.

    Args:
        network: run once without computing.
        name: for the message.
        shape: of one input without the batch.

    Raises:
        OptionError: names what was found.
    """
    if others := other_activations(network, *shape):
        raise OptionError(
            f"{name} has {', '.join(others)}: the rules deconv and guided are for networks whose activations are all "
            "ReLU or ReLU6, such as squeezenet1_1, resnet18 or efficientnet_lite0; the rule gradient takes any"
        )


def other_activations(network: nn.Module, *shape: int) -> list[str]:
    """Names of the activation functions that are neither ReLU nor ReLU6, sorted; arguments as `check_rectified`."""
    return sorted(_census(network, shape).others)


def suited_rule(network: nn.Module, *shape: int) -> str:
    """The rule that shows most of a network: "deconv" if it has max pooling and its activations are all ReLU or ReLU6,
    "guided" if they are but it has no max pooling, else "gradient". Arguments as `check_rectified`.
    """
    census = _census(network, shape)
    if census.others:
        return "gradient"
    return "deconv" if census.has_switches else "guided"


class _Rectify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rule: str, top: float) -> Tensor:
        ctx.rule = rule
        if rule != "deconv":
            ctx.save_for_backward((x > 0) & (x < top))
        return x.clamp(0, top)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if ctx.rule != "gradient":
            grad = grad.relu()
        if ctx.rule != "deconv":
            (passes,) = ctx.saved_tensors
            grad = grad * passes
        return grad, None, None


class _Census(TorchFunctionMode):
    """Collects the names of other activations, and sees max pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.others: set[str] = set()
        self.has_switches = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = _name(func), kwargs or {}
        if name in _OTHERS and _ceiling(name, args, kwargs) is None:
            self.others.add(name)
        self.has_switches |= name == "max_pool2d"
        return func(*args, **kwargs)


def _census(network: nn.Module, shape: tuple[int, ...]) -> _Census:
    census = _Census()
    with torch.no_grad(), census:
        without_weights(network).eval()(torch.empty(1, *shape, device="meta"))
    return census


def _name(func: Callable[..., Any]) -> str:
    """Of a torch function, without the mark of its in-place form."""
    name = getattr(func, "__name__", "")
    return name if name.startswith("__") else name.removesuffix("_")


def _ceiling(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
    """The greatest output of a rectifier; None for other functions."""
    if name == "relu":
        return math.inf
    if name == "relu6":
        return 6.0
    if name == "hardtanh":  # hardtanh(input, min_val, max_val)
        least, most = (*args[1:3], *(kwargs[key] for key in ("min_val", "max_val") if key in kwargs))
        return float(most) if least == 0 else None
    return None
