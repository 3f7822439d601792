"""The classifier head against scikit-learn's logistic regression on the same features, and the speed of an epoch.

    python benchmarks/head.py [--seeds 3]       about 8 minutes on two cores

Grocery photos, 81 fine classes: features of train.csv and val.csv by `cnnray features build`, the head by
`cnnray train classify` with its defaults, accuracy on val.csv. Last line, one JSON object:

    accuracy, sklearn_accuracy, accuracy_minus_sklearn   (best C of 0.001, 0.01, 0.1, chosen on val: its best case)
    epoch_speedup     seconds of an epoch with the full forward pass (photos decoded, embedded by the same compiled
                      network, head trained) over seconds of an epoch on stored features, same images, median epoch
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from features import steady_rate
from sklearn.linear_model import LogisticRegression

from cnnray.data.feature_store import load_features
from cnnray.train.state import load_history

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CNNRAY_DATA", ROOT.parent / "shared" / "data")) / "grocery"


def cnnray(*words):
    subprocess.run([sys.executable, "-m", "cnnray", *map(str, words)], check=True)


def sklearn_best(train, val):
    """Best accuracy over C, features as they are, the library's own defaults otherwise."""
    best = 0.0
    for c in (0.001, 0.01, 0.1):
        model = LogisticRegression(C=c, max_iter=2000).fit(train.features.astype(np.float32), train.labels.astype(str))
        best = max(best, float(model.score(val.features.astype(np.float32), val.labels.astype(str))))
    return best


def predict(checkpoint, table):
    """Classes that a checkpoint's head gives for stored features."""
    import torch

    from cnnray.nn.checkpoint import load_checkpoint
    from cnnray.nn.heads import build_head

    tensors, card = load_checkpoint(str(checkpoint), task="classify")
    arch = card.arch
    head = build_head(arch["head"], arch["num_features"], len(card.classes), arch["hidden"], 0.0)
    head.load_state_dict({n.removeprefix("head."): t for n, t in tensors.items() if n.startswith("head.")})
    with torch.no_grad():
        best = head.eval()(torch.from_numpy(table.features.astype(np.float32))).argmax(1)
    return np.array(card.classes)[best.numpy()]


def epoch_seconds(run):
    return statistics.median(row["seconds"] for row in load_history(str(run / "state" / "last.state")))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="cnnray-head-"))
    for split in ("train", "val"):
        cnnray(
            "features",
            "build",
            DATA / f"{split}.csv",
            "--out",
            work / split,
            "--label-column",
            "fine",
            "--reuse",
            "none",
        )
    train, val = (load_features(str(work / split)) for split in ("train", "val"))
    scores, epochs = [], []
    for seed in range(options.seeds):
        out = work / f"head{seed}"
        cnnray("train", "classify", work / "train", "--out", out, "--seed", seed)
        scores.append(float(np.mean(predict(out / "checkpoint", val) == val.labels.astype(str))))
        epochs.append(epoch_seconds(out))
    reference = sklearn_best(train, val)
    # all training images decoded and embedded once by the fastest pipeline here, start-up left out
    full = len(train.ids) / steady_rate(work / "train")
    accuracy, epoch = statistics.median(scores), statistics.median(epochs)
    result = {
        "accuracy": round(accuracy, 4),
        "accuracies": [round(score, 4) for score in scores],
        "sklearn_accuracy": round(reference, 4),
        "accuracy_minus_sklearn": round(accuracy - reference, 4),
        "epoch_s_stored": round(epoch, 4),
        "epoch_s_forward": round(full + epoch, 2),
        "epoch_speedup": round((full + epoch) / epoch, 1),
    }
    shutil.rmtree(work)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
