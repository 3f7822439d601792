"""A gallery: who is enrolled, who is recognised, who is forgotten. On SQLite and PostgreSQL."""

import dataclasses
import hashlib
import shutil
import threading
import zlib

import numpy as np
import pytest

from cnnray.config import QualityPolicy, RecordConfig
from cnnray.errors import GalleryError, RecordError
from cnnray.infer.gallery import gallery as gallery_module
from cnnray.infer.gallery.gallery import Gallery, create_gallery, drop_gallery
from cnnray.infer.gallery.means import mean_embeddings
from cnnray.infer.gallery.opening import forget_dropped
from cnnray.infer.gallery.record import Record
from cnnray.infer.gallery.results import REASONS, Person, judge
from cnnray.infer.gallery.rows import Contract, NewFace

SIZE = 32
CONTRACT = Contract("dlib_resnet:views=2@0123456789ab", SIZE, 0.8)
GOOD = {"size": 90.0, "confidence": 1.0, "inside": 1.0, "sharpness": 0.15, "brightness": 0.5} | dict.fromkeys(
    ("yaw", "pitch", "roll"), 5.0
)


def vector(seed, near=None, cosine=0.9):
    """A random direction; or one that has this cosine with `near`."""
    found = np.random.default_rng(zlib.crc32(repr(seed).encode())).normal(size=SIZE)
    if near is not None:
        found -= (found @ near) * near
        found = cosine * near + np.sqrt(1 - cosine**2) * found / np.linalg.norm(found)
    return (found / np.linalg.norm(found)).astype(np.float32)


def face(embedding, **quality):
    return NewFace(embedding, hashlib.sha256(embedding.tobytes()).hexdigest(), GOOD | quality)


def person(key, *embeddings, **options):
    return Person(key=key, faces=[face(one) for one in embeddings or (vector(key),)], **options)


@pytest.fixture
def open_gallery(record, tmp_path):
    """A new one; or another look at it, as another process has."""
    config = RecordConfig(snapshots=str(tmp_path / "snapshots"), exact_until=200)
    create_gallery(record, "staff", CONTRACT)
    return lambda: Gallery.open(record, "staff", config, CONTRACT)


@pytest.fixture
def gallery(open_gallery):
    return open_gallery()


def who(gallery, embedding, **options):
    match = gallery.recognize(embedding[None], **options).matches[0]
    return match.identity.key if match.identity else match.decision


# ---- enrolment and recognition ---------------------------------------------------------------------------------------


def test_one_photo_enrols_a_person(gallery):
    assert who(gallery, vector("ada")) == "unknown"
    done = gallery.enroll(person("ada", name="Ada Lovelace", metadata={"born": 1815}))
    assert (done.key, len(done.face_ids), done.added, done.replayed) == ("ada", 1, 1, False)
    answer = gallery.recognize(np.stack([vector(1, vector("ada")), vector(2, vector("ada"), 0.7), vector("bob")]))
    assert [match.decision for match in answer.matches] == ["identified", "unknown", "unknown"]
    first = answer.matches[0]
    assert first.identity.name == "Ada Lovelace" and first.identity.metadata == {"born": 1815}
    assert first.score == pytest.approx(0.9, abs=1e-5) and answer.matches[1].score == pytest.approx(0.7, abs=1e-5)
    assert answer.version == done.version and answer.threshold == 0.8 and not answer.calibrated and not first.candidates


