"""Which network, at which scale."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cnnray.errors import OptionError, UnknownNameError

# What can be scaled of a network, in the order of names, and the number that changes nothing.
UNSCALED: dict[str, float] = {"depth": 1.0, "phi": 0.0, "size": 0, "width": 1.0}
_SCALE_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "depth": (lambda x: 0 < x <= 8, "above 0 and at most 8"),
    "phi": (lambda x: -6 <= x <= 10, "from -6 to 10"),
    "size": (lambda x: 32 <= x <= 1024, "from 32 to 1024 px, or 0 for the network's own"),
    "width": (lambda x: 0 < x <= 8, "above 0 and at most 8"),
}


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which network at which scale, and where it is cut.

    Attributes:
        backbone: a name that `cnnray models` lists; it may say the scale too, as in "residual:depth=2,width=0.5".
        weights: "default" (shipped or downloaded), "none" (random) or a path or URI to a state dict.
        tap: the stage after which the network is cut; "" is the last one before its classifier.
        pool: "avg" stores a vector [C] per image, "none" the map [C, H, W].
        width, depth: multiply the channels, and the blocks of each stage, of a network without published weights.
        size: height and width of its images in px; 0 is the network's own.
        phi: depth, width and size by one dial: each step about doubles the computations (EfficientNet).
    """

    backbone: str = "efficientnet_lite0"
    weights: str = "default"
    tap: str = ""
    pool: str = "avg"
    width: float = 1.0
    depth: float = 1.0
    size: int = 0
    phi: float = 0.0

    def __post_init__(self) -> None:
        getattr(super(), "__post_init__", lambda: None)()  # of the class after this one, where several are joined
        network_name(*self._named())

    @property
    def network(self) -> str:
        """Network and scale in one name, from which it can be built, such as "efficientnet:phi=1"."""
        return network_name(*self._named())

    def _named(self) -> tuple[str, dict[str, float]]:
        """The plain name, and the scale that name and fields ask for together."""
        name, scale = parse_network(self.backbone)
        for key, own in UNSCALED.items():
            value = getattr(self, key)
            if value == own:
                continue
            if key in scale and scale[key] != value:
                raise OptionError(f"expected one {key}, but backbone is {self.backbone!r} and {key} is {value}")
            scale[key] = value
        return name, scale


def parse_network(name: str) -> tuple[str, dict[str, float]]:
    """A network's name taken apart: "residual:depth=2,width=0.5" is ("residual", {"depth": 2.0, "width": 0.5}).

    Returns:
        the plain name, and the scale by key, without the keys that change nothing.

    Raises:
        UnknownNameError: a key is none of UNSCALED.
        OptionError: something is no KEY=NUMBER, stands there twice, or is out of range, see `network_name`.
    """
    plain, colon, rest = name.partition(":")
    scale: dict[str, float] = {}
    for part in rest.split(",") if colon else ():
        key, _, text = part.partition("=")
        if key not in UNSCALED:
            raise UnknownNameError(f"scale of backbone {plain}", key, UNSCALED)
        if key in scale:
            raise OptionError(f"expected {key} once in backbone {name!r}")
        try:
            scale[key] = int(text) if key == "size" else float(text)
        except ValueError:
            kind = "a whole number of px" if key == "size" else "a number"
            raise OptionError(f"expected {kind} as {key} in backbone {name!r}, got {text!r}") from None
    return plain, _checked(scale)


def network_name(plain: str, scale: Mapping[str, float]) -> str:
    """The one name of a network at a scale: keys sorted, those that change nothing left out.

    Raises:
        OptionError: a number out of range, or phi beside what it sets.
    """
    numbers = ",".join(f"{key}={str(value).removesuffix('.0')}" for key, value in _checked(scale).items())
    return f"{plain}:{numbers}" if numbers else plain


def _checked(scale: Mapping[str, float]) -> dict[str, float]:
    """What differs from UNSCALED, in its order."""
    changed = {key: scale[key] for key, own in UNSCALED.items() if scale.get(key, own) != own}
    for key, value in changed.items():
        fits, expected = _SCALE_RANGES[key]
        if not fits(value):
            raise OptionError(f"{key} must be {expected}, got {value}")
    if "phi" in changed and len(changed) > 1:
        others = " and ".join(key for key in changed if key != "phi")
        raise OptionError(f"phi sets depth, width and size; expected phi alone, got {others} beside it")
    return changed
