"""Replicas killed with SIGKILL under load, again and again: no call of the client fails.

    python benchmarks/chaos_serve.py [--seconds 120] [--every 5] [--seed 0]       about 4 minutes on two cores

Two replicas of the ingress, of a classifier, a detector and faces; one of the galleries, which one process writes.
Every five seconds one of these processes, whichever, is killed, while four threads ask through `cnnray.client.Client`,
which tries again for a minute. Then all replicas must come back. Last line, one JSON object:

    failed              calls that failed all the same (target 0); `errors`, the first of them
    wrong               answers that differ from those before the first kill: class, person (target 0)
    kills               by deployment
    requests            calls that were answered
    p50_ms, p99_ms, max_ms      of these, their repetitions included
    back_s              from the last kill until there are as many replicas as before and all are ready
"""

import argparse
import contextlib
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
from served import GALLERY, Threads, cluster, enroll, folder, make_models, people, photos, replicas, service

from cnnray.client import Client
from cnnray.errors import ServiceError

REPLICAS, THREADS, PEOPLE = 2, 4, 10
PATIENCE_SECONDS, BACK_SECONDS = 60.0, 120.0
MOST_SHOWN = 10


def calls(client: Client) -> list[Callable[[], Any]]:
    """Of every kind in turn; each says something that is always the same, as long as batches do not matter to it."""
    shown, faces = photos("grocery/val", 12), [paths[0] for paths in people(PEOPLE).values()]
    found: list[Callable[[], Any]] = []
    for photo, face in zip(shown, itertools.cycle(faces), strict=False):
        found.append(lambda photo=photo: client.classify(photo).label)
        found.append(lambda photo=photo: client.detect(photo).height)
        found.append(lambda face=face: client.detect_faces(face).height)
        found.append(lambda face=face: people_in(client, face))
    return found


def people_in(client: Client, photo: Any) -> list[str]:
    found = client.recognize(GALLERY, photo)
    return sorted(face.identity.id for face in found.faces if face.identity)


class Load(Threads):
    """Threads that ask until they are stopped, and compare what they are told."""

    def __init__(self, client: Client) -> None:
        super().__init__(THREADS, 2 * PATIENCE_SECONDS)
        self._calls, self._numbers = calls(client), itertools.count()
        self._right = [call() for call in self._calls]
        self.times: list[float] = []
        self.errors: list[str] = []
        self.wrong = 0

    def run(self) -> None:
        while not self.stopped.is_set():
            at = next(self._numbers) % len(self._calls)
            began = time.perf_counter()
            try:
                self.wrong += self._calls[at]() != self._right[at]
                self.times.append(time.perf_counter() - began)
            except ServiceError as error:
                took = time.perf_counter() - began
                self.errors.append(f"{error.status} {error.code} after {took:.1f} s: {str(error)[:300]}")


def kill_one(rng: random.Random) -> str:
    """SIGKILL to a replica of any deployment; which it was of, "" where there is none."""
    found = sorted(replicas().items(), key=lambda item: item[0].pid)
    if not found:
        return ""
    process, name = rng.choice(found)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
    return name


def wreak(args: argparse.Namespace, load: Load) -> Counter[str]:
    """Kills by deployment."""
    rng, kills, deadline = random.Random(args.seed), Counter(), time.monotonic() + args.seconds
    while time.monotonic() < deadline:
        time.sleep(args.every)
        kills[kill_one(rng)] += 1
        print(f"{sum(kills.values())} kills, {len(load.times)} calls, failed {len(load.errors)}", flush=True)
    return kills


def wait_back(client: Client, wanted: Counter[str]) -> float | None:
    """Seconds until all replicas are there again and ready; None where they are not in time."""
    began = time.perf_counter()
    while time.perf_counter() < began + BACK_SECONDS:
        if Counter(replicas().values()) == wanted and client.ready():
            return round(time.perf_counter() - began, 1)
        time.sleep(0.5)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--every", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with folder() as path, cluster(num_cpus=3 * REPLICAS), service(**make_models(path), replicas=REPLICAS) as url:
        with Client(url, patience=PATIENCE_SECONDS) as client:
            enroll(client, people(PEOPLE))
            before = Counter(replicas().values())
            with Load(client) as load:
                kills = wreak(args, load)
                back = wait_back(client, before)
    times = [1000 * seconds for seconds in load.times]
    answer = {
        "failed": len(load.errors),
        "errors": load.errors[:MOST_SHOWN],
        "wrong": load.wrong,
        "kills": dict(kills),
        "replicas": dict(before),
        "requests": len(times),
        "p50_ms": round(float(np.percentile(times, 50)), 1),
        "p99_ms": round(float(np.percentile(times, 99)), 1),
        "max_ms": round(max(times), 1),
        "back_s": back,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
