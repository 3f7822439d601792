"""Networks that embed faces, by name or from a checkpoint: aligned faces in, points on a sphere out.

A face is looked at in several views, whose embeddings are averaged. On 1,229 photos of 79 people (one-shot, dlib's
network), each step lost fewer known people at 1 % of false alarms: embeddings as they are 17.8 %; of length 1 12.4 %;
with a mirrored view 10.0 %; the mirrored view in a narrower crop, the plain one in a wider 9.3 %; both in both 9.0 %.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnray.errors import CheckpointError, OptionError, UnknownNameError
from cnnray.nn import faces, inception_resnet
from cnnray.nn.backbones import build_backbone, build_extractor, find_spec
from cnnray.nn.checkpoint import Card, load_checkpoint, load_into
from cnnray.nn.face_weights import TASK, load_published
from cnnray.nn.spec import BackboneSpec
from cnnray.nn.weights import content_sha256
from cnnray.ops.costs import output_shape

BACKBONE = "backbone"
HEADS = ("", "logistic")
_OF_CLASSES = ("head", "fc", "fc6", "fc7", "logits")


class VerificationHead(nn.Module):
    """A logistic unit on the distance of two embeddings, each of whose parts has its own weight.

    DeepFace, Taigman et al. 2014, CVPR, section 4.2, with |f1 - f2| as there in the Siamese network. It starts as what
    `start` puts between the same and the different.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.unit = nn.Linear(num_features, 1)
        with torch.no_grad():  # 1 in all of |f1 - f2| together is about what lies between two people
            self.unit.weight.fill_(-4.0)
            self.unit.bias.fill_(4.0)

    def forward(self, differences_ND: Tensor) -> Tensor:
        """Logits [N] that two faces are one person's, of |f1 - f2|."""
        logits: Tensor = self.unit(differences_ND)[:, 0]
        return logits


