"""`cnnray faces`: galleries of a local record by command line, and what a service is asked."""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from cnnray.client import gallery_answers as answers
from cnnray.errors import ServiceError
from cnnray.infer.gallery.gallery import Gallery, create_gallery
from cnnray.infer.gallery.record import Record
from tests.commands import run_command
from tests.people import nobody
from tests.unit.test_gallery import CONTRACT, person, vector


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def photos(data_dir):
    """Three photos of one person, one of another."""
    people = sorted(path for path in (data_dir / "lfw_dev").iterdir() if path.is_dir())
    return [*sorted(people[10].glob("*.jpg"))[:3], sorted(people[11].glob("*.jpg"))[0]]


@pytest.fixture
def call(tmp_path, capsys):
    """A command on a record: its JSON, and what people see."""

    def run(*words, code=0, record=True):
        words = ["faces", *map(str, words)] + (["--record", str(tmp_path / "r.db")] if record else [])
        return run_command(words, capsys, code)

    return run


@pytest.fixture
def staff(tmp_path):
    """A gallery of made-up faces, in the record of `call`."""
    record = Record(str(tmp_path / "r.db"))
    create_gallery(record, "staff", CONTRACT)
    gallery = Gallery.open(record, "staff")
    gallery.enroll(person("ada", vector(1), vector(2), name="Ada Łoś", metadata={"born": 1815}))
    gallery.enroll(person("bob"))
    yield gallery
    record.close()


def test_photos_are_enrolled_and_recognised(call, photos, tmp_path):
    (tmp_path / "nobody.jpg").write_bytes(nobody())
    (tmp_path / "broken.jpg").write_bytes(b"rubbish")
    _, said = call("enroll", tmp_path / "nobody.jpg", "--gallery", "staff", "--identity", "eve", code=2)
    assert "expected a face in the photo" in said and call("list")[0]["galleries"] == []
    done, said = call("enroll", photos[0], "--gallery", "staff", "--identity", "ada", "--name", "Ada Łoś")
    assert (done["identity"], done["added"], len(done["face_ids"])) == ("ada", 1, 1) and "enrolled as ada" in said
    again, said = call("enroll", photos[0], "--gallery", "staff", "--identity", "ada")
    assert again["added"] == 0 and "was enrolled before" in said
    words = ["recognize", photos[1], photos[3], tmp_path / "nobody.jpg", tmp_path / "broken.jpg", "--gallery", "staff"]
    found, said = call(*words, "--candidates", 2, "--out", tmp_path / "named")
    first, second, third, broken = found["answers"]
    assert first["faces"][0]["identity"] == {"id": "ada", "name": "Ada Łoś"} and not first["faces"][0]["calibrated"]
    assert second["faces"][0]["decision"] == "unknown" and second["faces"][0]["candidates"][0]["id"] == "ada"
    assert third["faces"] == [] and broken["error"]["code"] == "not_an_image"
    assert "Ada Łoś (ada)" in said and "unknown" in said and "no face was found" in said
    assert sorted(path.name for path in (tmp_path / "named").iterdir()) == sorted(
        [f"{photos[1].stem}.png", f"{photos[3].stem}.png", "nobody.png"]
    )
    with Image.open(tmp_path / "named" / f"{photos[1].stem}.png") as picture:
        assert picture.size == (first["width"], first["height"])
    found, _ = call(*words[:3], "--gallery", "staff", "--threshold", "0.5")
    assert found["answers"][1]["faces"][0]["decision"] == "identified"
    _, said = call("recognize", tmp_path / "broken.jpg", "--gallery", "staff", code=2)
    assert "expected JPEG" in said  # where nothing is left to answer
    _, said = call(*words[:2], "--gallery", "staff", "--views", "1", code=2)
    assert "do not compare with" in said
    _, said = call("enroll", photos[1], "--gallery", "staff", "--identity", "eve", code=2)
    assert "this face is 'ada' already" in said


