"""Ten thousand hostile uploads over HTTP: the service answers every one, and goes on being right.

    python benchmarks/fuzz_http.py [--uploads 10000] [--connections 16] [--seed 0]       about 10 minutes on two cores

Mutated images of every format that Pillow writes, forms cut and bent, wrong types, absurd parameters, lengths and
chunks that lie, forged headers (benchmarks/hostile.py), on raw sockets, to a service with a classifier, a detector,
faces with a gallery, and a painter. Every tenth connection stays open after a request whose body lies about its length,
so that the service must give up by itself; the others say that no more comes. Last line, one JSON object:

    uploads, statuses   answers by status; 0: the connection was closed without one; `by_kind` of upload
    server_errors       5xx but 503 with the code busy, and but 504 for a body that never came (target 0); `errors`, the
                        first of them
    unanswered          whole requests whose connection was closed without an answer (target 0), by kind
    restarts            processes of replicas that are not those of before (target 0)
    hangs               no answer within --limit seconds (target 0), by kind
    still_right         whether every endpoint answers a good photo as before
    peak_mb, grown_mb   largest memory of the replicas together, and how much more than before there is afterwards
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import random
from collections import Counter
from typing import Any

import psutil
from hostile import ENDPOINTS, Upload, encoded, make_upload
from load import Answer, Connection, post, statuses
from served import cluster, enroll, folder, make_models, people, replicas, service

from cnnray.client import Client

PEOPLE = 5
TIMEOUT_SECONDS = 5.0  # of the service
MOST_SHOWN = 10
Asked = tuple[Upload, Answer]


async def send_all(url: str, args: argparse.Namespace, images: dict[str, bytes]) -> list[Asked]:
    """Answers in the order in which they came."""
    numbers, asked = itertools.count(), []

    async def one() -> None:
        while (at := next(numbers)) < args.uploads:
            upload = make_upload(images, random.Random(f"{args.seed} {at}"))
            connection = Connection(url, args.limit)
            half_close = not upload.whole and at % 10 != 0
            asked.append((upload, await connection.ask(upload.raw, half_close=half_close)))
            connection.close()
            if len(asked) % 500 == 0:
                print(f"{len(asked)} uploads: {statuses([answer for _, answer in asked])}", flush=True)

    await asyncio.gather(*(one() for _ in range(args.connections)))
    return asked


def is_server_error(upload: Upload, answer: Answer) -> bool:
    if answer.status < 500 or (answer.status == 504 and not upload.whole):
        return False
    return answer.status != 503 or b'"busy"' not in answer.body


def good_answers(url: str, content: bytes) -> list[Any]:
    """What every endpoint says of a photo, without what differs from time to time."""

    async def ask() -> list[Answer]:
        paths = [f"{path}?style=stained_glass" if path == "/v1/stylize" else path for path in ENDPOINTS]
        return [await Connection(url).ask(post(path, content)) for path in paths]

    found = []
    for answer in asyncio.run(ask()):
        assert answer.status == 200, (answer.status, answer.body[:300])
        if answer.headers["content-type"] != "application/json":
            found.append(answer.body)
            continue
        kept = {name: value for name, value in answer.json().items() if name not in ("timings", "request_id")}
        found.append(kept)
    return found


def memory_mb(processes: Any) -> float:
    found = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found += process.memory_info().rss
    return found / 2**20


async def watched(url: str, args: argparse.Namespace, images: dict[str, bytes]) -> tuple[list[Asked], float]:
    """Answers, and the largest memory of the replicas meanwhile."""
    sending, peak, processes = asyncio.create_task(send_all(url, args, images)), 0.0, replicas()
    while not sending.done():
        peak = max(peak, memory_mb(processes))
        await asyncio.wait((sending,), timeout=1)
    return sending.result(), peak


def summary(asked: list[Asked]) -> dict[str, Any]:
    errors = [(upload, answer) for upload, answer in asked if is_server_error(upload, answer)]
    shown = [f"{upload.kind}: {answer.status} {answer.body[:200]!r} {upload.raw[:200]!r}" for upload, answer in errors]
    unanswered = Counter(upload.kind for upload, answer in asked if answer.status == 0 and upload.whole)
    hangs = Counter(upload.kind for upload, answer in asked if answer.status == -1)
    kinds = sorted({upload.kind for upload, _ in asked})
    return {
        "uploads": len(asked),
        "statuses": statuses([answer for _, answer in asked]),
        "by_kind": {kind: statuses([answer for upload, answer in asked if upload.kind == kind]) for kind in kinds},
        "server_errors": len(errors),
        "errors": shown[:MOST_SHOWN],
        "unanswered": dict(unanswered),
        "hangs": dict(hangs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=60.0)
    args = parser.parse_args()
    known = people(PEOPLE)
    good = next(iter(known.values()))[1].read_bytes()
    with folder() as path, cluster(num_cpus=4):
        options = make_models(path) | {"painter": "default", "timeout_s": TIMEOUT_SECONDS}
        with service(**options) as url:
            with Client(url) as client:
                enroll(client, known)
            good_answers(url, good)  # warms up
            answers, before = good_answers(url, good), replicas()
            began = memory_mb(before)
            asked, peak = asyncio.run(watched(url, args, encoded(good)))
            after = replicas()
            tail = {
                "restarts": len({p.pid for p in after} ^ {p.pid for p in before}),
                "still_right": still_right(answers, good_answers(url, good)),
                "peak_mb": round(peak),
                "grown_mb": round(memory_mb(after) - began),
            }
    print(json.dumps(summary(asked) | tail))


def still_right(before: list[Any], after: list[Any]) -> bool:
    """The same, but that requests now may have shared a batch with others."""
    plain = [[{**a, "batch_size": 0} if isinstance(a, dict) else a for a in answers] for answers in (before, after)]
    return plain[0] == plain[1]


if __name__ == "__main__":
    main()
