"""What is asked of a gallery of faces."""

from dataclasses import dataclass

from cnnray.config.checks import at_least, fraction, one_of
from cnnray.config.faces import PICKS, EmbedderConfig, FaceSearchConfig
from cnnray.config.prediction import PredictConfig
from cnnray.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class QualityPolicy:
    """Which pictures of faces are good enough to enrol; see `cnnray.ops.face_quality.FaceQuality`.

    Attributes:
        min_size: shorter side of the face's box, px.
        min_confidence: score of the detector.
        min_inside: share of the box that is in the photo.
        min_sharpness: 0.05 is out of focus.
        min_brightness, max_brightness: mean grey, in [0, 1].
        max_yaw, max_pitch, max_roll: degrees that the face looks aside, up or down, and is turned, in both directions.
    """

    min_size: float = 40.0
    min_confidence: float = 0.0
    min_inside: float = 0.9
    min_sharpness: float = 0.03
    min_brightness: float = 0.1
    max_brightness: float = 0.95
    max_yaw: float = 45.0
    max_pitch: float = 60.0
    max_roll: float = 60.0

    def __post_init__(self) -> None:
        for name in ("min_inside", "min_brightness"):
            fraction(name, getattr(self, name))
        if not self.min_brightness < self.max_brightness <= 1:
            raise OptionError(f"max_brightness must be above min_brightness and at most 1, got {self.max_brightness}")


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """Where galleries are kept.

    Attributes:
        record: path of a SQLite file, or the URL of a PostgreSQL database, postgresql://user:password@host/name, which
            several machines can share.
        snapshots: folder on this machine's disk for the indexes of large galleries, from which they are ready again in
            seconds; "" is beside a SQLite file, and none for PostgreSQL.
        exact_until: people up to which every one is compared; in larger galleries an index chooses candidates.
    """

    record: str = "galleries.db"
    snapshots: str = ""
    exact_until: int = 50_000

    def __post_init__(self) -> None:
        if not self.record:
            raise OptionError("record must be the path of a SQLite file or a PostgreSQL URL")
        if self.exact_until < 1:
            raise OptionError(f"exact_until must be at least 1, got {self.exact_until}")


@dataclass(frozen=True, kw_only=True)
class EnrollConfig(PredictConfig, FaceSearchConfig, EmbedderConfig):
    """`cnnray faces enroll`.

    Attributes:
        pick: which face of a photo with several: the most "central", the "largest", or "only", which refuses several.
            "auto" is "central" for a folder of a person, whose photos have bystanders, and "only" for a single photo.
        accept_quality: also faces that are not good enough by the gallery's policy.
        accept_conflict: also faces that somebody else is recognised by.
        accept_erased: also photos of people who were erased after an earlier run had enrolled them.
        base_threshold: least cosine of two faces of one person, for a new gallery; 0 is the embedder's own.
    """

    pick: str = "auto"
    accept_quality: bool = False
    accept_conflict: bool = False
    accept_erased: bool = False
    base_threshold: float = 0.0

    def __post_init__(self) -> None:
        PredictConfig.__post_init__(self)
        FaceSearchConfig.__post_init__(self)
        EmbedderConfig.__post_init__(self)
        one_of("pick", self.pick, ("auto", *PICKS))
        fraction("base_threshold", self.base_threshold)


@dataclass(frozen=True, kw_only=True)
class RecognizeConfig(FaceSearchConfig, EmbedderConfig):
    """`cnnray faces recognize`.

    Attributes:
        candidates: the most similar people who are listed for each face, whatever the threshold.
        threshold: least score of a recognised face, a cosine; None is the gallery's own.
    """

    candidates: int = 0
    threshold: float | None = None

    def __post_init__(self) -> None:
        FaceSearchConfig.__post_init__(self)
        EmbedderConfig.__post_init__(self)
        at_least("candidates", self.candidates, 0)
        if self.threshold is not None and not -1 <= self.threshold <= 1:
            raise OptionError(f"threshold is a cosine from -1 to 1, got {self.threshold}")


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(EnrollConfig):
    """`cnnray faces calibrate`; all options but `fpir` are for a cohort of images.

    Attributes:
        fpir: share of strangers who may be taken for somebody of the gallery.
    """

    fpir: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fpir < 1:
            raise OptionError(f"fpir must be above 0 and below 1, got {self.fpir}")
