"""Every option of cnnray, declared once: the command line, TOML files and environment are read into these.

Frozen and keyword-only; `to_toml` writes what a run was resolved to.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, kw_only=True)
class BadConfig:
    """How much that is bad is borne.

    Attributes:
        max_bad: largest fraction of images that may be bad: cannot be read or decoded.
    """

    max_bad: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad <= 1:
            raise OptionError(f"max_bad is a fraction from 0 to 1, got {self.max_bad}")


@dataclass(frozen=True, kw_only=True)
class ManifestConfig(BadConfig):
    """How a CSV or Parquet manifest is read, and how many bad images are borne.

    Attributes:
        path_column, label_column: of the manifest; label_column "" reads images without labels.
    """

    path_column: str = "path"
    label_column: str = "label"


@dataclass(frozen=True, kw_only=True)
class SourceConfig(ManifestConfig):
    """How a source of images is divided among actors.

    Attributes:
        workers: actors; 0 is one per GPU, or one per node on CPUs.
        gpu: whether each actor holds a GPU.
        max_bad: the run ends with exit code 3 when a larger fraction of images was quarantined.
    """

    workers: int = 0
    gpu: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("workers", self.workers, 0)


@dataclass(frozen=True, kw_only=True)
class PredictConfig(SourceConfig):
    """`cnnray predict classify` and `cnnray evaluate classify`."""


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(BackboneConfig, SourceConfig):
    """`cnnray features build`.

    Attributes:
        views: augmented views per training image, beside the plain view 0.
        augment: preset of the augmented views: "light", "standard" or "strong".
        mixup_alpha: Beta(a, a) of input mixup on the augmented views; 0 is off.
        split: fractions by name, "train=0.9,val=0.1"; "" takes the manifest's split column or train/val folders.
        seed: of views, mixup and split.
        dtype: of the stored features, "float16" or "float32".
        batch_size: images per forward pass on a GPU (a CPU core takes its best size by itself).
        reuse: "auto" looks in finished runs beside the output, "none" computes all, or a run folder.
        precision: "float32", "bfloat16", or "auto": bfloat16 where the hardware multiplies it natively.
        compile: torch.compile the network where a compiler is present.
    """

    views: int = 0
    augment: str = "standard"
    mixup_alpha: float = 0.0
    split: str = ""
    seed: int = 0
    dtype: str = "float16"
    batch_size: int = 64
    reuse: str = "auto"
    precision: str = "auto"
    compile: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("views", self.views, 0)
        _at_least("batch_size", self.batch_size, 1)
        _at_least("mixup_alpha", self.mixup_alpha, 0)
        _one_of("pool", self.pool, ("avg", "none"))
        _one_of("dtype", self.dtype, ("float16", "float32"))
        _one_of("precision", self.precision, ("auto", "float32", "bfloat16"))
        _one_of("augment", self.augment, ("light", "standard", "strong"))
        if self.mixup_alpha and not self.views:
            raise OptionError("mixup_alpha mixes augmented views, but views is 0; expected views of at least 1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a network learns, whatever its task; see `cnnray.train.loop`.

    Attributes:
        epochs: at most; each passes once over the training images.
        batch_size: of all workers together.
        accumulate: parts into which a worker's share of a batch is cut, one after the other through the network: less
            memory for the same gradient (batch norms see the parts).
        optimizer: "adamw", or "sgd" with Nesterov momentum 0.9.
        lr: peak learning rate, reached after `warmup` epochs, then a cosine to 0.
        weight_decay: of matrices and kernels.
        clip: largest norm of the gradient; 0 does not clip.
        ema: decay of the moving average of the weights, such as 0.999, that is validated and kept; 0 is off.
        precision: "float32", "bfloat16", "float16" (with loss scaling), or "auto": bfloat16 where the hardware
            multiplies it natively, else float32.
        monitor: what the best epoch is best in: the validation "loss" or "score".
        patience: epochs without a better one before it stops; 0 never stops early.
        seed: of initialisation, order, views and mixup.
        workers: data-parallel trainers, a number or "MIN:MAX" to train on with those that are there; the result does
            not depend on it beyond rounding.
        gpu: whether each trainer holds a GPU.
        mlflow: URI of an MLflow server or folder that the run is logged to as well; "" is none.
    """

    epochs: int = 20
    batch_size: int = 32
    accumulate: int = 1
    optimizer: str = "adamw"
    lr: float = 1e-3
    warmup: int = 1
    weight_decay: float = 1e-2
    clip: float = 0.0
    ema: float = 0.0
    precision: str = "auto"
    monitor: str = "loss"
    patience: int = 0
    seed: int = 0
    workers: int | str = 1
    gpu: bool = False
    mlflow: str = ""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            _at_least(name, getattr(self, name), 1)
        for name in ("warmup", "patience", "weight_decay", "clip"):
            _at_least(name, getattr(self, name), 0)
        _fraction("ema", self.ema)
        if not self.lr > 0:
            raise OptionError(f"lr must be above 0, got {self.lr}")
        _one_of("optimizer", self.optimizer, ("adamw", "sgd"))
        _one_of("precision", self.precision, ("auto", "float32", "bfloat16", "float16"))
        _one_of("monitor", self.monitor, ("loss", "score"))
        low, high = self.worker_range
        if not 1 <= low <= high:
            raise OptionError(f"workers must be a number from 1 or MIN:MAX with 1 <= MIN <= MAX, got {self.workers!r}")

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most workers; equal unless `workers` is "MIN:MAX"."""
        low, _, high = str(self.workers).partition(":")
        try:
            return int(low), int(high or low)
        except ValueError:
            raise OptionError(f"workers must be a number or MIN:MAX, got {self.workers!r}") from None


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """How class labels are learned from.

    Attributes:
        dropout: share of its features that a training example lacks in a step.
        mixup_alpha: Beta(a, a) of mixup; 0 is off.
        label_smoothing: at least 0 and below 1.
        class_weights: "balanced" weighs classes by the inverse of their count, "none" does not.
        val_fraction: of the training images, stratified, where the source has no validation split.
    """

    dropout: float = 0.5
    mixup_alpha: float = 0.0
    label_smoothing: float = 0.0
    class_weights: str = "balanced"
    val_fraction: float = 0.1

    def __post_init__(self) -> None:
        _one_of("class_weights", self.class_weights, ("balanced", "none"))
        _at_least("mixup_alpha", self.mixup_alpha, 0)
        for name in ("dropout", "label_smoothing"):
            _fraction(name, getattr(self, name))
        if not 0 < self.val_fraction < 1:
            raise OptionError(f"val_fraction is a fraction between 0 and 1, got {self.val_fraction}")


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(TrainConfig, LabelConfig):
    """`cnnray train classify`: a head on stored features, with mixup at the features.

    Attributes:
        head: "linear" or "mlp" (one hidden layer of `hidden` units).
    """

    head: str = "linear"
    hidden: int = 512
    epochs: int = 100
    batch_size: int = 256
    warmup: int = 2
    precision: str = "float32"
    patience: int = 20

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        LabelConfig.__post_init__(self)
        _one_of("head", self.head, ("linear", "mlp"))
        _at_least("hidden", self.hidden, 1)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainConfig, LabelConfig, BackboneConfig, ManifestConfig):
    """`cnnray train finetune`: a pre-trained network from the top down, or any network from scratch (weights none).

    From stored activations the network and its views are those of the features: backbone, weights, augment and views
    are then read from their run.

    Attributes:
        tap, pool: not used here; the whole network is trained, cut where `unfreeze` says.
        unfreeze: stages of the network, counted from the top, that are trained; -1 chooses by the number of training
            images, see `cnnray.nn.finetune.default_unfreeze`. With weights "none" all are trained from the start.
        head_epochs: epochs in which the head learns alone before the first stage is unfrozen.
        stage_epochs: epochs between one stage and the next lower one.
        backbone_lr: learning rate of the top stage, as a share of the head's `lr`.
        lr_decay: factor from each stage to the next lower one.
        norm: "train" normalises by the batch's statistics in unfrozen stages, "frozen" by the pre-trained ones.
        augment: preset of the augmented views: "light", "standard" or "strong".
        views: augmented views per image to choose from, beside the plain one; 0 makes a fresh one in every epoch.
        cutmix_alpha: Beta(a, a) of cutmix; 0 is off. Where mixup is on too, each batch gets one of the two.
        max_bad: training is refused when a larger fraction of images cannot be decoded.
    """

    unfreeze: int = -1
    head_epochs: int = 1
    stage_epochs: int = 0
    backbone_lr: float = 0.5
    lr_decay: float = 0.8
    norm: str = "train"
    augment: str = "standard"
    views: int = 0
    cutmix_alpha: float = 0.0
    dropout: float = 0.2
    label_smoothing: float = 0.1
    weight_decay: float = 0.05
    monitor: str = "score"

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        LabelConfig.__post_init__(self)
        BackboneConfig.__post_init__(self)
        ManifestConfig.__post_init__(self)
        _at_least("unfreeze", self.unfreeze, -1)
        for name in ("head_epochs", "stage_epochs", "views", "cutmix_alpha"):
            _at_least(name, getattr(self, name), 0)
        for name in ("backbone_lr", "lr_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise OptionError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")
        _one_of("norm", self.norm, ("train", "frozen"))
        _one_of("augment", self.augment, ("light", "standard", "strong"))


@dataclass(frozen=True, kw_only=True)
class PairsConfig(ManifestConfig):
    """How images and their masks are found.

    Attributes:
        mask_column: of a manifest.
        classes: names and numbers in the masks, "background=0,road=1,car=2,ignore=255"; "" takes masks of 0 and 1, or
            of 0 and 255, as background and foreground.
    """

    mask_column: str = "mask"
    classes: str = ""


@dataclass(frozen=True, kw_only=True)
class SegmentPredictConfig(PredictConfig, PairsConfig):
    """`cnnray predict segment` and `cnnray evaluate segment`.

    Attributes:
        draw: store each image with its classes in colour as well.
        draw_worst: images that the report of an evaluation shows.
    """

    draw: bool = False
    draw_worst: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("draw_worst", self.draw_worst, 0)


@dataclass(frozen=True, kw_only=True)
class SegmentConfig(TrainConfig, PairsConfig):
    """`cnnray train segment`.

    Attributes:
        encoder: a backbone that `cnnray models` lists, or "plain", the U-Net paper's own.
        weights: of a backbone: "default", "none" or a path or URI.
        width: channels of the decoder (and of a plain encoder) at full resolution.
        depth: times that a plain encoder halves the sides.
        crop: side in px of the squares that are trained on.
        crops: of each image in an epoch.
        augment: preset: "none", "light", "standard" or "strong" (elastic).
        dice: share of the Dice loss; the rest is cross-entropy.
        encoder_lr: learning rate of a pre-trained encoder, as a share of `lr`.
        val_fraction: of the images, where no split is given.
        tile, overlap: of prediction: larger images are cut into tiles of so many px that overlap by so many.
        draw_worst: validation images that the report shows.
    """

    encoder: str = "efficientnet_lite0"
    weights: str = "default"
    width: int = 16
    depth: int = 4
    crop: int = 256
    crops: int = 1
    augment: str = "standard"
    dice: float = 0.5
    encoder_lr: float = 0.5
    val_fraction: float = 0.2
    tile: int = 512
    overlap: int = 64
    draw_worst: int = 8
    epochs: int = 60
    batch_size: int = 8
    lr: float = 2e-3
    monitor: str = "score"

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        PairsConfig.__post_init__(self)
        for name in ("width", "depth", "crops"):
            _at_least(name, getattr(self, name), 1)
        for name in ("crop", "tile"):
            _at_least(name, getattr(self, name), 32)
        _at_least("draw_worst", self.draw_worst, 0)
        if not 0 <= 2 * self.overlap < self.tile:
            raise OptionError(f"overlap must be at least 0 and below half of tile, got {self.overlap} of {self.tile}")
        _one_of("augment", self.augment, ("none", "light", "standard", "strong"))
        if not 0 <= self.dice <= 1 or not 0 < self.encoder_lr <= 1:
            raise OptionError(f"dice and encoder_lr are shares from 0 to 1, got {self.dice} and {self.encoder_lr}")
        if not 0 < self.val_fraction < 1:
            raise OptionError(f"val_fraction is a fraction between 0 and 1, got {self.val_fraction}")


@dataclass(frozen=True, kw_only=True)
class BoxesConfig(BadConfig):
    """How images with boxes are read.

    Attributes:
        images: folder of a COCO file's images, where it is neither beside the file nor beside its folder.
        max_bad: largest fraction of the images, and of the boxes, that may be bad: broken, or left without the other.
    """

    images: str = ""


@dataclass(frozen=True, kw_only=True)
class SplitConfig(BoxesConfig):
    """`cnnray data split`.

    Attributes:
        split: fractions by name.
        seed: of the division.
    """

    split: str = "train=0.8,val=0.2"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """What is asked of a detector.

    Attributes:
        confidence: least score.
        overlap: largest IoU of two boxes of one class (of any class where `class_wise` is off).
        suppression: of repeated boxes: "hard" or "soft", see `cnnray.ops.boxes.suppress`.
        class_wise: whether boxes suppress only those of their class.
        slice: images with a longer side are searched whole and in overlapping slices of so many px; 0 does not slice.
        slice_overlap: share of a slice that its neighbour has too.
        most: boxes of an image.
    """

    confidence: float = 0.3
    overlap: float = 0.5
    suppression: str = "hard"
    class_wise: bool = True
    slice: int = 0
    slice_overlap: float = 0.2
    most: int = 300

    def __post_init__(self) -> None:
        for name in ("confidence", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        _one_of("suppression", self.suppression, ("hard", "soft"))
        _at_least("most", self.most, 1)
        if self.slice and self.slice < 64:
            raise OptionError(f"slice must be at least 64 px, or 0, got {self.slice}")
        if not 0 <= self.slice_overlap < 0.9:
            raise OptionError(f"slice_overlap must be at least 0 and below 0.9, got {self.slice_overlap}")


@dataclass(frozen=True, kw_only=True)
class DetectPredictConfig(PredictConfig, BoxesConfig, SearchConfig):
    """`cnnray predict detect` and `cnnray evaluate detect`.

    Attributes:
        weights: of one of torchvision's detectors: "default" (COCO's, downloaded) or a path or URI.
        confidence: least score; an evaluation takes all answers into account, and shows those.
        draw: store each image with its boxes as well.
        draw_worst: images that the report of an evaluation shows.
    """

    weights: str = "default"
    draw: bool = False
    draw_worst: int = 8

    def __post_init__(self) -> None:
        PredictConfig.__post_init__(self)
        SearchConfig.__post_init__(self)
        _at_least("draw_worst", self.draw_worst, 0)


@dataclass(frozen=True, kw_only=True)
class DetectConfig(TrainConfig, BoxesConfig):
    """`cnnray train detect`.

    Attributes:
        model: "yolo" (grids of three strides); what came before it: "grid" (the first YOLO: one grid; with 1 cell it
            localises a single object) and "windows" (a classifier of windows); or one of torchvision's detectors, such
            as "fcos_resnet50_fpn", to fine-tune (these divide their losses by what is in a worker's part of a batch,
            so that with them the number of workers makes a small difference).
        backbone: a network that `cnnray models` lists, of a "yolo" or "grid".
        weights: of it, or of torchvision's detector (for COCO): "default", "none" or a path or URI.
        freeze: stages of the backbone, counted from the image, that stay as they are; -1 freezes those of stride 4
            and below in a pre-trained one, and none of one without weights.
        width: channels of a yolo's pyramid and branches.
        cells: of a grid, along each side.
        size: longer side of the images in px, a multiple of 32.
        lr: peak learning rate; what torchvision's detectors have learned for COCO learns at a tenth of it.
        backbone_lr: learning rate of a pre-trained backbone, as a share of `lr`.
        augment: preset: "none", "light", "standard" or "strong".
        mirror: whether augmentation mirrors scenes; not where left and right differ, as in writing.
        mosaic: share of the training scenes that are made of four pictures.
        plain_epochs: at the end, without mosaics, as a share of all epochs.
        val_fraction: of the images, where no split is given.
        confidence, overlap: least score of what the report shows, and largest IoU of two boxes of one class.
        draw_worst: validation images that the report shows.
    """

    model: str = "yolo"
    backbone: str = "efficientnet_lite0"
    weights: str = "default"
    freeze: int = -1
    width: int = 64
    cells: int = 7
    size: int = 416
    backbone_lr: float = 0.5
    augment: str = "standard"
    mirror: bool = True
    mosaic: float = 0.5
    plain_epochs: float = 0.2
    val_fraction: float = 0.2
    confidence: float = 0.3
    overlap: float = 0.5
    draw_worst: int = 8
    epochs: int = 40
    batch_size: int = 8
    lr: float = 2e-3
    weight_decay: float = 0.05
    clip: float = 10.0
    ema: float = 0.995
    monitor: str = "score"

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        BoxesConfig.__post_init__(self)
        _at_least("freeze", self.freeze, -1)
        _at_least("width", self.width, 8)
        _at_least("cells", self.cells, 1)
        _at_least("draw_worst", self.draw_worst, 0)
        if self.size < 32 or self.size % 32:
            raise OptionError(f"size must be a multiple of 32 px, got {self.size}")
        for name in ("mosaic", "plain_epochs", "confidence", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} is a fraction from 0 to 1, got {getattr(self, name)}")
        if not 0 < self.backbone_lr <= 1:
            raise OptionError(f"backbone_lr must be above 0 and at most 1, got {self.backbone_lr}")
        if not 0 < self.val_fraction < 1:
            raise OptionError(f"val_fraction is a fraction between 0 and 1, got {self.val_fraction}")
        _one_of("augment", self.augment, ("none", "light", "standard", "strong"))


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """`cnnray serve up`.

    Attributes:
        classifier: checkpoint folder of the classifier; "" leaves /v1/classify out.
        detector: checkpoint folder of the detector, or one of torchvision's names; "" leaves /v1/detect out.
        segmenter: checkpoint folder of the segmenter; "" leaves /v1/segment out.
        host, port: where HTTP listens; port 0 takes a free one.
        allow_unauthenticated: the service has no login, so a host that other machines can reach is refused unless this
            is set (because something in front of it decides who may ask).
        replicas: of every model.
        gpu: whether each replica holds a GPU.
        max_batch_size, batch_wait_ms: dynamic batching: a batch leaves when full or after the wait.
        max_ongoing, max_queued: requests in work, and waiting, per replica and per proxy; more get 503.
        max_body_mb: largest request body in MiB; more gets 413.
        timeout_s: a request that takes longer gets 504.
    """

    classifier: str = ""
    detector: str = ""
    segmenter: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    allow_unauthenticated: bool = False
    replicas: int = 1
    gpu: bool = False
    max_batch_size: int = 32
    batch_wait_ms: float = 5.0
    max_ongoing: int = 64
    max_queued: int = 256
    max_body_mb: float = 20.0
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("replicas", "max_batch_size", "max_ongoing", "max_queued"):
            _at_least(name, getattr(self, name), 1)
        _at_least("batch_wait_ms", self.batch_wait_ms, 0)
        if not 0 <= self.port <= 65535:
            raise OptionError(f"port must be from 0 to 65535, got {self.port}")
        for name in ("max_body_mb", "timeout_s"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} must be above 0, got {getattr(self, name)}")


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


def to_toml(config: Any) -> str:
    """A flat dataclass of strings, numbers and booleans as TOML text (JSON scalars are valid TOML)."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in dataclasses.asdict(config).items())


def _at_least(name: str, value: float, low: float) -> None:
    if value < low:
        raise OptionError(f"{name} must be at least {low}, got {value}")


def _fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise OptionError(f"{name} must be at least 0 and below 1, got {value}")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise OptionError(f"{name} must be one of {', '.join(known)}; got {value!r}")
