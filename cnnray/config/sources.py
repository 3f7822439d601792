"""Where images come from, with what is known of them, and what is made of them once."""

from dataclasses import dataclass

from cnnray.config.checks import at_least, one_of
from cnnray.config.network import BackboneConfig
from cnnray.errors import OptionError


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
        at_least("workers", self.workers, 0)


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
        at_least("views", self.views, 0)
        at_least("batch_size", self.batch_size, 1)
        at_least("mixup_alpha", self.mixup_alpha, 0)
        one_of("pool", self.pool, ("avg", "none"))
        one_of("dtype", self.dtype, ("float16", "float32"))
        one_of("precision", self.precision, ("auto", "float32", "bfloat16"))
        one_of("augment", self.augment, ("light", "standard", "strong"))
        if self.mixup_alpha and not self.views:
            raise OptionError("mixup_alpha mixes augmented views, but views is 0; expected views of at least 1")


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
