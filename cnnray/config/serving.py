"""How the service runs."""

from dataclasses import dataclass

from cnnray.config.checks import at_least
from cnnray.config.galleries import RecordConfig
from cnnray.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """`cnnray serve up`.

    Attributes:
        classifier: checkpoint folder of the classifier; "" leaves /v1/classify out.
        detector: checkpoint folder of the detector, or one of torchvision's names; "" leaves /v1/detect out.
        segmenter: checkpoint folder of the segmenter; "" leaves /v1/segment out.
        painter: checkpoint folder of a trained painter, or "default": the one that comes with cnnray; "" leaves
            /v1/stylize out.
        faces: name of the network that embeds faces, such as "dlib_resnet", or checkpoint folder of a trained one; ""
            leaves /v1/faces out.
        face_views: times that a face is looked at to embed it, see `EmbedderConfig`.
        record: where galleries of faces are kept, see `RecordConfig`; "" leaves /v1/galleries out. It needs `faces`.
            Over a SQLite file one replica serves them, whatever `replicas` says: one process writes it.
        snapshots, exact_until: of the galleries' indexes, see `RecordConfig`.
        stylize_jobs: folder, which every machine of the cluster reaches, where pictures are painted in the style of
            others by optimisation, in the background; "" leaves /v1/stylize/jobs out.
        stylize_jobs_at_once: that are painted at the same time; each takes a core, or a GPU.
        stylize_jobs_most: that wait or are painted; more get 503.
        stylize_jobs_keep_h: hours that finished ones are kept.
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
    painter: str = ""
    faces: str = ""
    face_views: int = 2
    record: str = ""
    snapshots: str = ""
    exact_until: int = RecordConfig.exact_until
    stylize_jobs: str = ""
    stylize_jobs_at_once: int = 1
    stylize_jobs_most: int = 64
    stylize_jobs_keep_h: float = 168.0
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
        counts = ("replicas", "max_batch_size", "max_ongoing", "max_queued")
        for name in (*counts, "stylize_jobs_at_once", "stylize_jobs_most"):
            at_least(name, getattr(self, name), 1)
        if self.face_views not in (1, 2, 4):
            raise OptionError(f"face_views must be 1, 2 or 4, got {self.face_views}")
        self._check_record()
        at_least("batch_wait_ms", self.batch_wait_ms, 0)
        if not 0 <= self.port <= 65535:
            raise OptionError(f"port must be from 0 to 65535, got {self.port}")
        for name in ("max_body_mb", "timeout_s", "stylize_jobs_keep_h"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} must be above 0, got {getattr(self, name)}")

    @property
    def galleries(self) -> RecordConfig:
        """What is asked of the galleries, where there is a record."""
        return RecordConfig(record=self.record, snapshots=self.snapshots, exact_until=self.exact_until)

    def _check_record(self) -> None:
        at_least("exact_until", self.exact_until, 1)
        if self.snapshots and not self.record:
            raise OptionError(f"snapshots are of galleries, which need the option record; got {self.snapshots!r} alone")
        if self.record and not self.faces:
            raise OptionError("galleries need what embeds faces: expected the option faces with record")
