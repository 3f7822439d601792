"""The demo's services, asked by HTTP: classifier and detector, about images that neither has seen; gallery; painter."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cnnray import files
from cnnray.client import Client
from cnnray.config import ServeConfig
from cnnray.data.feature_store import INDEX, read_parquet
from cnnray.data.formats import read_annotations
from cnnray.serve.app import down, up

T = TypeVar("T")

ASKED = 60
CONFIDENCE = 0.4


def validation_images(features: str) -> list[tuple[str, str]]:
    """Path and true class of some validation images of a features run, evenly spread over it."""
    index = read_parquet(files.join(features, INDEX)).to_pylist()
    held_out = [(row["path"], row["label"]) for row in index if row["split"] == "val"]
    return held_out[:: max(1, len(held_out) // ASKED)][:ASKED]


def held_out_scenes(source: str, count: int) -> list[str]:
    """Paths of the first scenes of a COCO file."""
    paths: list[str] = read_annotations(source).table["path"].to_pylist()[:count]
    return paths


def ask_service(classifier: str, detector: str, digits: list[tuple[str, str]], scenes: list[str]) -> dict[str, Any]:
    """Start the service, ask it about each image, end it.

    Args:
        classifier, detector: checkpoints.
        digits: path and true class of images to classify.
        scenes: paths of images to search.

    Returns:
        "digits": of each path, truth, label, probability, ms; "scenes": of each path, number of objects, ms, and the
        image with its boxes as PNG.
    """
    url = up(ServeConfig(classifier=classifier, detector=detector, port=0))
    try:
        with Client(url) as client:
            answers = [_classified(client, *image) for image in digits]
            return {"digits": answers, "scenes": [_searched(client, path) for path in scenes]}
    finally:
        down()


def ask_gallery_and_painter(
    record: str, gallery: str, folder: Path, photo: Path, styles: list[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Start a service of galleries and of the painter that comes along, ask both, end it.

    Args:
        record: of the gallery.
        folder: of photos; who is in each is asked.
        photo, styles: the photo is painted in each of them.

    Returns:
        of each photo, by name: path, decision, name and score of whom the face is most like, threshold, ms; no photo
        has several faces, and one without a face is left out.
        of each style: style, content (JPEG), height, width, ms.
    """
    url = up(ServeConfig(faces="dlib_resnet", record=record, painter="default", port=0))
    try:
        with Client(url) as client:
            found = [_recognized(client, gallery, path) for path in sorted(folder.rglob("*.jpg"))]
            client.stylize(str(photo), styles[0])  # the first of its size takes longer
            return [answer for answer in found if answer], [_painted(client, photo, style) for style in styles]
    finally:
        down()


def _timed(call: Callable[..., T], *args: Any, **options: Any) -> tuple[T, float]:
    """What a call answers, and the milliseconds that it took."""
    began = time.perf_counter()
    answer = call(*args, **options)
    return answer, (time.perf_counter() - began) * 1000


def _recognized(client: Client, gallery: str, path: Path) -> dict[str, Any]:
    answer, spent = _timed(client.recognize, gallery, path, candidates=1)
    if not answer.faces:
        return {}
    face = answer.faces[0]
    facts = {"decision": face.decision, "name": face.candidates[0].name, "score": face.score}
    return {"path": str(path)} | facts | {"threshold": face.threshold, "ms": spent}


def _painted(client: Client, photo: Path, style: str) -> dict[str, Any]:
    answer, spent = _timed(client.stylize, str(photo), style)
    facts = {"content": answer.content, "height": answer.height, "width": answer.width}
    return {"style": style} | facts | {"ms": spent}


def _classified(client: Client, path: str, truth: str) -> dict[str, Any]:
    answer, spent = _timed(client.classify, path)
    return {"path": path, "truth": truth, "label": answer.label, "probability": answer.probability, "ms": spent}


def _searched(client: Client, path: str) -> dict[str, Any]:
    found, spent = _timed(client.detect, path, confidence=CONFIDENCE)
    drawn = client.draw_objects(path, confidence=CONFIDENCE)
    return {"path": path, "objects": len(found.objects), "ms": spent, "drawn": drawn}
