"""The client's calls about galleries against a server that answers what the test scripts: above all, lost answers."""

import json

import pytest

from cnnray.client import Client, DroppedGallery, Receipt
from cnnray.client.gallery_answers import KnownPerson
from cnnray.errors import OptionError, ServiceError
from tests.unit.test_client import DROP, Handler, Scripted, refuse

Handler.do_DELETE = Handler.do_PATCH = Handler.do_POST
POLICY = {"min_size": 40.0, "max_yaw": 45.0}
GALLERY = {
    "name": "g", "model": "net@1", "num_features": 4, "identities": 0, "faces": 0, "gallery_version": 0,
    "threshold": 0.9, "calibration": None, "policy": POLICY, "created_at": "t", "index": {"kind": "exact"},
}  # fmt: skip
PERSON = {"id": "ada", "name": "Ada", "metadata": {"a": 1}, "created_at": "t", "num_faces": 0}
RECEIPT = {
    "gallery": "g", "identity": "ada", "faces": 2, "gallery_version": 5, "at": "t", "audit_hash": "h", "purged": {},
}  # fmt: skip
ENROLLED = {
    "gallery": "g", "identity": "ada", "face_ids": [3], "added": 1, "gallery_version": 2, "replayed": False,
    "faces": [{"box": [1, 2, 3, 4], "confidence": 1.0, "quality": {"size": 50}}], "model": "net@1",
    "timings": {}, "request_id": "r",
}  # fmt: skip
LOST = [DROP, refuse(503, code="record_unavailable"), refuse(502, code="other"), refuse(504, code="timeout")]
SURELY_NOT_DONE = refuse(503, code="busy")


def asked(server):
    return [(method, path) for method, path, _, _ in server.seen]


@pytest.fixture
def ask():
    """Makes a call against a script; returns what came of it, and the server."""

    def ask(call, *script):
        with Scripted(*script) as server, Client(server.url, patience=5) as client:
            try:
                return call(client), server
            except ServiceError as error:
                return error, server

    return ask


@pytest.mark.parametrize("lost", LOST, ids=str)
def test_a_retry_that_finds_its_work_done_has_succeeded(ask, lost):
    gone, exists = refuse(404, code="no_identity"), refuse(409, code="gallery_exists")
    found, server = ask(lambda client: client.erase_identity("g", "ada"), lost, gone)
    assert found == Receipt("g", "ada") and found.audit_hash == "" and len(server.seen) == 2
    found, _ = ask(lambda client: client.drop_gallery("g"), lost, refuse(404, code="no_gallery"))
    assert found == DroppedGallery("g", "")
    found, _ = ask(lambda client: client.delete_face("g", "ada", 3), lost, refuse(404, code="no_such_face"))
    assert found == Receipt("g", "ada")
    found, server = ask(lambda client: client.create_gallery("g", {"min_size": 40}), lost, exists, (200, {}, GALLERY))
    assert found.name == "g" and asked(server)[-1] == ("GET", "/v1/galleries/g")
    exists, detail = refuse(409, code="identity_exists"), (200, {}, PERSON | {"faces": []})
    found, _ = ask(lambda client: client.add_identity("g", "ada", "Ada", {"a": 1}), lost, exists, detail)
    assert (found.id, found.num_faces) == ("ada", 0)


@pytest.mark.parametrize("before", [[], [SURELY_NOT_DONE]], ids=["at once", "after a busy service"])
def test_what_was_so_before_is_an_error(ask, before):
    for call, status, code in (
        (lambda client: client.erase_identity("g", "ada"), 404, "no_identity"),
        (lambda client: client.drop_gallery("g"), 404, "no_gallery"),
        (lambda client: client.delete_face("g", "ada", 3), 404, "no_such_face"),
        (lambda client: client.create_gallery("g"), 409, "gallery_exists"),
        (lambda client: client.add_identity("g", "ada"), 409, "identity_exists"),
    ):
        error, _ = ask(call, *before, refuse(status, code=code))
        assert isinstance(error, ServiceError) and (error.status, error.code) == (status, code)


def test_what_a_refusal_tells_programs_is_on_the_error(ask):
    refusal = (409, {}, {"code": "identity_conflict", "detail": "d", "identity": "ada", "score": 0.97, "title": "t"})
    error, _ = ask(lambda client: client.enroll("g", "eve", b"x"), refusal)
    assert (error.code, error.details) == ("identity_conflict", {"identity": "ada", "score": 0.97})
    error, _ = ask(lambda client: client.enroll("g", "eve", b"x"), DROP, refusal)
    assert error.details["identity"] == "ada"
    error, _ = ask(lambda client: client.gallery("g"), (404, {}, ["no object"]))
    assert error.details == {}


