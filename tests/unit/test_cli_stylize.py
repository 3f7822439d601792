"""`cnnray stylize`: the run folder, its report, bad input, and a kill."""

import csv
import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

from cnnray import cli
from tests.commands import run_command

QUICK = {"--steps": ["3"], "--pyramid": ["1"], "--size": ["64"], "--device": ["cpu"]}
QUICK |= {"--style-taps": ["stem", "stage1"], "--content-taps": ["stage2"]}


@pytest.fixture
def pictures(tmp_path):
    Image.fromarray(photos.chelsea()).resize((96, 64)).save(tmp_path / "cat.png")
    Image.fromarray(photos.coffee()).resize((80, 60)).save(tmp_path / "coffee.jpg")
    Image.fromarray(photos.immunohistochemistry()).resize((64, 64)).save(tmp_path / "cells.png")
    return tmp_path


def quickly(*words):
    """The words, and what makes it quick where they do not say it."""
    return [
        *words,
        *(word for flag, values in QUICK.items() if flag not in words for v in values for word in (flag, v)),
    ]


@pytest.fixture
def call(pictures, capsys):
    """A command beside the pictures: its JSON, and what people see."""

    def run(*words, code=0, content="cat.png", style="coffee.jpg", out="out"):
        places = [str(pictures / content), "--style", str(pictures / style), "--out", str(pictures / out)]
        words = ["stylize", *places, *quickly(*map(str, words))]
        found, said = run_command(words, capsys, code)
        return found, said.strip()

    return run


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_picture_is_painted(call, pictures):
    manifest, said = call()
    out = pictures / "out"
    assert (manifest["height"], manifest["width"], manifest["steps"]) == (43, 64, 3)
    assert pixels(out / "stylized.png").shape == pixels(out / "preview.jpg").shape == (43, 64, 3)
    rows = list(csv.DictReader(io.StringIO((out / "losses.csv").read_text())))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert list(rows[0]) == ["step", "height", "width", "loss", "style", "content", "variation"]
    assert float(rows[2]["loss"]) < float(rows[0]["loss"]) and manifest["losses"]["loss"] < float(rows[2]["loss"])
    page = (out / "report.html").read_text()
    assert page.count("data:image/") == 4 and "coffee.jpg" in page and "stage1" in page
    assert sorted(path.name for path in out.iterdir()) == [
        "config.toml", "losses.csv", "manifest.json", "owner", "preview.jpg", "report.html", "stylized.png"
    ]  # fmt: skip
    assert manifest["kind"] == "stylized picture" and [one["role"] for one in manifest["inputs"]] == [
        "content",
        "style",
    ]
    assert "step 3 of 3 at 64 x 43: style " in said and f"painted 64 x 43 px in {out}/stylized.png" in said


def test_several_styles_a_mask_and_a_start(call, pictures):
    mask = np.zeros((64, 96), np.uint8)
    mask[:, :48] = 255
    Image.fromarray(mask).save(pictures / "mask.png")
    words = ["--style", pictures / "cells.png", "--style-weight", 3, "--style-weight", 1]
    places = ["--mask", pictures / "mask.png", "--start", pictures / "cells.png", "--keep-colors"]
    manifest, _ = call(*words, *places, "--size", 96, "--optimizer", "lbfgs", "--smooth")
    assert [one["role"] for one in manifest["inputs"]] == ["content", "style", "style", "mask", "start"]
    image, content = pixels(pictures / "out" / "stylized.png"), pixels(pictures / "cat.png")
    np.testing.assert_array_equal(image[:, 48:], content[:, 48:])
    assert (image[:, :48] != content[:, :48]).any()
    page = (pictures / "out" / "report.html").read_text()
    assert "style, weight 3" in page and "style, weight 1" in page and "mask" in page
    assert manifest["config"]["style_weight"] == [3, 1]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1"])
def test_grey_and_transparent_styles_work(call, pictures, mode):
    image = Image.fromarray(photos.coffee()).resize((80, 60))
    if mode.endswith("A"):
        image = image.convert(mode)
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.convert(mode).save(pictures / "style.png")
    assert call("--steps", 1, style="style.png")[0]["steps"] == 1


def test_a_finished_run_and_another_one_are_refused(call):
    call()
    assert "the run in" in call(code=2)[1] and "is finished" in call(code=2)[1]
    call("--steps", 1, out="other")
    (_, said) = call("--steps", 2, out="other", code=2)
    assert "is finished" in said


