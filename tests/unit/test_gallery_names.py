"""What galleries and people may be called."""

import pytest

from cnnray.errors import GalleryError
from cnnray.infer.gallery.names import check_identity, check_text, dump_metadata


@pytest.mark.parametrize(
    "key", ["ada", "Jürgen Müller", "张伟", "o'neil; DROP TABLE faces", "a%2Fb", "😀", "..x", "x" * 128, "-"]
)
def test_ids_of_any_script(key):
    assert check_identity(key) == key and check_text("name", key) == key


@pytest.mark.parametrize(
    "key", ["", " a", "a\n", "a\x00b", "a/b", "../x", "..", ".", "a\\b", "x" * 129, "\ud800", "a\u2028b"]
)
def test_ids_that_are_paths_or_no_text(key):
    with pytest.raises(GalleryError) as caught:
        check_identity(key)
    assert (caught.value.code, caught.value.http_status) == ("bad_name", 422)


def test_a_name_typed_in_two_ways_is_one():
    assert check_identity("Zoe\u0308") == check_identity("Zo\u00eb") == "Zo\u00eb"


def nested(levels):
    """[[...]]"""
    found = []
    for _ in range(levels - 1):
        found = [found]
    return found


def test_metadata_is_json_of_bounded_size():
    assert dump_metadata({"a": nested(31)}).count("[") == 31
    assert dump_metadata({"b": [1, None, "😀"], "a": {"x": 1.5}}) == '{"a": {"x": 1.5}, "b": [1, null, "😀"]}'
    for wrong in (
        {"a": object()},
        {"a": float("nan")},
        {"a": "x" * 10_000},
        {"a": "\x00"},
        {"a": "\ud800"},
        {"é": "é" * 5000},
        {"a": nested(32)},
        {"a": nested(3000)},
    ):
        with pytest.raises(GalleryError, match="metadata"):
            dump_metadata(wrong)
