"""The index of a gallery against FAISS's flat index, which compares every face, on one core.

    python benchmarks/gallery.py [--identities 1000 10000 100000 1000000] [--dim 128] [--real 100000]

About ten minutes, most of it for building the largest twice, and 4 GB of memory. Each size is measured on

    clustered   unit vectors in 500 clusters (2,000 from 1,000,000 on); a probe has cosine 0.6 to its own
    real        up to --real identities: photos of LFW embedded by the default embedder, with noise of all photos'
                covariance; a probe differs from its own as two photos of a person do. Only with --dim 128

Claim, with 1,000,000 clustered: recall_at_1 at least 0.999, qps_ratio_vs_flat at least 15, p99_ms below 5,
bytes_per_identity at most 2.5 times the vector's 512. Last line, one JSON object: figures of the largest clustered
size, and of all under "sizes":

    recall_at_1         probes for which the index finds the same best identity as the flat index
    p50_ms, p99_ms      of one search
    qps, flat_qps       searches per second in batches of 1,000, in turn, medians
    bytes_per_identity  growth of the process's resident memory, or what the index counts itself where that is more
    load_s, build_s     all points put in, in blocks; structure chosen and trained
    save_s, restart_s   snapshot written; loaded, verified and first searched
    change_ms           one point replaced, median
    record_faces_per_s  from a SQLite record into an index
    record_ready_s      a gallery opened without a snapshot: read, built, snapshot written, first recognition
    ready_again_s       the same with the snapshot
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import psutil
from crowd import fill
from gallery_scores import embed

from cnnray.config import RecordConfig
from cnnray.infer.gallery.gallery import Gallery, create_gallery
from cnnray.infer.gallery.index import FaceIndex
from cnnray.infer.gallery.opening import load_index
from cnnray.infer.gallery.record import Record
from cnnray.infer.gallery.rows import Contract

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CNNRAY_DATA", ROOT.parent / "shared" / "data"))
ONE_CORE = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
BLOCK, PROBES, BATCH = 20_000, 2_000, 1_000
NOBODY = np.zeros(0, np.int64)


def unit(vectors):
    vectors = np.ascontiguousarray(vectors, np.float32)
    faiss.normalize_L2(vectors)
    return vectors


def clustered(count, dim, rng):
    """Faces, probes, and whose they are."""
    centres = unit(rng.standard_normal((2000 if count >= 1_000_000 else 500, dim)))
    faces = np.empty((count, dim), np.float32)
    for start in range(0, count, BLOCK):
        block = faces[start : start + BLOCK]
        noise = rng.standard_normal(block.shape, np.float32) / np.float32(np.sqrt(dim))
        block[:] = unit(centres[rng.integers(len(centres), size=len(block))] + noise)
    own = rng.integers(count, size=PROBES)
    return faces, unit(0.6 * faces[own] + 0.8 * unit(rng.standard_normal((PROBES, dim))))


def like_real(count, photos, people, rng):
    """Faces and probes, see above."""
    between = np.linalg.cholesky(np.cov(photos.T) + 1e-9 * np.eye(photos.shape[1]))
    means = np.stack([photos[people == person].mean(0) for person in range(people.max() + 1)])
    within = np.linalg.cholesky(np.cov((photos - means[people]).T) + 1e-9 * np.eye(photos.shape[1]))
    noise = rng.standard_normal((count, photos.shape[1])) @ between.T
    faces = unit(photos[rng.integers(len(photos), size=count)] + noise)
    own = faces[rng.integers(count, size=PROBES)]
    return faces, unit(own + np.sqrt(2) * rng.standard_normal((PROBES, photos.shape[1])) @ within.T)


def figures_of_the_record(faces):
    """People a second from a SQLite record into an index, and seconds until a gallery without a snapshot is ready."""
    with tempfile.TemporaryDirectory(prefix="cnnray-gallery-") as folder:
        record = Record(f"{folder}/g.db")
        create_gallery(record, "g", Contract("benchmark", faces.shape[1], 0.9))
        fill(record, "g", faces)
        row, config = record.get_gallery("g"), RecordConfig(record=f"{folder}/g.db")
        loading = statistics.median(timed(lambda: load_index(record, row, config))[1] for _ in range(3))
        opening = timed(lambda: Gallery.open(record, "g", config).recognize(faces[:1]))[1]
        again = timed(lambda: Gallery.open(record, "g", config).recognize(faces[:1]))[1]
        record.close()
    rate = round(len(faces) / loading)
    return {"record_faces_per_s": rate, "record_ready_s": round(opening, 2), "ready_again_s": round(again, 2)}


def timed(function):
    started = time.perf_counter()
    answer = function()
    return answer, time.perf_counter() - started


def filled(faces):
    """An index, and seconds to fill it in blocks, and to build it."""
    index, loading = FaceIndex(faces.shape[1]), time.perf_counter()
    for start in range(0, len(faces), BLOCK):
        ids = np.arange(start + 1, min(start + BLOCK, len(faces)) + 1)
        index.apply(1, ids, faces[start : start + BLOCK], NOBODY)
    loading = time.perf_counter() - loading
    return index, loading, timed(index.build)[1]


def singles(index, probes):
    """Milliseconds of each."""
    for probe in probes[:50]:
        index.search(probe[None], 1)
    return [1000 * timed(lambda probe=probe: index.search(probe[None], 1))[1] for probe in probes]


def changes(index, faces, count=50):
    """Milliseconds to replace one point, median."""
    ids = [np.array([face]) for face in range(1, count + 1)]
    return 1000 * statistics.median(
        timed(lambda one=one: index.apply(2, one, faces[one - 1], NOBODY))[1] for one in ids
    )


def restart(index, probes):
    """Seconds to save, and from the snapshot to the first answer."""
    contract = {"benchmark": "gallery"}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/snapshot"
        saving = timed(lambda: index.save(path, contract))[1]
        again = timed(lambda: FaceIndex.load(path, contract).search(probes[:1], 1))[1]
    return {"save_s": round(saving, 2), "restart_s": round(again, 2)}


def against_flat(index, faces, probes, rounds):
    flat = faiss.IndexFlatIP(faces.shape[1])
    flat.add(faces)
    faiss.omp_set_num_threads(1)
    best = flat.search(probes, 1)[1][:, 0] + 1
    found = index.search(probes, 1).identity_ids_NK[:, 0]
    seconds = {"qps": [], "flat_qps": []}
    for _ in range(rounds):
        seconds["qps"].append(timed(lambda: [index.search(part, 1) for part in np.split(probes, 2)])[1])
        seconds["flat_qps"].append(timed(lambda: [flat.search(part, 1) for part in np.split(probes, 2)])[1])
    rates = {name: len(probes) / statistics.median(times) for name, times in seconds.items()}
    return {
        "recall_at_1": float((found == best).mean()),
        "qps": round(rates["qps"]),
        "flat_qps": round(rates["flat_qps"]),
        "qps_ratio_vs_flat": round(rates["qps"] / rates["flat_qps"], 2),
    }


def measure(data, faces, probes, rounds):
    process = psutil.Process()
    before = process.memory_info().rss
    index, loading, building = filled(faces)
    about = index.describe()
    # a small index fits into memory that was freed before
    held = max(process.memory_info().rss - before, about["bytes_per_identity"] * len(faces))
    latencies = singles(index, probes)
    figures = {"data": data, "identities": len(faces), **against_flat(index, faces, probes, rounds)}
    figures |= {
        "p50_ms": round(float(np.percentile(latencies, 50)), 3),
        "p99_ms": round(float(np.percentile(latencies, 99)), 3),
        "bytes_per_identity": round(held / len(faces)),
        "bytes_ratio_vs_vector": round(held / faces.nbytes, 2),
        "load_s": round(loading, 2),
        "build_s": round(building, 2),
        **restart(index, probes),
        "change_ms": round(changes(index, faces), 3),
        **{name: about[name] for name in ("kind", "nprobe", "candidates", "refused")},
        "recall_at_build": about["recall"],
        **figures_of_the_record(faces),
    }
    print(json.dumps(figures), file=sys.stderr, flush=True)
    return figures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--identities", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--real", type=int, default=100_000, help="largest size with real embeddings; 0 is none")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if ONE_CORE.items() - os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_CORE)  # libraries read it once
    sizes, real = [], args.dim == 128 and args.real >= min(args.identities)
    photos = None
    if real:
        embeddings, names = embed(DATA / "lfw_dev")
        photos = embeddings, np.unique(names, return_inverse=True)[1]
    for count in sorted(args.identities):
        if real and count <= args.real:
            sizes.append(measure("real", *like_real(count, *photos, np.random.default_rng(1)), args.rounds))
        sizes.append(measure("clustered", *clustered(count, args.dim, np.random.default_rng(0)), args.rounds))
    print(json.dumps({**sizes[-1], "dim": args.dim, "sizes": sizes}))


if __name__ == "__main__":
    main()
