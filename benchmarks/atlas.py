"""The nine strongest images of every filter against the forward pass alone, and memory against the number of images.

    python benchmarks/atlas.py [--images N] [--rounds 5] [--layers NAME ...]      about 25 minutes on two cores

SqueezeNet 1.0 with its ImageNet weights, three layers, all of their filters, over the 2,640 photos of groceries.
Baseline: the same stages up to the last of the layers, on the same batches of four of the same images, decoded in
memory, in the same thread of one process; nothing is kept of what it computes. In turn, medians. Ours starts without
any image each round: then nearly all that comes is kept, so more images make the ratio better, not worse.

Memory is measured in processes of their own, which decode the photos in groups and let them pass by once or, under
other ids, four times: were anything kept of each image, the second would have more. Last line, one JSON object:

    fraction_of_forward   images/s of the top nine over images/s of the forward pass alone (target 0.7)
    images_per_s, forward_images_per_s
    images, filters       of all layers together
    rss_once, rss_four_times   peak resident memory, MiB
    rss_growth            of the second over the first, as a share
    state_kib_once, state_kib_four_times   what the top nine hold, KiB
    stored_rows_per_filter     of all units, where each stores what enters the top nine that its actor has stored
    whole_rows_per_filter      where each would store its whole state
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from cnnray.config import AtlasConfig
from cnnray.data.atlas_stage import STATES, StrongestStage, load_network, view
from cnnray.data.feature_store import Outputs, iter_parts
from cnnray.data.fetch import read_unit
from cnnray.data.readers import index_manifest
from cnnray.data.units import plan_units
from cnnray.infer.embed import CPU_BATCH
from cnnray.infer.visualize import TopNine
from cnnray.nn.layer_names import conv_layers
from cnnray.nn.watch import normalised, stages_up_to

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CNNRAY_DATA", ROOT.parent / "shared" / "data"))
CONFIG = AtlasConfig(backbone="squeezenet1_0", weights=str(DATA / "weights" / "squeezenet1_0.pth"), label_column="fine")
LAYERS = ("stem", "fire4.expand3x3", "fire9.expand3x3")
GROUP = 64  # images in memory at once where memory is measured
TIMES = 4


def photo_paths(limit):
    with open(DATA / "grocery" / "train.csv") as file:
        return [DATA / "grocery" / row["path"] for row in csv.DictReader(file)][:limit]


def read(paths, backbone):
    return torch.stack([view(path.read_bytes(), backbone.spec) for path in paths])


def measure_speed(backbone, images, layers, rounds):
    """Median images/s of the top nine and of the forward pass alone."""
    known = conv_layers(backbone)
    lower = stages_up_to(backbone, [known[name] for name in layers])
    ids = [f"{number:06}" for number in range(len(images))]

    def forward():
        with torch.inference_mode():
            for batch in images.split(CPU_BATCH):
                lower(normalised(batch, backbone))

    def top_nine():
        TopNine(backbone, layers, device="cpu").update(ids, images)

    seconds = {forward: [], top_nine: []}
    for run in seconds:
        run()
    for _ in range(rounds):
        for run, times in seconds.items():
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
    return [len(images) / statistics.median(seconds[run]) for run in (top_nine, forward)]


def measure_memory(paths, layers, times):
    """Peak MiB of this process, and KiB of the state, after the photos have passed by so many times."""
    torch.set_num_threads(1)
    backbone = load_network(CONFIG)
    top = TopNine(backbone, layers, device="cpu")
    for turn in range(times):
        for start in range(0, len(paths), GROUP):
            part = paths[start : start + GROUP]
            top.update([f"{turn}/{start + at:06}" for at in range(len(part))], read(part, backbone))
    arrays = [array for layer in top.state.values() for array in (layer.values_FK, layer.ids_FK, layer.places_FK2)]
    # not getrusage, whose peak of a new process begins with that of its parent
    (peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return {"rss": int(peak) / 1024, "state_kib": sum(array.nbytes for array in arrays) / 1024}


def in_own_process(options, times):
    words = ["--images", options.images, "--layers", *options.layers, "--memory", times]
    out = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=True)
    return json.loads(out.stdout.splitlines()[-1])


def stored_rows(count, layers, remember):
    """Rows that the job's units store: an actor that remembers stores what enters, another the state of each unit."""
    index = index_manifest(str(DATA / "grocery" / "train.csv"), CONFIG).slice(0, count)
    with tempfile.TemporaryDirectory() as out:
        stage = StrongestStage(CONFIG, layers, Outputs(out), threads=1, gpu=False)
        for unit in plan_units(index, index):
            stage = stage if remember else StrongestStage(CONFIG, layers, Outputs(out), threads=1, gpu=False)
            stage(read_unit(unit))
        return sum(part.num_rows for part in iter_parts(out, folder=STATES))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=2640)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", nargs="+", default=list(LAYERS))
    parser.add_argument("--memory", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    paths = photo_paths(options.images)
    if options.memory:
        print(json.dumps(measure_memory(paths, options.layers, options.memory)))
        return
    torch.set_num_threads(1)
    backbone = load_network(CONFIG)
    filters = sum(conv_layers(backbone)[name].num_filters for name in options.layers)
    ours, forward = measure_speed(backbone, read(paths, backbone), options.layers, options.rounds)
    once, more = (in_own_process(options, times) for times in (1, TIMES))
    stored, whole = (stored_rows(len(paths), options.layers, remember) for remember in (True, False))
    answer = {
        "fraction_of_forward": round(ours / forward, 3),
        "images_per_s": round(ours, 1),
        "forward_images_per_s": round(forward, 1),
        "images": len(paths),
        "filters": filters,
        "rss_once": round(once["rss"]),
        "rss_four_times": round(more["rss"]),
        "rss_growth": round(more["rss"] / once["rss"] - 1, 3),
        "state_kib_once": round(once["state_kib"]),
        "state_kib_four_times": round(more["state_kib"]),
        "stored_rows_per_filter": round(stored / filters, 1),
        "whole_rows_per_filter": round(whole / filters, 1),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
