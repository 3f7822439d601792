"""`train detect`, `evaluate detect`, `predict detect` and `data inspect` for real, and what they refuse."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from cnnray.config import BoxesConfig, DetectConfig, DetectPredictConfig, SearchConfig
from cnnray.data.compare_detect import compare_detect
from cnnray.data.formats import read_annotations
from cnnray.data.inspect import inspect_boxes
from cnnray.data.predict import read_predictions
from cnnray.data.predict_detect import SCHEMA, evaluate_detect, measure, predict_detect
from cnnray.data.stream import stream_here
from cnnray.errors import DataError, OptionError, QuarantineError, RunFolderError, UnknownNameError
from cnnray.infer.detect import Detector
from cnnray.nn.checkpoint import load_checkpoint
from cnnray.ops.decode import decode
from cnnray.train.detect import train_detect
from cnnray.train.detect_data import build_parts
from cnnray.train.loop import Worker, run
from cnnray.train.state import load_history
from tests.detectors import draw_shapes, save_detector, write_shapes
from tests.killing import actors, kill_all, kill_next_actor, start_command, wait_for_parts

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


def trained(source, out, **changes):
    return train_detect(source, str(out), dataclasses.replace(SMALL, **changes))


def test_what_came_before_yolo_is_trained_and_compared_on_one_page(tmp_path):
    """A classifier of windows, and a grid of cells; both are evaluated like any other detector."""
    source = write_shapes(tmp_path / "shapes", 40, height=96, width=96)
    windows = trained(source, tmp_path / "windows", model="windows", epochs=16, lr=0.01, ema=0.0)
    grid = trained(source, tmp_path / "grid", model="grid", cells=3, mosaic=0.0, epochs=20)
    held = write_shapes(tmp_path / "held", 8)
    rows = compare_detect([windows["checkpoint"], grid["checkpoint"]], held, str(tmp_path / "page"), QUICK)
    assert [row["name"] for row in rows] == ["sliding windows", "3 x 3 cells on residual:width=0.25"]
    # windows are squares, so that they can only find one of the two shapes
    assert all(row["map50"] > 0.1 and row["ms"] > 0 and row["params"] > 10_000 for row in rows), rows
    for row in rows:
        alone = measure(row["checkpoint"], read_annotations(held), 0.3, QUICK.overlap)
        assert {name: row[name] for name in alone.figures} == pytest.approx(alone.figures)
    assert json.loads((tmp_path / "page" / "metrics.json").read_text()) == rows
    page = (tmp_path / "page" / "report.html").read_text()
    assert "3 x 3 cells on residual:width=0.25" in page and page.count("data:image/png") == 2
    again = compare_detect([windows["checkpoint"], grid["checkpoint"]], held, str(tmp_path / "page"), QUICK)
    assert [row["map"] for row in again] == [row["map"] for row in rows]  # nothing is evaluated again
    other = [windows["checkpoint"], f"{tmp_path}/grid/last"]
    with pytest.raises(RunFolderError, match="was started with source = .* but this command has"):
        compare_detect(other, held, str(tmp_path / "page"), QUICK)
    with pytest.raises(RunFolderError, match="holds a run"):
        compare_detect(other, held, str(tmp_path / "grid"), QUICK)
    with pytest.raises(OptionError, match="at least two detectors to compare, got 1"):
        compare_detect([windows["checkpoint"]], held, str(tmp_path / "page"), QUICK)


def test_torchvisions_detectors_are_tuned_from_published_weights(tmp_path):
    """Random weights stand for COCO's: what they begin with is what the frozen part ends with."""
    name = "ssdlite320_mobilenet_v3_large"
    torch.manual_seed(0)
    published = models.get_model(name, weights=None, weights_backbone=None).state_dict()
    torch.save(published, tmp_path / "coco.pth")
    source = write_shapes(tmp_path / "shapes", 8)
    weights = str(tmp_path / "coco.pth")
    manifest = trained(source, tmp_path / "run", model=name, weights=weights, epochs=2, lr=0.01)
    tensors, card = load_checkpoint(manifest["checkpoint"], "detect")
    assert card.arch == {"model": name, "size": 96} and card.classes == ["square", "bar"]
    low = {f"backbone.features.0.{at}." for at in range(4)}
    for key, tensor in published.items():
        ours = tensors[f"net.{key}"]
        if any(key.startswith(prefix) for prefix in low):
            assert torch.equal(ours, tensor), key
        elif key.endswith(("running_mean", "running_var")):
            assert torch.equal(ours, tensor), key  # statistics of few pictures are worse than COCO's
    learned = "backbone.features.1.3.0.weight"
    assert not torch.equal(tensors[f"net.{learned}"], published[learned])
    (found,) = Detector.load(manifest["checkpoint"]).predict([draw_shapes(1)[0]], SearchConfig(confidence=0.0))
    assert len(found.scores_N) and set(found.labels_N.tolist()) <= {0, 1}


