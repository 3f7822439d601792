"""`train detect`, `evaluate detect`, `predict detect` and `data inspect` for real, and what they refuse."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnray.config import BoxesConfig, DetectConfig, DetectPredictConfig, SearchConfig
from cnnray.data.formats import read_annotations
from cnnray.data.inspect import inspect_boxes
from cnnray.data.predict import read_predictions
from cnnray.data.predict_detect import SCHEMA, evaluate_detect, measure, predict_detect
from cnnray.errors import DataError, QuarantineError, RunFolderError
from cnnray.infer.detect import Detector
from cnnray.ops.decode import decode
from cnnray.train.detect import train_detect
from tests.detectors import draw_shapes, save_detector, write_shapes

pytestmark = pytest.mark.usefixtures("ray_cluster")

SMALL = DetectConfig(
    backbone="residual:width=0.25",
    weights="none",
    width=16,
    size=96,
    batch_size=4,
    epochs=12,
    lr=4e-3,
    ema=0.9,
    augment="light",
    mosaic=0.3,
)
QUICK = DetectPredictConfig(workers=1)


def test_from_shapes_to_a_detector_that_is_evaluated_and_predicts(tmp_path):
    source = write_shapes(tmp_path / "shapes", 40)
    manifest = train_detect(source, str(tmp_path / "run"), SMALL)
    assert manifest["counts"] == {"train": 32, "val": 8, "boxes": 79, "classes": 2}
    assert manifest["metrics"]["map50"] > 0.5
    page = (tmp_path / "run" / "report.html").read_text()
    assert "YOLO on residual:width=0.25, 2 classes, checked on 8 images" in page and page.count("data:image/png") >= 4
    with pytest.raises(RunFolderError, match="is finished"):
        train_detect(source, str(tmp_path / "run"), SMALL)

    held = write_shapes(tmp_path / "held", 6, height=120, width=160)
    figures = evaluate_detect(manifest["checkpoint"], held, str(tmp_path / "evaluation"), QUICK)
    alone = measure(manifest["checkpoint"], read_annotations(held), 0.3, QUICK.overlap)
    assert figures["images"] == 6 and {name: figures[name] for name in alone.figures} == pytest.approx(alone.figures)
    assert figures["classes"] == alone.table
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert results and set(results[0]) == {"image_id", "category_id", "bbox", "score"}

    photos = tmp_path / "photos" / "deep"
    photos.mkdir(parents=True)
    for seed in (31, 32):
        Image.fromarray(draw_shapes(seed)[0]).save(photos / f"{seed}.png")
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    out = tmp_path / "predictions"
    draw = dataclasses.replace(QUICK, draw=True, max_bad=0.5, confidence=0.1)
    found = predict_detect(manifest["checkpoint"], str(tmp_path / "photos"), str(out), draw)
    assert (found["predictions"], found["quarantined"]) == (2, 1)
    detector = Detector.load(manifest["checkpoint"], device="cpu")
    rows = read_predictions(str(out), SCHEMA).to_pylist()
    for row in rows:
        image = decode(Path(row["path"]).read_bytes())
        (answer,) = detector.predict([image], SearchConfig(confidence=0.1))
        np.testing.assert_array_equal(np.array(row["boxes"], np.float32).reshape(-1, 4), answer.boxes_N4)
        assert row["labels"] == [detector.classes[label] for label in answer.labels_N]
        assert decode((out / "overlays" / row["id"]).read_bytes()).shape == image.shape
    content = json.loads((out / "detections.json").read_text())
    assert len(content["annotations"]) == found["boxes"] == sum(len(row["scores"]) for row in rows)
    assert [entry["file_name"] for entry in content["images"]] == ["deep/31.png", "deep/32.png"]


def test_a_data_set_is_counted_and_what_is_wrong_is_listed(tmp_path):
    source = write_shapes(tmp_path / "shapes", 6)
    content = json.loads(Path(source).read_text())
    content["annotations"][0]["bbox"] = [0, 0, -5, 5]
    content["images"][1]["width"] = 50
    Path(source).write_text(json.dumps(content))
    images = tmp_path / "shapes" / "images"
    (images / "03.png").write_bytes((images / "00.png").read_bytes())
    (images / "04.png").write_bytes(b"\x89PNG\r\n\x1a\nwhat")
    facts = inspect_boxes(source, str(tmp_path / "out"), BoxesConfig())
    assert (facts["images"], facts["duplicates"], facts["format"]) == (6, 1, "coco")
    assert facts["problems"]["swapped"] == facts["problems"]["other_size"] == 1 and len(facts["problems"]) >= 3
    assert sum(row["boxes"] for row in facts["classes"]) == facts["boxes"]
    listed = (tmp_path / "out" / "problems.csv").read_text()
    assert all(code in listed for code in facts["problems"]) and "report.html" in map(
        str, [p.name for p in (tmp_path / "out").iterdir()]
    )

    with pytest.raises(QuarantineError, match="boxes .* cannot be used, more than --max-bad"):
        train_detect(source, str(tmp_path / "strict"), SMALL)
    with pytest.raises(QuarantineError, match="of 6 images .* were bad"):
        train_detect(source, str(tmp_path / "images"), dataclasses.replace(SMALL, max_bad=0.15))


def test_what_cannot_be_trained_or_measured_on_is_told(tmp_path):
    source = write_shapes(tmp_path / "shapes", 4)
    content = json.loads(Path(source).read_text())
    Path(source).write_text(json.dumps(content | {"annotations": []}))
    with pytest.raises(DataError, match="none of the 4 good ones has any"):
        train_detect(source, str(tmp_path / "run"), SMALL)
    checkpoint = save_detector(tmp_path / "detector", classes=("cat", "dog"))
    with pytest.raises(DataError, match="expected categories among the 2 that .* knows, but .* has bar, square"):
        evaluate_detect(checkpoint, source, str(tmp_path / "evaluation"), QUICK)
