"""Commands of pages about faces, galleries and operations, word for word, in a folder with what they name."""

import functools
import shutil

import pytest

from cnnray.data.face_pairs import list_people
from cnnray.data.make_face_pairs import write_face_pairs
from tests.pages import commands, count_pictures, run_page
from tests.people import link_people
from tests.serving import Service


@pytest.fixture
def folder(tmp_path, data_dir, monkeypatch):
    """What the pages name: PEOPLE, STRANGERS, PHOTOS; ADA.jpg and PHOTO.jpg show somebody, as do ONE and OTHER."""
    link_people(data_dir, tmp_path / "PEOPLE", people=6, images=3)
    link_people(data_dir, tmp_path / "STRANGERS", people=12, images=2, first=30)
    ada, other = sorted(path for path in (data_dir / "lfw_dev").iterdir() if path.is_dir())[60:62]
    mine = sorted(ada.glob("*.jpg"))
    names = {"ADA": mine[0], "PHOTO": mine[1], "ONE": mine[0], "OTHER": sorted(other.glob("*.jpg"))[0]}
    for name, path in names.items():
        shutil.copy(path, tmp_path / f"{name}.jpg")
    (tmp_path / "PHOTOS").mkdir()
    for path in mine[:2]:
        shutil.copy(path, tmp_path / "PHOTOS")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def page(folder, capsys):
    return functools.partial(run_page, capsys)


@pytest.mark.usefixtures("ray_cluster")
def test_the_pages_about_faces_galleries_and_operations_do_what_they_say(page, folder, monkeypatch):
    shown = page("faces.md", "faces detect", "faces verify")
    assert shown["faces verify ONE.jpg OTHER.jpg"]["same"] is False
    assert count_pictures(folder, "drawn.png") == 1 and count_pictures(folder, "runs/faces/overlays/*.png") == 2

    kept = ("faces enroll", "faces recognize PHOTO.jpg --gallery staff --candidates", "faces calibrate", "faces create")
    shown = page("galleries.md", *kept, "faces list", "faces rename", "faces audit")
    assert shown["faces enroll PEOPLE --gallery staff --out runs/enrolled"]["added"] == 18
    found = shown["faces recognize PHOTO.jpg --gallery staff --candidates 3 --out drawn"]["answers"][0]["faces"]
    assert found[0]["identity"] == {"id": "ada", "name": "Ada Lovelace"} and count_pictures(folder, "drawn/*.png") == 1
    assert len(shown["faces list --gallery staff"]["identities"]) == 7
    assert shown["faces rename Ada King --gallery staff --identity ada"]["name"] == "Ada King"

    hashed = shown["faces audit --gallery staff"]["audit_hash"]
    (key,) = page("operations.md", "serve keys create").values()
    shown = page("operations.md", "faces rebuild", "faces audit", instead=[("HASH", hashed)])
    shown |= page("operations.md", "serve keys list", "serve keys revoke", instead=[("1a2b3c4d", key["id"])])

    (words,) = [words for words in commands("galleries.md") if words[:2] == ["serve", "up"]]
    service = Service(folder, *words[2:]).start()
    try:
        monkeypatch.setenv("CNNRAY_URL", service.url)
        url = [("http://127.0.0.1:8000", service.url)]
        shown = page("galleries.md", "faces recognize PHOTO.jpg --gallery staff --url", "query", instead=url)
        shown |= page("faces.md", "query")
    finally:
        service.stop()
        monkeypatch.delenv("CNNRAY_URL")
    (asked,) = [value for line, value in shown.items() if line.startswith("faces recognize")]
    assert asked["answers"][0]["faces"][0]["identity"]["name"] == "Ada King"
    assert shown["query verify-identity PHOTO.jpg --gallery staff --identity ada"]["answers"][0]["same"]
    assert shown["query verify ONE.jpg OTHER.jpg"]["same"] is False

    (receipt,) = page("galleries.md", "faces delete").values()
    assert receipt["faces"] == 1 and receipt["identity"] == "ada"


@pytest.mark.usefixtures("ray_cluster")
def test_the_pages_train_and_measure_embedders(page, folder, data_dir):
    link_people(data_dir, folder / "OTHERS", people=6, images=3, first=64)
    for number, name in enumerate(("GROUP_A", "GROUP_B")):
        link_people(data_dir, folder / name, people=6, images=3, first=44 + 6 * number)
    write_face_pairs("pairs.txt", list_people("OTHERS"), folds=2, pairs_per_fold=8)
    shown = page("faces.md", "train faces", "evaluate faces", instead=[("LFW", "OTHERS")])
    assert [run["counts"]["train"] for run in shown.values() if run.get("kind") == "faces"] == [12, 12]
    measured = shown | page("responsible-use.md", "evaluate faces")
    figures = [run for line, run in measured.items() if line.startswith("evaluate faces")]
    assert len(figures) == 4 and all(each["closed_set"]["num_mated"] for each in figures)
    assert [each["pairs"]["num_pairs"] for each in figures if "pairs" in each] == [32]
