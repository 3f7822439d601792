"""Readers and writers on two replicas of a gallery: no search misses who was enrolled, or finds who was erased.

    python benchmarks/consistency.py [--seconds 120] [--record URL]

A PostgreSQL server of its own unless --record names a database. Two processes each have the gallery open, as replicas
of the service do. Two writers enrol and erase people and four readers look for them, every call on a random replica.
A search that begins after an enrolment was acknowledged, and ends before its erasure is asked for, must find the
person; one that begins after an erasure was acknowledged must not. Last line, one JSON object: violations, searches,
enrolments, erasures, and the milliseconds that they took (p50, p99).
"""

import argparse
import hashlib
import json
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Client, Listener
from pathlib import Path

import numpy as np

from cnnray.config import RecordConfig
from cnnray.infer.gallery.gallery import Gallery, create_gallery
from cnnray.infer.gallery.record import Record
from cnnray.infer.gallery.results import Person
from cnnray.infer.gallery.rows import Contract, NewFace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.postgres import Server

SIZE = 128
CONTRACT = Contract("synthetic", SIZE, 0.9)
READERS, WRITERS, REPLICAS = 4, 2, 2
PEOPLE = 2000  # at once, about
spawn = multiprocessing.get_context("spawn")


def vector(key):
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    found = np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)
    return found / np.linalg.norm(found)


# ---- a replica -------------------------------------------------------------------------------------------------------


def replica(url, address, ready):
    gallery = Gallery.open(Record(url), "g", RecordConfig(record=url))

    def serve(connection):
        while True:
            try:
                verb, key = connection.recv()
            except EOFError:
                return
            if verb == "search":
                answer = gallery.recognize(vector(key)[None])
                match = answer.matches[0]
                connection.send((match.identity.key if match.identity else None, answer.version))
            elif verb == "enroll":
                face = NewFace(vector(key), hashlib.sha256(key.encode()).hexdigest())
                connection.send(gallery.enroll(Person(key=key, faces=[face])).version)
            else:
                connection.send(gallery.erase(key).version)

    with Listener(address, "AF_UNIX", backlog=32) as listener:
        ready.set()
        while True:
            threading.Thread(target=serve, args=(listener.accept(),), daemon=True).start()


# ---- the truth -------------------------------------------------------------------------------------------------------


class Truth:
    """Who was acknowledged, with versions; who is being erased, who is gone."""

    def __init__(self):
        self.lock = threading.Lock()
        self.there, self.gone = {}, {}
        self.times = {"search": [], "enroll": [], "erase": []}
        self.violations = []

    def pick(self, rng):
        with self.lock:
            pool = self.gone if self.gone and rng.random() < 0.3 else self.there
            if not pool:
                return None
            # the newest are the likeliest to be missed
            keys = list(pool)[-50:] if rng.random() < 0.5 else list(pool)
            key = rng.choice(keys)
            return key, pool is self.there, pool[key]


class Connections:
    def __init__(self, addresses, truth, rng):
        self._all = [Client(address, "AF_UNIX") for address in addresses]
        self._truth, self._rng = truth, rng

    def ask(self, verb, key):
        began = time.perf_counter()
        connection = self._rng.choice(self._all)
        connection.send((verb, key))
        answer = connection.recv()
        self._truth.times[verb].append(1000 * (time.perf_counter() - began))
        return answer


def read(number, addresses, truth, until):
    rng = random.Random(f"reader {number}")
    ask = Connections(addresses, truth, rng).ask
    while time.monotonic() < until:
        picked = truth.pick(rng)
        if picked is None:
            time.sleep(0.01)
            continue
        key, there, version = picked
        found, seen = ask("search", key)
        with truth.lock:
            still = key in truth.there  # else its erasure was asked for meanwhile: both answers are right
        if (there and still and found != key) or (not there and found == key) or seen < version:
            truth.violations.append((key, there, found, version, seen))


def write(number, addresses, truth, until):
    rng = random.Random(f"writer {number}")
    ask = Connections(addresses, truth, rng).ask
    mine, at = [], 0
    while time.monotonic() < until:
        if mine and (rng.random() < 0.45 or len(mine) > PEOPLE // WRITERS):
            key = mine.pop(rng.randrange(len(mine)))
            with truth.lock:
                del truth.there[key]  # from here on it may or may not be found
            version = ask("erase", key)
            with truth.lock:
                truth.gone[key] = version
        else:
            key, at = f"{number}-{at}", at + 1
            version = ask("enroll", key)
            mine.append(key)
            with truth.lock:
                truth.there[key] = version


def run(url, seconds):
    record = Record(url)
    create_gallery(record, "g", CONTRACT)
    folder = tempfile.mkdtemp(prefix="cnnray-consistency-")
    addresses = [f"{folder}/{at}" for at in range(REPLICAS)]
    replicas = []
    for address in addresses:
        ready = spawn.Event()
        replicas.append(spawn.Process(target=replica, args=(url, address, ready), daemon=True))
        replicas[-1].start()
        assert ready.wait(60)
    truth, until = Truth(), time.monotonic() + seconds
    jobs = [(read, at) for at in range(READERS)] + [(write, at) for at in range(WRITERS)]
    threads = [threading.Thread(target=job, args=(at, addresses, truth, until)) for job, at in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in replicas:
        process.kill()
        process.join()
    record.verify_audit(record.get_gallery("g").token)
    record.close()
    return truth


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--record", default="")
    args = parser.parse_args()
    server = None if args.record else Server()
    try:
        truth = run(args.record or server.create("consistency"), args.seconds)
    finally:
        if server:
            server.close()
    for violation in truth.violations[:10]:
        print("violation: key, was there, found, version, seen:", violation)
    answer = {"violations": len(truth.violations), "people": len(truth.there)}
    for verb, times in truth.times.items():
        low, high = np.percentile(times, [50, 99])
        answer |= {f"{verb}s": len(times), f"{verb}_p50_ms": round(low, 2), f"{verb}_p99_ms": round(high, 2)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
