"""Real detection data: what is in it, and figures that agree with pycocotools used as its authors do."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cnnray.config import BoxesConfig
from cnnray.data.annotations import RawBox, RawImage, gather
from cnnray.data.coco import to_coco
from cnnray.data.convert import convert_boxes
from cnnray.data.detect_report import BoxJudge, as_found
from cnnray.data.formats import read_annotations


def test_blood_cells(data_dir):
    found = read_annotations(str(data_dir / "bccd"))
    assert (found.format, found.table.num_rows, found.num_boxes) == ("voc", 364, 4886)
    assert found.categories == ("Platelets", "RBC", "WBC") and found.codes == {"empty": 2}
    splits = found.table["split"].to_pylist()
    assert [splits.count(name) for name in ("train", "val", "test")] == [205, 87, 72]


def test_raccoons(data_dir):
    found = read_annotations(str(data_dir / "raccoon"))
    assert (found.table.num_rows, found.num_boxes, found.codes) == (200, 217, {})


@pytest.mark.parametrize("to", ["voc", "coco"])
def test_a_real_round_trip(data_dir, tmp_path, to):
    found = read_annotations(str(data_dir / "coco128"))
    assert found.table.num_rows == 128 and len(found.categories) == 80 and found.codes == {"no_image": 2}
    convert_boxes(str(data_dir / "coco128"), str(tmp_path / to), to, BoxesConfig(max_bad=0.02), copy=True)
    (tmp_path / to / "problems.csv").unlink()
    again = read_annotations(str(tmp_path / to))
    assert again.num_boxes == found.num_boxes
    for ours, theirs in zip(again.table.to_pylist(), found.table.to_pylist(), strict=True):
        if ours["boxes"]:
            assert np.abs(np.array(ours["boxes"]) - np.array(theirs["boxes"])).max() <= 0.5
        names = [again.categories[label] for label in ours["labels"]]
        assert names == [found.categories[label] for label in theirs["labels"]]


def test_figures_are_those_of_pycocotools(data_dir, tmp_path):
    """A detector's answers on 85 photos; two photos' objects become a crowd, two photos lose theirs."""
    folder = data_dir / "map_check"
    stems = sorted(path.stem for path in (folder / "ground-truth").glob("*.txt"))
    truth = {
        stem: [line.split() for line in (folder / "ground-truth" / f"{stem}.txt").read_text().splitlines()]
        for stem in stems
    }
    names = sorted({row[0] for rows in truth.values() for row in rows})
    images, answers = [], {}
    for at, stem in enumerate(stems):
        boxes = [
            RawBox(*map(float, row[1:5]), names.index(row[0]), "", crowd=at < 2)
            for row in ([] if at in (5, 6) else truth[stem])
        ]
        images.append(RawImage(stem, stem, "", 1000, 1000, boxes))
        rows = [line.split() for line in (folder / "detection-results" / f"{stem}.txt").read_text().splitlines()]
        rows = [row for row in rows if row[0] in names]
        boxes, scores = [list(map(float, row[2:6])) for row in rows], [float(row[1]) for row in rows]
        answers[stem] = as_found(boxes, scores, [names.index(row[0]) for row in rows])
    annotations = gather(images, names, [], "coco")
    assert annotations.num_boxes > 600
    judge = BoxJudge(annotations, answers, 0.3)

    (tmp_path / "truth.json").write_text(json.dumps(to_coco(annotations)))
    (tmp_path / "answers.json").write_text(json.dumps(judge.results()))
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(tmp_path / "truth.json"))
        run = COCOeval(known, known.loadRes(str(tmp_path / "answers.json")), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    ours = [value if value is not None else -1 for value in judge.figures.values()]
    np.testing.assert_allclose(ours, run.stats, atol=1e-6)
    assert 0.2 < judge.figures["map50"] < 0.8
    for at, row in enumerate(judge.table):
        values = run.eval["precision"][0, :, at, 0, 2]
        assert row["ap50"] == pytest.approx(values.mean(), abs=1e-6) if values[0] >= 0 else row["ap50"] is None
    matrix = judge.confusion()
    assert matrix[:-1].sum() == sum(row["objects"] for row in judge.table)
