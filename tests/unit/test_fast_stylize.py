"""The trained painter: what it answers, together and alone, large and small, and what it refuses."""

import subprocess
import sys

import numpy as np
import pytest

from cnnray.errors import CheckpointError, ImageError, OptionError, UnknownNameError
from cnnray.infer import fast_stylize
from cnnray.infer.fast_stylize import SHIPPED, Stylizer
from cnnray.nn.checkpoint import Card, save_checkpoint
from cnnray.ops.decode import decode
from cnnray.ops.overlay import png
from tests.painters import STYLES, draw_photo, save_painter


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    return Stylizer.load(save_painter(tmp_path_factory.mktemp("painter")), precision="float32")


def off(a, b):
    """Largest difference of two pictures in levels of 255."""
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def test_files_and_arrays_of_any_size_are_painted_each_as_alone(painter):
    photos = [draw_photo(seed=0), draw_photo(70, 101, 1), draw_photo(seed=2), draw_photo(16, 40, 3)]
    answers = painter.predict([png(photos[0]), *photos[1:]], [*STYLES, *STYLES])
    for photo, answer, style in zip(photos, answers, [*STYLES, *STYLES], strict=True):
        assert answer.shape == photo.shape and answer.dtype == np.uint8
        assert off(answer, painter.predict([photo], style)[0]) <= 1
    assert off(answers[0], painter.predict([photos[0]], STYLES[1])[0]) > 20


def test_shares_blend_and_need_not_sum_to_one(painter):
    photo = draw_photo()
    first, second = (painter.predict([photo], style)[0] for style in STYLES)
    assert off(painter.predict([photo], {STYLES[0]: 3.0})[0], first) <= 1
    half = painter.predict([photo], dict.fromkeys(STYLES, 1.0))[0]
    assert off(half, painter.predict([photo], dict.fromkeys(STYLES, 0.2))[0]) <= 1
    assert off(half, first) > 5 < off(half, second)


def test_strength_goes_from_the_photo_to_the_painting(painter):
    photo = draw_photo()
    painting = painter.predict([photo], "dots")[0]
    none, some, all_ = (painter.predict([photo], "dots", strength=share)[0] for share in (0.0, 0.25, 1.0))
    assert off(none, photo) == 0 and off(all_, painting) == 0
    assert off(some, np.uint8(np.rint(photo * 0.75 + painting * 0.25))) <= 1


def test_colors_can_stay(painter):
    photo = draw_photo()
    kept = painter.predict([photo], "dots", colors=True)[0].astype(float)
    luma = np.array([0.299, 0.587, 0.114])
    assert np.abs(kept @ luma - painter.predict([photo], "dots")[0] @ luma).max() < 2
    tint, own = (picture - (picture @ luma)[..., None] for picture in (kept, photo.astype(float)))
    assert (tint * own).sum() > 0.95 * np.linalg.norm(tint) * np.linalg.norm(own), "the same hues"


def test_a_large_photo_is_brought_to_size(painter):
    assert painter.predict([draw_photo(200, 400)], "dots", longest_side=100)[0].shape == (50, 100, 3)
    assert painter.predict([draw_photo()], "dots", longest_side=500)[0].shape == (96, 128, 3)


def test_in_bands_the_painting_is_the_same(painter, monkeypatch):
    photo = draw_photo(300, 200)
    whole = painter.predict([photo], "stripes")[0]
    monkeypatch.setattr(fast_stylize, "BANDS_FROM", 1)
    assert off(painter.predict([photo], "stripes")[0], whole) <= 1


def test_a_bad_photo_spoils_no_other(painter):
    tiny = draw_photo(15, 300)
    answers = painter.predict([b"what", draw_photo(), tiny, b""], "dots")
    assert [getattr(answer, "code", "") for answer in answers] == ["not_an_image", "", "too_small", "empty"]
    assert isinstance(answers[2], ImageError) and "at least 16 px to paint, got 300 x 15" in str(answers[2])
    assert isinstance(painter.predict([png(np.zeros((1, 1, 3), np.uint8))], "dots")[0], ImageError)
    assert painter.predict([], "dots") == []


@pytest.mark.parametrize(
    ("wish", "options", "kind", "message"),
    [
        ("monet", {}, UnknownNameError, "unknown style 'monet'; known: stripes, dots"),
        ({"dots": -1.0, "stripes": 2.0}, {}, OptionError, "not negative and not all 0"),
        ({"dots": 0.0}, {}, OptionError, "not negative and not all 0"),
        ({}, {}, OptionError, "not negative and not all 0"),
        ("dots", {"strength": 1.5}, OptionError, "strength must be from 0 to 1, got 1.5"),
        ("dots", {"strength": float("nan")}, OptionError, "strength must be from 0 to 1"),
    ],
)
def test_what_cannot_be_painted_is_named(painter, wish, options, kind, message):
    with pytest.raises(kind, match=message):
        painter.predict([draw_photo()], wish, **options)


def test_arrays_of_other_kinds_are_refused(painter):
    for wrong in (draw_photo().astype(np.float32), draw_photo()[..., 0], draw_photo()[..., :2]):
        with pytest.raises(OptionError, match="expected uint8 images"):
            painter.predict([wrong], "dots")


def test_checkpoints_of_something_else_are_refused(painter, tmp_path):
    save_checkpoint(str(tmp_path / "a"), {}, Card(task="segment"))
    with pytest.raises(CheckpointError):
        Stylizer.load(str(tmp_path / "a"))
    save_checkpoint(str(tmp_path / "b"), {}, Card(task="stylize", arch={"num_styles": 2, "width": 8}))
    with pytest.raises(CheckpointError, match="lacks blocks"):
        Stylizer.load(str(tmp_path / "b"))
    arch = {"num_styles": 2, "width": 8, "blocks": 1}
    save_checkpoint(str(tmp_path / "c"), {}, Card(task="stylize", arch=arch, classes=["one"]))
    with pytest.raises(CheckpointError, match="names of its styles"):
        Stylizer.load(str(tmp_path / "c"))


_LARGE = """
import resource, sys, numpy as np, torch
torch.set_num_threads(1)
from cnnray.infer.fast_stylize import Stylizer
painter = Stylizer.load(sys.argv[1], precision=sys.argv[2])
painter.predict([np.zeros((64, 64, 3), np.uint8)], painter.styles[0])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rng = np.random.default_rng(0)
photo = rng.integers(0, 255, (2160, 3840, 3), np.uint8)
(painting,) = painter.predict([photo], painter.styles[0])
assert painting.shape == photo.shape
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_photo_of_4k_takes_less_than_a_gibibyte(precision):
    words = [sys.executable, "-c", _LARGE, SHIPPED, precision]
    done = subprocess.run(words, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2**30


def test_what_comes_with_cnnray_paints(data_dir):
    painter = Stylizer.load(SHIPPED)
    painter.self_test()
    assert len(painter.styles) >= 3
    photo = decode((data_dir / "contents" / "chicago.jpg").read_bytes())
    paintings = painter.predict([photo] * len(painter.styles), painter.styles, longest_side=256)
    for one in range(len(paintings)):
        for other in range(one):
            assert np.abs(paintings[one].astype(int) - paintings[other]).mean() > 8
