"""/v1/galleries of the real service over real HTTP, on real photos: over SQLite, and over PostgreSQL with two replicas.

The services are processes of their own, as `cnnray serve up` starts them, so that they can be ended and started again.
"""

import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from cnnray.client import Client
from cnnray.config import EmbedderConfig, RecordConfig, ServeConfig
from cnnray.errors import GalleryError, OptionError, RecordError, ServiceError
from cnnray.infer.faces import FacePipeline
from cnnray.infer.gallery.gallery import Gallery
from cnnray.infer.gallery.record import Record
from cnnray.infer.gallery.results import Person
from cnnray.infer.gallery.rows import Contract, NewFace
from cnnray.ops.decode import decode
from cnnray.serve.app import up
from cnnray.serve.galleries import OpenGalleries, deploy
from tests.postgres import Server
from tests.serve.shared.test_segment import encoded
from tests.serving import Service

GREY = encoded(np.full((90, 120, 3), 128, np.uint8))
EMBEDDER = ("--faces", "dlib_resnet", "--face-views", "1")
NAMES = ("Carlos_Moya", "Condoleezza_Rice", "David_Nalbandian", "Dominique_de_Villepin", "Edmund_Stoiber")
PROBLEM = {"type", "title", "status", "detail", "code", "request_id"}


@pytest.fixture(scope="module")
def over_sqlite(tmp_path_factory):
    service = Service(
        tmp_path_factory.mktemp("sqlite"), *EMBEDDER, "--record", "galleries.db", "--exact-until", "100"
    ).start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def client(over_sqlite):
    with Client(over_sqlite.url, patience=0) as client:
        yield client


@pytest.fixture
def gallery(client, request):
    """A new one of the test's own."""
    name = "g" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    client.create_gallery(name)
    return name


@pytest.fixture(scope="module")
def people(data_dir):
    """Two encoded photos with one face each, of each of five people."""
    return [[path.read_bytes() for path in sorted((data_dir / "lfw_dev" / name).glob("*.jpg"))[:2]] for name in NAMES]


@pytest.fixture(scope="module")
def group(data_dir):
    """Seven people with small faces."""
    return (data_dir / "faces" / "2007_007763.jpg").read_bytes()


@pytest.fixture(scope="module")
def alone():
    return FacePipeline.load(EmbedderConfig(views=1), device="cpu")


def refused(call, *args, **options):
    with pytest.raises(ServiceError) as caught:
        call(*args, **options)
    return caught.value.status, caught.value.code


def who(client, gallery, photo, **options):
    """Ids of those in a photo, or what was decided."""
    found = client.recognize(gallery, photo, **options)
    return [face.identity.id if face.identity else face.decision for face in found.faces]


def post(service, path, photos, **options):
    files = [("file", photo) for photo in photos]
    return httpx.post(f"{service.url}/v1/galleries/{path}", files=files, timeout=60, **options)


# --- galleries ----------------------------------------------------------------------------------------------------


def test_a_gallery_is_made_listed_and_dropped(client, alone):
    made = client.create_gallery("made", policy={"min_size": 30})
    assert made == client.gallery("made")
    assert (made.identities, made.faces, made.gallery_version, made.calibration) == (0, 0, 0, None)
    assert (made.model, made.num_features) == (alone.name, alone.spec.num_features)
    assert made.threshold == pytest.approx(1 - alone.spec.threshold**2 / 2)
    assert made.policy["min_size"] == 30 and made.policy["max_yaw"] == 45
    assert [row.model for row in client.list_galleries() if row.name == "made"] == [alone.name]
    assert refused(client.create_gallery, "made") == (409, "gallery_exists")
    assert len(client.drop_gallery("made").audit_hash) == 64
    for call in (client.gallery, client.drop_gallery, client.list_identities):
        assert refused(call, "made") == (404, "no_gallery")
    assert "made" not in [row.name for row in client.list_galleries()]


