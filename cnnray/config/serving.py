"""How the service runs."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from cnnray.config.checks import at_least, count_range
from cnnray.config.galleries import RecordConfig
from cnnray.errors import OptionError, UnknownNameError

MODELS = ("classifier", "detector", "segmenter", "faces", "painter")  # names of the options that bring one

PROXIES = ("default", "haproxy")
PLACES = ("record", "snapshots", "stylize_jobs", "keys")  # options that are paths or URIs of what need not be there yet


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
        proxy: "default", Ray's own, or "haproxy", which takes several times the requests a second, see
            `cnnray.serve.haproxy`; of a cluster that runs its nodes' environment decides that.
        keys: folder of keys, see `cnnray serve keys`, one of which every request then shows; "" needs none.
        allow_unauthenticated: without keys, a host that other machines can reach is refused unless this is set (because
            something in front of it decides who may ask).
        cors_origins: places, as "https://example.org", whose pages may ask the service from a browser.
        replicas: of every model, a number or "MIN:MAX", between which each model's replicas follow what is waiting for
            it; with a MIN of 0 a model that nobody asks goes, and the first who asks again waits until it is back.
        replicas_of: the same of single models, by their options' names: {"detector": "0:2"}.
        scale_down_s: seconds for which there is less to do before a replica ends; the last one stays ten times as long.
        max_surge_percent: of the usual number of replicas that an update may start before old ones end; 0 ends old ones
            first, for a cluster without room: requests then wait for the new ones.
        gpu: whether each replica holds a GPU.
        gpu_share: how much of one it reserves, so that several models fit on it: 0.25, say.
        compile: compile the classifier's network where a C++ compiler is; replicas start a minute later and
            take a third less time for batches.
        max_batch_size, batch_wait_ms: dynamic batching: what waits when the model becomes free goes together; an idle
            model waits so long for company where the batch before had some.
        max_wait_s: seconds after which an image whose turn has not come gets 503, so that under too much load those
            that are answered are answered soon, and no work is done for who has given up.
        max_ongoing, max_queued: requests that a replica works on, and that wait in its queue; more get 503.
        max_body_mb: largest request body in MiB; more gets 413.
        access_log: whether each request is logged, by its id, route, status, milliseconds and the id of its key: no
            path, image, name, face or embedding.
        logs: folder of the logs, JSON lines, on each machine; "" leaves them in Ray's, /tmp/ray/session_*/logs/serve.
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
    proxy: str = "default"
    keys: str = ""
    allow_unauthenticated: bool = False
    cors_origins: tuple[str, ...] = ()
    replicas: int | str = 1
    replicas_of: dict[str, int | str] = field(default_factory=dict)
    scale_down_s: float = 60.0
    max_surge_percent: int = 100
    gpu: bool = False
    gpu_share: float = 1.0
    compile: bool = False
    max_batch_size: int = 32
    batch_wait_ms: float = 5.0
    max_wait_s: float = 4.0
    max_ongoing: int = 64
    max_queued: int = 256
    max_body_mb: float = 20.0
    access_log: bool = False
    logs: str = ""
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        counts = ("max_batch_size", "max_ongoing", "max_queued")
        for name in (*counts, "stylize_jobs_at_once", "stylize_jobs_most"):
            at_least(name, getattr(self, name), 1)
        if self.proxy not in PROXIES:
            raise UnknownNameError("proxy", self.proxy, PROXIES)
        if self.face_views not in (1, 2, 4):
            raise OptionError(f"face_views must be 1, 2 or 4, got {self.face_views}")
        for name in self.replicas_of:
            if name not in MODELS:
                raise UnknownNameError("model in replicas_of", name, MODELS)
        for name in ("", *self.replicas_of):
            self.replica_range(name)
        if not 0 < self.gpu_share <= 1:
            raise OptionError(f"gpu_share must be above 0 and at most 1, got {self.gpu_share}")
        if not 0 <= self.max_surge_percent <= 100:
            raise OptionError(f"max_surge_percent must be from 0 to 100, got {self.max_surge_percent}")
        self._check_record()
        self._check_origins()
        at_least("batch_wait_ms", self.batch_wait_ms, 0)
        if not 0 <= self.port <= 65535:
            raise OptionError(f"port must be from 0 to 65535, got {self.port}")
        for name in ("max_body_mb", "timeout_s", "max_wait_s", "scale_down_s", "stylize_jobs_keep_h"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} must be above 0, got {getattr(self, name)}")

    def replica_range(self, model: str = "") -> tuple[int, int]:
        """Fewest and most replicas of a model, "" of those that `replicas_of` does not name; mostly equal."""
        name = f"replicas_of {model}" if model in self.replicas_of else "replicas"
        return count_range(name, self.replicas_of.get(model, self.replicas), least=0)

    @property
    def most_replicas(self) -> int:
        """That any model has."""
        return max(self.replica_range(name)[1] for name in ("", *self.replicas_of))

    @property
    def galleries(self) -> RecordConfig:
        """What is asked of the galleries, where there is a record."""
        return RecordConfig(record=self.record, snapshots=self.snapshots, exact_until=self.exact_until)

    def _check_origins(self) -> None:
        for origin in self.cors_origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query or parts.fragment:
                raise OptionError(f"expected cors_origins such as https://example.org, got {origin!r}")

    def _check_record(self) -> None:
        at_least("exact_until", self.exact_until, 1)
        if self.snapshots and not self.record:
            raise OptionError(f"snapshots are of galleries, which need the option record; got {self.snapshots!r} alone")
        if self.record and not self.faces:
            raise OptionError("galleries need what embeds faces: expected the option faces with record")