class BackboneEmbedder(nn.Module):
    """A network of the registry as an embedder: what its upper stages see, standardised, and a linear layer.

    Means over the maps of the three last stages side by side: photos of people tell of few people what a face is, and
    what tells them apart is rather lower in a network that was trained for objects than its last layer.

    Attributes:
        mean, std: [F] of the stages' features; part of the weights.
        projection: from F to num_features.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: str, num_features: int, weights: str = "none") -> None:
        super().__init__()
        spec = find_spec(network)
        self.taps = embedding_taps(spec)
        self.extractor = build_extractor(build_backbone(network, weights), self.taps[-1])
        lower, side = self.extractor.lower, spec.input_size
        names = [name for name, _ in lower.named_children()]
        sizes = [output_shape(lower[: names.index(tap) + 1], 3, side, side)[0] for tap in self.taps]
        self.register_buffer("mean", torch.zeros(sum(sizes)))
        self.register_buffer("std", torch.ones(sum(sizes)))
        self.projection = nn.Linear(sum(sizes), num_features)

    def features(self, faces_NCHW: Tensor) -> Tensor:
        """[N, F] float32 of faces uint8 or 0..255 [N, 3, H, W], before they are standardised."""
        x, found = self.extractor.normalised(faces_NCHW if faces_NCHW.dtype == torch.uint8 else faces_NCHW / 255), []
        for name, stage in self.extractor.lower.named_children():
            x = stage(x)
            if name in self.taps:
                found.append(x.float().mean((2, 3)))
        return torch.cat(found, 1)

    def forward(self, faces_NCHW: Tensor) -> Tensor:
        """Embeddings [N, num_features], not of length 1."""
        embedded: Tensor = self.projection((self.features(faces_NCHW) - self.mean) / self.std)
        return embedded


def embedding_taps(spec: BackboneSpec) -> tuple[str, ...]:
    """The last three stages below what a network only has for its classes."""
    return tuple(tap for tap in spec.taps if tap not in _OF_CLASSES)[-3:]


class EmbeddingNet(nn.Module):
    """Aligned faces to embeddings of length 1, with a unit to verify pairs where it was trained with one.

    Attributes:
        body: faces uint8 or 0..255 [N, 3, S, S] to [N, D].
        head: a VerificationHead, or None.
    """

    def __init__(self, body: nn.Module, head: VerificationHead | None = None) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, faces_NCHW: Tensor) -> Tensor:
        """[N, D] float32 of length 1."""
        return F.normalize(self.body(faces_NCHW).float(), dim=1)


@dataclass(frozen=True)
class EmbedderSpec:
    """How faces come to a network, and what its distances mean.

    Attributes:
        size: side of the aligned faces, px.
        num_features: D.
        paddings: narrow, middle and wide, see `cnnray.ops.align.template`.
        threshold: distance (or, with a head, probability) up to (from) which two faces are taken as one person's.
        metrics: figures measured when it was made.
    """

    size: int
    num_features: int
    paddings: tuple[float, float, float]
    threshold: float
    metrics: Mapping[str, Any]

    def views(self, count: int) -> tuple[tuple[float, bool], ...]:
        """Padding of each view, and whether it is mirrored.

        Args:
            count: 1, 2 or 4.
        """
        narrow, middle, wide = self.paddings
        if count == 1:
            return ((middle, False),)
        views = ((wide, False), (narrow, True), (wide, True), (narrow, False))
        return views[:count]


@dataclass(frozen=True)
class LoadedEmbedder:
    """A network that embeds faces, in evaluation mode on the CPU.

    Attributes:
        name: for people, such as "dlib_resnet".
        net, spec: the network, and how to use it.
        weights_sha256: of its content: embeddings of two networks must not be compared.
    """

    name: str
    net: EmbeddingNet
    spec: EmbedderSpec
    weights_sha256: str


@dataclass(frozen=True)
class _Published:
    load: Callable[[str], nn.Module]
    spec: EmbedderSpec


def _dlib(weights: str) -> nn.Module:
    return faces.DlibResNet().eval() if weights == "none" else load_published("embedder", _path(weights))


def _inception(weights: str) -> nn.Module:
    return inception_resnet.load_inception_resnet("vggface2" if weights == "default" else weights)


def _path(weights: str) -> str:
    return "" if weights == "default" else weights


# The threshold of dlib's is where 0.1 % of pairs of different people would pass on those photos; of the other it is
# the usual one, since its weights could not be tried.
EMBEDDERS = {
    "dlib_resnet": _Published(
        _dlib, EmbedderSpec(faces.CROP, faces.NUM_FEATURES, (0.2, 0.25, 0.3), 0.38, {"lfw_accuracy": 0.9938})
    ),
    "inception_resnet_v1": _Published(
        _inception,
        EmbedderSpec(inception_resnet.SIZE, inception_resnet.NUM_FEATURES, (0.05, 0.1, 0.15), 1.1, {}),
    ),
}


def build_embedding_net(arch: Mapping[str, Any], weights: str = "none") -> EmbeddingNet:
    """The network that a card describes.

    Args:
        arch: "model": one of EMBEDDERS, or "backbone" with "backbone" (a network's name) and "num_features"; "head": ""
            or "logistic".
        weights: where its body starts: "default", "none", or a path or URI.

    Raises:
        UnknownNameError: another model, backbone or head.
        CheckpointError, StorageError: the weights are absent, damaged or of another network.
    """
    model, head = arch["model"], arch.get("head", "")
    if head not in HEADS:
        raise UnknownNameError("verification head", head, HEADS)
    if model == BACKBONE:
        body: nn.Module = BackboneEmbedder(arch["backbone"], arch["num_features"], weights)
        num_features = int(arch["num_features"])
    elif model in EMBEDDERS:
        body, num_features = EMBEDDERS[model].load(weights), EMBEDDERS[model].spec.num_features
    else:
        raise UnknownNameError("embedder", model, (*EMBEDDERS, BACKBONE))
    return EmbeddingNet(body, VerificationHead(num_features) if head else None)


def input_of(arch: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's card says of the input: size, paddings (narrow, middle, wide), num_features."""
    if arch["model"] in EMBEDDERS:
        spec = EMBEDDERS[arch["model"]].spec
        return {"size": spec.size, "paddings": list(spec.paddings), "num_features": spec.num_features}
    size = find_spec(arch["backbone"]).input_size
    return {"size": size, "paddings": [0.2, 0.25, 0.3], "num_features": arch["num_features"]}


def load_embedder(name: str, weights: str = "default") -> LoadedEmbedder:
    """An embedder by name, or the one that a checkpoint holds.

    Args:
        name: one of EMBEDDERS, or a checkpoint's folder.
        weights: of a name; a checkpoint has its own.

    Raises:
        CheckpointError: weights or checkpoint absent, damaged, or of something else.
        StorageError: the download failed.
    """
    if name in EMBEDDERS:
        known = EMBEDDERS[name]
        net = EmbeddingNet(known.load(weights))
        return LoadedEmbedder(name, net.eval().requires_grad_(False), known.spec, content_sha256(net.state_dict()))
    if weights != "default":
        raise OptionError(f"expected weights with an embedder's name ({', '.join(EMBEDDERS)}), got them with {name}")
    try:
        tensors, card = load_checkpoint(name, TASK)
    except CheckpointError as error:
        raise CheckpointError(f"expected an embedder ({', '.join(EMBEDDERS)}) or a checkpoint: {error}") from error
    net, spec = _of_card(card, name)
    load_into(net, tensors, name)
    return LoadedEmbedder(
        card.arch.get("backbone") or card.arch["model"], net.eval().requires_grad_(False), spec, card.weights_sha256
    )


def _of_card(card: Card, uri: str) -> tuple[EmbeddingNet, EmbedderSpec]:
    given = card.input
    try:
        paddings = tuple(float(value) for value in given["paddings"])
        spec = EmbedderSpec(given["size"], given["num_features"], paddings, given["threshold"], card.metrics)  # type: ignore[arg-type]
        return build_embedding_net(card.arch), spec
    except (KeyError, UnknownNameError) as error:
        raise CheckpointError(f"expected an embedder in {uri}, but its card does not describe one: {error}") from error
