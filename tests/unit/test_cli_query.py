"""`cnnray query`, against a server that answers what the test scripts."""

import os
from pathlib import Path

import pytest

from cnnray.cli.query_photos import list_photos
from cnnray.errors import DataError, OptionError, StorageError
from tests.commands import run_command
from tests.unit.test_async_client import CLAIM, IMAGES, MODEL, PAINTED, PAIR, SEGMENTED, picture
from tests.unit.test_client import ANSWER, OK, WHY, Scripted, refuse

BAD = refuse(422, code="not_an_image", detail="no image")


@pytest.fixture
def ask(capsys):
    """Runs `cnnray query` against a script: its JSON, what people see, and the server."""

    def ask(words, *script, code=0):
        with Scripted(*script) as server:
            found, said = run_command(["query", *words, "--url", server.url], capsys, code)
        return found, said, server

    return ask


@pytest.fixture
def tree(tmp_path):
    """Two folders with images of the same names, and what is none."""
    for name in (
        "one/cat.jpg",
        "one/sub/cat.jpg",
        "one/sub/.hidden.jpg",
        "one/notes.txt",
        "two/cat.jpg",
        "two/DOG.PNG",
    ):
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(name.encode())
    return tmp_path


def names(photos):
    return {str(photo.path): photo.name for photo in photos}


# --- which images, and the names of what is written for them --------------------------------------------------------


def test_a_folder_stands_for_the_images_below_it(tree):
    found = list_photos([tree / "one", tree / "two" / "DOG.PNG"])
    assert [str(photo.path.relative_to(tree)) for photo in found] == ["one/cat.jpg", "one/sub/cat.jpg", "two/DOG.PNG"]
    assert [photo.name for photo in found] == ["cat", "sub/cat", "DOG"]
    (tree / "none").mkdir()
    with pytest.raises(DataError, match="expected images in .*none, but found none"):
        list_photos([tree / "none"])


def test_names_grow_until_they_differ(tree, monkeypatch):
    monkeypatch.chdir(tree)
    found = names(list_photos([Path("one"), Path("two")]))
    assert found == {
        "one/cat.jpg": "one/cat",
        "one/sub/cat.jpg": "sub/cat",
        "two/DOG.PNG": "DOG",
        "two/cat.jpg": "two/cat",
    }
    found = names(list_photos([Path("one/cat.jpg"), Path("one/sub/cat.jpg"), Path("two/../two/cat.jpg")]))
    assert list(found.values()) == ["one/cat", "sub/cat", "two/cat"]
    (tree / "two" / "cat.png").write_bytes(b"x")
    assert set(names(list_photos([Path("two")])).values()) == {"DOG.PNG", "cat.jpg", "cat.png"}
    (tree / "two" / "cat.jpg.png").write_bytes(b"x")  # which would be "cat.jpg" without its suffix
    assert set(names(list_photos([Path("two")])).values()) == {"DOG.PNG", "cat.jpg", "cat.png", "cat.jpg.png"}


def test_an_image_that_is_named_twice_has_one_name(tree):
    assert [photo.name for photo in list_photos([tree / "two" / "cat.jpg"] * 2)] == ["cat", "cat"]


def test_what_was_written_before_is_no_image_and_no_image_is_written_over(tree):
    out = tree / "one" / "out"
    out.mkdir()
    (out / "cat.jpg").write_bytes(b"drawn")
    assert len(list_photos([tree / "one"])) == 3 and len(list_photos([tree / "one"], out)) == 2
    with pytest.raises(OptionError, match="cat.jpg is one of the images"):
        list_photos([tree / "one"], tree / "one", [".png", ".jpg"])
    assert len(list_photos([tree / "one"], tree / "one", [".png"])) == 3


def test_an_unreadable_folder_is_named(tree, monkeypatch):
    def refuse_listing(place, **options):
        options["onerror"](PermissionError(13, "Permission denied", place))
        return iter(())

    monkeypatch.setattr(os, "walk", refuse_listing)
    with pytest.raises(StorageError, match="cannot list .*one"):
        list_photos([tree / "one"])


# --- asking -----------------------------------------------------------------------------------------------------------


