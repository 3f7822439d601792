"""How training grows with workers: measured for 1 and 2, and a model of N.

    python benchmarks/scaling.py [--rounds 3]       about 8 minutes on two cores

Grocery photos, EfficientNet-Lite0: three stages and the head are fine-tuned from stored activations (so that nothing
but training is measured), 32 examples for each worker in a step. One worker has one core (it is pinned to it), two have
one each. A step is the median over the epochs after the first. Last line, one JSON object:

    step_s, images_per_s           by number of workers
    efficiency                     images/s of two workers over twice that of one
    two_apart                      the same of two processes that train alone and know nothing of each other: what the
                                   machine's two cores give at best
    gradient_bytes                 that every worker sends around in a step
    allreduce_s                    of so many bytes between two processes by gloo, alone, median
    predicted                      images/s and efficiency of 8 and 64 GPUs by the model in RESULTS.md
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from finetune import write_manifest

from cnnray.nn.backbones import build_backbone
from cnnray.train.state import load_history

TAP, UNFREEZE, PER_WORKER = "stage5", 3, 32
# of one GPU: forward and backward of the whole network at 224 px in bfloat16, and what its links carry; see RESULTS.md
GPU_STEP_S, GPU_BATCH, BACKWARD_SHARE = 0.040, 64, 0.66
LINKS = {8: ("8 in one node", 150e9, 20e-6), 64: ("8 nodes of 8", 20e9, 60e-6)}  # bytes/s, s for each message
BUCKET_BYTES = 25 * 2**20  # of DistributedDataParallel


def cnnray(*words, cores=None):
    pin = (lambda: os.sched_setaffinity(0, cores)) if cores else None
    subprocess.run([sys.executable, "-m", "cnnray", *map(str, words)], check=True, preexec_fn=pin)


def step_seconds(features, out, workers):
    options = ["--unfreeze", UNFREEZE, "--head-epochs", 0, "--epochs", 3, "--batch-size", PER_WORKER * workers]
    cores = {min(os.sched_getaffinity(0))} if workers == 1 else None
    cnnray("train", "finetune", features, "--out", out, "--workers", workers, *options, cores=cores)
    rows = load_history(str(out / "state" / "last.state"))
    steps = -(-2640 // (PER_WORKER * workers))
    return statistics.median(row["seconds"] for row in rows[1:]) / steps


def exchange(rank, store, count, times):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    tensor = torch.ones(count)
    for _ in range(12):
        started = time.monotonic()
        dist.all_reduce(tensor)
        times.append(time.monotonic() - started)
    dist.destroy_process_group()


def allreduce_seconds(folder, num_bytes):
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit the threads of torch
    times = spawn.Manager().list()
    arguments = (str(folder / "store"), num_bytes // 4, times)
    started = [spawn.Process(target=exchange, args=(rank, *arguments)) for rank in (0, 1)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    return statistics.median(times)


def train_alone(core, start, seconds, steps):
    """Training steps of the same stages on one core, for so many seconds; nothing is read and nothing exchanged."""
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    upper = torch.nn.Sequential(*list(build_backbone("efficientnet_lite0").split("")[0])[-UNFREEZE:]).train()
    images = torch.randn(PER_WORKER, 112, 14, 14).contiguous(memory_format=torch.channels_last)
    start.wait()
    count, started = 0, time.monotonic()
    while time.monotonic() < started + seconds:
        with torch.autocast("cpu", torch.bfloat16):
            upper(images).mean().backward()
        count += 1
    steps.append(count / (time.monotonic() - started))


def two_apart(seconds=20):
    """Steps/s of two processes over twice those of one, the three in turn on the same cores."""
    spawn, rates = multiprocessing.get_context("spawn"), []
    cores = sorted(os.sched_getaffinity(0))[:2]
    for used in (cores[:1], cores):
        steps, start = spawn.Manager().list(), spawn.Barrier(len(used))
        started = [spawn.Process(target=train_alone, args=(core, start, seconds, steps)) for core in used]
        for process in started:
            process.start()
        for process in started:
            process.join()
        rates.append(sum(steps))
    return rates[1] / (2 * rates[0])


def predict(gpus, num_bytes):
    """A step is computing plus the part of the exchange that the backward pass does not hide."""
    _, bandwidth, latency = LINKS[gpus]
    messages = -(-num_bytes // BUCKET_BYTES)
    ring = 2 * (gpus - 1) / gpus * num_bytes / bandwidth + messages * latency
    # all but the last bucket travel while the backward pass goes on
    hidden = min(ring * (messages - 1) / messages, BACKWARD_SHARE * GPU_STEP_S)
    step = GPU_STEP_S + ring - hidden
    return {"images_per_s": round(gpus * GPU_BATCH / step), "efficiency": round(GPU_STEP_S / step, 3)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="cnnray-scaling-"))
    photos = write_manifest(folder / "grocery.csv")
    cnnray("features", "build", photos, "--out", folder / "maps", "--tap", TAP, "--pool", "none")
    steps = {1: [], 2: []}
    for number in range(args.rounds):
        for workers, times in steps.items():
            times.append(step_seconds(folder / "maps", folder / f"{workers}-{number}", workers))
    step = {workers: statistics.median(times) for workers, times in steps.items()}
    rate = {workers: workers * PER_WORKER / seconds for workers, seconds in step.items()}
    backbone = build_backbone("efficientnet_lite0")
    upper = [p for stage in list(backbone.split("")[0])[-UNFREEZE:] for p in stage.parameters()]
    sent = 4 * (sum(p.numel() for p in upper) + 1281 * 81)
    whole = 4 * sum(p.numel() for p in backbone.parameters())
    result = {
        "step_s": {workers: round(seconds, 4) for workers, seconds in step.items()},
        "images_per_s": {workers: round(value, 1) for workers, value in rate.items()},
        "efficiency": round(rate[2] / (2 * rate[1]), 3),
        "two_apart": round(two_apart(), 3),
        "gradient_bytes": sent,
        "allreduce_s": round(allreduce_seconds(folder, sent), 4),
        "whole_network_gradient_bytes": whole,
        "predicted": {gpus: predict(gpus, whole) for gpus in LINKS},
    }
    shutil.rmtree(folder)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
