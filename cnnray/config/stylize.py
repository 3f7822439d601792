"""How one picture is painted in the style of others, and by whose judgement."""

import math
from dataclasses import dataclass

from cnnray.config.checks import at_least, one_of
from cnnray.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """The network that says how near pictures are to a style and to a content.

    Attributes:
        backbone: of the network, as of `cnnray features build`.
        weights: of the backbone: "default", "none" or path or URI.
        style_taps: where it is looked at for the style, such as "stem@2", see `cnnray.nn.stylize`; empty is what suits
            the backbone.
        content_taps: the same for the content.
        smooth: whether its activations are smoothed by a softmax; meant for networks with skip connections, but of
            efficientnet_lite0 it makes noise.
    """

    backbone: str = "efficientnet_lite0"
    weights: str = "default"
    style_taps: tuple[str, ...] = ()
    content_taps: tuple[str, ...] = ()
    smooth: bool = False


@dataclass(frozen=True, kw_only=True)
class DescentConfig:
    """How a picture is painted by optimisation, see `cnnray.infer.stylize`.

    Attributes:
        size: longer side of the result in px at most; smaller pictures keep their own size.
        style_weight: of each style, in their order; they are mixed by them. Empty weighs all alike.
        style_scale: longer side of the styles as a share of the content's: larger shows their strokes larger.
        style_loss: weight of the style's loss, see `cnnray.ops.style` for all three.
        content_loss: weight of the content's; less of it paints more freely.
        variation_loss: weight of the total variation; more of it paints larger strokes with less noise.
        start: "content", "noise", or, where files are at hand, path or URI of a picture that is gone on from.
        keep_colors: paint in light and dark only, and keep the content's colours.
        optimizer: "adam", or "lbfgs", which gets further in a step and paints smoother, but looks at the picture two
            times or more in each.
        steps: at each size of the pyramid.
        pyramid: sizes that are painted one after the other, each twice the one before; those under 64 px are left out.
        lr: of Adam at the start of each size, in shares of the range of a pixel; L-BFGS searches its own step.
        seed: of the noise.
    """

    size: int = 512
    style_weight: tuple[float, ...] = ()
    style_scale: float = 1.0
    style_loss: float = 10.0
    content_loss: float = 2.0
    variation_loss: float = 30.0
    start: str = "content"
    keep_colors: bool = False
    optimizer: str = "adam"
    steps: int = 100
    pyramid: int = 3
    lr: float = 0.03
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("size", self.size, 32)
        for name in ("steps", "pyramid"):
            at_least(name, getattr(self, name), 1)
        one_of("optimizer", self.optimizer, ("adam", "lbfgs"))
        if not 0.1 <= self.style_scale <= 10:
            raise OptionError(f"style_scale must be from 0.1 to 10, got {self.style_scale}")
        if not 0 < self.lr <= 1:
            raise OptionError(f"lr must be above 0 and at most 1, got {self.lr}")
        if not self.start:
            raise OptionError("start must be content, noise or the path of a picture, got ''")
        _check_weights("style_weight", self.style_weight or (1.0,))
        _check_weights("style_loss and content_loss", (self.style_loss, self.content_loss))
        if not 0 <= self.variation_loss < math.inf:
            raise OptionError(f"variation_loss must be a number of at least 0, got {self.variation_loss}")


@dataclass(frozen=True, kw_only=True)
class StylizeConfig(JudgeConfig, DescentConfig):
    """`cnnray stylize --method optimize`.

    Attributes:
        mask: path or URI of a grey picture: white is painted, black stays as it is; "" paints all.
        save_every: steps from one state that a killed run goes on from, and one preview, to the next.
        device: "auto" is a GPU where there is one; or "cpu", "cuda", "cuda:N".
    """

    mask: str = ""
    save_every: int = 25
    device: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("save_every", self.save_every, 1)


def _check_weights(name: str, weights: tuple[float, ...]) -> None:
    """Refuse weights that are negative or no numbers, and those that are all 0."""
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        got = ", ".join(f"{weight:g}" for weight in weights)
        raise OptionError(f"{name} must be numbers of at least 0, one of them above 0; got {got}")
