"""What the demo shows at its end: a page, and a few lines on the terminal."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnray.page import Gallery, Numbers, Picture, Section, Table, Text, write_page
from cnnray.report import picture_grid

SHOWN = 18  # digits


def write_report(folder: Path, summary: dict[str, Any], answers: dict[str, Any], more: list[Section]) -> None:
    """FOLDER/report.html.

    Args:
        summary: what is written to summary.json.
        answers: of the service, see `ask_service`.
        more: sections about the gallery, the paintings, and what came before YOLO.
    """
    seconds = summary["seconds"]
    numbers = Numbers(
        {
            "images": summary["images"],
            "validation accuracy": f"{summary['val_accuracy']:.1%}",
            "accuracy over HTTP": f"{summary['served_accuracy']:.1%}",
            "detector, AP50": f"{summary['detect_map50']:.1%}",
            "detector trained, s": seconds["detect"],
            "classify request, ms": summary["request_ms_median"],
            "detect request, ms": summary["detect_ms_median"],
            "recognise request, ms": summary["recognise_ms_median"],
            "painting request, ms": summary["paint_ms_median"],
            "features per second": summary["features_per_s"],
            "seconds in all": seconds["all"],
        }
    )
    steps = Table(["step", "seconds"], [[name, value] for name, value in seconds.items() if name != "all"])
    about = Text(
        "1,797 handwritten digits went through a frozen EfficientNet-Lite0 pre-trained on ImageNet (Ray Data), a "
        "linear head was trained on the stored features (Ray Train), and a service answered about validation images "
        "that it had never seen (Ray Serve). The curves and the confusion matrix are in classifier/report.html."
    )
    found = Text(
        f"A YOLO on the same network, trained on {summary['scenes']:,} scenes that were composed of such digits and of "
        "photos, finds digits in scenes whose digits and photos it has never seen. More in yolo/report.html and "
        "tested/report.html."
    )
    sections = [
        Section("", [numbers, about]),
        Section("What the service answered", [Gallery(_digits(answers["digits"]))]),
        Section("Where the service found digits", [found, _scenes(answers["scenes"])]),
        *more,
        Section("Where the time went", [steps]),
    ]
    write_page(str(folder / "report.html"), "cnnray demo: handwritten digits, faces, and paintings", sections)


def _digits(answers: list[dict[str, Any]]) -> list[Picture]:
    """Mistakes first, as they are what one learns from; then right answers, spread over the classes."""
    wrong = [answer for answer in answers if answer["label"] != answer["truth"]]
    right = [answer for answer in answers if answer["label"] == answer["truth"]]
    shown = [*wrong, *right[:: max(1, len(right) // (SHOWN - 1))]][:SHOWN]
    return [Picture(_png(answer["path"]), _caption(answer)) for answer in shown]


def _scenes(answers: list[dict[str, Any]]) -> Picture:
    """The service's own drawings, three in a row."""
    drawn = [np.asarray(Image.open(io.BytesIO(answer["drawn"])).convert("RGB")) for answer in answers]
    rows = [drawn[at : at + 3] for at in range(0, len(drawn), 3)]
    counts = ", ".join(str(answer["objects"]) for answer in answers)
    return Picture(picture_grid(rows, [""] * len(rows[0])), f"digits found: {counts}")


def _png(path: str) -> bytes:
    sink = io.BytesIO()
    Image.open(path).resize((128, 128), Image.Resampling.BICUBIC).save(sink, "PNG")
    return sink.getvalue()


def _caption(answer: dict[str, Any]) -> str:
    text = f"{answer['label']}  ({answer['probability']:.0%})"
    return text if answer["label"] == answer["truth"] else f"{text}\nis a {answer['truth']}"


def next_steps(out: str, summary: dict[str, Any]) -> str:
    """What was reached, where it is, and the commands for one's own photos."""
    return f"""
done in {summary["seconds"]["all"]:.0f} s: {summary["val_accuracy"]:.1%} of the validation digits are right; \
{summary["served_requests"]} HTTP requests, {summary["served_accuracy"]:.1%} right
faces: {summary["copies_recognised"]} of {summary["copies"]} altered copies of a portrait recognised; \
{summary["strangers_taken_for_somebody"]} of {summary["strangers"]} strangers taken for somebody
detector: AP50 {summary["detect_map50"]:.1%} on scenes whose digits and photos were in no training scene
painter: a photo in {summary["paintings"]} styles, {summary["paint_ms_median"]:.0f} ms each
pictures: {out}/report.html   numbers: {out}/summary.json

Now with your own photos, one folder per class:
  cnnray features build PHOTOS --out runs/features --split train=0.8,val=0.2
  cnnray train classify runs/features --out runs/classifier
  cnnray serve up --classifier runs/classifier/checkpoint
  cnnray query classify PHOTO.jpg
"""
