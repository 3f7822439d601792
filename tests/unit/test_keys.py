"""Keys: made, listed, revoked; and what a service makes of those that it is shown."""

import asyncio
import dataclasses
import json
import time

import pytest

from cnnray.errors import DataError, OptionError, StorageError, UnknownNameError
from cnnray.serve import key_ring
from cnnray.serve.key_ring import KeyRing
from cnnray.serve.keys import SCOPES, create_key, read_keys, revoke_key
from cnnray.serve.problems import Refusal


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "keys")


def show(ring, shown, scope="infer"):
    """The key's name, or status and code of what is refused."""
    try:
        return asyncio.run(ring.check(f"Bearer {shown}", scope)).name
    except Refusal as refusal:
        return refusal.status_code, refusal.code


def test_a_key_is_stored_without_its_secret(folder, tmp_path):
    key, shown = create_key(folder, "shop", ("faces:read", "infer"), per_minute=5, days=2)
    _, id, secret = shown.split("_", 2)
    assert id == key.id and len(secret) == 43 and key.scopes == ("infer", "faces:read")
    (stored,) = (tmp_path / "keys").iterdir()
    assert secret not in stored.read_text() and secret not in repr(key)
    assert read_keys(folder) == ([key], []) and read_keys(str(tmp_path / "none")) == ([], [])
    other, again = create_key(folder, "shop", ("infer",))
    assert again != shown and other.id != key.id and {one.id for one in read_keys(folder)[0]} == {key.id, other.id}
    assert revoke_key(folder, key.id) == key and read_keys(folder) == ([other], [])


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (("a", ("all",)), UnknownNameError, "unknown scope 'all'; known: infer, faces:read, faces:write, admin"),
        (("a", ()), OptionError, "a scope"),
        (("", ("infer",)), OptionError, "expected a name"),
        (("a", ("infer",), -1), OptionError, "a limit from 0 .*-1 and 0"),
        (("a", ("infer",), 0, float("nan")), OptionError, "days from 0 to 36500; got .* nan"),
        (("a", ("infer",), 0, 1e9), OptionError, "days from 0 to 36500"),
    ],
)
def test_keys_that_make_no_sense_are_refused(folder, words, kind, message):
    name, scopes, *limits = words
    with pytest.raises(kind, match=message):
        create_key(folder, name, scopes, **dict(zip(("per_minute", "days"), limits, strict=False)))
    assert read_keys(folder) == ([], [])


def test_a_file_that_is_no_key_is_named_and_an_unknown_key_too(folder, tmp_path):
    create_key(folder, "a", ("infer",))
    with pytest.raises(UnknownNameError, match="unknown key '../x'; known: "):
        revoke_key(folder, "../x")
    (tmp_path / "keys" / "other.json").write_text("{}")
    (_, (fault,)) = read_keys(folder)
    with pytest.raises(DataError, match="other.json, which `cnnray serve keys create` writes"):
        raise fault


def test_a_ring_knows_keys_and_scopes(folder):
    shown = {scope: create_key(folder, scope, (scope,))[1] for scope in SCOPES}
    ring = KeyRing(folder)
    for scope, key in shown.items():
        for wanted in SCOPES:
            right = scope in (wanted, "admin")
            assert show(ring, key, wanted) == (scope if right else (403, "insufficient_scope")), (scope, wanted)
        assert show(ring, key, "") == scope
    with pytest.raises(Refusal, match="needs a key of scope admin; the key 'infer' is for infer") as caught:
        asyncio.run(ring.check(f"bearer  {shown['infer']}", "admin"))
    assert caught.value.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="admin"'


def test_what_is_no_key_of_the_ring_is_refused(folder):
    key, shown = create_key(folder, "a", ("admin",))
    old, expired = create_key(folder, "old", ("admin",), days=1e-9)
    ring = KeyRing(folder)
    time.sleep(0.01)
    swapped, unknown = f"cnnray_{key.id}_{expired[16:]}", f"cnnray_00000000_{shown[16:]}"
    for wrong in ("", "x", shown[:-1], shown + "x", shown.swapcase(), swapped, unknown, expired):
        assert show(ring, wrong) == (401, "unauthenticated"), wrong
    for header in ("", shown, f"Basic {shown}", f"Bearer {shown} {shown}", "Bearer \x00"):
        with pytest.raises(Refusal) as caught:
            asyncio.run(ring.check(header, ""))
        assert caught.value.status_code == 401 and caught.value.headers == {"www-authenticate": "Bearer"}
        assert shown not in caught.value.detail
    assert show(ring, shown) == "a" and old.has_expired()