def test_several_faces_make_a_person_known_from_several_sides(gallery):
    sides = [vector(at, vector("ada"), 0.93) for at in range(3)]
    gallery.enroll(person("ada", *sides[:2]))
    again = gallery.enroll(person("ada", *sides[1:], accept_conflict=True))
    assert again.added == 1 and len(again.face_ids) == 2
    identity, faces = gallery.get("ada")
    assert identity.faces == len(faces) == 3 and identity.name == "ada" and faces[0].quality["size"] == 90
    assert [who(gallery, side) for side in sides] == ["ada"] * 3
    mean = np.mean(sides, axis=0)
    (match,) = gallery.recognize(vector("ada")[None]).matches
    assert match.score == pytest.approx(vector("ada") @ mean / np.linalg.norm(mean), abs=1e-5)
    gallery.delete_face("ada", faces[0].id)
    (match,) = gallery.recognize(sides[0][None], threshold=0).matches
    rest = sides[1] + sides[2]
    assert match.score == pytest.approx(sides[0] @ rest / np.linalg.norm(rest), abs=1e-5)


def test_candidates_are_the_best_people_whatever_the_threshold(gallery):
    target = vector("t")
    for at, cosine in enumerate((0.5, 0.7, 0.6, -0.2)):
        gallery.enroll(person(f"p{at}", vector(f"a{at}", target, cosine)))
    (match,) = gallery.recognize(target[None], candidates=3).matches
    assert match.decision == "unknown" and [one.identity.key for one in match.candidates] == ["p1", "p2", "p0"]
    assert [one.score for one in match.candidates] == pytest.approx([0.7, 0.6, 0.5], abs=1e-5)
    assert who(gallery, target, threshold=0.65) == "p1"
    assert len(gallery.recognize(target[None], candidates=10).matches[0].candidates) == 4


def test_verification_compares_with_one_person(gallery):
    gallery.enroll(person("ada"))
    gallery.enroll(person("bob"))
    probe = vector("x", vector("ada"), 0.85)
    assert gallery.verify(probe, "ada").same and not gallery.verify(probe, "bob").same
    claim = gallery.verify(probe, "ada", threshold=0.9)
    assert not claim.same and claim.score == pytest.approx(0.85, abs=1e-5) and claim.threshold == 0.9
    gallery.add("empty")
    assert not gallery.verify(probe, "empty").same
    with pytest.raises(GalleryError, match="no identity 'eve'"):
        gallery.verify(probe, "eve")


def test_embeddings_of_another_kind_are_refused_and_change_nothing(gallery):
    for wrong in (np.ones(SIZE), np.full(SIZE, np.nan), vector(1)[:5]):
        with pytest.raises(GalleryError) as caught:
            gallery.enroll(person("ada", np.asarray(wrong, np.float32)))
        assert caught.value.code == "bad_vector"
        with pytest.raises(GalleryError):
            gallery.recognize(np.asarray(wrong, np.float32)[None])
    with pytest.raises(GalleryError, match="a face of 'ada'"):
        gallery.enroll(Person(key="ada", faces=[]))
    assert gallery.describe()["gallery_version"] == 0


def test_another_embedder_cannot_open_a_gallery(record, gallery):
    with pytest.raises(GalleryError, match="do not compare with") as caught:
        Gallery.open(record, "staff", contract=CONTRACT._replace(model="other@1"))
    assert (caught.value.code, caught.value.http_status) == ("model_mismatch", 409)
    assert caught.value.details == {"expected": CONTRACT.model, "got": "other@1"}


# ---- the gate and conflicts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quality", "reason"),
    [
        ({"size": 39.9}, "too_small"),
        ({"confidence": -0.1}, "low_confidence"),
        ({"inside": 0.8}, "cut_off"),
        ({"sharpness": 0.01}, "blurred"),
        ({"brightness": 0.05}, "too_dark"),
        ({"brightness": 0.99}, "too_bright"),
        ({"yaw": -46.0}, "turned_away"),
        ({"roll": 61.0}, "turned_away"),
    ],
)
def test_pictures_that_are_not_good_enough(gallery, quality, reason):
    bad = Person(key="ada", faces=[face(vector("ada"), **quality)])
    with pytest.raises(GalleryError, match="not good enough") as caught:
        gallery.enroll(bad)
    assert (caught.value.code, caught.value.details, caught.value.http_status) == (
        "low_quality",
        {"reasons": [reason]},
        422,
    )
    assert who(gallery, vector("ada")) == "unknown"
    gallery.enroll(dataclasses.replace(bad, accept_quality=True))
    assert who(gallery, vector("ada")) == "ada"