def test_an_unfinished_run_goes_on_only_with_its_settings_and_pictures(call, pictures, monkeypatch):
    from cnnray.infer.stylize import StyleOptimizer

    step = StyleOptimizer.step

    def interrupt(self):
        if self.num_done == 2:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(StyleOptimizer, "step", interrupt)
    assert "the same command resumes" in call("--save-every", 1, code=130)[1]
    monkeypatch.undo()
    assert (pictures / "out" / "state").exists()
    assert "was started with lr = 0.03" in call("--save-every", 1, "--lr", 0.01, code=2)[1]
    taps = "was started with style_taps = ['stem', 'stage1'], but this command has ['stage2']"
    assert taps in call("--save-every", 1, "--style-taps", "stage2", code=2)[1]
    assert "was started with source" in call("--save-every", 1, style="cells.png", code=2)[1]
    content = (pictures / "out" / "state").read_bytes()
    (pictures / "out" / "state").write_bytes(content[:-40] + b"x" + content[-39:])
    assert "was cut short or changed; delete it to paint from the start" in call("--save-every", 1, code=2)[1]
    (pictures / "out" / "state").write_bytes(content)
    assert call("--save-every", 1)[0]["sha256"] == call("--save-every", 1, out="whole")[0]["sha256"]
    assert not (pictures / "out" / "state").exists()


def test_a_killed_run_goes_on_to_the_same_bits(call, pictures):
    places = [str(pictures / "cat.png"), "--style", str(pictures / "coffee.jpg"), "--out", str(pictures / "killed")]
    words = ["--steps", "60", "--save-every", "5"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "cnnray", "stylize", *places, *quickly(*words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not (pictures / "killed" / "state").exists():
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    assert not (pictures / "killed" / "manifest.json").exists()
    resumed, _ = call(*words, out="killed")
    whole, _ = call(*words, out="whole")
    assert resumed["sha256"] == whole["sha256"] and resumed["losses"] == whole["losses"]
    assert (pictures / "killed" / "losses.csv").read_bytes() == (pictures / "whole" / "losses.csv").read_bytes()


def test_a_loss_that_is_no_number_keeps_the_last_good_picture(call, pictures, monkeypatch):
    from cnnray.infer.stylize import StyleOptimizer

    row = StyleOptimizer._row

    def broken(self, losses):
        return row(self, losses._replace(style=losses.style * (float("nan") if self.num_done == 2 else 1)))

    monkeypatch.setattr(StyleOptimizer, "_row", broken)
    _, said = call(code=2)
    assert "the loss of step 3 is nan" in said
    assert f"the last good picture is {pictures}/out/preview.jpg" in said
    assert pixels(pictures / "out" / "preview.jpg").shape == (43, 64, 3)
    assert len((pictures / "out" / "losses.csv").read_text().splitlines()) == 3
    assert not (pictures / "out" / "stylized.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "slow"], "unknown method 'slow'; known: auto, fast, optimize"),
        (["--style-weight", "0"], "style_weight must be numbers of at least 0, one of them above 0; got 0"),
        (["--style-weight", "1", "--style-weight", "2"], "a style_weight for each of 1 styles, or none; got 2"),
        (["--style-loss", "-1"], "style_loss and content_loss must be"),
        (["--style-loss", "much"], "unable to convert"),
        (["--backbone", "vgg99"], "unknown backbone 'vgg99'"),
        (["--style-taps", "fire3"], "unknown tap of efficientnet_lite0 'fire3'; known: stem, stage1"),
        (["--content-taps", "stage3@99"], "a magnification from 0.25 to 4"),
        (
            ["--backbone", "resnet18", "--weights", "none", "--content-taps", "layer1"],
            "unknown tap of resnet18 'stage1'",
        ),
        (["--mask", "/no/mask.png"], "expected an image at /no/mask.png, but: missing"),
        (["--start", "nowhere.png"], "expected an image at nowhere.png"),
        (["--weights", "/no/weights.pth"], "/no/weights.pth"),
        (["--size", "8"], "size must be at least 32"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_are_one_line(call, pictures, words, message):
    _, said = call(*words, code=2)
    assert message in said and said.count("\n") == 0 and said.startswith("cnnray: ")
    assert not (pictures / "out").exists()


def test_wrong_pictures_are_one_line(call, pictures):
    Image.new("RGB", (1, 1)).save(pictures / "dot.png")
    Image.new("1", (10_000, 10_000)).save(pictures / "vast.png")
    (pictures / "words.jpg").write_text("a thousand")
    Image.new("L", (9, 9)).save(pictures / "black.png")
    for given, message in (
        ({"content": "dot.png"}, "expected a content of at least 16 px after it is fitted into size 64, got 1 x 1"),
        ({"style": "dot.png"}, "expected a style of at least 16 px, but style 1 is 1 x 1"),
        ({"content": "vast.png"}, "vast.png: expected at most 25000000 pixels, got 10000 x 10000"),
        ({"content": "words.jpg"}, "words.jpg: expected JPEG, PNG"),
        ({"style": "none.jpg"}, "none.jpg, but: missing"),
    ):
        _, said = call(code=2, **given)
        assert message in said and said.count("\n") == 0
    assert "black all over" in call("--mask", pictures / "black.png", code=2)[1]
    assert not (pictures / "out").exists()


def test_the_command_needs_a_style_and_a_folder(capsys, pictures):
    for words, message in ((["--out", "o"], "--style"), (["--style", "s"], "--out")):
        with pytest.raises(SystemExit):
            cli.main(["stylize", str(pictures / "cat.png"), *words])
        assert message in capsys.readouterr().err