def test_several_faces_in_one_photo_are_refused_unless_one_is_meant(call, data_dir):
    group = data_dir / "faces" / "2007_007763.jpg"
    _, said = call("enroll", group, "--gallery", "staff", "--identity", "ada", code=2)
    assert "expected one face in the photo, but 7 were found" in said
    done, _ = call("enroll", group, "--gallery", "staff", "--identity", "ada", "--pick", "largest")
    assert done["added"] == 1


def test_a_gallery_is_created_with_a_policy(call):
    found, said = call("create", "strict", "--min-size", 80)
    assert found["policy"]["min_size"] == 80 and "dlib_resnet:views=2" in said
    assert 0.9 < found["threshold"] < 0.95  # 1 - 0.38² / 2
    _, said = call("create", "strict", code=2)
    assert "already" in said


def test_galleries_people_and_faces_are_listed(call, staff):
    found, said = call("list")
    (row,) = found["galleries"]
    assert (row["name"], row["identities"], row["faces"], row["calibrated"]) == ("staff", 2, 3, False)
    assert CONTRACT.model in said
    found, said = call("list", "--gallery", "staff")
    assert [(one["id"], one["num_faces"]) for one in found["identities"]] == [("ada", 2), ("bob", 1)]
    assert "Ada Łoś" in said
    found, said = call("list", "--gallery", "staff", "--identity", "ada")
    assert (
        found["metadata"] == {"born": 1815} and len(found["faces"]) == 2 and found["faces"][0]["quality"]["size"] == 90
    )
    assert "born" in said and "sharpness" in said
    assert "expected --gallery" in call("list", "--identity", "ada", code=2)[1]
    assert "no gallery 'none'" in call("list", "--gallery", "none", code=2)[1]
    staff.add("empty")
    assert call("list", "--gallery", "staff", "--identity", "empty")[0]["faces"] == []


def test_people_are_renamed_and_erased(call, staff):
    accented = unicodedata.normalize("NFD", "Zoë")
    found, _ = call("rename", accented, "--gallery", "staff", "--identity", "ada", "--metadata", '{"a": 2}')
    assert (found["name"], found["metadata"], found["num_faces"]) == ("Zoë", {"a": 2}, 2)
    assert "expected a name" in call("rename", "--gallery", "staff", "--identity", "ada", code=2)[1]
    wrong = call("rename", "--gallery", "staff", "--identity", "ada", "--metadata", "[1", code=2)[1]
    assert "expected a JSON object" in wrong
    face = staff.get("ada")[1][0].id
    receipt, said = call("delete", "--gallery", "staff", "--identity", "ada", "--face", face)
    assert receipt["faces"] == 1 and receipt["audit_hash"] in said
    receipt, said = call("delete", "--gallery", "staff", "--identity", "ada")
    assert receipt["identity"] == "ada" and receipt["purged"]["tables"] and "erased 1 faces of ada" in said
    assert "no identity 'Ada'" in call("delete", "--gallery", "staff", "--identity", "Ada", code=2)[1]
    found, said = call("audit", "--gallery", "staff", "--hash", receipt["audit_hash"])
    assert found["entries"] == 6 and found["audit_hash"] == receipt["audit_hash"] and "the known one" in said
    assert "cut off" in call("audit", "--gallery", "staff", "--hash", "0" * 64, code=4)[1]


def test_a_gallery_is_exported_imported_rebuilt_and_dropped(call, staff, tmp_path):
    found, _ = call("export", tmp_path / "e.parquet", "--gallery", "staff")
    assert (found["faces"], found["identities"]) == (3, 2)
    assert call("import", tmp_path / "e.parquet", "--gallery", "copy")[0]["added"] == 3
    again, said = call("import", tmp_path / "e.parquet", "--gallery", "copy")
    assert again["added"] == 0 and again["content"] == found["content"] and "0 of 3 faces added" in said
    found, said = call("rebuild", "--gallery", "copy")
    assert (found["faces"], found["identities"]) == (3, 2) and found["audit_entries"] > 0 and "entries fit" in said
    assert "expected --yes" in call("drop", "copy", code=2)[1]
    assert call("drop", "copy", "--yes")[0]["audit_hash"]
    assert [row["name"] for row in call("list")[0]["galleries"]] == ["staff"]