def test_every_reason_can_be_given():
    worst = dict.fromkeys(GOOD, -1.0) | {"yaw": 90.0}
    assert {*judge(worst, QualityPolicy()), *judge(GOOD | {"brightness": 1.0}, QualityPolicy())} == set(REASONS)
    assert judge(GOOD, QualityPolicy()) == [] == judge({}, QualityPolicy())


def test_the_policy_is_the_gallerys_own(record):
    create_gallery(record, "strict", CONTRACT, QualityPolicy(min_size=120))
    with pytest.raises(GalleryError, match="smaller than 120 px"):
        Gallery.open(record, "strict").enroll(person("ada"))


def test_a_face_that_is_somebody_already_is_a_conflict(gallery):
    gallery.enroll(person("ada"))
    twin = person("bob", vector("x", vector("ada"), 0.95))
    with pytest.raises(GalleryError, match="is 'ada' already") as caught:
        gallery.enroll(twin)
    assert caught.value.code == "identity_conflict" and caught.value.details["identity"] == "ada"
    assert caught.value.details["score"] == pytest.approx(0.95, abs=1e-5)
    with pytest.raises(GalleryError, match="no identity 'bob'"):
        gallery.get("bob")
    gallery.enroll(dataclasses.replace(twin, accept_conflict=True))
    gallery.enroll(person("ada", vector("y", vector("ada"), 0.95)))  # one's own faces are no conflict
    assert who(gallery, twin.faces[0].embedding_D) == "bob"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_face_more_like_its_own_person_is_no_conflict_however_people_come(gallery, at_once):
    new = vector("new")  # above the threshold of 0.8 with both
    people = [person("ada", vector("a", new, 0.82)), person("bob", vector("b", new, 0.93)), person("bob", new)]
    if at_once:
        done = gallery.enroll_many(people)
    else:
        done = [gallery.enroll_many([one])[0] for one in people]
    assert [isinstance(one, GalleryError) for one in done] == [False, False, False], done


def test_a_new_name_with_known_faces_is_in_the_audit_log(gallery, record):
    gallery.enroll(person("ada"))
    before = record.verify_audit(gallery.row.token)
    gallery.enroll(person("ada"))
    assert record.verify_audit(gallery.row.token) == before
    gallery.enroll(person("ada", name="Ada Lovelace"))
    assert record.verify_audit(gallery.row.token) == before + 1


def test_conflicts_within_one_request(gallery):
    same = vector("x", vector("ada"), 0.99)
    first, second, third = gallery.enroll_many([person("ada"), person("bob", same), person("eve")])
    assert first.added == third.added == 1 and second.code == "identity_conflict"
    assert [one.key for one in gallery.people()[0]] == ["ada", "eve"]


def test_the_same_face_is_not_enrolled_twice_by_two_who_ask_at_once(open_gallery):
    """The check and the enrolment are one: of eight names for one face, one gets it."""
    galleries = [open_gallery() for _ in range(4)]
    outcomes = []

    def ask(at):
        try:
            galleries[at % 4].enroll(person(f"name{at}", vector("the one")))
            outcomes.append("enrolled")
        except GalleryError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["enrolled"] + ["identity_conflict"] * 7


