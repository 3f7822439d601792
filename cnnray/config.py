"""Every option of cnnray, declared once: the command line, TOML files and environment are read into these.

Frozen and keyword-only; `to_toml` writes what a run was resolved to.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from cnnray.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which pre-trained network, and where it is cut.

    Attributes:
        backbone: a name that `cnnray models` lists.
        weights: "default" (shipped or downloaded), "none" (random) or a path or URI to a state dict.
        tap: the stage after which the network is cut; "" is the last one before its classifier.
        pool: "avg" stores a vector [C] per image, "none" the map [C, H, W].
    """

    backbone: str = "efficientnet_lite0"
    weights: str = "default"
    tap: str = ""
    pool: str = "avg"


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """How a source of images is read and divided among actors.

    Attributes:
        path_column, label_column: of a CSV or Parquet manifest; label_column "" reads images without labels.
        workers: actors; 0 is one per GPU, or one per node on CPUs.
        gpu: whether each actor holds a GPU.
        max_bad: the run ends with exit code 3 when a larger fraction of images was quarantined.
    """

    path_column: str = "path"
    label_column: str = "label"
    workers: int = 0
    gpu: bool = False
    max_bad: float = 0.01

    def __post_init__(self) -> None:
        _at_least("workers", self.workers, 0)
        if not 0 <= self.max_bad <= 1:
            raise OptionError(f"max_bad is a fraction from 0 to 1, got {self.max_bad}")


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
class ClassifyConfig:
    """`cnnray train classify`.

    Attributes:
        head: "linear" or "mlp" (one hidden layer of `hidden` units).
        dropout: share of its features that a training example lacks in a step.
        epochs: at most; each passes once over the training images, at one view of each.
        batch_size: of all workers together.
        lr: AdamW's peak learning rate, reached after `warmup` epochs, then a cosine to 0.
        weight_decay: AdamW's.
        mixup_alpha: Beta(a, a) of mixup on the features; 0 is off.
        label_smoothing: at least 0 and below 1.
        class_weights: "balanced" weighs classes by the inverse of their count, "none" does not.
        patience: epochs without a better validation loss before it stops; 0 never stops early.
        val_fraction: of the training images, stratified, where the features have no validation split.
        seed: of initialisation, order and mixup.
        workers: data-parallel trainers; the result does not depend on it beyond rounding.
        gpu: whether each trainer holds a GPU.
    """

    head: str = "linear"
    hidden: int = 512
    dropout: float = 0.5
    epochs: int = 100
    batch_size: int = 256
    lr: float = 1e-3
    warmup: int = 2
    weight_decay: float = 1e-2
    mixup_alpha: float = 0.0
    label_smoothing: float = 0.0
    class_weights: str = "balanced"
    patience: int = 20
    val_fraction: float = 0.1
    seed: int = 0
    workers: int = 1
    gpu: bool = False

    def __post_init__(self) -> None:
        _one_of("head", self.head, ("linear", "mlp"))
        _one_of("class_weights", self.class_weights, ("balanced", "none"))
        for name in ("epochs", "batch_size", "workers", "hidden"):
            _at_least(name, getattr(self, name), 1)
        for name in ("warmup", "patience", "weight_decay", "mixup_alpha"):
            _at_least(name, getattr(self, name), 0)
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")
        if not self.lr > 0:
            raise OptionError(f"lr must be above 0, got {self.lr}")
        if not 0 < self.val_fraction < 1:
            raise OptionError(f"val_fraction is a fraction between 0 and 1, got {self.val_fraction}")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """`cnnray serve up`.

    Attributes:
        classifier: checkpoint folder of the classifier; "" leaves /v1/classify out.
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


def to_toml(config: Any) -> str:
    """A flat dataclass of strings, numbers and booleans as TOML text (JSON scalars are valid TOML)."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in dataclasses.asdict(config).items())


def _at_least(name: str, value: float, low: float) -> None:
    if value < low:
        raise OptionError(f"{name} must be at least {low}, got {value}")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise OptionError(f"{name} must be one of {', '.join(known)}; got {value!r}")
