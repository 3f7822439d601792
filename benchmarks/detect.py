"""A YOLO on blood cells or on raccoons: average precision on images that training never saw.

    python benchmarks/detect.py [--data bccd|raccoon] [--epochs N] [--keep FOLDER]       half an hour on two cores

`cnnray train detect` with an EfficientNet-Lite0, then `cnnray evaluate detect`. bccd: its trainval images, of which a
seeded, stratified tenth chooses the epoch, and its test images. raccoon: 160 and 40 images by seed 0; four files are
there twice, and none of the test is also learned from. Last line, one JSON object:

    map50, map, per_class      of the test images, by COCO's rules
    minutes, epochs            wall time of the training command
    train, val, test           images
"""

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from cnnray.data.coco import write_coco
from cnnray.data.formats import read_annotations
from cnnray.ops.split import split_label_sets

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CNNRAY_DATA", ROOT.parent / "shared" / "data"))
OPTIONS = {"bccd": ["--epochs", 34], "raccoon": ["--epochs", 45, "--size", 320]}


def cnnray(*words):
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "cnnray", *map(str, words)], check=True)
    return (time.monotonic() - started) / 60


def sides(found, name):
    """ "train", "val" or "test" for each image."""
    table = found.table
    ids, labels = table["id"].to_pylist(), table["labels"].to_pylist()
    if name == "bccd":
        result = ["test" if split == "test" else "train" for split in table["split"].to_pylist()]
    else:
        result = ["train"] * len(ids)
        for at in np.random.default_rng(0).permutation(len(ids))[160:]:
            result[at] = "test"
        digests = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in table["path"].to_pylist()]
        held = {digest for digest, side in zip(digests, result, strict=True) if side == "test"}
        result = [
            "left out" if side == "train" and digest in held else side
            for digest, side in zip(digests, result, strict=True)
        ]
    rows = [at for at, side in enumerate(result) if side == "train"]
    parts = split_label_sets([ids[at] for at in rows], [labels[at] for at in rows], {"train": 0.9, "val": 0.1}, 0)
    for at, side in zip(rows, parts, strict=True):
        result[at] = side
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", choices=sorted(OPTIONS), default="bccd")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--keep", type=Path, help="a new folder, which stays, with the detector in run/checkpoint")
    args = parser.parse_args()
    folder = args.keep or Path(tempfile.mkdtemp(prefix=f"cnnray-detect-{args.data}-"))
    found = read_annotations(str(DATA / args.data))
    images = found.table["path"][0].as_py().removesuffix(found.table["id"][0].as_py())
    result, counts = sides(found, args.data), {}
    for side in ("train", "val", "test"):
        part = found.only(pa.array([other == side for other in result]))
        counts[side] = part.table.num_rows
        target = folder / ("learn" if side != "test" else "held") / f"{side}.json"
        write_coco(dataclasses.replace(part, problems=()), str(target))
    options = list(OPTIONS[args.data])
    if args.epochs:
        options[1] = args.epochs
    minutes = cnnray("train", "detect", folder / "learn", "--images", images, "--out", folder / "run", *options)
    words = ("--images", images, "--overlap", 0.6, "--out", folder / "test")
    cnnray("evaluate", "detect", folder / "run" / "checkpoint", folder / "held" / "test.json", *words)
    figures = json.loads((folder / "test" / "metrics.json").read_text())
    manifest = json.loads((folder / "run" / "manifest.json").read_text())
    answer = {
        "data": args.data,
        "map50": round(figures["map50"], 4),
        "map": round(figures["map"], 4),
        "per_class": {row["name"]: round(row["ap50"], 4) for row in figures["classes"]},
        "minutes": round(minutes, 1),
        "epochs": manifest["epochs"],
        **counts,
    }
    if not args.keep:
        shutil.rmtree(folder)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
