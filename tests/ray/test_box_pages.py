"""Commands of the pages about detectors and segmenters, word for word, in a folder with what they name."""

import pytest
from PIL import Image

from tests.detectors import draw_shapes, write_shapes
from tests.pages import count_pictures, run_page
from tests.published import publish
from tests.segmenters import write_pairs

FCOS = "fcos_resnet50_fpn"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What both pages name: PHOTOS and PHOTO.jpg, and the current folder."""
    (tmp_path / "PHOTOS").mkdir()
    for number in range(3):
        Image.fromarray(draw_shapes(number)[0]).save(tmp_path / "PHOTOS" / f"{number}.png")
    Image.fromarray(draw_shapes(8)[0]).save(tmp_path / "PHOTO.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CNNRAY_COMPILE", "false")  # a minute in each command that would gain from it
    return tmp_path


@pytest.mark.usefixtures("ray_cluster")
def test_the_page_about_detectors_does_what_it_says(folder, capsys):
    publish(FCOS)
    for name, count in (("BOXES", 10), ("TEST", 3)):
        write_shapes(folder / name, count, classes=("car", "boat"))  # COCO has them, too
    (folder / "AERIAL").mkdir()
    Image.fromarray(draw_shapes(7, 900, 1300)[0]).save(folder / "AERIAL" / "1.png")
    shown = run_page(capsys, "detect.md")
    assert shown["data inspect BOXES --out runs/inspected"]["boxes"] == 19
    assert shown["data split BOXES --split train=0.8,val=0.2 --out divided"]["splits"] == {"val": 3, "train": 7}
    assert shown["evaluate detect runs/detector/checkpoint TEST --out runs/measured"]["images"] == 3
    (compared,) = [value for line, value in shown.items() if "--out runs/compared" in line]
    assert [row["name"] for row in compared["detectors"]] == ["YOLO on efficientnet_lite0", FCOS]
    assert count_pictures(folder, "runs/boxes/overlays/**/*.png") == 3
    (sliced,) = [value for line, value in shown.items() if "--slice" in line]
    assert sliced["predictions"] == 1


@pytest.mark.usefixtures("ray_cluster")
def test_the_page_about_segmenters_does_what_it_says(folder, capsys):
    for name, count in (("PAIRS", 8), ("TEST", 3)):
        write_pairs(folder / name, count, foreground=1)
    shown = run_page(capsys, "segment.md")
    assert shown["evaluate segment runs/segmenter/checkpoint TEST --out runs/measured"]["images"] == 3
    assert count_pictures(folder, "runs/masks/masks/**/*.png") == 3
