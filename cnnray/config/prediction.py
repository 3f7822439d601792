"""What is asked of trained networks."""

from dataclasses import dataclass

from cnnray.config.checks import at_least, one_of
from cnnray.config.sources import BoxesConfig, PairsConfig, SourceConfig
from cnnray.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class PredictConfig(SourceConfig):
    """`cnnray predict classify` and `cnnray evaluate classify`."""


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
        at_least("draw_worst", self.draw_worst, 0)


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
        one_of("suppression", self.suppression, ("hard", "soft"))
        at_least("most", self.most, 1)
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
        at_least("draw_worst", self.draw_worst, 0)