def test_classify_asks_about_every_image_of_a_folder(ask, tree):
    def answer(body):
        return 200, {}, ANSWER | {"label": body.decode()}

    found, said, server = ask(["classify", tree / "one", tree / "two" / "cat.jpg", "--top-k", "2"], answer)
    inner = ["one/cat.jpg", "one/sub/cat.jpg", "two/cat.jpg"]
    assert [row["image"] for row in found["answers"]] == [str(tree / name) for name in inner]
    assert [row["label"] for row in found["answers"]] == inner
    row = found["answers"][0]
    assert (row["probability"], row["top"], row["error"]) == (0.75, [["cat", 0.75], ["dog", 0.25]], None)
    assert "explanation" not in row and {target for _, target, _, _ in server.seen} == {"/v1/classify?top_k=2"}
    assert "Answers" in said and "0.75" in said


SEGMENT = picture("x-segmentation", SEGMENTED)
STYLIZE = picture("x-stylize", PAINTED | {"timings": {"total_ms": 1.0}})
FOUND = (200, {}, IMAGES)
FILE = (200, {}, b"file")


@pytest.mark.parametrize(("words", "good", "ending", "keys"), [
    (["classify"], [OK], "", {"label", "probability", "top"}),
    (["segment", "--out"], [SEGMENT], ".png", {"confidence"}),
    (["stylize", "--style", "dots", "--out"], [STYLIZE], ".jpg", {"width", "height", "ms"}),
    (["detect", "--out"], [FOUND, FILE], ".png", {"height", "width", "objects"}),
    (["faces", "--out"], [FOUND, FILE], ".png", {"height", "width", "faces"}),
    (["verify-identity", "--gallery", "g", "--identity", "ada"], [(200, {}, CLAIM)], "", {"same", "score"}),
], ids=lambda value: value[0] if isinstance(value, list) and isinstance(value[0], str) else "")  # fmt: skip
def test_one_bad_image_of_several_spoils_no_other(ask, tree, words, good, ending, keys):
    def answers(*bad):
        """By image: which of a command's requests come, in their order, is the command's affair."""
        steps = {}

        def answer(body):
            if body in bad:
                return BAD
            steps[body] = steps.get(body, -1) + 1
            return good[steps[body]]

        return answer

    out = [tree / "out"] if words[-1] == "--out" else []
    command = [words[0], tree / "one", tree / "absent.jpg", tree / "two", *words[1:], *out]
    found, said, _ = ask(command, answers(b"one/sub/cat.jpg"))
    rows = {row["image"].removeprefix(f"{tree}/"): row for row in found["answers"]}
    assert list(rows) == ["one/cat.jpg", "one/sub/cat.jpg", "absent.jpg", "two/DOG.PNG", "two/cat.jpg"]
    assert "no image" in rows["one/sub/cat.jpg"]["error"] and "cannot read" in rows["absent.jpg"]["error"]
    assert [name for name, row in rows.items() if row["error"] is None] == ["one/cat.jpg", "two/DOG.PNG", "two/cat.jpg"]
    for row in rows.values():
        assert keys | {"image", "error"} <= set(row)
    written = [str(path.relative_to(tree / "out")) for path in (tree / "out").rglob("*.*")]
    assert sorted(written) == ([f"DOG{ending}", f"one/cat{ending}", f"two/cat{ending}"] if out else [])
    pictures = [row["picture"] for row in rows.values() if "picture" in row]
    assert sorted(pictures) == [str(tree / "out" / name) for name in sorted(written)]
    assert "error" in said and "cannot read" in " ".join(said.split())
    _, said, _ = ask([words[0], tree / "two", *words[1:], *out], answers(b"two/cat.jpg", b"two/DOG.PNG"), code=5)
    assert "no image" in said.splitlines()[-1]


def test_what_is_so_for_all_images_is_asked_once(ask, tree):
    for number in range(20):
        (tree / "two" / f"{number:02}.jpg").write_bytes(b"x")
    found, _, server = ask(["detect", tree / "two"], FOUND, refuse(401, code="unauthenticated", detail="a wrong key"))
    assert len(server.seen) == 2 and len(found["answers"]) == 22
    errors = [row["error"] for row in found["answers"]]
    assert errors[0] is None and "a wrong key" in errors[1] and errors[21].startswith("not asked, after: ")
    _, said, server = ask(["detect", tree / "two"], refuse(404, code="no_model", detail="no detector"), code=5)
    assert len(server.seen) == 1 and "no detector" in said.splitlines()[-1]
    (tree / "two" / "05.jpg").write_bytes(b"y")
    found, _, server = ask(["classify", tree / "two"], lambda body: refuse(403) if body == b"y" else OK)
    assert [row["error"] is None for row in found["answers"]].count(False) == 1 and len(server.seen) == 22


