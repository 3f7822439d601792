"""How networks learn."""

from dataclasses import dataclass

from cnnray.config.checks import at_least, count_range, fraction, one_of
from cnnray.config.network import BackboneConfig
from cnnray.config.sources import BoxesConfig, ManifestConfig, PairsConfig
from cnnray.errors import OptionError


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
            at_least(name, getattr(self, name), 1)
        for name in ("warmup", "patience", "weight_decay", "clip"):
            at_least(name, getattr(self, name), 0)
        fraction("ema", self.ema)
        if not self.lr > 0:
            raise OptionError(f"lr must be above 0, got {self.lr}")
        one_of("optimizer", self.optimizer, ("adamw", "sgd"))
        one_of("precision", self.precision, ("auto", "float32", "bfloat16", "float16"))
        one_of("monitor", self.monitor, ("loss", "score"))
        _ = self.worker_range

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most workers; equal unless `workers` is "MIN:MAX"."""
        return count_range("workers", self.workers)


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
        one_of("class_weights", self.class_weights, ("balanced", "none"))
        at_least("mixup_alpha", self.mixup_alpha, 0)
        for name in ("dropout", "label_smoothing"):
            fraction(name, getattr(self, name))
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
        one_of("head", self.head, ("linear", "mlp"))
        at_least("hidden", self.hidden, 1)


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
        at_least("unfreeze", self.unfreeze, -1)
        for name in ("head_epochs", "stage_epochs", "views", "cutmix_alpha"):
            at_least(name, getattr(self, name), 0)
        for name in ("backbone_lr", "lr_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise OptionError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")
        one_of("norm", self.norm, ("train", "frozen"))
        one_of("augment", self.augment, ("light", "standard", "strong"))


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
            at_least(name, getattr(self, name), 1)
        for name in ("crop", "tile"):
            at_least(name, getattr(self, name), 32)
        at_least("draw_worst", self.draw_worst, 0)
        if not 0 <= 2 * self.overlap < self.tile:
            raise OptionError(f"overlap must be at least 0 and below half of tile, got {self.overlap} of {self.tile}")
        one_of("augment", self.augment, ("none", "light", "standard", "strong"))
        if not 0 <= self.dice <= 1 or not 0 < self.encoder_lr <= 1:
            raise OptionError(f"dice and encoder_lr are shares from 0 to 1, got {self.dice} and {self.encoder_lr}")
        if not 0 < self.val_fraction < 1:
            raise OptionError(f"val_fraction is a fraction between 0 and 1, got {self.val_fraction}")


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
        at_least("freeze", self.freeze, -1)
        at_least("width", self.width, 8)
        at_least("cells", self.cells, 1)
        at_least("draw_worst", self.draw_worst, 0)
        if self.size < 32 or self.size % 32:
            raise OptionError(f"size must be a multiple of 32 px, got {self.size}")
        for name in ("mosaic", "plain_epochs", "confidence", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} is a fraction from 0 to 1, got {getattr(self, name)}")
        if not 0 < self.backbone_lr <= 1:
            raise OptionError(f"backbone_lr must be above 0 and at most 1, got {self.backbone_lr}")
        if not 0 < self.val_fraction < 1:
            raise OptionError(f"val_fraction is a fraction between 0 and 1, got {self.val_fraction}")
        one_of("augment", self.augment, ("none", "light", "standard", "strong"))
