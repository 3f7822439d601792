"""The service at five times what it can do: it goes on answering as fast, and is itself again when the load ends.

    python benchmarks/overload.py [--seconds 30] [--times 5] [--ramp-seconds 5]      about 2 minutes on two cores

A classifier. First connections that ask in turn, more and more of them, find its peak; then requests come at five times
that rate whatever is answered, from the same machine, whose cores the load takes too. Last line, one JSON object:

    peak_rps            most requests/s of the ramp; `ramp`, requests/s by connections
    offered_rps         what was asked for, and sent_rps what this machine managed to send
    goodput             200s per second of the load over the peak (target 0.9); accepted_rps, 200s per second
    p50_ms, p99_ms      of those that were accepted, from when each was to be sent
    bound_ms            what the queues imply for these: places in them over the peak
    refused_share       503 of all; without_retry_after, those of them without the header (target 0)
    refusal_p99_ms      of these
    others              answers of any other status, by status (target none); 0: no answer, -1: none in time
    alone_ms            median of requests one by one before the load
    recovery_s          from the last request that was sent until one alone takes at most 1.5 times that (target 5)
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import uvloop
from load import Answer, Connection, ask_at_rate, ask_in_turn, percentile_ms, post, rate_of, statuses
from served import cluster, folder, make_classifier, photos, service

from cnnray.config import ServeConfig

RAMP = (1, 8, 16, 32, 64, 128)
ALONE, AS_FAST = 20, 1.5
_RECOVERY_SECONDS = 60.0


async def ask_alone(url: str, requests: Sequence[bytes]) -> float:
    """Median seconds of one request after the other."""
    connection = Connection(url)
    times = [(await connection.ask(request)).seconds for request in requests[:ALONE]]
    connection.close()
    return statistics.median(times)


async def recover(url: str, request: bytes, wait: float, alone: float) -> float:
    """Seconds from `wait` seconds from now until one request is as fast as it was; the limit where none is."""
    await asyncio.sleep(wait)
    began, connection = time.perf_counter(), Connection(url)
    while time.perf_counter() < began + _RECOVERY_SECONDS:
        answer = await connection.ask(request)
        if answer.status == 200 and answer.seconds <= AS_FAST * alone:
            break
        await asyncio.sleep(0.1)
    connection.close()
    return time.perf_counter() - began


async def overload(url: str, requests: Sequence[bytes], rate: float, seconds: float, alone: float) -> Any:
    """Answers, when the load began, and the seconds of the recovery."""
    began = time.perf_counter()
    load, recovery = ask_at_rate(url, requests, rate, seconds), recover(url, requests[0], seconds, alone)
    answers, recovered = await asyncio.gather(load, recovery)
    return answers, began, recovered


def find_peak(url: str, requests: Sequence[bytes], seconds: float) -> dict[int, float]:
    """Requests per second by connections."""
    found = {}
    for connections in RAMP:
        began = time.perf_counter()
        answers = uvloop.run(ask_in_turn(url, requests, connections, seconds))
        found[connections] = round(rate_of(answers, began, seconds), 1)
        print(f"{connections} connections: {found[connections]} requests/s, {statuses(answers)}", flush=True)
    return found


def figures(answers: Sequence[Answer], began: float, seconds: float, peak: float) -> dict[str, Any]:
    good, refused = ([answer for answer in answers if answer.status == status] for status in (200, 503))
    rate = rate_of(answers, began, seconds)
    others = [answer for answer in answers if answer.status not in (200, 503)]
    return {
        "goodput": round(rate / peak, 3),
        "accepted_rps": round(rate, 1),
        "p50_ms": round(percentile_ms(good, 50), 1),
        "p99_ms": round(percentile_ms(good, 99), 1),
        "bound_ms": round(1000 * (ServeConfig.max_ongoing + ServeConfig.max_queued) / peak, 1),
        "refused_share": round(len(refused) / len(answers), 3),
        "without_retry_after": sum("retry-after" not in answer.headers for answer in refused),
        "refusal_p99_ms": round(percentile_ms(refused, 99), 1),
        "others": statuses(others),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--times", type=float, default=5)
    parser.add_argument("--ramp-seconds", type=float, default=5)
    args = parser.parse_args()
    requests = [post("/v1/classify", content) for content in photos("grocery/val", 64)]
    with folder() as path, cluster(num_cpus=2), service(classifier=make_classifier(path)) as url:
        uvloop.run(ask_in_turn(url, requests, 8, 2))  # warms up
        ramp = find_peak(url, requests, args.ramp_seconds)
        peak = max(ramp.values())
        alone = uvloop.run(ask_alone(url, requests))
        rate = args.times * peak
        answers, began, recovered = uvloop.run(overload(url, requests, rate, args.seconds, alone))
    head = {"peak_rps": peak, "ramp": ramp, "offered_rps": round(rate, 1)}
    tail = {"alone_ms": round(1000 * alone, 1), "recovery_s": round(recovered, 2)}
    print(json.dumps(head | figures(answers, began, args.seconds, peak) | tail))


if __name__ == "__main__":
    main()
