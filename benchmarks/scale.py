"""What a run costs as it grows: time and the driver's memory over the number of images.

    python benchmarks/scale.py [--images 1000 10000 50000 200000]       about 20 minutes on two cores

Tiny JPEGs of 32 px, each with bytes of its own, through a tiny network: what is left are the costs of the way, which
nothing can hide behind. `features build` with all it does (listing, units, storing, verifying), each size in a process
of its own on a fresh local cluster. Last line, one JSON object:

    marginal_cost_exponent     slope of log(seconds) over log(images), from 10,000 on (target 1.05)
    fixed_s, ms_per_image      of the line through all sizes, by least squares in proportion
    driver_bytes_per_image     growth of the driver's peak memory from 10,000 on (target 1,024)
    stored_bytes_per_image     of the run folder
    runs                       images, seconds, driver_mb, images_per_s of each size
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from cnnray.config import FeaturesConfig
from cnnray.data.features import build_features

CONFIG = FeaturesConfig(backbone="residual:size=32,width=0.25", weights="none", compile=False, reuse="none", split="")
FROM = 10_000  # images, below which the fixed cost hides the slope
PER_FOLDER = 1000


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


def run_one(count: int) -> None:
    """In a process of its own: one size; prints its row."""
    with tempfile.TemporaryDirectory(prefix="cnnray-scale-") as folder:
        photos, out = Path(folder, "photos"), Path(folder, "run")
        write_photos(photos, count)
        started = time.monotonic()
        manifest = build_features(str(photos), str(out), CONFIG)
        seconds = time.monotonic() - started
        assert manifest["features"] == count, manifest
        stored = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row = {"images": count, "seconds": round(seconds, 2), "driver_mb": round(peak, 1), "stored_mb": stored / 2**20}
    print(json.dumps(row | {"images_per_s": round(count / seconds, 1)}))


def measure(count: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--one", str(count)], stdout=subprocess.PIPE, text=True, check=True
    )
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(row, file=sys.stderr, flush=True)
    return row


def summary(runs: list[dict[str, float]]) -> dict[str, object]:
    images, seconds = (np.array([run[name] for run in runs]) for name in ("images", "seconds"))
    # in proportion: else the largest size alone would decide
    fixed, each = np.linalg.lstsq(np.stack([1 / seconds, images / seconds], 1), np.ones(len(runs)), rcond=None)[0]
    large = [run for run in runs if run["images"] >= FROM]
    many, took, memory = (np.array([run[name] for run in large]) for name in ("images", "seconds", "driver_mb"))
    return {
        "marginal_cost_exponent": round(float(np.polyfit(np.log(many), np.log(took), 1)[0]), 3),
        "fixed_s": round(float(fixed), 2),
        "ms_per_image": round(float(1000 * each), 3),
        "driver_bytes_per_image": round(float(np.polyfit(many, memory, 1)[0] * 2**20)),
        "stored_bytes_per_image": round(runs[-1]["stored_mb"] * 2**20 / runs[-1]["images"]),
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 50_000, 200_000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(args.one)
    else:
        print(json.dumps(summary([measure(count) for count in args.images])))


if __name__ == "__main__":
    main()
