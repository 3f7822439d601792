"""The service against what a user would write (benchmarks/plain_server.py), on the same cores with the same networks.

    [CNNRAY_PROXY=haproxy] python benchmarks/service.py [--compile] [--tasks NAME ...] [--connections 1 16 64]
                                                        [--seconds 10] [--rounds 3]

About 15 minutes on two cores. Photos of 250 to 640 px, every fourth of 1080p where objects are looked for or classes;
faces of LFW are looked for in a gallery of 20 people. The plain server runs in float32, ours as it does by default. In
turn (plain, ours, plain, ours, ...), medians over rounds; only one of the two is asked at a time. Last line, one JSON
object: `tasks`, by task

    agree               share of photos for which both answer the same class, number of objects (within 10 %), person
    overhead_ms         at one connection: median of our answer's time less `inference_ms` that it says (target 8), of
    queue_ms            which so much was spent in the queue that makes batches
    by_connections      for each number of connections:
        rps, plain_rps              requests answered per second
        throughput_ratio            ours over plain (target 3 at 16 connections)
        p50_ms, plain_p50_ms, p99_ms, plain_p99_ms
        p99_ratio                   ours over plain (target 1)
        batch_size                  mean of our answers'
        queue_ms, inference_ms      medians of ours: the rest of p50_ms went into proxy and ingress
        failed, plain_failed        requests without a 200

and of all tasks `throughput_ratio_16` (the least), `p99_ratio` and `overhead_ms` (the largest); `precision`, of ours.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import torch
from load import Answer, ask_in_turn, percentile_ms, post, rate_of
from served import GALLERY, cluster, enroll, folder, make_models, mixed_photos, people, service

from cnnray.client import Client
from cnnray.nn.device import native_precision
from cnnray.serve.app import ENVIRONMENT
from cnnray.serve.ports import free_port

PEOPLE = 20
START_SECONDS = 300
PATHS = {"classify": "/v1/classify", "detect": "/v1/detect", "recognize": f"/v1/galleries/{GALLERY}/recognize"}
MODELS = {"classify": ("classifier",), "detect": ("detector",), "recognize": ("faces", "record")}


def task_photos(task: str) -> list[bytes]:
    if task == "recognize":
        return [paths[1].read_bytes() for paths in people(PEOPLE).values()]
    return mixed_photos("grocery/val" if task == "classify" else "coco128/images")


@contextlib.contextmanager
def plain(models: dict[str, str]) -> Iterator[str]:
    port = free_port()
    words = ("--port", port, "--people", PEOPLE, "--classifier", models["classifier"], "--detector", models["detector"])
    command = [sys.executable, Path(__file__).with_name("plain_server.py"), *words]
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}  # as a user's
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, env=environment)
    try:
        deadline, url = time.monotonic() + START_SECONDS, f"http://127.0.0.1:{port}"
        while True:
            assert process.poll() is None and time.monotonic() < deadline, "the plain server did not start"
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{url}/docs", trust_env=False)
                break
            time.sleep(0.2)
        yield url
    finally:
        process.kill()
        process.wait()


# ---- figures ---------------------------------------------------------------------------------------------------------


def outcome(task: str, body: dict[str, Any]) -> Any:
    """Of an answer, what both must agree on."""
    if task == "classify":
        return body["label"]
    if task == "detect":
        return len((body["images"][0] if "images" in body else body)["objects"])
    faces = body["images"][0]["faces"] if "images" in body else body["faces"]
    names = [face["identity"] for face in faces if face["identity"]]
    return sorted(name["id"] if isinstance(name, dict) else name for name in names)


def agree(task: str, ours: Sequence[Answer], plains: Sequence[Answer]) -> float:
    """Of answers to the same requests in the same order."""
    pairs = [(outcome(task, a.json()), outcome(task, b.json())) for a, b in zip(ours, plains, strict=False)]
    same = [abs(a - b) <= 0.1 * max(a, b) if task == "detect" else a == b for a, b in pairs]
    return round(sum(same) / len(same), 3)


def ask(url: str, requests: Sequence[bytes], connections: int, seconds: float) -> tuple[list[Answer], dict[str, float]]:
    """Answers, and the figures of the round."""
    began = time.perf_counter()
    answers = asyncio.run(ask_in_turn(url, requests, connections, seconds))
    good = [answer for answer in answers if answer.status == 200]
    figures = {
        "rps": rate_of(answers, began, seconds),
        "p50_ms": percentile_ms(good, 50),
        "p99_ms": percentile_ms(good, 99),
        "failed": len(answers) - len(good),
    }
    return good, figures


def compare(urls: dict[str, str], requests: dict[str, list[bytes]], connections: int, args: argparse.Namespace) -> Any:
    """Medians over rounds of both, by connections; and our answers."""
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in urls}
    answers = []
    for _ in range(args.rounds):
        for name, url in urls.items():
            good, figures = ask(url, requests[name], connections, args.seconds)
            rounds[name].append(figures)
            answers += good if name == "ours" else []
    row = {"connections": connections}
    for name, figures in rounds.items():
        for key in ("rps", "p50_ms", "p99_ms"):
            prefix = "plain_" if name == "plain" else ""
            row[prefix + key] = round(statistics.median(figure[key] for figure in figures), 2)
        row[prefix + "failed"] = int(sum(figure["failed"] for figure in figures))
    row["throughput_ratio"] = round(row["rps"] / row["plain_rps"], 2) if row["plain_rps"] else None
    row["p99_ratio"] = round(row["p99_ms"] / row["plain_p99_ms"], 3)
    bodies = [answer.json() for answer in answers]
    row["batch_size"] = round(statistics.mean(body["batch_size"] for body in bodies), 1)
    for key in ("queue_ms", "inference_ms"):
        row[key] = round(statistics.median(body["timings"][key] for body in bodies), 2)
    return row, answers


def overhead(answers: Sequence[Answer]) -> dict[str, float]:
    """Of answers at one connection."""
    times = [(answer, answer.json()["timings"]) for answer in answers]
    return {
        "overhead_ms": round(statistics.median(1000 * a.seconds - t["inference_ms"] for a, t in times), 2),
        "queue_ms": round(statistics.median(t["queue_ms"] for _, t in times), 2),
    }


def run_task(task: str, models: dict[str, str], plain_url: str, args: argparse.Namespace) -> dict[str, Any]:
    contents = task_photos(task)
    with service(compile=args.compile, **{name: models[name] for name in MODELS[task]}) as url:
        if task == "recognize":
            with Client(url) as client:
                enroll(client, people(PEOPLE))
        requests = {
            "plain": [post(f"/{task}", content) for content in contents],
            "ours": [post(PATHS[task], content) for content in contents],
        }
        urls = {"plain": plain_url, "ours": url}
        first = {name: ask(urls[name], requests[name], 1, min(args.seconds, 5))[0] for name in urls}  # also warms up
        result: dict[str, Any] = {"agree": agree(task, first["ours"], first["plain"]), "by_connections": []}
        for connections in args.connections:
            row, answers = compare(urls, requests, connections, args)
            result |= overhead(answers) if connections == 1 else {}
            result["by_connections"].append(row)
            print(task, row, flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(PATHS), default=list(PATHS))
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    with folder() as path:
        models = make_models(path)
        with plain(models) as plain_url, cluster(num_cpus=2):
            tasks = {task: run_task(task, models, plain_url, args) for task in args.tasks}
    rows = [row for task in tasks.values() for row in task["by_connections"]]
    ratios = [row["throughput_ratio"] for row in rows if row["connections"] == 16]
    answer = {
        "throughput_ratio_16": min(ratios, default=None),
        "p99_ratio": max(row["p99_ratio"] for row in rows),
        "overhead_ms": max((task["overhead_ms"] for task in tasks.values() if "overhead_ms" in task), default=None),
        "precision": native_precision(torch.device("cpu")),
    }
    print(json.dumps(answer | {"tasks": tasks}))


if __name__ == "__main__":
    main()
