"""What there is to know of a backbone before it is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from cnnray.errors import OptionError, UnknownNameError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LOGITS = "logits"


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """A network as a chain of named stages.

    Attributes:
        name: in the registry, with its scale where it has one, such as "efficientnet:phi=1".
        input_size: height and width in px of the images that it was trained, or is to be trained, for.
        resize: px to which an image's shorter side is resized before its centre is cropped to `input_size`.
        interpolation: of that resize, "bilinear" or "bicubic".
        mean, std: normalisation of RGB in [0, 1], per channel.
        taps: names of the stages in order; the last, "logits", gives the 1,000 classes of ImageNet.
        build: the network with fresh weights, as the publisher of its weights names its parameters.
        stages: cuts such a network into its stages, sharing the parameters; same names and order as `taps`.
        adapt: a published state dict into one that fits `build`.
        fetch: path of the published weights' file, after a download where needed; None where nobody publishes any.
        source: where these weights come from, for people.
        float32_stages: kept in float32 where the rest runs in bfloat16, see `cnnray.nn.fold`.
    """

    name: str
    input_size: int
    resize: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    taps: tuple[str, ...]
    build: Callable[[], nn.Module]
    stages: Callable[[nn.Module], Mapping[str, nn.Module]]
    adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    fetch: Callable[[], str] | None
    source: str
    float32_stages: tuple[str, ...] = ("stem",)

    @property
    def default_tap(self) -> str:
        """The last stage before the classifier."""
        return self.taps[-2]

    def check_tap(self, tap: str) -> str:
        """`tap`, or the default one for "".

        Raises:
            UnknownNameError: lists the taps.
        """
        if tap and tap not in self.taps:
            raise UnknownNameError(f"tap of {self.name}", tap, self.taps)
        return tap or self.default_tap

    def check_weights(self, weights: str) -> None:
        """Refuse "default" where no weights are published.

        Raises:
            OptionError: says what can be used.
        """
        if weights == "default" and self.fetch is None:
            raise OptionError(
                f"{self.name} has no published weights; use --weights none to train from scratch or --weights PATH"
            )
