"""What a run costs as it grows, and what that predicts: images, identities, workers.

    python benchmarks/scale.py [--parts images identities workers] [--images 1000 10000 50000 200000]
                               [--identities 1000 10000 100000 1000000] [--workers 1 2 4 8]    about 30 minutes

`images`: tiny JPEGs of 32 px, each with bytes of its own, through a tiny network: what is left are the costs of the
way, which nothing can hide behind. `features build` with all it does (listing, units, storing, verifying), each size in
a process of its own on a fresh local cluster.

    marginal_cost_exponent     slope of log(seconds) over log(images), from 10,000 on (target 1.05)
    fixed_s, ms_per_image      of the line through all sizes, by least squares in proportion
    index_ms_per_image         of which the driver lists the images before anything else is done
    driver_bytes_per_image     growth of the driver's peak memory from 10,000 on (target 1,024)
    stored_bytes_per_image     of the run folder

`identities`: an index of so many people, of 128 numbers each; `bytes_per_identity`, `build_s`, `search_ms` (median),
`changes` as in benchmarks/gallery.py.

`workers`: units of 256 images that take each worker half a second without any work, two at once as always: what is
left is how Ray and the driver hand them out. `efficiency` is the time that the waiting alone takes over the time that
it took; `driver_ms_per_unit` is the driver's processor time.

Last line, one JSON object: the parts, and `predicted`: 10^9 images on 100 GPUs, 10^8 identities, by these figures.
"""

import argparse
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from cnnray import cluster
from cnnray.config import FeaturesConfig
from cnnray.data.actors import ActorPlan
from cnnray.data.feature_store import Outputs
from cnnray.data.features import build_features
from cnnray.data.pipelines import run_units
from cnnray.data.runs import RunFolder
from cnnray.data.units import LARGE_UNIT_ROWS, UNIT_ROWS, load_index

CONFIG = FeaturesConfig(backbone="residual:size=32,width=0.25", weights="none", compile=False, reuse="none", split="")
FROM = 10_000  # images, below which the fixed cost hides the slope
PER_FOLDER = 1000
WAIT_S, UNITS_EACH = 0.5, 40  # of a worker
DIM = 128
GPUS, GPU_RATE = 100, 2000  # images per second of one, of a small network


# ---- images ----------------------------------------------------------------------------------------------------------


def write_photos(folder: Path, count: int) -> None:
    """JPEGs that differ in a comment: one is encoded, all others are made from its bytes."""
    held = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(held, "JPEG")
    content = held.getvalue()
    for number in range(count):
        place = folder / f"class-{number // PER_FOLDER:04d}" / f"{number:07d}.jpg"
        if number % PER_FOLDER == 0:
            place.parent.mkdir(parents=True)
        comment = b"%016d" % number
        place.write_bytes(content[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + content[2:])


def one_run(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="cnnray-scale-") as folder:
        photos, out = Path(folder, "photos"), Path(folder, "run")
        write_photos(photos, count)
        cluster.connect()
        started = time.monotonic()
        load_index(RunFolder.open(f"{folder}/listed", CONFIG, "features"), str(photos), CONFIG)
        listed = time.monotonic()
        manifest = build_features(str(photos), str(out), CONFIG)
        seconds = time.monotonic() - listed
        assert manifest["features"] == count, manifest
        stored = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "images": count, "seconds": round(seconds, 2), "index_s": round(listed - started, 2),
        "driver_mb": round(peak, 1), "stored_mb": round(stored / 2**20, 1),
    }  # fmt: skip


def images_of(runs: list[dict[str, float]]) -> dict[str, Any]:
    images, seconds = (np.array([run[name] for run in runs]) for name in ("images", "seconds"))
    # in proportion: else the largest size alone would decide
    fixed, each = np.linalg.lstsq(np.stack([1 / seconds, images / seconds], 1), np.ones(len(runs)), rcond=None)[0]
    large = [run for run in runs if run["images"] >= FROM]
    many, took, memory = (np.array([run[name] for run in large]) for name in ("images", "seconds", "driver_mb"))
    last = runs[-1]
    return {
        "marginal_cost_exponent": round(float(np.polyfit(np.log(many), np.log(took), 1)[0]), 3),
        "fixed_s": round(float(fixed), 2),
        "ms_per_image": round(float(1000 * each), 3),
        "index_ms_per_image": round(1000 * last["index_s"] / last["images"], 4),
        "driver_bytes_per_image": round(float(np.polyfit(many, memory, 1)[0] * 2**20)),
        "stored_bytes_per_image": round(last["stored_mb"] * 2**20 / last["images"]),
        "runs": runs,
    }