def test_a_full_disk_ends_it(ask, tree):
    (tree / "file").write_bytes(b"")
    for number in range(20):
        (tree / "two" / f"{number:02}.jpg").write_bytes(b"x")
    _, said, server = ask(["segment", tree / "two", "--out", tree / "file"], SEGMENT, code=4)
    assert "cannot access" in said and len(server.seen) < 22


def test_detect_and_faces_tell_what_they_found(ask, tree):
    image = tree / "one" / "cat.jpg"
    thing = {"label": "dog", "score": 0.9, "box": [1, 2, 3, 4]}
    one = IMAGES | {"images": [{"height": 5, "width": 6, "objects": [thing], "error": None}]}
    found, said, server = ask(["detect", image, "--confidence", "0.5", "--slice", "64"], (200, {}, one))
    assert found["answers"] == [{"image": str(image), "height": 5, "width": 6, "objects": [thing], "error": None}]
    assert "dog 0.90" in said and server.seen[0][1] == "/v1/detect?confidence=0.5&overlap=0.5&slice=64"
    found, said, _ = ask(["faces", image, "--rotated"], FOUND)
    assert set(found["answers"][0]["faces"][0]) == {"box", "confidence", "landmarks", "quality"}
    assert "1,2-3,4" in said


def test_explanations_are_written_under_the_names_of_their_images(ask, tree):
    why = tree / "why"
    answer = (200, {}, ANSWER | {"explanation": WHY})
    found, said, server = ask(["classify", tree / "one", "--explain", why, "--explain-label", "dog"], answer)
    pictures = [row["explanation"]["pictures"] for row in found["answers"]]
    assert pictures == [
        [str(why / "cat-overlay.jpg"), str(why / "cat-heat.png")],
        [str(why / "sub" / "cat-overlay.jpg"), str(why / "sub" / "cat-heat.png")],
    ]
    assert (why / "sub" / "cat-heat.png").read_bytes() == b"png" and "what speaks for dog (0.25)" in said
    assert server.seen[0][1].endswith("explain=true&explain_label=dog") and server.most == 1
    found, _, _ = ask(["classify", tree / "one", "--explain", why], OK)
    assert [row["explanation"] for row in found["answers"]] == [None, None]


def test_verify_compares_two_files(ask, tree):
    found, said, _ = ask(["verify", tree / "one" / "cat.jpg", tree / "two" / "cat.jpg"], (200, {}, PAIR))
    assert found["same"] and "the same person: distance 0.200, threshold 0.4" in said
    found, said, _ = ask(
        ["verify", tree / "one" / "cat.jpg", tree / "two" / "cat.jpg"],
        (200, {}, PAIR | {"same": False, "probability": 0.1}),
    )
    assert "different people: probability 0.100" in said


def test_a_claimed_identity_is_verified(ask, tree):
    words = ["verify-identity", tree / "two", "--gallery", "g", "--identity", "ada", "--threshold", "0.6"]
    found, said, server = ask(words, (200, {}, CLAIM))
    assert [(row["same"], row["score"], row["identity"]["name"]) for row in found["answers"]] == [
        (True, 0.9, "Ada")
    ] * 2
    assert "pick=largest&gallery=g&identity=ada&threshold=0.6" in server.seen[0][1] and "yes" in said


# --- about the service ------------------------------------------------------------------------------------------------


def test_models_are_listed(ask):
    model = MODEL | {"name": "net@0123", "styles": ["dots"]}
    found, said, _ = ask(["models"], (200, {}, {"models": [model]}))
    assert found == {"models": [model]} and "dots" in said and "net@0123" in said and "Models" in said
    assert ask(["models"], (200, {}, {"models": []}))[0] == {"models": []}


def test_ready_says_so_or_why_not(ask):
    found, said, server = ask(["ready"], (200, {}, {"status": "ready"}))
    assert found == {"url": server.url, "ready": True} and f"{server.url} is ready" in said
    loading = refuse(503, code="not_ready", detail="detect is loading")
    found, said, server = ask(["ready"], loading, code=5)
    assert found is None and "detect is loading" in said and len(server.seen) == 1
    found, _, server = ask(["ready", "--wait", "5"], loading, loading, (200, {}, {}))
    assert found["ready"] and len(server.seen) == 3


def test_a_style_is_shown(ask, tree):
    found, _, server = ask(["style-preview", "dots", "--out", tree / "dots.jpg"], FILE)
    assert found == {"style": "dots", "picture": str(tree / "dots.jpg")}
    assert (tree / "dots.jpg").read_bytes() == b"file" and server.seen[0][1] == "/v1/stylize/styles/dots"