def test_one_photo_for_ten_thousand_people_names_nobody(tmp_path):
    """Whoever it is, it is not the first of them; and nobody else is drowned in them."""
    record = Record(str(tmp_path / "g.db"))
    create_gallery(record, "many", CONTRACT)
    gallery = Gallery.open(record, "many", RecordConfig(exact_until=2000))
    crowd = vector("the photo")
    people = [person(f"p{at}", crowd, accept_conflict=True) for at in range(10_000)]
    for start in range(0, len(people), 2500):
        gallery.enroll_many(people[start : start + 2500])
    gallery.enroll(person("ada", vector("ada", crowd, 0.97), accept_conflict=True))
    gallery.maintain()
    (match,) = gallery.recognize(crowd[None], candidates=5).matches
    assert match.decision == "ambiguous" and match.identity is None and len(match.candidates) == 5
    assert who(gallery, vector("ada", crowd, 0.97)) == "ada"
    assert who(gallery, vector("y", vector("ada", crowd, 0.97), 0.99)) == "ada"
    record.close()


# ---- requests --------------------------------------------------------------------------------------------------------


def test_a_repeated_request_is_done_once(gallery):
    ask = person("ada", vector(1), vector(2), request_key="r1")
    first = gallery.enroll(ask)
    again = gallery.enroll(ask)
    assert again == dataclasses.replace(first, replayed=True) and not first.replayed
    assert gallery.describe()["faces"] == 2
    with pytest.raises(GalleryError, match="used for something else"):
        gallery.enroll(person("bob", request_key="r1"))
    gallery.erase("ada")
    with pytest.raises(GalleryError, match="was erased since"):
        gallery.enroll(ask)


# ---- seen at once, everywhere ----------------------------------------------------------------------------------------


def test_changes_are_seen_by_the_next_search_of_every_other(open_gallery):
    here, there = open_gallery(), open_gallery()
    for at in range(20):
        version = here.enroll(person(f"p{at}")).version
        answer = there.recognize(vector(f"p{at}")[None])
        assert answer.matches[0].identity.key == f"p{at}" and answer.version == version
    there.update("p3", name="Three", metadata={"a": 1})
    match = here.recognize(vector("p3")[None]).matches[0]
    assert (match.identity.name, match.identity.metadata) == ("Three", {"a": 1})
    there.erase("p4")
    assert who(here, vector("p4")) == "unknown"
    _, (row,) = here.get("p5")
    here.delete_face("p5", row.id)
    assert who(there, vector("p5")) == "unknown" and there.get("p5")[0].faces == 0
    with pytest.raises(GalleryError, match=f"no face {row.id}") as caught:
        there.delete_face("p5", row.id)
    assert caught.value.http_status == 404


def calibrate(record, name="staff"):
    with record.change(name) as change:
        change.set_calibration({"threshold": 0.9})


@pytest.mark.parametrize("when", ["while it opens", "before it is rebuilt"])
def test_a_calibration_is_seen_by_an_index_that_is_newer_than_its_gallery(record, open_gallery, monkeypatch, when):
    monkeypatch.setattr(Gallery, "threshold", lambda self: 0.5)
    open_gallery().enroll(person("ada"))
    if when == "while it opens":
        real = gallery_module.load_index
        monkeypatch.setattr(gallery_module, "load_index", lambda *args: calibrate(record) or real(*args))
        there = open_gallery()
    else:
        there = open_gallery()
        calibrate(record)
        there.rebuild()
    there.catch_up()
    assert there.row.calibration == {"threshold": 0.9}


def test_a_rebuilt_index_loses_no_change_that_was_on_its_way(record, open_gallery, monkeypatch):
    """One that was read before ada's erasure takes its place while a later delta is waited for."""
    here, there = open_gallery(), open_gallery()
    for name in ("ada", "bob"):
        here.enroll(person(name))
    old = gallery_module.load_index(record, there.row, RecordConfig())
    here.erase("ada")
    there.catch_up()
    here.enroll(person("eve"))
    real = record.changes_since

    def swapped(gallery_id, version):
        found = real(gallery_id, version)
        monkeypatch.setattr(record, "changes_since", real)
        there.rebuild()
        return found

    monkeypatch.setattr(gallery_module, "load_index", lambda *args: old)
    monkeypatch.setattr(there, "describe", dict)  # which would look for changes once more

    monkeypatch.setattr(record, "changes_since", swapped)
    assert who(there, vector("eve")) == "eve" and who(there, vector("ada")) == "unknown"


