"""What galleries and people may be called.

Every text is brought into Unicode's form NFC, so that the same name typed on two keyboards is one.
"""

import json
import re
import unicodedata
from typing import Any

from cnnray.errors import GalleryError

_GALLERY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LONGEST = {"identity": 128, "name": 200, "request key": 128}
_MAX_METADATA = 10_000  # bytes of JSON
_DEEPEST = 32  # levels of JSON; what writes answers gives up at some 250


def check_gallery(name: str) -> str:
    """The name, if a gallery may have it: letters, digits, "_" and "-", up to 64 of them.

    Raises:
        GalleryError: "bad_name".
    """
    if not _GALLERY.fullmatch(name):
        raise GalleryError("bad_name", f"a gallery's name has 1 to 64 letters, digits, '_' or '-', got {name[:100]!r}")
    return name


def check_identity(key: str) -> str:
    """The id by which users know a person, in form NFC: 1 to 128 characters of any script, without "/" and "\\".

    Raises:
        GalleryError: "bad_name".
    """
    key = check_text("identity", key)
    if key in (".", "..") or "/" in key or "\\" in key:
        raise GalleryError(
            "bad_name", f"an identity's id is no path: expected none of '/', '\\', '.', '..', got {key!r}"
        )
    return key


def check_text(what: str, text: str) -> str:
    """The text in form NFC: not empty, no blanks around it, no control characters.

    Args:
        what: of `_LONGEST`, for its length and for messages.

    Raises:
        GalleryError: "bad_name".
    """
    longest, text = _LONGEST[what], unicodedata.normalize("NFC", text)
    if not 0 < len(text) <= longest or text != text.strip():
        raise GalleryError(
            "bad_name", f"expected 1 to {longest} characters as {what}, no blanks around, got {text[:200]!r}"
        )
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text):
        raise GalleryError("bad_name", f"expected no control characters in {what}, got {text!r}")
    return text


def dump_metadata(metadata: dict[str, Any]) -> str:
    """Metadata as JSON text with sorted keys.

    Raises:
        GalleryError: "bad_name": no JSON values, more than 10,000 bytes of them, or more than 32 levels.
    """
    if _is_deeper(metadata, _DEEPEST):
        raise GalleryError("bad_name", f"metadata has at most {_DEEPEST} levels of lists and objects")
    try:
        text = json.dumps(metadata, sort_keys=True, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())  # no half of a character
    except (TypeError, ValueError) as error:
        raise GalleryError("bad_name", f"expected JSON values as metadata: {error}") from error
    if size > _MAX_METADATA or "\\u0000" in text:
        raise GalleryError("bad_name", f"metadata has at most {_MAX_METADATA:,} bytes without zeros, got {size:,}")
    return text


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in more than so many levels."""
    if not isinstance(value, dict | list | tuple):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in inside)
