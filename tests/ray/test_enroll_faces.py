"""People into a gallery by Ray Data: killed, repeated, refused, resumed; the same content in the end."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from cnnray.config import CalibrateConfig, EnrollConfig, RecordConfig
from cnnray.data.calibrate_gallery import calibrate_gallery
from cnnray.data.enroll_faces import enroll_faces
from cnnray.data.feature_store import read_quarantine
from cnnray.data.runs import read_manifest
from cnnray.errors import DataError, GalleryError, OptionError, QuarantineError, RunFolderError
from cnnray.infer.faces import FacePipeline
from cnnray.infer.gallery.gallery import Gallery
from cnnray.infer.gallery.record import Record
from tests.killing import kill_all
from tests.people import link_people, nobody
from tests.unit.test_embedders import saved

pytestmark = pytest.mark.usefixtures("ray_cluster")
ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = EnrollConfig(max_bad=1.0)
JOSE = "José Ñúñez 李"


def photos(data_dir, person, start=0, count=20):
    folder = sorted(path for path in (data_dir / "lfw_dev").iterdir() if path.is_dir())[person]
    return sorted(folder.glob("*.jpg"))[start : start + count]


@pytest.fixture(scope="module")
def source(data_dir, tmp_path_factory):
    """Three people, one of whom comes again as another; a blurred photo, one of nobody, a broken one."""
    folder = link_people(data_dir, tmp_path_factory.mktemp("people") / "src", people=3, images=4)
    for name, chosen in (
        (unicodedata.normalize("NFD", JOSE), photos(data_dir, 20, 0, 3)),
        ("zz twin", photos(data_dir, 10, 4, 3)),
    ):
        (folder / name).mkdir()
        for path in chosen:
            (folder / name / path.name).symlink_to(path)
    (folder / "others").mkdir()
    blurred = Image.open(photos(data_dir, 31)[0]).filter(ImageFilter.GaussianBlur(6))
    blurred.save(folder / "others" / "blurred.jpg", quality=95)
    (folder / "others" / "nobody.jpg").write_bytes(nobody())
    (folder / "others" / "broken.jpg").write_bytes(b"rubbish")
    (folder / " blank").mkdir()
    (folder / " blank" / "a.jpg").symlink_to(photos(data_dir, 30)[0])
    return folder


@pytest.fixture(scope="module")
def run(ray_cluster, source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    place = RecordConfig(record=str(folder / "r.db"))
    return folder / "out", place, enroll_faces(str(source), str(folder / "out"), "staff", CONFIG, record=place)


def content(place, gallery="staff"):
    """Who is there with which photos, and their embeddings in that order."""
    record = Record(place.record)
    rows = [row for block in record.export_rows(record.get_gallery(gallery).id) for row in block]
    record.close()
    rows.sort(key=lambda row: (row["key"], row["source_sha256"]))
    told = [(row["key"], row["name"], row["source_sha256"]) for row in rows]
    return told, np.stack([np.frombuffer(row["embedding"], "<f4") for row in rows])


def assert_same(a, b):
    assert a[0] == b[0] and len(set(a[0])) == len(a[0])
    np.testing.assert_allclose(a[1], b[1], atol=0.02)  # bfloat16 in other batches


def codes(out):
    return {row["id"]: row["code"] for row in read_quarantine(str(out)).to_pylist()}


def test_people_are_enrolled_and_what_is_refused_is_in_quarantine(run, source):
    out, place, manifest = run
    bad = codes(out)
    twins = {name for name in bad if name.startswith("zz twin")}
    assert {bad.pop(name) for name in twins} == {"identity_conflict"} and len(twins) == 3
    assert bad == {
        " blank/a.jpg": "bad_name",
        "others/blurred.jpg": "low_quality",
        "others/broken.jpg": "not_an_image",
        "others/nobody.jpg": "no_face",
    }
    told, _ = content(place)
    assert len(told) == 15 and JOSE in {key for key, _, _ in told}  # in form NFC, however the disk has it
    counts = {"images": 22, "enrolled": 15, "added": 15, "already_there": 0, "identities": 4}
    assert counts.items() <= manifest.items()
    assert manifest["quarantined"] == 7 and sum(manifest["quarantine_codes"].values()) == 7
    assert manifest["model"] == FacePipeline.load().name and manifest["gallery_version"] == 15 + 4
    messages = {row["id"]: row["message"] for row in read_quarantine(str(out)).to_pylist()}
    assert "this face is 'Carlos_Moya' already" in messages[min(twins)]
    assert "its sharpness is below 0.03" in messages["others/blurred.jpg"]


def test_everybody_is_recognised_by_another_photo(run, data_dir):
    _, place, _ = run
    record = Record(place.record)
    gallery = Gallery.open(record, "staff", place)
    others = [photos(data_dir, person, 8, 1)[0].read_bytes() for person in (10, 11, 12, 40)]
    faces = [found.faces[0].embedding_D for found in FacePipeline.load().predict(others)]
    found = gallery.recognize(np.stack(faces)).matches
    names = [photos(data_dir, person)[0].parent.name for person in (10, 11, 12)]
    assert [match.identity.key for match in found[:3]] == names and found[3].decision == "unknown"
    record.close()


def test_the_same_again_adds_nothing(run, source, tmp_path):
    out, place, _ = run
    before = content(place)
    with pytest.raises(RunFolderError, match="is finished"):
        enroll_faces(str(source), str(out), "staff", CONFIG, record=place)
    again = enroll_faces(str(source), str(tmp_path / "out"), "staff", CONFIG, record=place)
    assert (again["added"], again["already_there"], again["gallery_version"]) == (0, 15, 19)
    assert again["quarantine_codes"] == read_manifest(str(out))["quarantine_codes"]
    assert_same(before, content(place))


def test_conflicts_and_quality_can_be_accepted_and_few_bad_photos_borne(source, tmp_path):
    place = RecordConfig(record=str(tmp_path / "r.db"))
    config = EnrollConfig(accept_conflict=True, accept_quality=True)
    with pytest.raises(QuarantineError, match=r"3 of 22 images \(13.6%\) were bad.*1 bad_name, 1 no_face"):
        enroll_faces(str(source), str(tmp_path / "out"), "staff", config, record=place)
    told, _ = content(place)
    assert len(told) == 19 and sum(key == "zz twin" for key, _, _ in told) == 3


def test_who_was_erased_comes_back_only_when_asked_for(run, source, tmp_path):
    _, first, _ = run
    shutil.copy(first.record, tmp_path / "r.db")
    place = RecordConfig(record=str(tmp_path / "r.db"))
    record = Record(place.record)
    Gallery.open(record, "staff", place).erase("Carlos_Moya")
    record.close()
    again = enroll_faces(str(source), str(tmp_path / "a"), "staff", CONFIG, record=place)
    assert again["quarantine_codes"]["erased"] == 4
    config = EnrollConfig(max_bad=1.0, accept_erased=True)
    again = enroll_faces(str(source), str(tmp_path / "b"), "staff", config, record=place)
    assert "erased" not in again["quarantine_codes"]


def test_another_embedder_is_refused_before_any_work(run, source, tmp_path):
    _, place, _ = run
    saved(tmp_path / "mine")
    for config in (EnrollConfig(views=1), EnrollConfig(embedder=str(tmp_path / "mine"))):
        with pytest.raises(GalleryError, match="gallery 'staff' has embeddings of dlib_resnet:views=2") as caught:
            enroll_faces(str(source), str(tmp_path / "out"), "staff", config, record=place)
        assert caught.value.code == "model_mismatch" and not (tmp_path / "out").exists()


def test_photos_without_people_and_bad_names(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.jpg").write_bytes(nobody())
    place = RecordConfig(record=str(tmp_path / "r.db"))
    with pytest.raises(DataError, match="expected a folder of photos for every person"):
        enroll_faces(str(tmp_path / "src"), str(tmp_path / "out"), "staff", CONFIG, record=place)
    with pytest.raises(GalleryError, match="letters, digits"):
        enroll_faces(str(tmp_path / "src"), str(tmp_path / "out2"), "a/b", CONFIG, record=place)
    record = Record(place.record)
    assert not record.list_galleries()
    record.close()


def test_a_manifest_names_people_too(data_dir, tmp_path):
    lines = [f"{path},ada" for path in photos(data_dir, 5, 0, 2)]
    (tmp_path / "m.csv").write_text("\n".join(["file,who", *lines]))
    config = EnrollConfig(path_column="file", label_column="who", pick="only")
    place = RecordConfig(record=str(tmp_path / "r.db"))
    manifest = enroll_faces(str(tmp_path / "m.csv"), str(tmp_path / "out"), "staff", config, record=place)
    assert (manifest["added"], manifest["identities"]) == (2, 1)


def test_a_cohort_of_strangers_calibrates_a_gallery(run, data_dir, tmp_path):
    _, first, _ = run
    shutil.copy(first.record, tmp_path / "r.db")
    place = RecordConfig(record=str(tmp_path / "r.db"))
    cohort = link_people(data_dir, tmp_path / "cohort", people=12, images=1, first=40)
    record = Record(place.record)
    gallery = Gallery.open(record, "staff", place)
    config = CalibrateConfig(fpir=0.1, max_bad=1.0)
    found = calibrate_gallery(gallery, str(tmp_path / "out"), config, cohort=str(cohort))
    assert (found["source"], found["num_probes"], found["num_identities"], found["num_faces"]) == ("cohort", 12, 4, 15)
    assert gallery.describe()["calibration"]["threshold"] == found["threshold"]
    assert (tmp_path / "out" / "report.html").exists()
    again = calibrate_gallery(gallery, str(tmp_path / "o2"), config, cohort=str(tmp_path / "out" / "cohort"))
    assert again["threshold"] == found["threshold"]
    with pytest.raises(OptionError, match="folder of a run"):
        calibrate_gallery(gallery, str(tmp_path / "out" / "cohort"), config)
    record.close()


# ---- kills -----------------------------------------------------------------------------------------------------------


_SLOW = """
import sys, time
from cnnray.cli import main
from cnnray.data import enroll_faces
from cnnray.infer.gallery.gallery import Gallery
enroll_faces._BATCH = 2
Gallery.maintain = lambda self: time.sleep(0.3)
main()
"""


def start(source, folder):
    """The command in a process and a cluster of its own, two photos in a transaction and then a pause."""
    words = ["faces", "enroll", source, "--gallery", "staff", "--record", folder / "r.db", "--out", folder / "out"]
    command = [sys.executable, "-c", _SLOW, *map(str, words), "--max-bad", "1"]
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE)


def count_faces(record):
    if not record.exists():
        return 0
    connection = sqlite3.connect(f"file:{record}?mode=ro", uri=True)
    try:
        return connection.execute("SELECT count(*) FROM faces").fetchone()[0]
    except sqlite3.OperationalError:  # no tables as yet
        return 0
    finally:
        connection.close()


def wait_for_faces(record, count, driver):
    deadline = time.monotonic() + 120
    while count_faces(record) < count:
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


def test_killed_at_any_moment_it_ends_with_the_same_content(run, source, tmp_path):
    _, place, manifest = run
    moments, record = random.Random(0), tmp_path / "r.db"
    for _ in range(2):
        driver = start(source, tmp_path)
        time.sleep(moments.uniform(1, 14))
        kill_all(driver)
    for count in (1, 5, 11):  # while it enrols
        driver = start(source, tmp_path)
        wait_for_faces(record, count, driver)
        time.sleep(moments.uniform(0, 0.3))
        kill_all(driver)
        assert not (tmp_path / "out" / "manifest.json").exists()
    driver = start(source, tmp_path)
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == 0, said.decode()
    assert_same(content(place), content(RecordConfig(record=str(record))))
    assert codes(tmp_path / "out") == codes(run[0])
    last = read_manifest(str(tmp_path / "out"))
    for name in ("images", "enrolled", "identities", "quarantined", "quarantine_codes", "gallery_version"):
        assert last[name] == manifest[name], name
    assert 0 < last["added"] < manifest["added"]
    check = Record(str(record))
    assert check.verify_audit(check.get_gallery("staff").token) > 0
    check.close()