def test_an_index_with_people_whom_the_record_does_not_have_is_told(record, open_gallery, monkeypatch):
    gallery = open_gallery()
    gallery.enroll(person("ada"))
    monkeypatch.setattr(record, "find_identities", lambda ids: {})
    with pytest.raises(RecordError, match="the index of gallery 'staff' has people whom the record does not have"):
        who(gallery, vector("ada"))


def test_a_gallery_that_was_dropped_is_gone_for_who_has_it_open(record, open_gallery):
    old = open_gallery()
    old.enroll(person("ada"))
    record.drop_gallery("staff")
    create_gallery(record, "staff", CONTRACT)
    for use in (
        lambda: old.recognize(vector("ada")[None]),
        lambda: old.enroll(person("bob")),
        lambda: old.erase("ada"),
    ):
        with pytest.raises(GalleryError, match="dropped") as caught:
            use()
        assert caught.value.code == "no_gallery"


# ---- erasure ---------------------------------------------------------------------------------------------------------


def test_nothing_of_the_erased_is_left_on_disk(tmp_path):
    """Also not in free pages, the log, or snapshots: their bytes are looked for."""
    record = Record(str(tmp_path / "g.db"))
    create_gallery(record, "staff", CONTRACT)
    config = RecordConfig(snapshots=str(tmp_path / "snapshots"), exact_until=200)
    gallery, other = (Gallery.open(record, "staff", config) for _ in range(2))
    for start in range(0, 600, 100):
        gallery.enroll_many([person(f"person-{at:04}", request_key=f"r{at}") for at in range(start, start + 100)])
    gallery.maintain()
    assert gallery.index.describe()["kind"] != "exact", "so that there is a snapshot"

    def traces(key):
        """Files with the embedding (also a part of it) or the id."""
        content = vector(key).tobytes()
        needles = (content[:64], content[64:], key.encode())
        found = [path for path in tmp_path.rglob("*") if path.is_file()]
        return {path.name for path in found if any(needle in path.read_bytes() for needle in needles)}

    keys = [f"person-{at:04}" for at in np.random.default_rng(0).permutation(600)[:40]]
    assert "embeddings.f32" in traces(keys[0]) and len(traces(keys[0])) > 1, "it is found where it is"
    for at, key in enumerate(keys):
        before = gallery.describe()["gallery_version"]
        receipt = gallery.erase(key)
        assert receipt.key == key and receipt.faces == 1 and receipt.version > before
        assert receipt.purged == {"tables": True, "log": True, "snapshot": True}
        assert record.verify_audit(gallery.row.token, receipt.audit_hash)
        assert traces(key) == set(), key
        if at % 10 == 0:
            other.maintain()
            other.save_snapshot()
            assert traces(key) == set(), key
    assert all(who(gallery, vector(key)) == "unknown" for key in keys)
    record.close()


def test_erasing_waits_for_readers_and_says_what_it_could_not_clean(tmp_path, monkeypatch):
    from cnnray.infer.gallery import record as record_module

    monkeypatch.setattr(record_module, "_PURGE_SECONDS", 0.2)
    record = Record(str(tmp_path / "g.db"))
    create_gallery(record, "staff", CONTRACT)
    gallery = Gallery.open(record, "staff")
    gallery.enroll(person("ada"))
    gallery.enroll(person("bob"))
    with record.load_faces(gallery.row.id) as (_, _, blocks):
        next(blocks)
        receipt = gallery.erase("ada")
        assert not receipt.purged["tables"] and not receipt.purged["log"]
    assert vector("ada").tobytes() in (tmp_path / "g.db-wal").read_bytes()
    gallery.maintain()
    assert not any(vector("ada").tobytes() in path.read_bytes() for path in tmp_path.iterdir())
    record.close()


