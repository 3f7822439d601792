"""Mixed load for a long time: the memory of the service's processes does not grow with the requests.

    python benchmarks/soak.py [--minutes 20] [--per-second 8]

Classes, objects, faces, who is in a photo, enrolments and erasures, paintings, and images that are none, in turn from
four threads at a moderate rate. Every five seconds the resident memory of all processes of the Ray cluster is taken;
the slope is that of a straight line through it over the requests, by least squares, without the first quarter. Last
line, one JSON object:

    slope_mb_per_1k     of all processes together, MB per 1,000 requests (target 1)
    by_process          of each part (replicas by deployment, ServeController, ProxyActor, raylet, ...):
                        slope_mb_per_1k, first_mb and last_mb of the samples that count
    restarts            replicas at the end that were not there at the beginning (target 0)
    requests, per_second, samples
    unexpected          answers other than was to be expected, by code and action (target none)
    p50_ms, p99_ms      by action
"""

import argparse
import contextlib
import itertools
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
from served import GALLERY, Threads, cluster, enroll, folder, make_models, people, photos, processes, replicas, service

from cnnray.client import Client
from cnnray.errors import ServiceError

THREADS, PEOPLE = 4, 10
SAMPLE_SECONDS = 5.0
_EXPECTED = {"bad": ("not_an_image", "truncated", "corrupt")}


class Load(Threads):
    """Threads that ask at a rate, what was asked so far, and how long it took."""

    def __init__(self, client: Client, per_second: float) -> None:
        super().__init__(THREADS, 60)
        self.client = client
        self.asked, self.unexpected = 0, Counter()
        self.times: dict[str, list[float]] = defaultdict(list)
        self._numbers, self._pause = itertools.count(), THREADS / per_second
        self._photos, self._faces = photos("grocery/val", 40), [p[1] for p in people(PEOPLE).values()]

    def run(self) -> None:
        due = time.monotonic()
        while not self.stopped.wait(max(0.0, due - time.monotonic())):
            number = next(self._numbers)
            name, call = list(self._actions(number).items())[number % 7]
            began = time.perf_counter()
            self._try(name, call)
            self.times[name].append(time.perf_counter() - began)
            self.asked += 1
            due = max(due + self._pause, time.monotonic() - self._pause)

    def _try(self, name: str, call: Callable[[], Any]) -> None:
        code = ""
        try:
            call()
        except ServiceError as error:
            code = error.code
        if code not in _EXPECTED.get(name, ("",)):
            self.unexpected[f"{name}: {code or 'answered'}"] += 1

    def _actions(self, number: int) -> dict[str, Callable[[], Any]]:
        photo, face = self._photos[number % len(self._photos)], self._faces[number % len(self._faces)]
        return {
            "classify": lambda: self.client.classify(photo),
            "detect": lambda: self.client.detect(photo),
            "faces": lambda: self.client.detect_faces(face, embeddings=number % 2 == 0),
            "recognize": lambda: self.client.recognize(GALLERY, face),
            "enroll and erase": lambda: self._enroll(f"new-{number}", face),
            "stylize": lambda: self.client.stylize(photo, "stained_glass", longest_side=256),
            "bad": lambda: self.client.classify(photo[: number % len(photo)] if number % 2 else b"no image"),
        }

    def _enroll(self, key: str, face: Any) -> None:
        self.client.enroll(GALLERY, key, face, accept_conflict=True, accept_quality=True, pick="central")
        self.client.erase_identity(GALLERY, key)


# ---- memory ----------------------------------------------------------------------------------------------------------


def sample() -> dict[str, float]:
    """MB of each part of the cluster, all its processes together."""
    found: dict[str, float] = defaultdict(float)
    for process, part in processes().items():
        with contextlib.suppress(psutil.Error):
            found[part] += process.memory_info().rss / 1e6
    return found


def watch(load: Load, seconds: float) -> list[tuple[int, dict[str, float]]]:
    """Samples by the number of requests until then."""
    samples, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        samples.append((load.asked, sample()))
        if len(samples) % 12 == 0:
            print(f"{load.asked} requests: {sum(samples[-1][1].values()):.0f} MB", flush=True)
        time.sleep(SAMPLE_SECONDS)
    return samples


def growth(samples: list[tuple[int, dict[str, float]]], part: str = "") -> dict[str, float]:
    """Of one part, or of all."""
    counted = samples[len(samples) // 4 :]
    asked = np.array([requests for requests, _ in counted]) / 1000
    used = np.array([found.get(part, 0.0) if part else sum(found.values()) for _, found in counted])
    slope = float(np.polyfit(asked, used, 1)[0])
    return {"slope_mb_per_1k": round(slope, 3), "first_mb": round(used[0], 1), "last_mb": round(used[-1], 1)}


def summary(load: Load, samples: list[tuple[int, dict[str, float]]], seconds: float) -> dict[str, Any]:
    parts = sorted({part for _, found in samples for part in found})
    return {
        "slope_mb_per_1k": growth(samples)["slope_mb_per_1k"],
        "by_process": {part: growth(samples, part) for part in parts},
        "requests": load.asked,
        "per_second": round(load.asked / seconds, 2),
        "samples": len(samples),
        "unexpected": dict(load.unexpected),
        "p50_ms": {name: round(1000 * float(np.median(times)), 1) for name, times in load.times.items()},
        "p99_ms": {name: round(1000 * float(np.percentile(times, 99)), 1) for name, times in load.times.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--per-second", type=float, default=8)
    args = parser.parse_args()
    seconds = 60 * args.minutes
    with folder() as path, cluster(num_cpus=4), service(**make_models(path), painter="default") as url:
        with Client(url) as client:
            enroll(client, people(PEOPLE))
            before = replicas()
            with Load(client, args.per_second) as load:
                samples = watch(load, seconds)
            restarts = len(replicas().keys() - before.keys())
    print(json.dumps(summary(load, samples, seconds) | {"restarts": restarts}))


if __name__ == "__main__":
    main()
