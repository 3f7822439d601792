"""Commands of pages about classifying, painting, seeing inside and the networks, in a folder with what they name."""

import functools
import shutil

import pytest
from PIL import Image

from cnnray.nn import zoo
from tests.classifiers import save_classifier
from tests.pages import count_pictures, run_page
from tests.painters import draw_photo, draw_style
from tests.published import publish
from tests.ray.test_features import make_photos
from tests.segmenters import write_pairs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the pages name: PHOTOS of two classes, PHOTO.jpg, PAINTING.jpg and OTHER.jpg; and the current folder."""
    make_photos(tmp_path / "PHOTOS", 24)
    Image.fromarray(draw_photo(seed=3)).save(tmp_path / "PHOTO.jpg")
    for name, style in (("PAINTING", "dots"), ("OTHER", "bars")):
        Image.fromarray(draw_style(style)).save(tmp_path / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CNNRAY_COMPILE", "false")  # a minute in each command that would gain from it
    return tmp_path


@pytest.fixture
def page(folder, capsys):
    return functools.partial(run_page, capsys)


@pytest.mark.usefixtures("ray_cluster")
def test_the_page_about_classifying_does_what_it_says(page, folder):
    make_photos(folder / "TEST", 6)
    shutil.copytree(folder / "TEST" / "cat", folder / "NEW")
    shown = page("classify.md")
    assert shown["evaluate classify runs/classifier/checkpoint TEST --out runs/measured"]["images"] == 6
    assert shown["predict classify runs/classifier/checkpoint NEW --out runs/predicted"]["predictions"] == 3
    assert count_pictures(folder, "runs/why/PHOTO.png") == 1


@pytest.mark.usefixtures("ray_cluster")
def test_the_page_about_seeing_inside_does_what_it_says(page, folder):
    save_classifier(str(folder / "runs" / "classifier" / "checkpoint"), ["cat", "dog"])
    publish("squeezenet1_1")
    shown = page("visualize.md")
    assert {len(atlas["layers"]) for line, atlas in shown.items() if line.startswith("visualize filters")} == {1, 2}
    assert count_pictures(folder, "why/PHOTO.png") == 1


@pytest.mark.usefixtures("ray_cluster")
def test_the_page_about_painting_does_what_it_says(page, folder):
    shown = page("stylize.md")
    assert shown["stylize PHOTOS --style stained_glass --out runs/painted"]["predictions"] == 24
    assert count_pictures(folder, "*.jpg") == 7


@pytest.mark.usefixtures("ray_cluster")
def test_the_page_about_networks_does_what_it_says(page, folder, monkeypatch):
    write_pairs(folder / "PAIRS", 6)
    # two passes of one image instead of a second with four: a minute less
    measure = zoo.images_per_second
    monkeypatch.setattr(zoo, "images_per_second", lambda network, size, seconds: measure(network, size, 0.0))
    monkeypatch.setitem(zoo.MEASURED_BATCH, "cpu", 1)
    shown = page("networks.md")
    assert len(shown["models --no-measure"]["models"]) > 5
    assert all(network["images_per_s"] > 0 for network in shown["models"]["models"])