@pytest.mark.parametrize("what", ["person", "gallery"])
def test_what_is_erased_is_told_and_cleaned_later_where_cleaning_fails(tmp_path, monkeypatch, what):
    """As on a full disk: the erasure is committed, so whoever asked for it gets the receipt."""
    record = Record(str(tmp_path / "g.db"))
    create_gallery(record, "staff", CONTRACT)
    gallery = Gallery.open(record, "staff")
    gallery.enroll(person("ada"))

    def full():
        raise RecordError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(record.database, "empty_log", full)
        if what == "person":
            receipt = gallery.erase("ada")
            assert not receipt.purged["tables"] and not receipt.purged["log"] and len(receipt.audit_hash) == 64
        else:
            assert len(drop_gallery(record, "staff", RecordConfig())) == 64
        record.maintain()
    assert any(vector("ada").tobytes() in path.read_bytes() for path in tmp_path.iterdir())
    record.maintain()
    assert not any(vector("ada").tobytes() in path.read_bytes() for path in tmp_path.iterdir())
    record.close()


def test_an_erasure_is_told_even_if_the_record_is_gone_right_after(tmp_path, monkeypatch):
    record = Record(str(tmp_path / "g.db"))
    create_gallery(record, "staff", CONTRACT)
    gallery = Gallery.open(record, "staff")
    gallery.enroll(person("ada"))

    def away(*args):
        raise RecordError("the server is away")

    with monkeypatch.context() as patch:
        patch.setattr(record, "changes_since", away)
        assert gallery.erase("ada").faces == 1
    assert who(gallery, vector("ada")) == "unknown"
    record.close()


def test_erasing_who_is_not_there(gallery):
    with pytest.raises(GalleryError, match="no identity 'ada'") as caught:
        gallery.erase("ada")
    assert caught.value.http_status == 404


# ---- the index behind it ---------------------------------------------------------------------------------------------


def snapshot_files(tmp_path):
    return [path for path in (tmp_path / "snapshots").rglob("*") if path.is_file() and path.suffix != ".lock"]


def same_as_record(gallery):
    with gallery.record.load_faces(gallery.row.id) as (version, _, blocks):
        blocks = list(blocks)
    expected = mean_embeddings(*(np.concatenate([block[at] for block in blocks]) for at in (1, 2)))
    return gallery.index.version == version and all(map(np.array_equal, gallery.index.points(), expected))


@pytest.fixture
def large(open_gallery):
    gallery = open_gallery()
    gallery.enroll_many([person(f"p{at}", accept_conflict=True) for at in range(500)])
    gallery.maintain()
    return gallery


def test_a_snapshot_is_used_and_caught_up_with(large, open_gallery, tmp_path, monkeypatch):
    assert snapshot_files(tmp_path)
    large.enroll(person("late", accept_conflict=True))
    monkeypatch.setattr(Record, "load_faces", None)  # the record is not read as a whole
    other = open_gallery()
    monkeypatch.undo()
    assert who(other, vector("late")) == "late" and same_as_record(other)


@pytest.mark.parametrize("damage", ["flip", "cut", "older", "foreign", "newer"])
def test_a_snapshot_that_does_not_fit_is_replaced_by_the_record(
    large, open_gallery, record, tmp_path, damage, caplog, monkeypatch
):
    files = snapshot_files(tmp_path)
    if damage in ("flip", "cut"):
        for path in files:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content if damage == "flip" else content[:-1])
    elif damage == "older":  # of the format before this one
        with monkeypatch.context() as patch:
            patch.setattr("cnnray.infer.gallery.snapshot._FORMAT", 1)
            large.save_snapshot()
    elif damage == "foreign":  # of a gallery of the same size and model
        create_gallery(record, "other", CONTRACT)
        config = RecordConfig(snapshots=str(tmp_path / "snapshots"), exact_until=200)
        other = Gallery.open(record, "other", config)
        other.enroll_many([person(f"q{at}", accept_conflict=True) for at in range(500)])
        other.maintain()
        mine, its = (tmp_path / "snapshots" / one.row.token for one in (large, other))
        for path in its.rglob("*"):
            (mine / path.name).write_bytes(path.read_bytes())
    else:  # of a database that was put back from a backup
        from cnnray.infer.gallery import tables

        with record.database.write() as connection:
            connection.execute(tables.audit.update().values(hash="1" * 64))
    caplog.clear()
    other = open_gallery()
    assert same_as_record(other) and who(other, vector("p7")) == "p7"
    assert "the index is built from the record" in caplog.text


