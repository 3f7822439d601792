"""What the service counts, for Prometheus: by Ray's metrics, which every node gathers and GET /metrics puts together.

Their names there begin with `ray_`. Ray makes a histogram's sum of the middles of its buckets. No label is a person, a
file or a key: labels are few and known.
"""

import asyncio
import logging
import re
from collections.abc import Iterable, Sequence

import httpx
import ray
from ray.util.metrics import Counter, Gauge, Histogram

logger = logging.getLogger("ray.serve")

PREFIX = "ray_cnnray_"
TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SCRAPE_SECONDS = 2.0
_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]
_MILLISECONDS = [1000 * bound for bound in _SECONDS]
_SIZES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
_OF_NO_USE = re.compile(r',otel_scope_[a-z_]+="[^"]*"')  # labels that say which library of Ray's gathered it


class RequestMetrics:
    """Of the replicas that speak HTTP."""

    def __init__(self) -> None:
        self._requests = Counter("cnnray_requests", "requests by route and status", ("method", "route", "status"))
        self._seconds = Histogram(
            "cnnray_request_seconds", "from a request's first byte to the end of its answer", _SECONDS, ("route",)
        )

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request is over.

        Args:
            route: as the application names it, without what is special to the request; "" of what it does not have.
        """
        self._requests.inc(1, {"method": method, "route": route or "none", "status": str(status)})
        self._seconds.observe(seconds, {"route": route or "none"})

    def count_refused(self, method: str, route: str, number: int) -> None:
        """So many were answered 503 by what stands in front of the replica; how long that took is not known."""
        self._requests.inc(number, {"method": method, "route": route or "none", "status": "503"})


class BatchMetrics:
    """Of a model's replica.

    Args:
        model: name of the deployment.
    """

    def __init__(self, model: str) -> None:
        self._tags = {"model": model}
        names = tuple(self._tags)
        self._size = Histogram("cnnray_batch_size", "images of a batch", _SIZES, names)
        self._queue = Histogram("cnnray_queue_ms", "milliseconds that an image waited", _MILLISECONDS, names)
        self._work = Histogram("cnnray_inference_ms", "milliseconds that a batch took", _MILLISECONDS, names)

    def count(self, queue_ms: Sequence[float], inference_ms: float) -> None:
        """A batch is done; `queue_ms` of each of its images."""
        self._size.observe(len(queue_ms), self._tags)
        self._work.observe(inference_ms, self._tags)
        for waited in queue_ms:
            self._queue.observe(waited, self._tags)


class GalleryMetrics:
    """Of a replica that keeps galleries."""

    def __init__(self) -> None:
        names = ("gallery",)
        self._people = Gauge("cnnray_gallery_identities", "people of a gallery", names)
        self._version = Gauge("cnnray_gallery_version", "change that this replica's index has reached", names)
        self._recall = Gauge("cnnray_gallery_recall", "recall@1 of the index when it was built, against exact", names)

    def show(self, gallery: str, identities: int, version: int, recall: float) -> None:
        """What a gallery is now."""
        tags = {"gallery": gallery}
        self._people.set(identities, tags)
        self._version.set(version, tags)
        self._recall.set(recall, tags)


async def gather() -> str:
    """cnnray's metrics of all nodes in Prometheus' text form.

    A node that does not answer within seconds is left out, and logged; Prometheus then sees a gap.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node.get("MetricsExportPort")]
    urls = [f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in nodes]
    async with httpx.AsyncClient(timeout=_SCRAPE_SECONDS, trust_env=False) as http:
        answers = await asyncio.gather(*(http.get(url) for url in urls), return_exceptions=True)
    texts = []
    for url, answer in zip(urls, answers, strict=True):
        if isinstance(answer, BaseException):
            logger.warning("no metrics from %s: %s", url, answer or type(answer).__name__)
        else:
            texts.append(answer.text)
    return put_together(texts)


def put_together(texts: Iterable[str]) -> str:
    """The lines of cnnray's metrics in texts of several nodes: what is said of a metric once, then its samples."""
    about: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        name = ""
        for line in text.splitlines():
            if line.startswith("# "):
                _, kind, name, *_ = line.split(" ", 3)
                if name.startswith(PREFIX) and kind in ("HELP", "TYPE"):
                    known = about.setdefault(name, [])
                    known += [line] if not any(one.startswith(f"# {kind} ") for one in known) else []
            elif line.startswith(PREFIX):
                samples.setdefault(name, []).append(_OF_NO_USE.sub("", line))
    return "".join(f"{line}\n" for name in sorted(samples) for line in (*about.get(name, ()), *samples[name]))
