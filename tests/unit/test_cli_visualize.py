"""`cnnray visualize`: pictures of what networks see."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from cnnray.infer.classify import Classifier
from tests.classifiers import CLASSES, save_classifier
from tests.commands import run_command


@pytest.fixture
def call(tmp_path, capsys):
    """The command on a photo: its JSON, and what people see."""
    classifier = save_classifier(str(tmp_path / "classifier"))
    Image.fromarray(load_sample_images().images[1][:300, :400]).save(tmp_path / "photo.jpg")

    def run(*words, code=0, photo="photo.jpg", classifier=classifier):
        places = [str(tmp_path / photo), "--classifier", classifier, "--out", str(tmp_path / "why")]
        return run_command(["visualize", "why", *places, *words], capsys, code)

    return run


def test_a_picture_shows_what_speaks_for_the_answer(call, tmp_path):
    found, said = call()
    photo = (tmp_path / "photo.jpg").read_bytes()
    (answer,) = Classifier.load(str(tmp_path / "classifier"), compile=False).predict([photo])
    assert found["answers"][0]["label"] == answer.label and answer.label in said
    assert found["answers"][0]["probability"] == pytest.approx(answer.probability, abs=0.02)
    first = (tmp_path / "why" / "photo.png").read_bytes()
    with Image.open(io.BytesIO(first)) as picture:
        pixels = np.asarray(picture).astype(int)
    assert pixels.shape == (480, 3 * 480, 3)
    photo, heat, guided = np.split(pixels, 3, axis=1)
    assert np.abs(photo - heat)[150:330].mean() > 5 and guided.std() > 2
    other = next(name for name in CLASSES if name != answer.label)
    assert call("--label", other)[0]["answers"][0]["label"] == other
    assert (tmp_path / "why" / "photo.png").read_bytes() != first
    assert call("--stage", "stage3")[0]["stage"] == "stage3"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--label", "melon"], "unknown class 'melon'; known: apple, pear, plum"),
        (["--stage", "stage99"], "'stage99'; known: stem, stage1"),
    ],
)
def test_wrong_options_are_one_line(call, tmp_path, words, message):
    said = call(*words, code=2)[1].strip()
    assert message in said and "\n" not in said and not (tmp_path / "why").exists()


def test_a_bad_photo_is_one_line(call, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"rubbish")
    assert "expected JPEG, PNG" in call(code=2, photo="bad.jpg")[1]
    assert "expected an image at" in call(code=2, photo="none.jpg")[1]
    assert "/nowhere" in call(code=2, classifier="/nowhere")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "stage99"], "unknown conv layer of efficientnet_lite0 'stage99'; known: stem, stage1.layers.0"),
        (["--backbone", "mobilenet_v3_small", "--weights", "none", "--rule", "guided"], "has hardsigmoid, hardswish"),
        (["--rule", "magic"], "rule must be one of"),
    ],
)
def test_wrong_options_of_an_atlas_are_one_line(tmp_path, capsys, words, message):
    said = run_command(["visualize", "filters", tmp_path, "--out", tmp_path / "atlas", *words], capsys, 2)[1].strip()
    assert message in said and "\n" not in said and not (tmp_path / "atlas").exists()