def test_new_and_revoked_keys_are_heard_of_and_a_disk_that_fails_ends_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(key_ring, "REFRESH_SECONDS", 0.05)
    key, shown = create_key(folder, "a", ("infer",))
    ring = KeyRing(folder)
    _, later = create_key(folder, "later", ("infer",))
    time.sleep(0.06)
    assert (show(ring, shown), show(ring, later)) == ("a", "later")
    with monkeypatch.context() as patch:
        patch.setattr(key_ring, "read_keys", fail)
        time.sleep(0.06)
        assert show(ring, shown) == "a"
    revoke_key(folder, key.id)
    time.sleep(0.06)
    assert show(ring, shown) == (401, "unauthenticated") and show(ring, later) == "later"


def fail(folder):
    raise StorageError("the disk is away")


@pytest.mark.parametrize("fault", ["{", "[]", "field", "type", "time", "copy"])
def test_a_file_that_is_no_key_stops_no_revocation(folder, tmp_path, monkeypatch, caplog, fault):
    monkeypatch.setattr(key_ring, "REFRESH_SECONDS", 0.05)
    key, shown = create_key(folder, "a", ("infer",))
    ring = KeyRing(folder)
    changes = {"field": {"only_on_sundays": True}, "type": {"per_minute": "9"}, "time": {"expires": "soon"}, "copy": {}}
    text = json.dumps(vars(key) | changes[fault]) if fault in changes else fault
    (tmp_path / "keys" / "broken.json").write_text(text)
    for _ in range(2):
        time.sleep(0.06)
        assert show(ring, shown) == "a"
    assert sum("expected a key in" in record.message for record in caplog.records) == 1  # told once
    revoke_key(folder, key.id)
    time.sleep(0.06)
    assert show(ring, shown) == (401, "unauthenticated")
    assert show(KeyRing(folder), shown) == (401, "unauthenticated")


def test_a_ring_without_a_folder_is_an_error_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((StorageError, DataError)):
        KeyRing(str(tmp_path / "file" / "keys"))


def test_a_limit_grants_a_minutes_worth_and_then_its_pace(folder, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(key_ring.time, "monotonic", lambda: clock[0])
    _, shown = create_key(folder, "a", ("infer",), per_minute=6)
    _, free = create_key(folder, "free", ("infer",))
    ring, half = KeyRing(folder), KeyRing(folder, shares=2)
    asked = [show(ring, shown) for _ in range(8)]
    assert asked == ["a"] * 6 + [(429, "rate_limited")] * 2
    with pytest.raises(Refusal, match="good for 6 requests a minute") as caught:
        asyncio.run(ring.check(f"Bearer {shown}", ""))
    assert caught.value.headers == {"retry-after": "11"}
    clock[0] += 10.1
    assert [show(ring, shown) for _ in range(2)] == ["a", (429, "rate_limited")]
    assert [show(half, shown) for _ in range(4)] == ["a"] * 3 + [(429, "rate_limited")]
    assert {show(ring, free) for _ in range(50)} == {"free"}
    clock[0] += 3600
    assert [show(ring, shown) for _ in range(7)] == ["a"] * 6 + [(429, "rate_limited")]


def test_a_refused_scope_costs_nothing_of_the_limit(folder):
    _, shown = create_key(folder, "a", ("infer",), per_minute=1)
    ring = KeyRing(folder)
    assert [show(ring, shown, "admin") for _ in range(3)] == [(403, "insufficient_scope")] * 3
    assert show(ring, shown) == "a"


def test_fields_of_a_key_are_what_is_documented(folder, tmp_path):
    key, _ = create_key(folder, "a", ("infer",))
    (stored,) = (tmp_path / "keys").iterdir()
    assert json.loads(stored.read_text()) == dataclasses.asdict(key) | {"scopes": ["infer"]}


def test_keys_of_a_secret_that_kubernetes_mounts_are_known_and_replaced(folder, tmp_path, monkeypatch):
    """Its files are links into a folder that is replaced as a whole, through a link of its own."""
    monkeypatch.setattr(key_ring, "REFRESH_SECONDS", 0)
    first, shown = create_key(folder, "shop", ("infer",))
    second, other = create_key(folder, "kiosk", ("infer",))
    mount = tmp_path / "mount"
    mount.mkdir()
    for number, key in enumerate((first, second)):
        (mount / f"..2026_{number}").mkdir()
        (tmp_path / "keys" / f"{key.id}.json").rename(mount / f"..2026_{number}" / f"{key.id}.json")
    (mount / "..data").symlink_to("..2026_0")
    (mount / f"{first.id}.json").symlink_to(f"..data/{first.id}.json")
    ring = KeyRing(str(mount))
    assert show(ring, shown) == "shop" and show(ring, other) == (401, "unauthenticated")
    (mount / "..new").symlink_to("..2026_1")
    (mount / "..new").rename(mount / "..data")
    (mount / f"{second.id}.json").symlink_to(f"..data/{second.id}.json")
    (mount / f"{first.id}.json").unlink()
    assert show(ring, other) == "kiosk" and show(ring, shown) == (401, "unauthenticated")
