"""What is asked of a gallery of faces."""

from dataclasses import dataclass

from cnnray.config.checks import fraction
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
        exact_until: faces up to which every face is compared; in larger galleries an index chooses candidates.
    """

    record: str = "galleries.db"
    snapshots: str = ""
    exact_until: int = 50_000

    def __post_init__(self) -> None:
        if not self.record:
            raise OptionError("record must be the path of a SQLite file or a PostgreSQL URL")
        if self.exact_until < 1:
            raise OptionError(f"exact_until must be at least 1, got {self.exact_until}")
