"""The one way in which images come over HTTP: a multipart form's field `file`, or the body itself."""

from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from cnnray.serve.problems import Refusal

FIELD = "file"
_MAX_FIELDS = 8
_BINARY = {"type": "string", "format": "binary"}
OPENAPI_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {"type": "object", "required": [FIELD], "properties": {FIELD: _BINARY}},
        },
        "application/octet-stream": {"schema": _BINARY},
        "image/*": {"schema": _BINARY},
    },
}


OPENAPI_BODIES: dict[str, Any] = {
    **OPENAPI_BODY,
    "content": {
        **OPENAPI_BODY["content"],
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {FIELD: {"type": "array", "items": _BINARY}},
            },
        },
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
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with request.form(max_files=most, max_fields=_MAX_FIELDS) as form:
            found = [file for file in form.getlist(FIELD) if isinstance(file, UploadFile)]
            if not found:
                raise Refusal(422, "no_file", f"expected the image as a file in the form's field {FIELD!r}")
            return [await file.read() for file in found]
    if kind == "application/octet-stream" or kind.startswith("image/"):
        return [await request.body()]
    raise Refusal(
        415,
        "unsupported_media_type",
        f"expected multipart/form-data with the field {FIELD!r}, or the image itself as image/* or "
        f"application/octet-stream; got {content_type[:100]!r}",
    )