def test_what_a_gallery_is_made_of_is_checked(client, over_sqlite):
    for name in ("", "a/b", "../x", "ü", "x" * 65, "a\x00b"):
        assert refused(client.create_gallery, name) == (422, "bad_name")
    for policy in ({"min_size": float("inf")}, {"min_sise": 3}, {"min_inside": 1.5}, {"max_brightness": 0.01}):
        body = json.dumps({"name": "p", "policy": policy})  # with an Infinity, which JSON has not
        headers = {"content-type": "application/json"}
        answer = httpx.post(f"{over_sqlite.url}/v1/galleries", content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter"), answer.text
    assert refused(client.gallery, "p") == (404, "no_gallery")


def test_a_gallery_made_anew_under_the_same_name_is_empty(client, people):
    client.create_gallery("anew")
    client.enroll("anew", "carlos", people[0][0])
    client.drop_gallery("anew")
    client.create_gallery("anew")
    assert who(client, "anew", people[0][1]) == ["unknown"]
    assert refused(client.identity, "anew", "carlos") == (404, "no_identity")
    assert client.gallery("anew").faces == 0


# --- enrolment and recognition ------------------------------------------------------------------------------------


def test_one_photo_makes_a_person_known(client, gallery, people, alone):
    done = client.enroll(gallery, "carlos", people[0][0], name="Carlos Moyá")
    assert (done.identity, done.added, len(done.face_ids), done.replayed) == ("carlos", 1, 1, False)
    assert done.model == alone.name and done.faces[0].quality["size"] > 40 and done.request_id
    client.enroll(gallery, "rice", people[1][0])
    found = client.recognize(gallery, people[0][1], candidates=5)
    (face,) = found.faces
    assert (face.decision, face.identity.id, face.identity.name) == ("identified", "carlos", "Carlos Moyá")
    assert 0 < found.timings["search_ms"] < found.timings["total_ms"]
    mine, other = (alone.predict([photo])[0].faces[0].embedding_D for photo in people[0])
    assert face.score == pytest.approx(float(mine @ other), abs=0.01)
    assert face.threshold == client.gallery(gallery).threshold and not face.calibrated
    assert [one.id for one in face.candidates] == ["carlos", "rice"] and face.candidates[0].score == face.score
    assert found.gallery_version >= done.gallery_version and (found.height, found.width) == (250, 250)
    assert who(client, gallery, people[2][0]) == ["unknown"] and found.faces[0].landmarks["nose"]


def test_a_request_says_how_sure_and_what_is_looked_for(client, gallery, people, group):
    client.enroll(gallery, "carlos", people[0][0])
    assert who(client, gallery, people[0][1], threshold=1) == ["unknown"]
    assert who(client, gallery, people[1][0], threshold=-1) == ["carlos"]
    assert len(who(client, gallery, group)) == 7
    assert who(client, gallery, group, smallest_face=80) == [] == who(client, gallery, GREY)
    assert client.recognize(gallery, GREY).gallery_version == client.gallery(gallery).gallery_version
    for wrong in ({"threshold": 1.1}, {"threshold": "nan"}, {"candidates": 21}, {"candidates": -1}, {"confidence": 3}):
        assert refused(client.recognize, gallery, people[0][0], **wrong) == (422, "invalid_parameter")


def test_several_photos_in_one_request_and_a_bad_one_spoils_none(client, gallery, over_sqlite, people, group):
    client.enroll(gallery, "carlos", people[0][0])
    answer = post(over_sqlite, f"{gallery}/recognize", [b"what", people[0][1], GREY, group]).json()
    bad, one, none, many = answer["images"]
    assert bad["error"]["code"] == "not_an_image" and none["faces"] == [] and len(many["faces"]) == 7
    assert one["faces"][0]["identity"] == {"id": "carlos", "name": "carlos"}
    assert all(face["identity"] is None and face["decision"] == "unknown" for face in many["faces"])
    assert refused(client.recognize, gallery, b"what") == (422, "not_an_image")
    answer = post(over_sqlite, f"{gallery}/recognize", [b"what", b"nothing"]).json()
    assert [image["error"]["code"] for image in answer["images"]] == ["not_an_image"] * 2


def test_photos_are_enrolled_all_or_none(client, gallery, people, group):
    for photos, code in (
        ([people[0][0], GREY], "no_face"),
        ([people[0][0], group], "several_faces"),
        ([b"what", people[0][0]], "not_an_image"),
    ):
        with pytest.raises(ServiceError, match="image [12] of 2") as caught:
            client.enroll(gallery, "carlos", photos)
        assert (caught.value.status, caught.value.code) == (422, code)
    assert refused(client.enroll, gallery, "carlos", GREY) == (422, "no_face")
    assert refused(client.identity, gallery, "carlos") == (404, "no_identity")
    done = client.enroll(gallery, "carlos", people[0])
    assert done.added == 2 and len(set(done.face_ids)) == 2 and len(done.faces) == 2
    again = client.enroll(gallery, "carlos", people[0][1])
    assert (again.added, again.face_ids) == (0, done.face_ids[1:])
    assert client.enroll(gallery, "somebody", group, pick="largest", accept_quality=True).added == 1


def test_a_picture_that_is_not_good_enough_is_refused_with_reasons(client, gallery, over_sqlite, people):
    dark = encoded((decode(people[0][0]) * 0.15).astype(np.uint8))
    answer = post(over_sqlite, f"{gallery}/identities/carlos/faces", [dark])
    assert (answer.status_code, answer.json()["code"]) == (422, "low_quality")
    assert set(answer.json()) == PROBLEM | {"reasons"} and "too_dark" in answer.json()["reasons"]
    assert client.enroll(gallery, "carlos", dark, accept_quality=True).added == 1


def test_a_face_that_is_somebody_else_already_is_refused(client, gallery, over_sqlite, people):
    client.enroll(gallery, "carlos", people[0][0])
    answer = post(over_sqlite, f"{gallery}/identities/double/faces", [people[0][1]])
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["identity"]) == (409, "identity_conflict", "carlos")
    with pytest.raises(ServiceError) as caught:
        client.enroll(gallery, "impostor", people[0][1])
    assert caught.value.details == {name: problem[name] for name in ("identity", "score", "threshold")}
    assert set(problem) == PROBLEM | {"identity", "score", "threshold"} and problem["score"] >= problem["threshold"]
    assert client.enroll(gallery, "double", people[0][0], accept_conflict=True).added == 1
    assert who(client, gallery, people[0][0]) == ["ambiguous"]


