"""A U-Net on nuclei and on membranes, and its speed against a plain PyTorch loop with the same network and cores.

    python benchmarks/segment.py [--only nuclei|isbi|speed]       about 30 minutes on two cores

`cnnray train segment` with an EfficientNet-Lite0 encoder, then `cnnray evaluate segment` on pictures that training
never saw. nuclei: 120 microscopy pictures, by seed 0 and id 70 to train, 10 to choose the epoch, 40 to test; isbi: 30
pictures of membranes, 22, 2 and 6. The plain loop is what a user would write: a DataLoader with 2 workers, float32,
the same crops, network, batch size and threads; for prediction one picture after the other through the whole network,
files decoded by Pillow. In turn, medians. Last line, one JSON object:

    iou, dice, nuclei_minutes     foreground of the test pictures, wall time of the training command
    isbi_iou (of membranes), isbi_mean_iou, isbi_pixel_accuracy, isbi_minutes
    train_ratio, predict_ratio    images/s over the plain loop's; with both rates
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
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cnnray.config import SegmentConfig
from cnnray.data.pairs import build_pairs
from cnnray.infer.segment import Segmenter
from cnnray.nn.checkpoint import load_checkpoint
from cnnray.nn.device import num_cores
from cnnray.nn.segment import build_segmenter
from cnnray.ops.losses import cross_entropy, dice_loss
from cnnray.ops.split import stratified_split
from cnnray.ops.warp import build_warp
from cnnray.train.state import load_history

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CNNRAY_DATA", ROOT.parent / "shared" / "data"))


def cnnray(*words):
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "cnnray", *map(str, words)], check=True)
    return (time.monotonic() - started) / 60


def divide(source, folder, fractions):
    """Manifests of a folder's pairs: train.csv with a seeded split, and test.csv."""
    folder.mkdir()
    pairs = build_pairs(str(source), SegmentConfig()).to_pylist()
    sides = stratified_split([row["id"] for row in pairs], ["all"] * len(pairs), fractions, 0)
    for name, wanted in (("train.csv", ("train", "val")), ("test.csv", ("test",))):
        with open(folder / name, "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["id", "path", "mask", "split"])
            for row, side in zip(pairs, sides, strict=True):
                if side in wanted:
                    rows.writerow([row["id"], row["path"], row["mask"], side])
    return folder


def train_and_test(data, *options, classes=""):
    """Figures on the test pictures, and the minutes that the training command took."""
    run, classes = data / "run", ["--classes", classes] if classes else []
    minutes = cnnray("train", "segment", data / "train.csv", "--out", run, *classes, *options)
    cnnray("evaluate", "segment", run / "checkpoint", data / "test.csv", "--out", data / "test")
    return json.loads((data / "test" / "metrics.json").read_text()), round(minutes, 1)


class Crops(torch.utils.data.Dataset):
    """The plain loop's data: Pillow, one random crop."""

    def __init__(self, rows, config):
        self.rows, self.warp = rows, build_warp(config.augment, config.crop)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, at):
        image = torch.from_numpy(np.array(Image.open(self.rows[at]["path"]).convert("RGB"))).permute(2, 0, 1)
        mask = torch.from_numpy((np.array(Image.open(self.rows[at]["mask"]).convert("L")) > 0).astype(np.uint8))
        return self.warp(image, mask, torch.Generator().manual_seed(int(torch.randint(2**31, ()))))


