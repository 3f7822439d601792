"""Faces of a whole folder, by Ray Data: the same as the pipeline finds in this process."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from cnnray.config import FacesPredictConfig
from cnnray.data.feature_store import read_quarantine
from cnnray.data.picture_names import picture_name
from cnnray.data.predict import read_predictions
from cnnray.data.predict_faces import SCHEMA, predict_faces, stored_faces
from cnnray.errors import CheckpointError, QuarantineError, RunFolderError
from cnnray.infer.face_results import pick_face, to_json
from cnnray.infer.faces import FacePipeline
from tests.people import link_people, nobody
from tests.unit.test_embedders import SMALL, saved

pytestmark = pytest.mark.usefixtures("ray_cluster")
CONFIG = FacesPredictConfig(embed=True, crops=True, draw=True, max_bad=0.2)


@pytest.fixture(scope="module")
def source(data_dir, tmp_path_factory):
    """Two people, a photo of seven, one of nobody, and a broken file."""
    folder = link_people(data_dir, tmp_path_factory.mktemp("people") / "src", people=2, images=4)
    (folder / "others").mkdir()
    (folder / "others" / "group.jpg").symlink_to(data_dir / "faces" / "2007_007763.jpg")
    (folder / "others" / "nobody.jpg").write_bytes(nobody())
    (folder / "others" / "broken.jpg").write_bytes(b"rubbish")
    return folder


@pytest.fixture(scope="module")
def run(ray_cluster, source, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    return out, predict_faces(str(source), str(out), CONFIG)


def stored(out):
    return read_predictions(str(out), SCHEMA).to_pylist()


def test_rows_are_what_the_pipeline_answers(run, source):
    rows = stored(run[0])
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows) and len(rows) == 10
    answers = FacePipeline.load(CONFIG).predict([(source / row["id"]).read_bytes() for row in rows], CONFIG.search)
    for row, answer in zip(rows, answers, strict=True):
        assert (row["label"], row["path"]) == (row["id"].split("/")[0], str(source / row["id"]))
        again = stored_faces(row)
        assert (again.height, again.width, len(again.faces)) == (answer.height, answer.width, len(answer.faces))
        for ours, theirs, crop in zip(again.faces, answer.faces, row["crops"], strict=True):
            np.testing.assert_allclose(ours.box, theirs.box, atol=0.02)
            np.testing.assert_allclose(ours.landmarks_52, theirs.landmarks_52, atol=0.02)
            np.testing.assert_allclose(ours.embedding_D, theirs.embedding_D, atol=0.02)  # bfloat16 in other batches
            assert ours.quality.size == pytest.approx(theirs.quality.size, abs=0.02)
            pixels = np.asarray(Image.open(io.BytesIO(crop)))
            assert pixels.shape == (150, 150, 3)
            assert np.abs(pixels.astype(float) - theirs.crop_HWC).mean() < 3  # a JPEG


def test_the_stored_face_that_is_meant_is_the_pipelines(run, source):
    row = next(row for row in stored(run[0]) if row["id"] == "others/group.jpg")
    (answer,) = FacePipeline.load().predict([(source / row["id"]).read_bytes()])
    for how in ("largest", "central"):
        np.testing.assert_allclose(pick_face(stored_faces(row), how).box, pick_face(answer, how).box, atol=0.02)


def test_counts_quarantine_overlays_and_the_list_of_faces(run):
    out, manifest = run
    rows = stored(out)
    faces = sum(len(row["boxes"]) for row in rows)
    assert (manifest["images"], manifest["predictions"], manifest["quarantined"]) == (11, 10, 1)
    assert (manifest["faces"], manifest["without_faces"]) == (faces, 1) and faces >= 15
    (bad,) = read_quarantine(str(out)).to_pylist()
    assert (bad["id"], bad["code"]) == ("others/broken.jpg", "not_an_image")
    listed = json.loads((out / "faces.json").read_text())
    assert [row["id"] for row in listed] == [row["id"] for row in rows]
    assert listed[0]["faces"][0] == to_json(stored_faces(rows[0]).faces[0])
    for row in rows:
        with Image.open(out / "overlays" / picture_name(row["id"])) as picture:
            assert picture.size == (row["width"], row["height"])


def test_a_run_that_was_cut_short_goes_on_and_a_finished_one_is_refused(run, source, tmp_path):
    out, manifest = run
    with pytest.raises(RunFolderError, match="finished"):
        predict_faces(str(source), str(out), CONFIG)
    copy = tmp_path / "out"
    copy.mkdir()
    for name in ("config.toml", "index.parquet"):
        (copy / name).write_bytes((out / name).read_bytes())
    (copy / "quarantine").mkdir()
    for part in (out / "quarantine").iterdir():
        (copy / "quarantine" / part.name).write_bytes(part.read_bytes())
    again = predict_faces(str(source), str(copy), CONFIG)
    assert {name: again[name] for name in ("faces", "quarantined")} == {
        n: manifest[n] for n in ("faces", "quarantined")
    }


def test_a_checkpoint_is_found_from_where_the_command_ran(data_dir, tmp_path, monkeypatch):
    """The workers of the cluster, which is older, run elsewhere."""
    link_people(data_dir, tmp_path / "src", people=1, images=2)
    saved(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    config = FacesPredictConfig(embedder="mine", embed=True)
    manifest = predict_faces("src", "out", config)
    assert manifest["predictions"] == 2 and manifest["config"]["embedder"] == "mine"
    row = stored(tmp_path / "out")[0]
    assert stored_faces(row).faces[0].embedding_D.shape == (16,)
    assert row["crops"] == [b""] * len(row["boxes"])
    (tmp_path / "out" / "manifest.json").unlink()
    saved(tmp_path / "mine", arch={**SMALL, "num_features": 8})
    with pytest.raises(RunFolderError, match="was started with source"):
        predict_faces("src", "out", config)


def test_too_many_bad_images_and_no_checkpoint(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.jpg").write_bytes(b"")
    (tmp_path / "src" / "b.jpg").write_bytes(nobody())
    with pytest.raises(QuarantineError, match="1 of 2 images .* 1 empty"):
        predict_faces(str(tmp_path / "src"), str(tmp_path / "out"), FacesPredictConfig())
    assert json.loads((tmp_path / "out" / "faces.json").read_text())[0]["faces"] == []
    with pytest.raises(CheckpointError, match="expected an embedder"):
        predict_faces(str(tmp_path / "src"), str(tmp_path / "none"), FacesPredictConfig(embedder="nothing"))
    assert not (tmp_path / "none").exists()
