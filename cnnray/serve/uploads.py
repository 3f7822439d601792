"""How images come over HTTP: as a multipart form's field `file` or the body itself; named ones as fields of a form."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from cnnray.serve.problems import Refusal

FIELD = "file"
MAX_IMAGES = 16
_FORM = "multipart/form-data"
_MAX_FIELDS = 8
_BINARY = {"type": "string", "format": "binary"}


def _several(most: int, least: int) -> dict[str, Any]:
    return {"type": "array", "items": _BINARY, "minItems": least, "maxItems": most}


_RAW = {"application/octet-stream": {"schema": _BINARY}, "image/*": {"schema": _BINARY}}
OPENAPI_BODY: dict[str, Any] = {
    "description": "The image (JPEG, PNG, WebP, ...), as a form's field or as it is.",
    "required": True,
    "content": {
        _FORM: {
            "schema": {"type": "object", "required": [FIELD], "properties": {FIELD: _BINARY}},
        },
        **_RAW,
    },
}
OPENAPI_BODIES: dict[str, Any] = {
    "description": "Images (JPEG, PNG, WebP, ...) as a form's field, or one as it is.",
    "required": True,
    "content": {
        _FORM: {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {FIELD: _several(MAX_IMAGES, 1)},
            },
        },
        **_RAW,
    },
}


async def read_image(request: Request) -> bytes:
    """The bytes of the uploaded image; whether they are one is not looked at here.

    Raises:
        Refusal: 415 for another content type, 422 for a form without the file, 413 from the guard.
    """
    return (await read_images(request, 1))[0]


async def read_images(request: Request, most: int) -> list[bytes]:
    """The bytes of the uploaded images, of which there is at least one.

    Args:
        most: more of them are refused.

    Raises:
        Refusal: as `read_image`; 400 for more.
    """
    kind = _kind(request)
    if kind == _FORM:
        async with _form(request, most) as form:
            found = [file for file in form.getlist(FIELD) if isinstance(file, UploadFile)]
            if not found:
                raise Refusal(422, "no_file", f"expected the image as a file in the form's field {FIELD!r}")
            return [await file.read() for file in found]
    if kind == "application/octet-stream" or kind.startswith("image/"):
        return [await request.body()]
    raise _unsupported(
        request, f"{_FORM} with the field {FIELD!r}, or the image itself as image/* or application/octet-stream"
    )


async def read_named_images(request: Request, names: Sequence[str]) -> list[bytes]:
    """The bytes of images that are fields of a form, in the order of `names`.

    Raises:
        Refusal: as `read_image`, 422 for a form without one of them; 400 for more files.
    """
    found = await read_grouped_images(request, dict.fromkeys(names, 1), needed=names)
    return [found[name][-1] for name in names]


async def read_grouped_images(
    request: Request, most: Mapping[str, int], needed: Sequence[str]
) -> dict[str, list[bytes]]:
    """The bytes of images by the field of a form that they are in; every field of `most` is there.

    Args:
        most: files of each field; others are not looked at.
        needed: fields that have at least one.

    Raises:
        Refusal: as `read_named_images`; 422 for more files in a field.
    """
    if _kind(request) != _FORM:
        raise _unsupported(request, f"{_FORM} with the fields {' and '.join(map(repr, needed))}")
    async with _form(request, sum(most.values())) as form:
        found = {name: [file for file in form.getlist(name) if isinstance(file, UploadFile)] for name in most}
        missing = [name for name in needed if not found[name]]
        if missing:
            fields = " and ".join(map(repr, missing))
            raise Refusal(422, "no_file", f"expected an image as a file in the form's field {fields}")
        for name, files in found.items():
            if len(files) > most[name]:
                detail = f"expected at most {most[name]} files in the form's field {name!r}, got {len(files)}"
                raise Refusal(422, "too_many_files", detail)
        return {name: [await file.read() for file in files] for name, files in found.items()}


async def read_field(request: Request, name: str) -> bytes:
    """The bytes of an image that is the field `name` of a form, or the body itself.

    Raises:
        Refusal: as `read_image`.
    """
    if _kind(request) == _FORM:
        return (await read_named_images(request, [name]))[0]
    return await read_image(request)


def openapi_named(names: Sequence[str]) -> dict[str, Any]:
    """How the documentation describes the body that `read_named_images` reads."""
    return openapi_grouped(dict.fromkeys(names, 1), names)


def openapi_grouped(most: Mapping[str, int], needed: Sequence[str]) -> dict[str, Any]:
    """How the documentation describes the body that `read_grouped_images` reads."""
    fields = {name: _BINARY if many == 1 else _several(many, int(name in needed)) for name, many in most.items()}
    schema = {"type": "object", "required": list(needed), "properties": fields}
    described = "Images (JPEG, PNG, WebP, ...) as fields of a form."
    return {"description": described, "required": True, "content": {_FORM: {"schema": schema}}}


def openapi_claim(names: Sequence[str], parameters: str) -> dict[str, Any]:
    """As `openapi_named`, of an endpoint that with some parameters reads the first of them, as `read_field` does."""
    body = openapi_named(names)
    body["description"] += f" With {parameters} `{names[0]}` comes alone, or as the body itself."
    body["content"] |= _RAW
    return body


@contextlib.asynccontextmanager
async def _form(request: Request, most: int) -> AsyncIterator[FormData]:
    """The form that a request holds, with so many files at most.

    Raises:
        Refusal: 400: its text is of an encoding that is none.
    """
    try:
        form = await request.form(max_files=most, max_fields=_MAX_FIELDS)
    except (UnicodeError, LookupError) as error:
        raise Refusal(400, "bad_request", f"expected text of a known encoding in the form: {error}") from error
    try:
        yield form
    finally:
        await form.close()


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _unsupported(request: Request, expected: str) -> Refusal:
    got = request.headers.get("content-type", "")[:100]
    return Refusal(415, "unsupported_media_type", f"header content-type: expected {expected}; got {got!r}")