def test_two_workers_at_half_the_batch_learn_what_one_learns(tmp_path):
    """Two by Ray Train, one in this process on the same images."""
    source = write_shapes(tmp_path / "shapes", 20)
    # which cell learns what is a choice of the best ones: large steps would make much of the last bits
    config = dataclasses.replace(SMALL, epochs=2, precision="float32", mosaic=0.5, lr=2e-4)
    train_detect(source, str(tmp_path / "two"), dataclasses.replace(config, workers=2))
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())["history"]
    tables = [str(tmp_path / "two" / f"{side}.parquet") for side in ("train", "val")]
    run(*build_parts(*tables, 2, config, stream_here), config, str(tmp_path / "one.state"), "x", Worker())
    one = load_history(str(tmp_path / "one.state"))
    for name in ("train_loss", "val_loss", "val_score"):
        np.testing.assert_allclose([row[name] for row in two], [row[name] for row in one], rtol=1e-3, atol=1e-3)


def test_models_that_do_not_fit_are_told_before_anything_starts(tmp_path):
    source = write_shapes(tmp_path / "shapes", 4)
    with pytest.raises(UnknownNameError, match="unknown detector 'yolo9000'; known: .*fcos_resnet50_fpn"):
        trained(source, tmp_path / "a", model="yolo9000")
    with pytest.raises(OptionError, match="at least 224 px for 7 x 7 cells, got 96 x 96 px"):
        trained(source, tmp_path / "b", model="grid")
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()
    with pytest.raises(
        OptionError, match="each of 2 workers has an image, but 3 images in batches of 2 make some of 1"
    ):
        trained(source, tmp_path / "c", workers=2, batch_size=2)


def test_killed_predictions_go_on_and_end_with_the_same_boxes(tmp_path):
    checkpoint, photos = save_detector(tmp_path / "detector", surer=2.5), tmp_path / "photos"
    photos.mkdir()
    for seed in range(300):
        Image.fromarray(draw_shapes(seed)[0]).save(photos / f"{seed:03d}.png")
    config = dataclasses.replace(QUICK, confidence=0.02)
    whole = predict_detect(checkpoint, str(photos), str(tmp_path / "whole"), config)
    out = tmp_path / "killed"
    words = ["predict", "detect", checkpoint, photos, "--out", out, "--confidence", 0.02, "--workers", 1]
    driver = start_command(*words)
    wait_for_parts(out / "predictions", 1, driver)
    kill_all(driver)
    assert not (out / "manifest.json").exists()
    with ThreadPoolExecutor() as pool:
        killed = pool.submit(kill_next_actor, "DetectStage", seen=actors("DetectStage"))
        manifest = predict_detect(checkpoint, str(photos), str(out), config)
        assert killed.result()
    assert (manifest["predictions"], manifest["boxes"]) == (300, whole["boxes"]) and whole["boxes"] > 300
    assert read_predictions(str(out), SCHEMA).equals(read_predictions(str(tmp_path / "whole"), SCHEMA))
    ours, theirs = (json.loads((folder / "detections.json").read_text()) for folder in (out, tmp_path / "whole"))
    assert ours == theirs


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
    Path(source).write_text(json.dumps(content | {"annotations": [], "categories": []}))
    with pytest.raises(DataError, match="expected boxes and their classes in .*, but it names no class"):
        train_detect(source, str(tmp_path / "run"), SMALL)
    Path(source).write_text(json.dumps(content))
    checkpoint = save_detector(tmp_path / "detector", classes=("cat", "dog"))
    with pytest.raises(DataError, match="expected categories among the 2 that .* knows, but .* has bar, square"):
        evaluate_detect(checkpoint, source, str(tmp_path / "evaluation"), QUICK)