def test_a_key_enrols_once_however_often_it_comes(client, gallery, people):
    def enrol(_):
        return client.enroll(gallery, "carlos", people[0][0], request_key="k-1")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(enrol, range(8)))
    assert len({answer.face_ids for answer in answers}) == 1
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 7
    assert client.identity(gallery, "carlos").num_faces == 1
    assert enrol(0).replayed
    assert refused(client.enroll, gallery, "carlos", people[0][1], request_key="k-1") == (409, "key_reused")
    client.erase_identity(gallery, "carlos")
    assert refused(enrol, 0) == (410, "erased")
    assert refused(client.identity, gallery, "carlos") == (404, "no_identity")
    with pytest.raises(OptionError, match="printable ASCII"):
        client.enroll(gallery, "carlos", people[0][0], request_key="schlüssel")


def test_a_claim_is_checked_against_one_person(client, gallery, over_sqlite, people, group):
    client.enroll(gallery, "carlos", people[0][0], name="Carlos")
    client.add_identity(gallery, "empty")
    claim = client.verify_identity(gallery, "carlos", people[0][1])
    assert claim.same and claim.score >= claim.threshold and claim.identity.name == "Carlos" and claim.found == 1
    assert claim.gallery_version == client.gallery(gallery).gallery_version
    assert not client.verify_identity(gallery, "carlos", people[1][0]).same
    assert not client.verify_identity(gallery, "carlos", people[0][1], threshold=1).same
    assert client.verify_identity(gallery, "empty", people[0][1]).score == -1
    assert refused(client.verify_identity, gallery, "nobody", people[0][0]) == (404, "no_identity")
    assert refused(client.verify_identity, "nowhere", "carlos", people[0][0]) == (404, "no_gallery")
    assert refused(client.verify_identity, "a\x00b", "carlos", people[0][0]) == (422, "bad_name")
    assert refused(client.verify_identity, gallery, "a/b", people[0][0]) == (422, "bad_name")
    assert refused(client.verify_identity, gallery, "carlos", GREY) == (422, "no_face")
    assert refused(client.verify_identity, gallery, "carlos", group, pick="only") == (422, "several_faces")
    assert refused(client.verify_identity, gallery, "carlos", GREY, threshold=1.5) == (422, "invalid_parameter")
    url, asked = f"{over_sqlite.url}/v1/faces/verify", {"gallery": gallery, "identity": "carlos"}
    answer = httpx.post(url, params=asked, files={"first": people[0][1]}, timeout=60).json()
    assert answer["same"] and answer["score"] == pytest.approx(claim.score, abs=1e-3)
    for half in asked:
        answer = httpx.post(url, params={half: asked[half]}, files={"first": people[0][1]}, timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    assert client.verify_faces(*people[0]).same  # without them, two photos as ever
    assert refused(client.verify_faces, *people[0], threshold=-0.5) == (422, "invalid_parameter")


# --- people -------------------------------------------------------------------------------------------------------


def test_people_are_kept_with_name_and_metadata(client, gallery, people):
    made = client.add_identity(gallery, "zoë", "Zoë 張", {"team": ["a", 1], "ok": None})
    assert (made.id, made.name, made.metadata, made.num_faces) == ("zoë", "Zoë 張", {"team": ["a", 1], "ok": None}, 0)
    assert refused(client.add_identity, gallery, "zoe\u0308") == (409, "identity_exists")  # the same in another form
    client.enroll(gallery, "zoë", people[0][0])
    changed = client.update_identity(gallery, "zoë", metadata={"team": 2})
    assert (changed.name, changed.metadata, changed.num_faces) == ("Zoë 張", {"team": 2}, 1)
    changed = client.update_identity(gallery, "zoë", name="Z")
    assert (changed.name, changed.metadata) == ("Z", {"team": 2}) and changed == client.identity(gallery, "zoë")
    assert changed.faces[0].source_sha256 == hashlib.sha256(people[0][0]).hexdigest()
    assert client.recognize(gallery, people[0][1]).faces[0].identity.name == "Z"
    assert refused(client.update_identity, gallery, "nobody", name="n") == (404, "no_identity")
    assert refused(client.update_identity, gallery, "zoë", name="a\x00b") == (422, "bad_name")
    assert refused(client.add_identity, gallery, "big", metadata={"a": "x" * 10_001}) == (422, "bad_name")


def test_people_come_in_pages(client, gallery, over_sqlite):
    for number in range(5):
        client.add_identity(gallery, f"p{number}")
    seen, cursor, pages = [], "", 0
    while pages == 0 or cursor:
        page = client.list_identities(gallery, cursor, limit=2)
        seen, cursor, pages = seen + [one.id for one in page.identities], page.cursor, pages + 1
    assert (seen, pages) == ([f"p{number}" for number in range(5)], 3)
    body = httpx.get(f"{over_sqlite.url}/v1/galleries/{gallery}/identities", params={"limit": 5}).json()
    assert len(body["identities"]) == 5 and body["cursor"] is None
    for wrong in ({"limit": 0}, {"limit": 1001}, {"cursor": "x"}, {"cursor": "٣"}):
        assert refused(client.list_identities, gallery, **wrong) == (422, "invalid_parameter")


@pytest.mark.parametrize(
    "key", ["Zoë Müller", "張偉", "محمد", "a b&c?d#e%f+g;h", "%2F", "😀", "..x", "x" * 128], ids=repr
)
def test_an_id_may_be_of_any_script(client, gallery, people, key):
    client.enroll(gallery, key, people[0][0], name=key)
    assert who(client, gallery, people[0][1]) == [key]
    found = client.identity(gallery, key)
    assert (found.id, found.name) == (key, key)
    assert client.verify_identity(gallery, key, people[0][1]).same
    assert client.delete_face(gallery, key, found.faces[0].id).faces == 1
    assert client.update_identity(gallery, key, metadata={"k": key}).num_faces == 0
    assert client.erase_identity(gallery, key).identity == key


@pytest.mark.parametrize(
    "key",
    ["../x", "a/b", "..", ".", "x" * 200, "a\x00b", "a\nb", " a", "\\", "carlos/faces/1", "/", "../", "../../"],
    ids=repr,
)
def test_a_hostile_id_is_refused_and_harms_nobody(client, gallery, people, key):
    client.enroll(gallery, "carlos", people[0][0])
    calls = (
        lambda: client.identity(gallery, key),
        lambda: client.update_identity(gallery, key, name="x"),
        lambda: client.enroll(gallery, key, people[1][0]),
        lambda: client.delete_face(gallery, key, 1),
        lambda: client.erase_identity(gallery, key),
    )
    for call in calls:
        status, code = refused(call)
        assert 400 <= status < 500 and code in ("bad_name", "not_found", "method_not_allowed")
    assert refused(client.add_identity, gallery, key) == (422, "bad_name")
    assert [(one.id, one.num_faces) for one in client.list_identities(gallery).identities] == [("carlos", 1)]


def test_a_face_id_of_somebody_else_is_not_taken(client, gallery, people):
    mine = client.enroll(gallery, "carlos", people[0][0]).face_ids[0]
    client.enroll(gallery, "rice", people[1][0])
    assert refused(client.delete_face, gallery, "rice", mine) == (404, "no_such_face")
    assert refused(client.delete_face, gallery, "rice", 0) == (422, "invalid_parameter")
    assert refused(client.delete_face, gallery, "rice", "one") == (422, "invalid_parameter")
    assert refused(client.delete_face, gallery, "rice", 2**63) == (422, "invalid_parameter")


def test_an_erased_person_is_found_no_more(client, gallery, people):
    done = client.enroll(gallery, "carlos", people[0])
    one = client.delete_face(gallery, "carlos", done.face_ids[0])
    assert (one.faces, one.gallery_version) == (1, done.gallery_version + 1)
    assert who(client, gallery, people[0][1]) == ["carlos"]
    receipt = client.erase_identity(gallery, "carlos")
    assert (receipt.gallery, receipt.identity, receipt.faces) == (gallery, "carlos", 1)
    assert len(receipt.audit_hash) == 64 and receipt.purged["tables"] and receipt.at
    found = client.recognize(gallery, people[0][1], candidates=5)
    assert found.gallery_version >= receipt.gallery_version
    assert (found.faces[0].decision, found.faces[0].candidates) == ("unknown", ())
    assert refused(client.erase_identity, gallery, "carlos") == (404, "no_identity")


def test_unknown_galleries_and_fields_are_refused(client, over_sqlite, gallery, people):
    for call in (client.enroll, client.verify_identity):
        assert refused(call, "nowhere", "a", people[0][0]) == (404, "no_gallery")
    assert refused(client.recognize, "nowhere", people[0][0]) == (404, "no_gallery")
    assert refused(client.erase_identity, "nowhere", "a") == (404, "no_gallery")
    url = f"{over_sqlite.url}/v1/galleries/{gallery}/identities"
    for body in ({"id": "a", "nam": "b"}, {"name": "b"}, {"id": 1}, {"id": "a", "metadata": [1]}):
        answer = httpx.post(url, json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    answer = post(over_sqlite, f"{gallery}/identities/a/faces", [GREY] * 17)
    assert answer.status_code == 400


# --- the record ---------------------------------------------------------------------------------------------------


def test_a_gallery_of_another_embedder_is_refused_where_embeddings_meet(client, over_sqlite, people):
    record = Record(str(over_sqlite.folder / "galleries.db"))
    record.create_gallery("foreign", Contract("other@1", 128, 0.9))
    record.close()
    client.add_identity("foreign", "somebody")
    for call in (client.enroll, client.verify_identity):
        assert refused(call, "foreign", "somebody", people[0][0]) == (409, "model_mismatch")
    for photo in (people[0][0], GREY):
        assert refused(client.recognize, "foreign", photo) == (409, "model_mismatch")
    assert client.gallery("foreign").model == "other@1"
    assert client.erase_identity("foreign", "somebody").faces == 0


def test_a_restart_keeps_everything(client, gallery, over_sqlite, people):
    client.enroll(gallery, "carlos", people[0][0], name="Carlos", request_key="before")
    before = client.gallery(gallery)
    over_sqlite.stop()
    over_sqlite.start()
    with Client(over_sqlite.url) as again:
        assert again.gallery(gallery) == before
        assert who(again, gallery, people[0][1]) == ["carlos"]
        assert again.enroll(gallery, "carlos", people[0][0], name="Carlos", request_key="before").replayed


# --- PostgreSQL, two replicas -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def over_postgres(server, tmp_path_factory):
    words = (*EMBEDDER, "--record", server.create("faces"), "--replicas", "2")
    service = Service(tmp_path_factory.mktemp("postgres"), *words).start()
    yield service
    service.stop()


def test_what_was_acknowledged_is_seen_by_every_replica(over_postgres, people):
    assert len(over_postgres.replicas("Galleries")) == 2
    with Client(over_postgres.url) as writer, Client(over_postgres.url) as reader, ThreadPoolExecutor(4) as pool:
        writer.create_gallery("staff")
        for round in range(3):  # the second time, both replicas have the gallery open
            done = writer.enroll("staff", f"carlos{round}", people[0][0])
            found = list(pool.map(lambda _: reader.recognize("staff", people[0][1]), range(24)))
            assert {one.faces[0].identity and one.faces[0].identity.id for one in found} == {f"carlos{round}"}
            assert min(one.gallery_version for one in found) >= done.gallery_version
            receipt = writer.erase_identity("staff", f"carlos{round}")
            found = list(pool.map(lambda _: reader.recognize("staff", people[0][1], candidates=3), range(24)))
            assert {(one.faces[0].decision, one.faces[0].candidates) for one in found} == {("unknown", ())}
            assert min(one.gallery_version for one in found) >= receipt.gallery_version


def test_a_gallery_made_anew_is_noticed_by_every_replica(over_postgres, people):
    with Client(over_postgres.url) as client, ThreadPoolExecutor(4) as pool:
        client.create_gallery("anew")
        client.enroll("anew", "old", people[0][0])
        assert {who(client, "anew", people[0][1])[0] for _ in range(16)} == {"old"}
        client.drop_gallery("anew")
        client.create_gallery("anew")
        client.enroll("anew", "new", people[0][0])
        calls = [lambda: client.identity("anew", "new").id, lambda: client.list_identities("anew").identities[0].id]
        calls += [lambda: client.verify_identity("anew", "new", people[0][1]).identity.id]
        calls += [lambda: who(client, "anew", people[0][1])[0]]
        assert set(pool.map(lambda call: call(), calls * 8)) == {"new"}


def test_one_key_at_two_replicas_enrols_once(over_postgres, people):
    with Client(over_postgres.url) as client, ThreadPoolExecutor(8) as pool:
        client.create_gallery("once")
        done = list(pool.map(lambda _: client.enroll("once", "rice", people[1][0], request_key="k"), range(8)))
        assert len({one.face_ids for one in done}) == 1 and [one.replayed for one in done].count(False) == 1
        assert client.identity("once", "rice").num_faces == 1


def test_without_the_database_it_says_so_and_comes_back(over_postgres, server, people):
    with Client(over_postgres.url, patience=0) as client, Client(over_postgres.url, patience=60) as patient:
        client.create_gallery("outage")
        client.enroll("outage", "carlos", people[0][0])
        server.stop()
        try:
            for path, method in (("outage/recognize", "POST"), ("outage/identities/rice/faces", "POST"), ("", "GET")):
                photo = {"files": {"file": people[1][0]}} if method == "POST" else {}
                url = f"{over_postgres.url}/v1/galleries/{path}".rstrip("/")
                answer = httpx.request(method, url, timeout=60, **photo)
                problem = answer.json()
                assert (answer.status_code, problem["code"]) == (503, "record_unavailable"), answer.text
                assert answer.headers["retry-after"] == "1" and set(problem) == PROBLEM
                assert "127.0.0.1" not in answer.text and "Traceback" not in answer.text
            answer = httpx.get(f"{over_postgres.url}/v1/ready", timeout=60)
            assert (answer.status_code, answer.json()["code"]) == (503, "not_ready") and "galleries" in answer.text
            assert client.detect_faces(people[0][0]).faces  # what needs no record goes on
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(patient.enroll, "outage", "rice", people[1][0])
                time.sleep(1)
                assert not waiting.done()
                server.start()
                assert waiting.result(60).added == 1
        finally:
            if server.process.poll() is not None:
                server.start()
        patient.wait_ready(60)
        assert who(client, "outage", people[0][1]) == ["carlos"] and who(client, "outage", people[1][1]) == ["rice"]


# --- without HTTP -------------------------------------------------------------------------------------------------


def test_an_idle_replica_lets_go_of_erased_faces(record_url, tmp_path):
    """Upkeep: a snapshot with an erased face does not stay, and a dropped gallery is forgotten."""
    config = RecordConfig(record=record_url, snapshots=str(tmp_path / "snapshots"), exact_until=200)
    idle, other = OpenGalleries(config), Record(record_url)
    idle.create("g", Contract("m@1", 32, 0.9), None)
    vectors = np.random.default_rng(0).normal(size=(400, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    gallery = Gallery.open(other, "g", RecordConfig(record=record_url, snapshots=str(tmp_path / "other")))
    gallery.enroll_many(
        [
            Person(key=f"p{at}", faces=[NewFace(vector, f"{at}")], accept_conflict=True)
            for at, vector in enumerate(vectors)
        ]
    )
    idle.maintain()
    snapshot = tmp_path / "snapshots" / gallery.row.token

    def is_kept(vector):
        return any(vector.tobytes() in path.read_bytes() for path in snapshot.parent.rglob("*") if path.is_file())

    assert is_kept(vectors[7])
    gallery.erase("p7")
    idle.maintain()
    assert not is_kept(vectors[7])
    assert idle.recognize("g", "m@1", [vectors[7]]).matches[0].decision == "unknown"
    other.drop_gallery("g")
    idle.maintain()
    assert not snapshot.exists()
    with pytest.raises(GalleryError) as caught:
        idle.use("g", "describe")
    assert caught.value.code == "no_gallery"
    other.close()
    idle.close()


def test_upkeep_outlives_a_database_that_is_away(tmp_path, caplog):
    server = Server()
    try:
        galleries = OpenGalleries(RecordConfig(record=server.create("x")))
        galleries.create("g", Contract("m@1", 4, 0.9), None)
        server.stop()
        galleries.maintain()
        assert "upkeep waits for the record" in caplog.text
        server.start()
        galleries.maintain()
        assert galleries.use("g", "describe")["faces"] == 0
        galleries.close()
    finally:
        server.close()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"record": "g.db"}, "expected the option faces with record"),
        ({"faces": "dlib_resnet", "snapshots": "s"}, "snapshots are of galleries, which need the option record"),
        ({"faces": "dlib_resnet", "record": "g.db", "exact_until": 0}, "exact_until must be at least 1, got 0"),
    ],
)
def test_options_that_do_not_fit_are_named(options, message):
    with pytest.raises(OptionError, match=message):
        ServeConfig(**options)


def test_one_replica_writes_a_sqlite_file(caplog):
    def replicas(record):
        application = deploy(ServeConfig(faces="dlib_resnet", record=record, replicas=3))
        return application._bound_deployment.num_replicas

    assert (replicas("postgresql://host/name"), caplog.text) == (3, "")
    assert replicas("postgresql.db") == 1 and "one replica serves the galleries, not 3" in caplog.text


def test_a_record_that_cannot_be_opened_is_told_before_anything_starts(tmp_path):
    (tmp_path / "bad.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(RecordError, match="damaged or something else"):
        up(ServeConfig(faces="dlib_resnet", record=str(tmp_path / "bad.db"), port=0))
