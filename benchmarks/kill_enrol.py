"""Kill processes that write to a gallery with SIGKILL, again and again: nothing acknowledged is lost.

    python benchmarks/kill_enrol.py [--kills 200] [--seed 0] [--record URL]         about 5 minutes on two cores

Two processes with two threads each enrol and erase people, and write snapshots of the index. Both are killed at a
random moment; what they had begun and what they had been told is in journals. Then the record is opened again, and
every request that was not answered is sent a second time under its key. Last line, one JSON object: lost (answered, but
not in the record), ghosts (in the record, but erased or never asked for), duplicates (faces of one photo and person),
index_differs (restarts after which the index was not the record), broken_audits, and how long the restarts took.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from cnnray.config import RecordConfig
from cnnray.errors import GalleryError, RecordError
from cnnray.infer.gallery.gallery import Gallery, create_gallery
from cnnray.infer.gallery.means import mean_embeddings
from cnnray.infer.gallery.record import Record
from cnnray.infer.gallery.results import Person
from cnnray.infer.gallery.rows import Contract, NewFace

SIZE = 32
CONTRACT = Contract("synthetic", SIZE, 0.99)
EXACT_UNTIL = 300  # the index is an approximate one, with snapshots, after some kills
WRITERS, THREADS = 2, 2
fork = multiprocessing.get_context("fork")


def person(key):
    """Always the same faces for a key."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    rng, faces = np.random.default_rng(seed), []
    for at in range(1 + seed % 3):
        vector = rng.normal(size=SIZE).astype(np.float32)
        faces.append(NewFace(vector / np.linalg.norm(vector), hashlib.sha256(f"{key} {at}".encode()).hexdigest()))
    return Person(key=key, faces=faces, request_key=f"enroll {key}", accept_conflict=True)


def open_gallery(args):
    record = Record(args.record)
    config = RecordConfig(record=args.record, snapshots=args.snapshots, exact_until=EXACT_UNTIL)
    return Gallery.open(record, "g", config)


def write(args, cycle, number):
    """The process that is killed."""
    gallery = open_gallery(args)

    def work(thread):
        name, rng, mine = f"{cycle}-{number}-{thread}", random.Random(f"{cycle} {number} {thread}"), []
        journal = os.open(f"{args.journals}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for at in range(100_000):
            if mine and rng.random() < 0.4:
                key, verb, call = mine.pop(rng.randrange(len(mine))), "erase", gallery.erase
            else:
                key, verb, call = f"{name}-{at}", "enroll", lambda key: gallery.enroll(person(key))
                mine.append(key)
            os.write(journal, f"begin {verb} {key}\n".encode())
            call(key)
            os.write(journal, f"done {verb} {key}\n".encode())
            if rng.random() < 0.05:
                gallery.save_snapshot()

    threads = [threading.Thread(target=work, args=(at,)) for at in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def read_journals(folder):
    """Keys by what is known of them: there, gone, and the requests that were not answered."""
    there, gone, open_ = set(), set(), []
    for path in sorted(Path(folder).iterdir()):
        lines = [line.split() for line in path.read_text().splitlines()]
        for at, (state, verb, key) in enumerate(lines):
            if state == "done":
                (there if verb == "enroll" else gone).add(key)
            elif at == len(lines) - 1:
                open_.append((verb, key))
        path.unlink()
    return there, gone, open_


def check(args, truth, results):
    """After a kill: open, compare, send again what was not answered; in a process of its own."""
    began = time.perf_counter()
    gallery = open_gallery(args)
    gallery.recognize(person("nobody").faces[0].embedding_D[None])
    ready = time.perf_counter() - began
    there, gone, unanswered = read_journals(args.journals)
    truth |= there
    truth -= gone
    unsure = {key for _, key in unanswered}
    found = Counter()
    keys = keys_by_id(gallery)
    lost, ghosts = truth - set(keys.values()) - unsure, set(keys.values()) - truth - unsure
    for verb, key in unanswered:
        if verb == "enroll":
            gallery.enroll(person(key))
            truth.add(key)
        else:
            try:
                gallery.erase(key)
            except GalleryError as error:
                assert error.code == "no_identity", error
            truth.discard(key)
    keys = keys_by_id(gallery)
    lost |= truth - set(keys.values())
    ghosts |= set(keys.values()) - truth
    with gallery.record.load_faces(gallery.row.id) as (version, _, blocks):
        blocks = list(blocks)
    ids, owners, vectors = (np.concatenate([block[at] for block in blocks]) for at in range(3))
    points = mean_embeddings(owners, vectors)
    same = gallery.index.version == version and all(map(np.array_equal, gallery.index.points(), points))
    for owner, vector in zip(owners.tolist(), vectors, strict=True):
        found[owner, vector.tobytes()] += 1
    faces = {key: len(person(key).faces) for key in truth}
    counts = Counter(keys[owner] for owner in owners.tolist())
    try:
        gallery.record.verify_audit(gallery.row.token)
        broken = 0
    except RecordError:
        broken = 1
    results.put(
        {
            "truth": truth,
            "lost": len(lost) + sum(max(0, faces[key] - counts[key]) for key in truth - lost),
            "ghosts": len(ghosts),
            "duplicates": sum(count - 1 for count in found.values()),
            "index_differs": int(not same),
            "broken_audits": broken,
            "restart_s": ready,
            "unanswered": len(unanswered),
            "kind": gallery.index.describe()["kind"],
            "faces": len(ids),
        }
    )


def keys_by_id(gallery):
    keys, cursor = {}, 0
    while True:
        people, cursor = gallery.people(cursor, 1000)
        keys |= {one.id: one.key for one in people}
        if not cursor:
            return keys


def one_kill(args, cycle, truth, rng):
    writers = [fork.Process(target=write, args=(args, cycle, number)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    deadline = time.monotonic() + 30
    while len(list(Path(args.journals).iterdir())) < WRITERS * THREADS and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.6))
    for writer in writers:
        assert writer.is_alive(), f"writer ended by itself: {writer.exitcode}"
        os.kill(writer.pid, signal.SIGKILL)
    for writer in writers:
        writer.join()
    results = fork.Queue()
    checker = fork.Process(target=check, args=(args, truth, results))
    checker.start()
    found = results.get(timeout=120)
    checker.join()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", default="", help="a PostgreSQL URL; without it a SQLite file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cnnray-kill-enrol-") as folder:
        args.record, args.snapshots = args.record or f"{folder}/g.db", f"{folder}/snapshots"
        args.journals = f"{folder}/journals"
        os.makedirs(args.journals)
        record = Record(args.record)
        create_gallery(record, "g", CONTRACT)
        record.close()
        rng, truth, rows = random.Random(args.seed), set(), []
        for cycle in range(args.kills // WRITERS):
            rows.append(one_kill(args, cycle, truth, rng))
            truth = rows[-1].pop("truth")
            if cycle % 10 == 9:
                print(f"{WRITERS * len(rows)} kills: {rows[-1]}", flush=True)
    names = ("lost", "ghosts", "duplicates", "index_differs", "broken_audits", "unanswered")
    answer = {"kills": WRITERS * len(rows)} | {name: sum(row[name] for row in rows) for name in names}
    times = [row["restart_s"] for row in rows]
    kinds = dict(Counter(row["kind"] for row in rows))
    answer |= {"restart_median_s": round(statistics.median(times), 3), "restart_max_s": round(max(times), 3)}
    print(json.dumps(answer | {"kinds": kinds, "people": len(truth), "faces": rows[-1]["faces"]}))


if __name__ == "__main__":
    main()
