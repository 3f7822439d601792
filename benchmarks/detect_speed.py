"""Batch prediction of a detector, files in and JSON out, against the loop that tutorials write.

    python benchmarks/detect_speed.py [--checkpoint FOLDER] [--rounds N]       about ten minutes on two cores

The same network and the same files, blood cells' 72 test images of 640 x 480 px. The plain loop: one image at a time,
Pillow, a letterbox of the full square, float32, torchvision's NMS, boxes into a COCO file. Ours: what
`cnnray predict detect` runs on every image. In turn, medians; without a checkpoint one is trained first for some
minutes. Last line, one JSON object:

    ratio_vs_plain                 images/s over the plain loop's; with both rates
    map, plain_map, map_difference by COCO's rules, both on the same answers that were timed
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from PIL import Image
from torchvision.ops import batched_nms
from torchvision.transforms.functional import pil_to_tensor

from cnnray.config import SearchConfig
from cnnray.data.annotations import Annotations
from cnnray.data.coco import to_coco
from cnnray.data.formats import read_annotations
from cnnray.infer.detect import Detector
from cnnray.nn.checkpoint import load_checkpoint
from cnnray.nn.detect import build_detect_net
from cnnray.nn.device import num_cores
from cnnray.ops.average_precision import average_precision

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CNNRAY_DATA", ROOT.parent / "shared" / "data"))
LEAST, OVERLAP, REPEAT = 0.01, 0.6, 3


def plain_loop(net, size, paths):
    """As tutorials do it; answers as rows of COCO."""
    answers = []
    for number, path in enumerate(paths, start=1):
        image = Image.open(path).convert("RGB")
        scale = size / max(image.size)
        small = image.resize((round(image.width * scale), round(image.height * scale)), Image.BILINEAR)
        square = Image.new("RGB", (size, size), (124, 116, 104))
        square.paste(small)
        with torch.no_grad():
            found = net(pil_to_tensor(square)[None].float() / 255)
        scores, labels = found.logits_NAK[0].sigmoid().max(1)
        keep = scores > LEAST
        boxes, scores, labels = found.boxes_NA4[0][keep] / scale, scores[keep], labels[keep]
        kept = batched_nms(boxes, scores, labels, OVERLAP)[:300]
        boxes = boxes[kept].clamp(min=0).minimum(torch.tensor([image.width, image.height] * 2))
        for (x1, y1, x2, y2), score, label in zip(
            boxes.tolist(), scores[kept].tolist(), labels[kept].tolist(), strict=True
        ):
            row = {"image_id": number, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            answers.append(row)
    json.dumps(answers)
    return answers


def ours(detector, paths):
    search, answers = SearchConfig(confidence=LEAST, overlap=OVERLAP), []
    for at in range(0, len(paths), 64):
        files = [Path(path).read_bytes() for path in paths[at : at + 64]]
        for number, found in enumerate(detector.predict(files, search), start=at + 1):
            rows = zip(found.boxes_N4.tolist(), found.scores_N.tolist(), found.labels_N.tolist(), strict=True)
            for (x1, y1, x2, y2), score, label in rows:
                row = {"image_id": number, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
                answers.append(row)
    json.dumps(answers)
    return answers


def train(folder):
    words = ("train", "detect", DATA / "bccd", "--out", folder, "--epochs", 16)
    subprocess.run([sys.executable, "-m", "cnnray", *map(str, words)], check=True)
    return f"{folder}/checkpoint"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    checkpoint = args.checkpoint or train(tempfile.mkdtemp(prefix="cnnray-detect-speed-") + "/run")
    found = read_annotations(str(DATA / "bccd"))
    table = found.table.filter(pc.equal(found.table["split"], "test"))
    truth = to_coco(Annotations(table, found.categories, found.category_ids, (), found.format))
    paths = table["path"].to_pylist() * REPEAT

    torch.set_num_threads(num_cores())
    tensors, card = load_checkpoint(checkpoint, "detect")
    net = build_detect_net(card.arch, len(card.classes))
    net.load_state_dict(tensors)
    detector = Detector.load(checkpoint)
    runs = {
        "plain": lambda: plain_loop(net, card.input["size"], paths),
        "ours": lambda: ours(detector, paths),
    }
    seconds, answers = {name: [] for name in runs}, {}
    for name, run in runs.items():
        answers[name] = [row for row in run() if row["image_id"] <= table.num_rows]
    for _ in range(args.rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    rate = {name: len(paths) / statistics.median(times) for name, times in seconds.items()}
    figures = {name: average_precision(truth, rows).figures["map"] for name, rows in answers.items()}
    answer = {
        "ratio_vs_plain": round(rate["ours"] / rate["plain"], 2),
        "images_per_s": round(rate["ours"], 1),
        "plain_images_per_s": round(rate["plain"], 1),
        "map": round(figures["ours"], 4),
        "plain_map": round(figures["plain"], 4),
        "map_difference": round(abs(figures["ours"] - figures["plain"]), 4),
        "images": int(np.size(paths)),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