def test_a_gallery_is_calibrated_by_its_own_people(call, staff, tmp_path):
    for at in range(60):
        staff.enroll(person(f"p{at}", vector(f"a{at}"), vector(f"b{at}", vector(f"a{at}"), 0.9)))
    found, said = call("calibrate", "--gallery", "staff", "--fpir", "0.1", "--out", tmp_path / "cal")
    assert found["num_identities"] == 62 and found["num_mated"] == 61 and found["source"] == "gallery"
    assert staff.describe()["threshold"] == pytest.approx(found["threshold"]) and "among 62 people" in said
    assert "staff" in (tmp_path / "cal" / "report.html").read_text()
    assert json.loads((tmp_path / "cal" / "calibration.json").read_text())["threshold"] == found["threshold"]
    assert call("list")[0]["galleries"][0]["calibrated"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["enroll", "src", "--gallery", "g"], "expected --out RUN"),
        (["enroll", "src", "--gallery", "g", "--out", "r", "--url", "http://x"], "expected --out RUN"),
        (["enroll", "a.jpg", "--gallery", "g", "--identity", "ada", "--pick", "best"], "pick must be one of"),
        (["enroll", "/no/a.jpg", "--gallery", "g", "--identity", "ada"], "expected an image at /no/a.jpg"),
        (["recognize", "a.jpg", "--gallery", "g", "--threshold", "2"], "a cosine from -1 to 1"),
        (["calibrate", "--gallery", "g", "--out", "o", "--fpir", "1"], "fpir must be above 0 and below 1"),
        (["audit", "--gallery", "g"], "there is no gallery 'g'"),
        (["import", "/no/file", "--gallery", "g"], "there is nothing at"),
    ],
)
def test_wrong_input_is_one_line(call, words, message):
    said = call(*words, code=2)[1].strip()
    assert message in said and "\n" not in said


class Service:
    """A client that notes what it was asked."""

    asked: list = []

    def __init__(self, url):
        self.asked.append(url)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __getattr__(self, name):
        def answer(*values, **options):
            self.asked.append((name, values, options))
            return ANSWERS[name](*values)

        return answer


def _page(gallery, cursor, limit):
    number = int(cursor or 0)
    return answers.IdentityPage(
        (answers.Identity(f"p{number}", "P", {}, "now", 1),), str(number + 1) if number < 2 else ""
    )


_FACE = {"box": (1.0, 2.0, 30.0, 40.0), "confidence": 1.0, "quality": {}}
_LANDMARKS = {name: (5.0, 5.0) for name in ("a", "b", "c", "d", "e")}
_KNOWN = answers.RecognizedFace(
    **_FACE, landmarks=_LANDMARKS, decision="identified", identity=answers.KnownPerson("ada", "Ada"), score=0.97,
    threshold=0.9, calibrated=True, candidates=(answers.Candidate("ada", "Ada", 0.97),),
)  # fmt: skip
ANSWERS = {
    "list_galleries": lambda: [answers.GallerySummary("g", "m", 1, 2, 3, True, "now")],
    "list_identities": _page,
    "identity": lambda g, i: answers.IdentityDetail(i, "Ada", {}, "now", 1, (answers.StoredFace(7, "ab", {}, "now"),)),
    "update_identity": lambda g, i: answers.IdentityDetail(i, "New", {}, "now", 0, ()),
    "erase_identity": lambda g, i: answers.Receipt(g, i, 2, 9, "now", "hash", {"tables": True, "log": False}),
    "delete_face": lambda g, i, f: answers.Receipt(g, i, 1, 9, "now", "hash"),
    "drop_gallery": lambda g: answers.DroppedGallery(g, "hash"),
    "enroll": lambda g, i, photos: answers.Enrolled(g, i, (5,), 1, 4, False, (), "m", {}, "r"),
    "recognize": lambda g, photo: answers.Recognized(g, 1, "m", 100, 100, (_KNOWN,), {}, "r"),
}