def plain_epoch(rows, config):
    """Seconds of the second epoch of a plain training loop."""
    torch.set_num_threads(num_cores())
    net = build_segmenter(
        {"encoder": config.encoder, "width": config.width, "depth": config.depth}, 2, "default"
    ).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr)
    loader = torch.utils.data.DataLoader(
        Crops(rows, config), config.batch_size, shuffle=True, num_workers=2, persistent_workers=True
    )
    for _ in range(2):
        started = time.monotonic()
        for images, masks in loader:
            logits = net(images)
            loss = (0.5 * dice_loss(logits, masks) + 0.5 * cross_entropy(logits, masks)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return time.monotonic() - started


def our_epoch(source, folder, number):
    out = folder / f"speed{number}"
    cnnray("train", "segment", source, "--out", out, "--epochs", 3, "--crops", 4)
    return statistics.median(row["seconds"] for row in load_history(str(out / "state" / "last.state"))[1:])


def plain_prediction(checkpoint, paths):
    torch.set_num_threads(num_cores())
    tensors, card = load_checkpoint(str(checkpoint), "segment")
    net = build_segmenter(card.arch, len(card.classes))
    net.load_state_dict(tensors)
    answers, started = [], time.monotonic()
    with torch.no_grad():
        for path in paths:
            pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None]
            answers.append(net(pixels)[0].argmax(0).numpy())
    return len(paths) / (time.monotonic() - started), answers


def our_prediction(segmenter, paths):
    started = time.monotonic()
    answers = segmenter.predict([Path(path).read_bytes() for path in paths])
    return len(paths) / (time.monotonic() - started), [answer.classes_HW for answer in answers]


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def speed(folder, data, rounds):
    training = [row for row in read_csv(data / "train.csv") if row["split"] == "train"]
    paths = [row["path"] for row in read_csv(data / "test.csv")]
    config, checkpoint, source = SegmentConfig(), data / "run" / "checkpoint", data / "train.csv"
    segmenter = Segmenter.load(str(checkpoint))
    our_prediction(segmenter, paths[:8])
    figures = {"ours": [], "plain": [], "ours_train": [], "plain_train": []}
    for number in range(rounds):
        rate, ours = our_prediction(segmenter, paths)
        figures["ours"].append(rate)
        rate, plain = plain_prediction(checkpoint, paths)
        figures["plain"].append(rate)
        # four crops of each picture, as many as in four of the plain loop's epochs; validation is in ours as well
        figures["ours_train"].append(4 * len(training) / our_epoch(source, folder, number))
        figures["plain_train"].append(len(training) / plain_epoch(training, config))
    same = np.mean([(a == b).mean() for a, b in zip(ours, plain, strict=True)])
    median = {name: statistics.median(values) for name, values in figures.items()}
    return {
        "train_ratio": round(median["ours_train"] / median["plain_train"], 2),
        "predict_ratio": round(median["ours"] / median["plain"], 2),
        "train_images_per_s": round(median["ours_train"], 2),
        "predict_images_per_s": round(median["ours"], 2),
        "same_pixels": round(float(same), 4),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--isbi-epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keeps the runs; a new folder")
    parser.add_argument("--only", choices=("nuclei", "isbi", "speed"))
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="cnnray-segment-"))
    folder.mkdir(parents=True, exist_ok=True)
    result = {}
    nuclei = divide(DATA / "nuclei", folder / "nuclei", {"train": 7 / 12, "val": 1 / 12, "test": 1 / 3})
    if args.only in (None, "nuclei", "speed"):
        epochs = 2 if args.only == "speed" else args.epochs
        found, minutes = train_and_test(nuclei, "--epochs", epochs, "--ema", 0.99, "--crops", 2)
        result = {
            "iou": round(found["foreground_iou"], 4),
            "dice": round(found["foreground_dice"], 4),
            "nuclei_minutes": minutes,
            "nuclei_epochs": epochs,
        }
    if args.only in (None, "isbi"):
        isbi = divide(DATA / "isbi", folder / "isbi", {"train": 22 / 30, "val": 2 / 30, "test": 6 / 30})
        options = ["--epochs", args.isbi_epochs, "--ema", 0.99, "--crops", 4, "--augment", "strong"]
        found, minutes = train_and_test(isbi, *options, classes="cell=255,membrane=0")
        result |= {
            "isbi_iou": round(found["foreground_iou"], 4),
            "isbi_mean_iou": round(found["mean_iou"], 4),
            "isbi_pixel_accuracy": round(found["pixel_accuracy"], 4),
            "isbi_minutes": minutes,
        }
    if args.only in (None, "speed"):
        result |= speed(folder, nuclei, args.rounds)
    if not args.folder:
        shutil.rmtree(folder)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
