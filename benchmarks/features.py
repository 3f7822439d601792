"""`cnnray features build` against the script that a user would write, on the same images, weights and cores.

    python benchmarks/features.py [--rounds 3] [--large 20000]      about 25 minutes on two cores, quiet

Runs alternate, every run is a process of its own, medians are compared. The last line is one JSON object:

    ratio_vs_plain       steady-state images/s over the plain script's (benchmarks/plain_features.py)
    min_cosine           smallest cosine between stored features and the plain script's fp32 features, over all images
    fraction_of_forward  steady-state images/s over the best forward pass alone, on tensors in memory
    ratio_with_startup   wall time of the whole command at --large images (the manifest repeated, nothing reused)
                         against the plain script's: its start-up plus its steady rate, both measured
    rss_1k, rss_20k      peak resident memory in MiB of driver and workers, at 1,000 and --large images
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from cnnray.data.feature_store import feature_array, iter_parts

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CNNRAY_DATA", ROOT.parent / "shared" / "data")) / "grocery"
PLAIN_IMAGES = 640


def write_manifest(path, count):
    """`count` rows over the training images, again and again, each row with an id of its own."""
    with open(DATA / "train.csv") as file:
        rows = list(csv.DictReader(file))
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "label"])
        for at in range(count):
            row = rows[at % len(rows)]
            writer.writerow([f"{at:06d}", DATA / row["path"], row["fine"]])


class PeakMemory(threading.Thread):
    """Samples the resident memory of a process and its Python descendants: the driver and Ray's workers."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.process, self.peak, self.ended = psutil.Process(pid), 0, threading.Event()

    def run(self):
        while not self.ended.wait(0.25):
            total = 0
            for process in [self.process, *self._children()]:
                try:
                    memory = process.memory_info()
                    total += memory.rss - memory.shared  # the object store is shared: it would count in every process
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)

    def _children(self):
        try:
            found = self.process.children(recursive=True)
            return [p for p in found if p.name().startswith(("ray::", "python", "cnnray"))]
        except psutil.Error:
            return []


def run_cnnray(manifest, out):
    """One command as users run it: wall seconds, steady images/s, peak MiB."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "cnnray", "features", "build", str(manifest), "--out", str(out), "--reuse", "none"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    memory = PeakMemory(process.pid)
    memory.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - began
    memory.ended.set()
    if process.returncode:
        raise SystemExit(errors)
    return {"seconds": seconds, "images_per_s": steady_rate(out), "rss": memory.peak / 2**20}


def steady_rate(out):
    """Images/s by the slope of stored rows over the times at which the parts were written."""
    parts = sorted((path.stat().st_mtime, path) for path in (Path(out) / "features").iterdir())
    import pyarrow.parquet as pq

    rows = np.cumsum([pq.read_metadata(path).num_rows for _, path in parts])
    times = np.array([mtime for mtime, _ in parts])
    # the last parts are written while cores run out of work, the first while the network still loads
    return float(np.polyfit(times[1:-1], rows[1:-1], 1)[0])


def run_plain(manifest, out, limit):
    command = [sys.executable, str(ROOT / "benchmarks/plain_features.py"), str(manifest), str(out), str(limit)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


FORWARD = """
import json, sys, time, torch
from concurrent.futures import ThreadPoolExecutor
from cnnray.infer.embed import Embedder
from cnnray.nn.backbones import build_backbone, build_extractor
threads, batch = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1 if threads > 1 else 2)
backbone = build_backbone("efficientnet_lite0", "default")
embedder = Embedder(build_extractor(backbone, "", "avg"), 224)
embedder.batch_size = batch
images = torch.randint(0, 256, (64, 3, 224, 224), dtype=torch.uint8)
pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),))
# not embed(), which would take the large batch of the second arrangement back to one thread
forward = lambda images: [embedder._forward(chunk) for chunk in images.split(batch)]
list(pool.map(forward, [images[:batch]] * threads * 4))
rates = []
for _ in range(5):
    began = time.perf_counter()
    list(pool.map(forward, [images] * 8))
    rates.append(512 / (time.perf_counter() - began))
print(json.dumps(sorted(rates)[2]))
"""


def run_forward():
    """Best images/s of the network alone: our own arrangement, and one large batch over all cores."""
    best = 0.0
    for threads, batch in ((os.cpu_count(), 4), (1, 32)):
        command = [sys.executable, "-c", FORWARD, str(threads), str(batch)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        best = max(best, json.loads(out.splitlines()[-1]))
    return best


def min_cosine(run, plain):
    with np.load(plain) as saved:
        reference = dict(zip(saved["ids"], saved["features"], strict=True))
    lowest = 1.0
    for part in iter_parts(str(run), ["id", "feature"]):
        for name, vector in zip(part["id"].to_pylist(), feature_array(part["feature"]).astype(np.float64), strict=True):
            if name in reference:
                other = reference[name].astype(np.float64)
                lowest = min(lowest, vector @ other / np.linalg.norm(vector) / np.linalg.norm(other))
    return float(lowest)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=int, default=20_000)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="cnnray-bench-"))
    all_images = sum(1 for _ in open(DATA / "train.csv")) - 1
    for name, count in (("small", 1000), ("all", all_images), ("large", options.large)):
        write_manifest(work / f"{name}.csv", count)
    ours, plain, forward = [], [], []
    for number in range(options.rounds):
        plain.append(run_plain(work / "all.csv", work / "plain.npz", PLAIN_IMAGES if number else all_images))
        if not number:
            shutil.copy(work / "plain.npz", work / "reference.npz")
        ours.append(run_cnnray(work / "all.csv", work / "all"))
        forward.append(run_forward())
        print(f"round {number}: plain {plain[-1]}, cnnray {ours[-1]}, forward {forward[-1]:.1f}", flush=True)
    cosine = min_cosine(work / "all", work / "reference.npz")
    small = run_cnnray(work / "small.csv", work / "small")
    large = run_cnnray(work / "large.csv", work / "large")
    plain_rate = statistics.median(run["images_per_s"] for run in plain)
    plain_start = statistics.median(run["seconds"] - run["images"] / run["images_per_s"] for run in plain)
    rate = statistics.median(run["images_per_s"] for run in ours)
    result = {
        "plain_images_per_s": round(plain_rate, 1),
        "images_per_s": round(rate, 1),
        "forward_images_per_s": round(statistics.median(forward), 1),
        "ratio_vs_plain": round(rate / plain_rate, 2),
        "min_cosine": round(cosine, 6),
        "fraction_of_forward": round(rate / statistics.median(forward), 3),
        "large_images": options.large,
        "large_seconds": round(large["seconds"], 1),
        "ratio_with_startup": round((plain_start + options.large / plain_rate) / large["seconds"], 2),
        "rss_1k": round(small["rss"]),
        "rss_20k": round(large["rss"]),
        "rss_growth": round(large["rss"] / small["rss"] - 1, 3),
    }
    shutil.rmtree(work)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
