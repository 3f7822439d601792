"""Fine-tuning against the frozen head on the same photos, and training from stored activations against online.

    python benchmarks/finetune.py [--epochs 14] [--skip-speed]       about 50 minutes on two cores

Grocery photos, 81 fine classes, train.csv to train, val.csv to validate, EfficientNet-Lite0. The frozen head is
`cnnray features build` and `cnnray train classify` with their defaults; the fine-tuned network is `cnnray train
finetune` on the photos; of both the best epoch on val counts. Speed: the stages above TAP are trained for three epochs
on the photos and on stored activations, with the same views and settings, in turn; an epoch is the median of those
after the first. Last line, one JSON object:

    accuracy, frozen_accuracy, gain_over_frozen     of the checkpoints on val
    finetune_minutes                                wall time of the fine-tuning command
    epoch_speedup, online_epoch_s, stored_epoch_s   of fine-tuning from stored activations
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

from cnnray.train.state import load_history

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CNNRAY_DATA", ROOT.parent / "shared" / "data")) / "grocery"
TAP, UNFREEZE, VIEWS = "stage6", 2, 2


def cnnray(*words):
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "cnnray", *map(str, words)], check=True)
    return time.monotonic() - started


def accuracy(run):
    return json.loads((run / "metrics.json").read_text())["validation"]["accuracy"]


def epoch_seconds(run):
    rows = load_history(str(run / "state" / "last.state"))
    return [row["seconds"] for row in rows[1:]]


def write_manifest(path):
    with open(path, "w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["path", "label", "split"])
        for split in ("train", "val"):
            with open(DATA / f"{split}.csv", newline="") as found:
                rows.writerows([DATA / row["path"], row["fine"], split] for row in csv.DictReader(found))
    return path


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--skip-speed", action="store_true")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="cnnray-finetune-"))
    photos = write_manifest(folder / "grocery.csv")
    cnnray("features", "build", photos, "--out", folder / "frozen")
    cnnray("train", "classify", folder / "frozen", "--out", folder / "head")
    # the count of photos decides how many stages are unfrozen
    seconds = cnnray("train", "finetune", photos, "--out", folder / "tuned", "--epochs", args.epochs, "--ema", 0.99)
    tuned, frozen = accuracy(folder / "tuned"), accuracy(folder / "head")
    result = {
        "accuracy": tuned,
        "frozen_accuracy": frozen,
        "gain_over_frozen": round(tuned - frozen, 4),
        "finetune_minutes": round(seconds / 60, 1),
        "epochs": args.epochs,
    }
    if not args.skip_speed:
        result |= speed(folder, photos, args.rounds)
    shutil.rmtree(folder)
    print(json.dumps(result))


def speed(folder, photos, rounds):
    stored = folder / "stored"
    cnnray("features", "build", photos, "--out", stored, "--tap", TAP, "--pool", "none", "--views", VIEWS)
    options = ["--unfreeze", UNFREEZE, "--views", VIEWS, "--epochs", 3, "--head-epochs", 0]
    times = {"online": [], "stored": []}
    for number in range(rounds):
        for name, source in (("online", photos), ("stored", stored)):
            out = folder / f"{name}{number}"
            cnnray("train", "finetune", source, "--out", out, *options)
            times[name] += epoch_seconds(out)
    online, offline = (statistics.median(times[name]) for name in ("online", "stored"))
    return {
        "epoch_speedup": round(online / offline, 2),
        "online_epoch_s": round(online, 2),
        "stored_epoch_s": round(offline, 2),
        "trained_stages": UNFREEZE,
        "tap": TAP,
    }


if __name__ == "__main__":
    main()
