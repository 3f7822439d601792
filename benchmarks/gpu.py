"""Every command with --gpu against the same on the CPUs of the same machine: whether they agree, and what it gains.

    python benchmarks/gpu.py [--parts NAME ...] [--images 6000]      a machine with a GPU; about five minutes

Small photos of groceries (and blood cells for the detector, membranes for segments), as commands that users run. A part
that fails is told; the next is measured all the same. Last line, one JSON object: `gpu`, `torch`, `cores` and by part

    features   images_per_s, cpu_images_per_s (slopes, start-up left out), ratio; min_cosine of the stored features
    finetune   seconds and cpu_seconds of an epoch after the first (medians), command_seconds and cpu_command_seconds
               of all, val_loss and cpu_val_loss after the last
    detect     the same with train_loss; boxes, cpu_boxes that the same checkpoint finds, matched: share of them that
               have one of the same class with an IoU above 0.9
    segment    the same with train_loss; same_pixels: share on which the same checkpoint agrees, on so many images
    stylize    seconds, cpu_seconds of the command; images; mean_difference and largest_difference of the paintings,
               every 20th of them, in 1/255
    filters    seconds, cpu_seconds; same_images: share of the nine strongest images of each filter that are the same
    serve      of classify_ and detect_: rps, cpu_rps, p50_ms, cpu_p50_ms (of answers 200), refused, cpu_refused at 64
               connections, alone_p50_ms and cpu_alone_p50_ms at one; same_answers: share of equal classes; boxes,
               cpu_boxes, matched as in detect
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from features import steady_rate, write_manifest
from PIL import Image

from cnnray import cluster
from cnnray.cli import main
from cnnray.data.feature_store import feature_array, iter_parts
from cnnray.nn.device import num_cores
from cnnray.ops.boxes import iou

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CNNRAY_DATA", ROOT.parent / "shared" / "data"))
ON = {"gpu": ["--gpu"], "cpu": []}
PREFIX = {"gpu": "", "cpu": "cpu_"}


def run(*words):
    """A command of cnnray, in this process, whose Ray stays; its seconds."""
    began = time.perf_counter()
    try:
        main(list(map(str, words)))
    except SystemExit as end:
        raise RuntimeError(f"{' '.join(map(str, words))}: exit code {end.code}") from end
    return time.perf_counter() - began


def on_both(folder, *words):
    """Run with and without --gpu; the run folders and the seconds."""
    out = {}
    for name, flags in ON.items():
        place = Path(folder) / name
        out[name] = place, run(*words, "--out", place, *flags)
    return out


def read(out, folder="predictions"):
    return pa.concat_tables(list(iter_parts(str(out), folder=folder))).sort_by("id")


def features(folder, images):
    for name, count in (("gpu", images), ("cpu", images // 4)):
        write_manifest(f"{folder}/{name}.csv", count)
        run("features", "build", f"{folder}/{name}.csv", "--out", f"{folder}/{name}", "--reuse", "none", *ON[name])
    rates = {name: steady_rate(f"{folder}/{name}") for name in ON}
    stored = {name: read(f"{folder}/{name}", "features") for name in ON}
    cpu, gpu = (feature_array(stored[name]["feature"]).astype(np.float64) for name in ("cpu", "gpu"))
    gpu = gpu[: len(cpu)]
    cosine = (gpu * cpu).sum(1) / np.linalg.norm(gpu, axis=1) / np.linalg.norm(cpu, axis=1)
    assert stored["gpu"]["id"].to_pylist()[: len(cpu)] == stored["cpu"]["id"].to_pylist()
    return {
        "images_per_s": rates["gpu"], "cpu_images_per_s": rates["cpu"], "ratio": rates["gpu"] / rates["cpu"],
        "min_cosine": cosine.min(),
    }  # fmt: skip


def trained(out, monitor):
    facts = {}
    for name, prefix in PREFIX.items():
        place, seconds = out[name]
        rows = json.loads((place / "metrics.json").read_text())["history"]
        facts[f"{prefix}seconds"] = statistics.median(row["seconds"] for row in rows[1:])
        facts[f"{prefix}command_seconds"] = seconds
        facts[f"{prefix}{monitor}"] = rows[-1][monitor]
    return facts


def finetune(folder, images):
    write_manifest(f"{folder}/photos.csv", 480)
    words = ("train", "finetune", f"{folder}/photos.csv", "--epochs", 2, "--head-epochs", 1, "--batch-size", 64)
    return trained(on_both(folder, *words), "val_loss")


def detect(folder, images):
    out = on_both(folder, "train", "detect", DATA / "bccd", "--epochs", 2, "--size", 320)
    facts = trained(out, "train_loss")
    checkpoint = out["gpu"][0] / "checkpoint"
    found = on_both(f"{folder}/found", "predict", "detect", checkpoint, DATA / "bccd/JPEGImages", "--confidence", 0.05)
    boxes = {name: read(place).to_pylist() for name, (place, _) in found.items()}
    return facts | matched(boxes["gpu"], boxes["cpu"])


def matched(ours, others):
    pairs = total = 0
    for one, other in zip(ours, others, strict=True):
        a, b = one["boxes"], other["boxes"]
        total += max(len(a), len(b))
        if a and b:
            same = torch.tensor([[x == y for y in other["labels"]] for x in one["labels"]])
            pairs += int(((iou(torch.tensor(a), torch.tensor(b)) > 0.9) & same).any(1).sum())
    count = [sum(len(row["boxes"]) for row in rows) for rows in (ours, others)]
    return {"boxes": count[0], "cpu_boxes": count[1], "matched": pairs / max(total, 1)}


def segment(folder, images):
    out = on_both(folder, "train", "segment", DATA / "isbi", "--epochs", 2, "--crop", 256)
    facts = trained(out, "train_loss")
    found = on_both(f"{folder}/found", "predict", "segment", out["gpu"][0] / "checkpoint", DATA / "isbi/images")
    masks = {name: sorted((place / "masks").rglob("*.png")) for name, (place, _) in found.items()}
    same = [
        (np.asarray(Image.open(a)) == np.asarray(Image.open(b))).mean()
        for a, b in zip(masks["gpu"], masks["cpu"], strict=True)
    ]
    return facts | {"same_pixels": float(np.mean(same)), "images": len(same)}


def stylize(folder, images):
    write_manifest(f"{folder}/photos.csv", 600)
    out = on_both(folder, "stylize", f"{folder}/photos.csv", "--style", "stained_glass", "--method", "fast")
    painted = {name: sorted((place / "painted").rglob("*.*")) for name, (place, _) in out.items()}
    gaps = []
    for a, b in list(zip(painted["gpu"], painted["cpu"], strict=True))[::20]:
        gaps.append(np.abs(np.asarray(Image.open(a), np.int16) - np.asarray(Image.open(b), np.int16)))
    return {
        "seconds": out["gpu"][1], "cpu_seconds": out["cpu"][1], "images": len(painted["gpu"]),
        "mean_difference": float(np.mean([gap.mean() for gap in gaps])),
        "largest_difference": int(max(gap.max() for gap in gaps)),
    }  # fmt: skip


def filters(folder, images):
    write_manifest(f"{folder}/photos.csv", 600)
    out = on_both(folder, "visualize", "filters", f"{folder}/photos.csv", "--backbone", "efficientnet_lite0")
    strongest = {name: pq.read_table(place / "strongest.parquet") for name, (place, _) in out.items()}
    columns = ["layer", "filter", "id"]
    keys = {name: {tuple(row.values()) for row in t.select(columns).to_pylist()} for name, t in strongest.items()}
    return {
        "seconds": out["gpu"][1], "cpu_seconds": out["cpu"][1],
        "same_images": len(keys["gpu"] & keys["cpu"]) / len(keys["cpu"]),
    }  # fmt: skip


def serve(folder, images):
    from load import post
    from served import make_classifier, make_detector, photos

    content, facts = photos("grocery", 32), {}
    said = serve_on_both(facts, "classify_", [post("/v1/classify", photo) for photo in content],
                         classifier=make_classifier(folder))  # fmt: skip
    facts["same_answers"] = float(np.mean([a["label"] == b["label"] for a, b in zip(*said, strict=True)]))
    said = serve_on_both(facts, "detect_", [post("/v1/detect", photo) for photo in content],
                         detector=make_detector(folder))  # fmt: skip
    found = [[boxes_of(answer) for answer in answers] for answers in said]
    return facts | matched(*found)


def serve_on_both(facts, task, requests, **models):
    """Fill in what a service does with and without --gpu; its answers to each request, first those of the GPU."""
    from load import Connection, ask_in_turn, percentile_ms, rate_of
    from served import service

    async def each(url):
        connection = Connection(url)
        return [await connection.ask(request) for request in requests]

    said = []
    for name, prefix in PREFIX.items():
        with service(gpu=bool(ON[name]), max_batch_size=32, **models) as url:
            asyncio.run(ask_in_turn(url, requests, 64, 4))
            began = time.perf_counter()
            answers = asyncio.run(ask_in_turn(url, requests, 64, 8))
            alone = asyncio.run(each(url))
            facts[f"{task}{prefix}rps"] = rate_of(answers, began, 8)
            good = [answer for answer in answers if answer.status == 200]
            facts[f"{task}{prefix}p50_ms"] = percentile_ms(good, 50)
            facts[f"{task}{prefix}refused"] = len(answers) - len(good)
            facts[f"{task}{prefix}alone_p50_ms"] = percentile_ms(alone, 50)
            said.append([answer.json() for answer in alone])
    return said


def boxes_of(answer):
    (image,) = answer["images"]
    return {"boxes": [one["box"] for one in image["objects"]], "labels": [one["label"] for one in image["objects"]]}


PARTS = {part.__name__: part for part in (features, finetune, detect, segment, stylize, filters, serve)}


def measure():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--images", type=int, default=6000)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("expected a GPU, but PyTorch sees none here")
    facts = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cores": num_cores()}
    facts["python"] = platform.python_version()
    cluster.connect()
    for name in options.parts:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="cnnray-gpu-") as folder:
            try:
                facts[name] = PARTS[name](folder, options.images)
            except Exception as error:  # the next part is measured all the same
                facts[name] = {"error": str(error)[-3000:] or type(error).__name__}
                traceback.print_exc()
        print(f"{name}: {time.perf_counter() - began:.0f} s {json.dumps(facts[name], default=float)}", flush=True)
    print(json.dumps(facts, default=float))


if __name__ == "__main__":
    measure()