def test_what_was_dropped_elsewhere_leaves_no_snapshot(large, record, tmp_path):
    """As after a replica was away while another dropped the gallery."""
    config = RecordConfig(snapshots=str(tmp_path / "snapshots"), exact_until=200)
    mine = tmp_path / "snapshots" / large.row.token
    foreign, leftover = mine.with_name("f" * 32), mine.with_name(f".{large.row.token}.12345678.tmp")
    shutil.copytree(mine, foreign)  # of a gallery of another record
    shutil.copytree(mine, leftover)
    forget_dropped(record, config)
    assert mine.exists() and foreign.exists()
    record.drop_gallery("staff")
    forget_dropped(record, config)
    assert not mine.exists() and not leftover.exists() and foreign.exists()
    forget_dropped(record, RecordConfig(snapshots=str(tmp_path / "nowhere")))


def test_rebuilding_reads_the_record_again(large):
    about = large.rebuild()
    assert about["faces"] == 500 and about["index"]["kind"] != "exact" or about["index"]["refused"]
    assert same_as_record(large)


# ---- faults ----------------------------------------------------------------------------------------------------------


def test_a_server_that_restarts_under_load_loses_nothing(postgres_alone):
    record = Record(postgres_alone.create("restart"))
    create_gallery(record, "staff", CONTRACT)
    gallery = Gallery.open(record, "staff")
    told, asked, refused, stop = set(), set(), [], threading.Event()

    def work(name):
        at = 0
        while not stop.is_set():
            key = f"{name}-{at}"
            at += 1
            asked.add(key)
            try:
                gallery.enroll(person(key, accept_conflict=True))
                told.add(key)
                assert who(gallery, vector(key)) == key
            except RecordError as error:
                refused.append(error)
                stop.wait(0.02)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        stop.wait(0.7)
        postgres_alone.stop()
        stop.wait(0.2)
        postgres_alone.start()
    stop.wait(0.7)
    stop.set()
    for thread in threads:
        thread.join()
    there = {one.key for one in gallery.people(limit=100_000)[0]}
    assert told <= there <= asked and refused and len(told) > 20
    assert record.verify_audit(gallery.row.token) and same_as_record(gallery)
    record.close()


@pytest.fixture
def postgres_alone():
    from tests.postgres import Server

    server = Server()
    yield server
    server.close()


@pytest.mark.parametrize("small_disk", ["1m"], indirect=True)
def test_a_full_disk_refuses_the_change_and_keeps_the_rest(small_disk):
    place, grow = small_disk
    record = Record(str(place / "g.db"))
    create_gallery(record, "staff", CONTRACT)
    gallery = Gallery.open(record, "staff")
    gallery.enroll(person("ada"))
    many = [person(f"p{at}", accept_conflict=True) for at in range(3000)]
    with pytest.raises(RecordError, match="no space left for .*earlier ones are safe"):
        gallery.enroll_many(many)
    assert [one.key for one in gallery.people()[0]] == ["ada"] and who(gallery, vector("ada")) == "ada"
    grow()
    gallery.enroll_many(many)
    assert who(gallery, vector("p2999")) == "p2999" and same_as_record(gallery)
    record.close()
