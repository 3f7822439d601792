"""`train stylize` and `stylize --method fast` on a folder for real: a painter is trained, killed, used."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cnnray.config import PaintConfig, StyleTrainConfig
from cnnray.data.feature_store import read_quarantine
from cnnray.data.paint import SCHEMA, paint_folder
from cnnray.data.predict import read_predictions
from cnnray.errors import DataError, ImageError, OptionError, RunFolderError, UnknownNameError
from cnnray.infer.fast_stylize import Stylizer
from cnnray.nn.checkpoint import load_checkpoint
from cnnray.ops.overlay import png
from cnnray.train.state import load_history
from cnnray.train.stylize import train_stylize
from tests.commands import option_words
from tests.killing import kill_all, start_command, wait_for_epochs
from tests.painters import STYLES, draw_photo, save_painter, write_pictures

pytestmark = pytest.mark.usefixtures("ray_cluster")

SMALL = StyleTrainConfig(
    crop=64, width=8, blocks=1, batch_size=2, epochs=6, lr=1e-2, val_fraction=0.2, ema=0.0, warmup=0
)


@pytest.fixture(scope="module")
def trained(ray_cluster, tmp_path_factory):
    """Photos, one of which is broken, styles, settings, the run's folder and its manifest."""
    folder = tmp_path_factory.mktemp("trained")
    photos, styles = write_pictures(folder)
    (folder / "photos" / "bad.jpg").write_bytes(b"rubbish")
    config = replace(SMALL, max_bad=0.2)
    return photos, styles, config, folder / "run", train_stylize(photos, styles, str(folder / "run"), config)


def test_photos_and_styles_become_a_painter(trained):
    photos, styles, config, out, manifest = trained
    assert manifest["counts"] == {"train": 8, "val": 2, "styles": 2} and manifest["epochs"] == 6
    history = json.loads((out / "metrics.json").read_text())["history"]
    assert history[-1]["val_loss"] < 0.95 * history[0]["val_loss"]
    assert set(manifest["metrics"]) == set(STYLES) and 0 < manifest["metrics"]["dots"]["style"] < 1
    page = (out / "report.html").read_text()
    assert "2 styles, checked on 2 validation photos" in page and page.count("<img") == 2
    assert read_quarantine(str(out))["code"].to_pylist() == ["not_an_image"]
    with pytest.raises(RunFolderError, match="is finished"):
        train_stylize(photos, styles, str(out), config)
    painter = Stylizer.load(manifest["checkpoint"])
    assert painter.styles == STYLES
    first, second = painter.predict([draw_photo(seed=50)] * 2, STYLES)
    assert np.abs(first.astype(int) - second).mean() > 2


def test_a_killed_training_goes_on_and_ends_with_the_same_painter(trained, tmp_path):
    photos, styles, config, undisturbed, whole = trained
    out = tmp_path / "killed"
    words = [word for name, path in styles.items() for word in ("--style", f"{name}={path}")] + option_words(config)
    driver = start_command("train", "stylize", "--content", photos, "--out", out, *words)
    state = str(out / "state" / "last.state")
    try:
        wait_for_epochs(state, 2, driver)
    finally:
        kill_all(driver)
    assert 2 <= len(load_history(state)) < config.epochs and not (out / "manifest.json").exists()
    manifest = train_stylize(photos, styles, str(out), config)
    assert manifest["metrics"] == whole["metrics"]
    last, expected = (load_checkpoint(str(folder / "last"), "stylize")[0] for folder in (out, undisturbed))
    assert all(torch.equal(last[name], tensor) for name, tensor in expected.items())


def test_what_cannot_be_trained_on_is_refused_before_a_folder_is_made(tmp_path):
    photos, styles = write_pictures(tmp_path, 3)
    Image.fromarray(draw_photo(20, 20)).save(tmp_path / "tiny.png")
    (tmp_path / "text.txt").write_text("no picture")
    Image.new("RGBA", (64, 64), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    for wrong, kind, message in (
        ({}, OptionError, "at least one style picture"),
        ({"tiny": str(tmp_path / "tiny.png")}, OptionError, "style picture of at least 32 px, got 20 x 20"),
        ({"clear": str(tmp_path / "clear.png")}, OptionError, "one colour all over"),
        ({"text": str(tmp_path / "text.txt")}, ImageError, "expected JPEG, PNG"),
        ({"none": str(tmp_path / "none.png")}, DataError, "none.png"),
    ):
        with pytest.raises(kind, match=message):
            train_stylize(photos, wrong, str(tmp_path / "run"), SMALL)
    with pytest.raises(UnknownNameError, match="stage99"):
        train_stylize(photos, styles, str(tmp_path / "run"), replace(SMALL, style_taps=("stage99",)))
    assert not (tmp_path / "run").exists()


def test_more_workers_than_photos_in_a_batch_are_refused(tmp_path):
    photos, styles = write_pictures(tmp_path, 3)
    with pytest.raises(OptionError, match="each of 2 workers has an image, but .* in batches of 1 make some of 1"):
        train_stylize(photos, styles, str(tmp_path / "run"), replace(SMALL, workers=2, batch_size=1))


def test_a_folder_is_painted_as_the_painter_paints_alone(tmp_path):
    painter = save_painter(tmp_path / "painter")
    photos, _ = write_pictures(tmp_path, 4)
    Image.fromarray(draw_photo(300, 200, 9)).save(tmp_path / "photos" / "large.jpg", quality=95)
    Image.fromarray(draw_photo(8, 40)).save(tmp_path / "photos" / "tiny.png")
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"rubbish")
    config = PaintConfig(painter=painter, format="png", longest_side=150, strength=0.5, max_bad=0.5)
    shares, out = {"dots": 0.5, "stripes": 0.5}, tmp_path / "out"
    found = paint_folder(photos, str(out), shares, config)
    assert (found["images"], found["predictions"], found["quarantined"]) == (7, 5, 2)
    codes = {row["id"]: row["code"] for row in read_quarantine(str(out)).to_pylist()}
    assert codes == {"tiny.png": "too_small", "bad.jpg": "not_an_image"}
    alone = Stylizer.load(painter)
    rows = {row["id"]: row for row in read_predictions(str(out), SCHEMA).to_pylist()}
    assert (rows["large.jpg"]["height"], rows["large.jpg"]["width"]) == (150, 100)
    for number in range(4):
        with Image.open(out / "painted" / f"{number}.png") as painting:
            (expected,) = alone.predict([png(draw_photo(seed=number))], shares, strength=0.5)
            assert np.abs(np.asarray(painting).astype(int) - expected).max() <= 2  # other threads, other sums
    with pytest.raises(RunFolderError, match="is finished"):
        paint_folder(photos, str(out), shares, config)
    with pytest.raises(UnknownNameError, match="unknown style 'monet'"):
        paint_folder(photos, str(tmp_path / "other"), {"monet": 1.0}, config)
    assert not (tmp_path / "other").exists()
