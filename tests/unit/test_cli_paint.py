"""`cnnray stylize` by a painter: one photo, and what cannot be painted."""

import json

import numpy as np
import pytest

from cnnray.cli.train import name_styles
from cnnray.errors import OptionError
from cnnray.infer.fast_stylize import SHIPPED, Stylizer
from cnnray.nn.checkpoint import load_card
from cnnray.ops.decode import decode
from cnnray.ops.overlay import png
from tests.commands import run_command
from tests.painters import draw_photo, save_painter


@pytest.fixture
def call(tmp_path, capsys):
    """The command on a photo by a painter of its own: its JSON, and what people see."""
    painter = save_painter(tmp_path / "painter")
    (tmp_path / "photo.png").write_bytes(png(draw_photo()))

    def run(*words, code=0):
        words = ["stylize", str(tmp_path / "photo.png"), *map(str, words), "--painter", painter]
        return run_command(words, capsys, code)

    return run


def test_a_photo_is_painted_in_an_instant(call, tmp_path):
    found, said = call("--style", "dots", "--out", tmp_path / "a.png")
    painter = Stylizer.load(str(tmp_path / "painter"))
    np.testing.assert_allclose(
        decode((tmp_path / "a.png").read_bytes()).astype(int), painter.predict([draw_photo()], "dots")[0], atol=2
    )
    assert (found["width"], found["height"], found["model"]) == (128, 96, painter.name) and "a.png" in said
    call("--style", "dots=0.5", "--style", "stripes=1", "--strength", 0.5, "--keep-colors", "--out", tmp_path / "b.png")
    (expected,) = painter.predict([draw_photo()], {"dots": 0.5, "stripes": 1.0}, strength=0.5, colors=True)
    np.testing.assert_allclose(decode((tmp_path / "b.png").read_bytes()).astype(int), expected, atol=2)
    found, _ = call("--style", "dots", "--longest-side", 64, "--out", tmp_path / "c.jpg")
    assert (found["width"], found["height"]) == (64, 48) and (tmp_path / "c.jpg").read_bytes()[:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected --style NAME of the painter, or --style PICTURE"),
        (["--style", "monet"], "unknown style 'monet'; known: stripes, dots"),
        (["--style", "a/b.jpg", "--method", "fast"], "unknown style 'a/b.jpg'; known: stripes, dots"),
        (["--style", "dots=x"], "expected --style NAME or NAME=SHARE, got 'dots=x'"),
        (["--style", "dots=0"], "not negative and not all 0"),
        (["--style", "dots", "--strength", "2"], "strength must be from 0 to 1"),
        (["--style", "dots", "--method", "best"], "unknown method 'best'; known: auto, fast, optimize"),
        (["--style", "dots", "--format", "gif"], "format must be one of"),
    ],
)
def test_wrong_input_is_one_line(call, tmp_path, words, message):
    said = call(*words, "--out", tmp_path / "x.png", code=2)[1].strip()
    assert message in said and "\n" not in said and not (tmp_path / "x.png").exists()


def test_styles_to_learn_have_names():
    assert name_styles(["a/one.jpg", "two=b/x.png", "s3://bucket/three.jpg"]) == {
        "one": "a/one.jpg",
        "two": "b/x.png",
        "three": "s3://bucket/three.jpg",
    }
    with pytest.raises(OptionError, match="'one' twice"):
        name_styles(["a/one.jpg", "b/one.png"])


def test_the_styles_that_come_along_say_whose_they_are():
    with open(f"{SHIPPED}/styles.json") as file:
        about = json.load(file)
    assert list(about["styles"]) == list(load_card(SHIPPED).classes)
    for style in about["styles"].values():
        assert style["title"] and style["painter"] and style["year"] and style["rights"]
    assert about["training"]["photos"] and about["training"]["steps"] > 0
