"""Kill a run with SIGKILL at random moments, run it again, and compare what it ends with.

    python benchmarks/kills.py [--feature-kills 30] [--train-kills 10] [--seed 0]       about 30 minutes on two cores

Features: the driver, the embedding actor or a reader is killed, at random, up to three times a run; a killed driver is
started again by the same command. Training: the driver or the trainer. Last line, one JSON object: features_identical
(content hash equal to the undisturbed run's), train_identical (weights bit-identical), kills by victim, lost_rows.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from cnnray.data.runs import read_manifest

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CNNRAY_DATA", ROOT.parent / "shared" / "data")) / "grocery"
ACTOR = "FeatureStage"
READER = "read_unit"
TRAINER = "RayTrainWorker"


def command(*words):
    return [sys.executable, "-m", "cnnray", *map(str, words)]


def start(words):
    return subprocess.Popen(command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def workers(driver):
    """Process ids of this driver's cluster."""
    try:
        return [child.pid for child in psutil.Process(driver.pid).children(recursive=True)]
    except psutil.Error:
        return []


def title(pid):
    """What a process says it is doing; Ray's workers name the function that they run."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def kill_once(driver, who, wait):
    """Kill `who` after `wait` seconds from now, or when it next appears; True when that happened."""
    end = time.monotonic() + wait
    while time.monotonic() < end and driver.poll() is None:
        time.sleep(0.02)
    while driver.poll() is None:
        if who == "driver":
            driver.kill()
            driver.wait()
            return True
        pids, until = workers(driver), time.monotonic() + 0.2
        while time.monotonic() < until:  # a reader is at work for some milliseconds only
            for pid in pids:
                if who in title(pid):
                    os.kill(pid, signal.SIGKILL)
                    return True
            time.sleep(0.002)
    return False


def run_with_kills(words, out, budget, who_of, seconds, rng, counts):
    """Run a command into `out` while killing it `budget` times at most; returns how many kills there were."""
    words, done = [*words, "--out", out], 0
    while True:
        driver = start(words)
        for _ in range(3):
            if done < budget:
                who = rng.choice(who_of)
                # readers are done early: they are waited for
                if kill_once(driver, who, 0 if who == READER else rng.uniform(0, seconds)):
                    counts[who] += 1
                    done += 1
                if driver.poll() is not None:
                    break
        _, errors = driver.communicate()
        if driver.returncode == 0 or (out / "manifest.json").exists():  # a kill may come when all is written
            return done
        if driver.returncode != -9:
            raise SystemExit(f"{' '.join(command(*words))} ended with {driver.returncode}:\n{errors[-3000:]}")


def undisturbed(words):
    began = time.perf_counter()
    subprocess.run(command(*words), check=True, capture_output=True)
    return time.perf_counter() - began


def features(work, kills, rng):
    words = ["features", "build", DATA / "val.csv", "--label-column", "fine", "--views", 2, "--reuse", "none"]
    seconds = undisturbed([*words, "--out", work / "clean"])
    want = read_manifest(str(work / "clean"))
    counts, total, same, number = collections.Counter(), 0, True, 0
    while total < kills:
        out = work / f"killed{number}"
        total += run_with_kills(words, out, min(3, kills - total), ["driver", ACTOR, READER], seconds, rng, counts)
        got = read_manifest(str(out))
        same &= got["content_sha256"] == want["content_sha256"] and got["features"] == want["features"]
        print(f"features run {number}: {total} kills so far, identical: {same}", flush=True)
        number += 1
    return {"features_identical": same, "feature_kills": dict(counts), "feature_runs": number}


def training(work, kills, rng):
    words = ["train", "classify", work / "clean", "--epochs", 60, "--patience", 0]
    seconds = undisturbed([*words, "--out", work / "trained"])
    want = read_manifest(str(work / "trained"))["weights_sha256"]
    counts, total, same, number = collections.Counter(), 0, True, 0
    while total < kills:
        out = work / f"retrained{number}"
        total += run_with_kills(words, out, min(2, kills - total), ["driver", TRAINER], seconds, rng, counts)
        same &= read_manifest(str(out))["weights_sha256"] == want
        print(f"training run {number}: {total} kills so far, identical: {same}", flush=True)
        number += 1
    return {"train_identical": same, "train_kills": dict(counts), "train_runs": number}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--feature-kills", type=int, default=30)
    parser.add_argument("--train-kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    work = Path(tempfile.mkdtemp(prefix="cnnray-kills-"))
    result = features(work, options.feature_kills, rng) | training(work, options.train_kills, rng)
    shutil.rmtree(work)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
