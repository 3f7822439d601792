"""`train segment`, `evaluate segment` and `predict segment` for real, and what they refuse."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnray.config import SegmentConfig, SegmentPredictConfig
from cnnray.data.pairs import build_pairs, check_pairs
from cnnray.data.predict import read_predictions
from cnnray.data.predict_segment import SCHEMA, evaluate_segment, predict_segment
from cnnray.data.runs import RunFolder
from cnnray.errors import DataError, OptionError, QuarantineError, RunFolderError
from cnnray.infer.segment import Segmenter
from cnnray.ops.decode import decode
from cnnray.ops.masks import decode_mask
from cnnray.train.segment import train_segment
from tests.segmenters import draw_blobs, save_segmenter, write_pairs

pytestmark = pytest.mark.usefixtures("ray_cluster")

SMALL = SegmentConfig(
    encoder="plain", width=8, depth=2, crop=64, batch_size=4, epochs=12, lr=0.01, tile=96, overlap=32, ema=0.8
)
QUICK = SegmentPredictConfig(workers=1)


def test_from_pairs_to_a_segmenter_that_is_evaluated_and_predicts(tmp_path):
    source = write_pairs(tmp_path / "pairs", 14)
    manifest = train_segment(source, str(tmp_path / "run"), SMALL)
    assert manifest["counts"] == {"train": 11, "val": 3, "classes": 2}
    assert manifest["metrics"]["foreground_iou"] > 0.8
    assert manifest["classes"] == "background=0,foreground=255"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "plain U-Net, 2 classes, checked on 3 validation images" in page and page.count("data:image/png") >= 4
    with pytest.raises(RunFolderError, match="is finished"):
        train_segment(source, str(tmp_path / "run"), SMALL)

    held = write_pairs(tmp_path / "held", 3, height=120, width=200)
    figures = evaluate_segment(manifest["checkpoint"], held, str(tmp_path / "evaluation"), QUICK)
    assert figures["images"] == 3 and figures["foreground_iou"] > 0.7
    assert [row["name"] for row in figures["classes"]] == ["background", "foreground"]
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text()) == figures

    photos = tmp_path / "photos" / "deep"
    photos.mkdir(parents=True)
    for seed in (31, 32):
        Image.fromarray(draw_blobs(seed)[0]).save(photos / f"{seed}.png")
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    out = tmp_path / "predictions"
    draw = dataclasses.replace(QUICK, draw=True, max_bad=0.5)
    found = predict_segment(manifest["checkpoint"], str(tmp_path / "photos"), str(out), draw)
    assert (found["predictions"], found["quarantined"]) == (2, 1)
    segmenter = Segmenter.load(manifest["checkpoint"], device="cpu")
    for row in read_predictions(str(out), SCHEMA).to_pylist():
        image = decode(Path(row["path"]).read_bytes())
        (answer,) = segmenter.predict([image])
        mask = decode_mask((out / "masks" / row["id"]).read_bytes())
        np.testing.assert_array_equal(mask, np.array([0, 255])[answer.classes_HW])
        assert decode((out / "overlays" / row["id"]).read_bytes()).shape == image.shape
        assert row["shares"] == pytest.approx([share for _, share in answer.shares]) and row["height"] == 80


@pytest.mark.parametrize(
    ("fault", "classes", "message"),
    [
        (
            "size",
            "",
            r"masks of their images' size, but 1 of 6 differ, such as .*02.png: 20 x 10 px for an image of 96 x",
        ),
        ("value", "", r"masks of 0 and 1 or of 0 and 255, but they hold 0, 7, 255; say which class"),
        ("value", "background=0,cell=255", r"only the numbers of background=0,cell=255 .*1 of 6 .*02.png: 7"),
    ],
)
def test_masks_that_do_not_fit_are_named(tmp_path, fault, classes, message):
    source = write_pairs(tmp_path / "pairs", 6)
    mask = np.zeros((10, 20), np.uint8) if fault == "size" else draw_blobs(2)[1]
    mask[0, 0] = 7 if fault == "value" else 0
    Image.fromarray(mask).save(tmp_path / "pairs" / "masks" / "02.png")
    with pytest.raises(DataError, match=message):
        train_segment(source, str(tmp_path / "run"), dataclasses.replace(SMALL, classes=classes))


def test_masks_that_cannot_be_decoded_are_quarantined(tmp_path):
    source = write_pairs(tmp_path / "pairs", 8)
    (tmp_path / "pairs" / "masks" / "05.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(QuarantineError, match=r"1 of 8 images \(12.5%\) were bad"):
        train_segment(source, str(tmp_path / "run"), SMALL)
    checkpoint = save_segmenter(tmp_path / "segmenter")
    figures = evaluate_segment(checkpoint, source, str(tmp_path / "e"), dataclasses.replace(QUICK, max_bad=0.2))
    assert (figures["images"], figures["quarantined"]) == (7, 1)


def test_an_evaluation_that_ends_before_its_report_is_finished_by_the_same_command(tmp_path, monkeypatch):
    source, checkpoint = write_pairs(tmp_path / "pairs", 4), save_segmenter(tmp_path / "segmenter")

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cnnray.data.predict_segment.write_page", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate_segment(checkpoint, source, str(tmp_path / "e"), QUICK)
    figures = evaluate_segment(checkpoint, source, str(tmp_path / "e"), QUICK)
    assert figures["images"] == 4 and (tmp_path / "e" / "report.html").exists()
    with pytest.raises(RunFolderError, match="is finished"):
        evaluate_segment(checkpoint, source, str(tmp_path / "e"), QUICK)


def test_inputs_that_changed_after_they_were_checked_are_refused(tmp_path):
    source = write_pairs(tmp_path / "pairs", 4)
    run = RunFolder.open(str(tmp_path / "run"), SMALL, "segment", source=source)
    assert check_pairs(run, build_pairs(source, SMALL), SMALL).table.num_rows == 4
    assert check_pairs(run, build_pairs(source, SMALL), SMALL).table.num_rows == 4
    write_pairs(tmp_path / "pairs", 5)
    with pytest.raises(RunFolderError, match=r"the inputs with which .*run began, but now they are others"):
        train_segment(source, str(tmp_path / "run"), SMALL)


def test_more_workers_than_crops_in_a_batch_are_refused(tmp_path):
    config = dataclasses.replace(SMALL, workers="1:2", batch_size=1)
    with pytest.raises(OptionError, match="each of 2 workers has an image, but .* in batches of 1 make some of 1"):
        train_segment(write_pairs(tmp_path / "pairs", 4), str(tmp_path / "run"), config)


def test_a_class_that_only_validation_has_is_refused(tmp_path):
    source = write_pairs(tmp_path / "pairs", 4)
    mask = draw_blobs(3)[1]
    mask[:4] = 9
    Image.fromarray(mask).save(tmp_path / "pairs" / "masks" / "03.png")
    rows = [f"images/{n:02d}.png,masks/{n:02d}.png,{'val' if n == 3 else 'train'}" for n in range(4)]
    (tmp_path / "pairs" / "pairs.csv").write_text("\n".join(["path,mask,split", *rows]))
    config = dataclasses.replace(SMALL, classes="background=0,cell=255,debris=9")
    with pytest.raises(DataError, match="expected every class in the training masks, but debris is only in those of"):
        train_segment(f"{source}/pairs.csv", str(tmp_path / "run"), config)
