"""`cnnray serve keys`: made, listed, revoked by command line."""

import pytest

from cnnray.serve.keys import read_keys
from tests.commands import run_command


@pytest.fixture
def call(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")

    def run(*words, code=0):
        return run_command(["serve", "keys", *words, "--keys", str(tmp_path / "keys")], capsys, code)

    return run


def test_a_key_is_shown_once(call, tmp_path):
    made, said = call(
        "create", "shop", "--scope", "infer", "--scope", "faces:read", "--per-minute", "60", "--days", "2"
    )
    assert made["scopes"] == ["infer", "faces:read"] and made["per_minute"] == 60 and made["expires"]
    assert made["key"] in said and "it is shown only now" in said
    other, _ = call("create", "camera")
    assert other["scopes"] == ["infer"] and other["expires"] == ""
    listed, said = call("list")
    assert [row["name"] for row in listed["keys"]].count("shop") == 1 and len(listed["keys"]) == 2
    secret = made["key"].split("_", 2)[2]
    assert secret not in str(listed) + said and "digest" not in str(listed) and "camera" in said
    gone, said = call("revoke", made["id"])
    assert gone["id"] == made["id"] and f"key {made['id']} of shop is revoked" in said
    assert [key.name for key in read_keys(str(tmp_path / "keys"))[0]] == ["camera"]


def test_what_is_wrong_is_one_line(call):
    for words, line in (
        (("create", "shop", "--scope", "all"), "unknown scope 'all'; known: infer, faces:read"),
        (("create", "shop", "--days", "-1"), "days from 0 to 36500; got 'shop'"),
        (("create", ""), "expected a name"),
        (("revoke", "nobody"), "unknown key 'nobody'; known:"),
    ):
        _, said = call(*words, code=2)
        assert line in said and said.count("\n") == 1, said