def test_what_is_not_as_asked_was_made_by_others(ask):
    exists = refuse(409, code="gallery_exists")
    error, _ = ask(lambda client: client.create_gallery("g", {"min_size": 9}), DROP, exists, (200, {}, GALLERY))
    assert isinstance(error, ServiceError) and error.code == "gallery_exists"
    exists, detail = refuse(409, code="identity_exists"), (200, {}, PERSON | {"faces": []})
    error, _ = ask(lambda client: client.add_identity("g", "ada", "Eve"), DROP, exists, detail)
    assert isinstance(error, ServiceError) and error.code == "identity_exists"


def test_other_refusals_after_a_lost_answer_stay_errors(ask):
    error, _ = ask(lambda client: client.erase_identity("g", "ada"), DROP, refuse(404, code="no_gallery"))
    assert isinstance(error, ServiceError) and error.code == "no_gallery"


def test_an_enrolment_keeps_its_key_over_its_attempts(ask, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"photo")
    done, server = ask(lambda client: client.enroll("g", "ada", path), DROP, refuse(503), (200, {}, ENROLLED))
    assert (done.face_ids, done.faces[0].box) == ((3,), (1, 2, 3, 4))
    keys = {headers["idempotency-key"] for _, _, headers, _ in server.seen}
    assert len(server.seen) == 3 and len(keys) == 1 and len(keys.pop()) == 32
    again, other = ask(lambda client: client.enroll("g", "ada", [b"a", b"b"], request_key="mine"), (200, {}, ENROLLED))
    assert again == done and other.seen[0][2]["idempotency-key"] == "mine" and other.seen[0][3].count(b"filename") == 2
    assert b"photo" in server.seen[0][3] and "pick=only" in server.seen[0][1]


def test_ids_are_escaped_so_that_no_path_leads_elsewhere(ask):
    for key, path in (("..", "%2E%2E"), ("a/b", "a%2Fb"), ("zoë", "zo%C3%AB"), ("a?b#c", "a%3Fb%23c"), ("%", "%25")):
        _, server = ask(lambda client, key=key: client.erase_identity("g", key), (200, {}, RECEIPT))
        assert asked(server) == [("DELETE", f"/v1/galleries/g/identities/{path}")]
    for wrong in ("", "\ud800"):
        with pytest.raises(OptionError, match="expected a name or an id"):
            ask(lambda client, wrong=wrong: client.erase_identity("g", wrong), (200, {}, RECEIPT))


def test_answers_are_read_and_missing_parts_named(ask):
    face = {
        "box": [1, 2, 3, 4], "confidence": 1.0, "landmarks": {"nose": [5, 6]}, "quality": {"size": 50},
        "decision": "identified", "identity": {"id": "ada", "name": "Ada"}, "score": 0.95, "threshold": 0.9,
        "calibrated": True, "candidates": [{"id": "ada", "name": "Ada", "score": 0.95, "new": 1}],
    }  # fmt: skip
    photo = {"height": 5, "width": 6, "faces": [face], "error": None}
    answer = {"gallery": "g", "gallery_version": 7, "model": "m", "images": [photo], "timings": {}, "request_id": "r"}
    found, server = ask(lambda client: client.recognize("g", b"x", candidates=1, rotated=True), (200, {}, answer))
    assert found.gallery_version == 7 and found.faces[0].identity == KnownPerson("ada", "Ada")
    assert (found.faces[0].candidates[0].score, found.faces[0].landmarks) == (0.95, {"nose": (5, 6)})
    assert asked(server) == [("POST", "/v1/galleries/g/recognize?rotated=true&candidates=1")]
    del face["score"]
    error, _ = ask(lambda client: client.recognize("g", b"x"), (200, {}, answer))
    assert "expected RecognizedFace" in str(error)
    page, _ = ask(lambda client: client.list_identities("g"), (200, {}, {"identities": [PERSON], "cursor": None}))
    assert page.cursor == "" and page.identities[0].metadata == {"a": 1}
    changed, server = ask(lambda client: client.update_identity("g", "ada"), (200, {}, PERSON | {"faces": []}))
    assert changed.faces == () and json.loads(server.seen[0][3]) == {"name": ""}