# ---- identities ------------------------------------------------------------------------------------------------------


def one_gallery(count: int) -> dict[str, float]:
    import psutil
    from gallery import changes, clustered, filled, singles

    faces, probes = clustered(count, DIM, np.random.default_rng(0))
    before = psutil.Process().memory_info().rss
    index, load_s, build_s = filled(faces)
    held = psutil.Process().memory_info().rss - before
    return {
        "identities": count, "load_s": round(load_s, 2), "build_s": round(build_s, 2),
        "search_ms": round(statistics.median(singles(index, probes[:300])), 3),
        "change_ms": round(changes(index, faces), 3), "bytes_per_identity": round(held / count),
    }  # fmt: skip


# ---- workers ---------------------------------------------------------------------------------------------------------


class Waiting:
    """A stage that works on nothing for a while."""

    def __init__(self, outputs: Outputs) -> None:
        pass

    def __call__(self, unit: pa.Table) -> pa.Table:
        time.sleep(WAIT_S)
        return pa.table({"images": [unit.num_rows]})


def as_it_is(unit: pa.Table) -> pa.Table:
    return unit


def one_cluster(count: int) -> dict[str, float]:
    import ray

    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=2 * count, object_store_memory=200 * 2**20, **quiet)
    ids = pa.table({"id": [f"{number:08d}" for number in range(UNIT_ROWS * UNITS_EACH * count)]})
    units = [ids.slice(at, UNIT_ROWS) for at in range(0, ids.num_rows, UNIT_ROWS)]
    with tempfile.TemporaryDirectory(prefix="cnnray-scale-") as folder:
        rows = run_units(units, as_it_is, Waiting, {"outputs": Outputs(folder)}, ActorPlan(count, 1, 0, 1))
        for _ in range(2 * count):  # all workers have started
            next(rows)
        began, cpu = time.monotonic(), time.process_time()
        left = sum(1 for _ in rows)
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    return {
        "workers": count, "units": left, "seconds": round(seconds, 2),
        "driver_ms_per_unit": round(1000 * cpu / left, 2),
        "efficiency": round(left * WAIT_S / (2 * count) / seconds, 3),
    }  # fmt: skip


# ---- all -------------------------------------------------------------------------------------------------------------

ONE = {"images": one_run, "identities": one_gallery, "workers": one_cluster}


def predict(parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the lines give far out of where they were measured: where the first wall stands, not a promise."""
    told: dict[str, Any] = {}
    if images := parts.get("images"):
        many = 10**9
        told |= {
            "images": many,
            "listing_hours": many * images["index_ms_per_image"] / 3.6e6,
            "driver_gb": many * images["driver_bytes_per_image"] / 2**30,
            "stored_tb": many * images["stored_bytes_per_image"] / 2**40,
            "gpu_hours": many / GPU_RATE / 3600,
            f"hours_on_{GPUS}_gpus": many / GPU_RATE / 3600 / GPUS,
        }
    if workers := parts.get("workers"):
        per_second = 1000 * LARGE_UNIT_ROWS / workers["runs"][-1]["driver_ms_per_unit"]
        told |= {"driver_images_per_s": per_second, "driver_feeds_gpus": per_second / GPU_RATE}
    if galleries := parts.get("identities"):
        last = galleries["runs"][-1]
        told |= {"identities": 10**8, "index_gb": 10**8 * last["bytes_per_identity"] / 2**30}
        told |= {"build_hours": 10**8 / last["identities"] * last["build_s"] / 3600}
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in told.items()}


def measure(part: str, count: int) -> dict[str, float]:
    """One size, in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", part, str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    said = [line for line in done.stdout.splitlines() if line.startswith("{")]  # Ray says things at its end
    row: dict[str, float] = json.loads(said[-1])
    print(row, file=sys.stderr, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=ONE, default=list(ONE))
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 50_000, 200_000])
    parser.add_argument("--identities", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(ONE[options.one[0]](int(options.one[1]))))
        return
    parts: dict[str, dict[str, Any]] = {}
    for part in options.parts:
        runs = [measure(part, count) for count in getattr(options, part)]
        parts[part] = images_of(runs) if part == "images" else {"runs": runs}
    print(json.dumps(parts | {"predicted": predict(parts)}))


if __name__ == "__main__":
    main()
