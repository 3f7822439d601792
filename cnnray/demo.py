"""`cnnray demo`: the whole system on 1,797 real handwritten digits, offline, in a few minutes.

The digits (UCI's optical recognition of handwritten digits, as scikit-learn ships them) are written out as class
folders of PNG files, so that the demo runs the very commands that a user runs on a folder of photos.
"""

import io
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from cnnray import cluster, files
from cnnray.client import Client
from cnnray.config import ClassifyConfig, FeaturesConfig, ServeConfig
from cnnray.data.feature_store import INDEX, read_parquet
from cnnray.data.features import build_features
from cnnray.errors import RunFolderError
from cnnray.page import Gallery, Numbers, Picture, Section, Table, Text, write_page
from cnnray.serve.app import down, up
from cnnray.train.classify import train_classify

ASKED = 60
SHOWN = 18
MARK = "demo.json"


def run_demo(out: str) -> dict[str, Any]:
    """Photos to features to a head to a served classifier that answers real requests.

    Args:
        out: folder of the demo; an earlier demo in it is replaced, anything else is left alone.

    Returns:
        what is written to OUT/summary.json: counts, accuracies, seconds of each step.

    Raises:
        RunFolderError: the folder holds something that is not a demo.
    """
    folder = Path(out).resolve()
    _clear(folder)
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def step(name: str, line: str) -> None:
        nonlocal began
        now = time.perf_counter()
        if name:
            seconds[name] = round(now - began, 1)
        began = now
        print(line, file=sys.stderr, flush=True)

    step("", "1/4  writing 1,797 handwritten digits as class folders of PNG files")
    count = write_digits(folder / "photos")
    cluster.connect()
    step("photos", "2/4  features: a frozen EfficientNet-Lite0 looks at every image once (Ray Data)")
    features = build_features(
        str(folder / "photos"), str(folder / "features"), FeaturesConfig(split="train=0.8,val=0.2")
    )
    step("features", "3/4  head: a linear classifier on the stored features (Ray Train)")
    trained = train_classify(str(folder / "features"), str(folder / "classifier"), ClassifyConfig())
    step("train", "4/4  service: the classifier answers over HTTP (Ray Serve)")
    answers = ask_service(str(folder / "classifier" / "checkpoint"), validation_images(str(folder / "features")))
    step("serve", "")
    right = sum(answer["label"] == answer["truth"] for answer in answers)
    summary = {
        "images": count,
        "features_per_s": round(features["features"] / features["wall_s"], 1),
        "val_accuracy": trained["metrics"]["accuracy"],
        "served_requests": len(answers),
        "served_accuracy": right / len(answers),
        "request_ms_median": round(float(np.median([answer["ms"] for answer in answers])), 1),
        "seconds": seconds | {"all": round(sum(seconds.values()), 1)},
    }
    files.write_json(str(folder / "summary.json"), summary)
    _write_report(folder, summary, answers)
    _say_next(out, summary)
    return summary


def write_digits(folder: Path) -> int:
    """Write scikit-learn's digits as FOLDER/CLASS/NUMBER.png: 8x8 px enlarged to 64x64, dark ink, a white margin."""
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        levels = np.uint8(255 - image / 16 * 255)  # the data has ink 0..16
        picture = Image.fromarray(levels).resize((64, 64), Image.Resampling.BICUBIC)
        # the ink reaches the edge, and the network looks at the middle of a picture
        ImageOps.expand(picture, border=16, fill=255).save(place / f"{number:04d}.png")
    return len(digits.target)


def validation_images(features: str) -> list[tuple[str, str]]:
    """Path and true class of some validation images of a features run, evenly spread over it."""
    index = read_parquet(files.join(features, INDEX)).to_pylist()
    held_out = [(row["path"], row["label"]) for row in index if row["split"] == "val"]
    return held_out[:: max(1, len(held_out) // ASKED)][:ASKED]


def ask_service(checkpoint: str, images: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Start the service, ask it about each image over HTTP, end it."""
    url = up(ServeConfig(classifier=checkpoint, port=0))
    try:
        answers = []
        with Client(url) as client:
            for path, truth in images:
                began = time.perf_counter()
                answer = client.classify(path)
                spent = (time.perf_counter() - began) * 1000
                answers.append(
                    {
                        "path": path,
                        "truth": truth,
                        "label": answer.label,
                        "probability": answer.probability,
                        "ms": spent,
                    }
                )
        return answers
    finally:
        down()


def _clear(folder: Path) -> None:
    """Make way for a new demo; whatever is no demo stays."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise RunFolderError(f"expected a new folder or an earlier demo, but {folder} holds other things")
    files.remove(str(folder))
    files.write_json(str(folder / MARK), {"kind": "demo"})


def _write_report(folder: Path, summary: dict[str, Any], answers: list[dict[str, Any]]) -> None:
    seconds = summary["seconds"]
    numbers = Numbers(
        {
            "images": summary["images"],
            "validation accuracy": f"{summary['val_accuracy']:.1%}",
            "accuracy over HTTP": f"{summary['served_accuracy']:.1%}",
            "median request, ms": summary["request_ms_median"],
            "features per second": summary["features_per_s"],
            "seconds in all": seconds["all"],
        }
    )
    # mistakes first, as they are what one learns from; then right answers, spread over the classes
    wrong = [answer for answer in answers if answer["label"] != answer["truth"]]
    right = [answer for answer in answers if answer["label"] == answer["truth"]]
    shown = [*wrong, *right[:: max(1, len(right) // (SHOWN - 1))]][:SHOWN]
    pictures = [Picture(_png(answer["path"]), _caption(answer)) for answer in shown]
    steps = Table(["step", "seconds"], [[name, value] for name, value in seconds.items() if name != "all"])
    about = Text(
        "1,797 handwritten digits went through a frozen EfficientNet-Lite0 pre-trained on ImageNet (Ray Data), a "
        "linear head was trained on the stored features (Ray Train), and a service answered about validation images "
        "that it had never seen (Ray Serve). The curves and the confusion matrix are in classifier/report.html."
    )
    sections = [
        Section("", [numbers, about]),
        Section("What the service answered", [Gallery(pictures)]),
        Section("Where the time went", [steps]),
    ]
    write_page(str(folder / "report.html"), "cnnray demo: handwritten digits", sections)


def _png(path: str) -> bytes:
    sink = io.BytesIO()
    Image.open(path).resize((128, 128), Image.Resampling.BICUBIC).save(sink, "PNG")
    return sink.getvalue()


def _caption(answer: dict[str, Any]) -> str:
    text = f"{answer['label']}  ({answer['probability']:.0%})"
    return text if answer["label"] == answer["truth"] else f"{text}\nis a {answer['truth']}"


def _say_next(out: str, summary: dict[str, Any]) -> None:
    lines = f"""
done in {summary["seconds"]["all"]:.0f} s: {summary["val_accuracy"]:.1%} of the validation digits are right; \
{summary["served_requests"]} HTTP requests, {summary["served_accuracy"]:.1%} right
pictures: {out}/report.html   numbers: {out}/summary.json

Now with your own photos, one folder per class:
  cnnray features build PHOTOS --out runs/features --split train=0.8,val=0.2
  cnnray train classify runs/features --out runs/classifier
  cnnray serve up --classifier runs/classifier/checkpoint
  cnnray query classify PHOTO.jpg
"""
    print(lines, file=sys.stderr)