def test_the_same_commands_ask_a_service(call, monkeypatch, photos, tmp_path):
    monkeypatch.setattr("cnnray.client.Client", Service)
    url = ("--url", "http://127.0.0.1:8000")
    Service.asked.clear()
    assert call("list", *url)[0]["galleries"][0]["gallery_version"] == 3
    assert [one["id"] for one in call("list", "--gallery", "g", *url)[0]["identities"]] == ["p0", "p1", "p2"]
    assert call("list", "--gallery", "g", "--identity", "ada", *url)[0]["faces"][0]["id"] == 7
    assert call("rename", "New", "--gallery", "g", "--identity", "ada", *url)[0]["name"] == "New"
    receipt, said = call("delete", "--gallery", "g", "--identity", "ada", *url)
    assert receipt["faces"] == 2 and "may still be in: log" in said
    call("delete", "--gallery", "g", "--identity", "ada", "--face", 7, *url)
    assert call("drop", "g", "--yes", *url)[0] == {"gallery": "g", "audit_hash": "hash"}
    assert call("enroll", photos[0], "--gallery", "g", "--identity", "ada", *url)[0]["face_ids"] == [5]
    found, said = call("recognize", photos[0], "--gallery", "g", "--candidates", 1, "--out", tmp_path / "o", *url)
    assert found["answers"][0]["faces"][0]["identity"]["name"] == "Ada" and "Ada 0.970" in said.replace("ada", "Ada")
    assert (tmp_path / "o" / f"{photos[0].stem}.png").exists()
    asked = [one for one in Service.asked if not isinstance(one, str)]
    enroll = next(options for name, _, options in asked if name == "enroll")
    assert enroll == {"name": "", "pick": "only", "accept_quality": False, "accept_conflict": False}
    assert not (tmp_path / "r.db").exists()


def test_a_folder_is_recognised_and_a_bad_photo_costs_no_other_answer(call, monkeypatch, photos, tmp_path):
    folder, other = tmp_path / "party", tmp_path / "party" / "late"
    other.mkdir(parents=True)
    for path in (folder / "a.jpg", other / "a.jpg"):
        shutil.copy(photos[0], path)
    (folder / "broken.jpg").write_bytes(b"rubbish")

    seen = ANSWERS["recognize"]

    def recognize(gallery, photo):
        if Path(photo).name == "broken.jpg":
            raise ServiceError("expected an image", code="not_an_image", status=422)
        return seen(gallery, photo)

    call("enroll", photos[1], "--gallery", "staff", "--identity", "ada")
    local, _ = call("recognize", folder, tmp_path / "absent.jpg", "--gallery", "staff", "--out", tmp_path / "local")
    monkeypatch.setattr("cnnray.client.Client", Service)
    monkeypatch.setitem(ANSWERS, "recognize", recognize)
    remote, _ = call("recognize", folder, "--gallery", "g", "--out", tmp_path / "o", "--url", "http://127.0.0.1:8000")
    for found in (local["answers"][:3], remote["answers"]):
        names = [str(Path(answer["image"]).relative_to(folder)) for answer in found]
        codes = [answer.get("error", {}).get("code") for answer in found]
        assert sorted(zip(names, codes, strict=True)) == [
            ("a.jpg", None), ("broken.jpg", "not_an_image"), ("late/a.jpg", None)
        ]  # fmt: skip
    assert local["answers"][3]["error"]["code"] == "bad_data"
    for out in ("local", "o"):
        written = {str(path.relative_to(tmp_path / out)) for path in (tmp_path / out).rglob("*.png")}
        assert written == {"a.png", "late/a.png"}
