"""The convolutions of a network under names for people."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from cnnray.errors import UnknownNameError
from cnnray.nn.backbones import Backbone


@dataclass(frozen=True)
class ConvLayer:
    """A convolution and the batch norm behind it; the activation of the layer is their output, before any ReLU.

    Attributes:
        stage: of the network that holds it.
        conv: gives the filters.
        norm: the batch norm that follows directly; None where there is none.
    """

    stage: str
    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None

    @property
    def num_filters(self) -> int:
        """Channels of the activation."""
        return self.conv.out_channels

    @property
    def key(self) -> Tensor:
        """The one tensor that only the function which computes the activation is called with."""
        if self.norm is None:
            return self.conv.weight
        assert self.norm.running_mean is not None
        return self.norm.running_mean


def conv_layers(backbone: Backbone) -> dict[str, ConvLayer]:
    """All convolutions by name, in the order in which the modules stand in the network.

    The name is the module's path, without the numbers that say nothing because the part has only one child with
    convolutions: "fire4.expand3x3" for "fire4.0.expand3x3", "layer2.0.conv1", "block1.0", "stem".
    """
    return layers_of(backbone.body)


def layers_of(body: nn.Module) -> dict[str, ConvLayer]:
    """`conv_layers` of a chain of stages."""
    return dict(_walk(body, (), ""))


def find_layer(layers: dict[str, ConvLayer], name: str, network: str) -> ConvLayer:
    """The layer of that name.

    Raises:
        UnknownNameError: lists the known ones.
    """
    if name not in layers:
        raise UnknownNameError(f"conv layer of {network}", name, layers)
    return layers[name]


def _walk(module: nn.Module, names: tuple[str, ...], stage: str) -> Iterator[tuple[str, ConvLayer]]:
    children = list(module.named_children())
    with_convs = [name for name, child in children if _has_conv(child)]
    followers = [child for _, child in children[1:]] + [None]
    for (name, child), follower in zip(children, followers, strict=True):
        said = names if name.isdecimal() and len(with_convs) == 1 else (*names, name)
        if isinstance(child, nn.Conv2d):
            yield ".".join(said), ConvLayer(stage or name, child, _norm_of(child, follower))
        elif name in with_convs:
            yield from _walk(child, said, stage or name)


def _has_conv(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in module.modules())


def _norm_of(conv: nn.Conv2d, follower: nn.Module | None) -> nn.BatchNorm2d | None:
    """`follower`, where it is the batch norm of `conv`: the same rule as in `cnnray.nn.fold`."""
    if not isinstance(follower, nn.BatchNorm2d) or follower.running_mean is None:
        return None
    return follower if follower.num_features == conv.out_channels else None
