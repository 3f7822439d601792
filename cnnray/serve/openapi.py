"""What the OpenAPI document says beyond what FastAPI reads off the endpoints: errors with their codes, headers, keys.

An endpoint names the codes that it answers, `responses=errors(...)`; what they mean is in `problems.MEANINGS`.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from cnnray.errors import IMAGE_CODES
from cnnray.serve import examples
from cnnray.serve.access import needed_scope
from cnnray.serve.problems import MEANINGS, PROBLEM_JSON
from cnnray.serve.schemas import Problem, Stylized

Responses = dict[int | str, dict[str, Any]]

# Groups of codes: of endpoints that ask a model or a keeper, that take a body, an image.
MODEL = ("busy", "model_unavailable")
BODY = ("bad_request", "body_too_large", "invalid_parameter", "busy")
IMAGE = (
    *BODY, "model_unavailable", "unsupported_media_type", "no_file",
    *(code for code in IMAGE_CODES if code != "too_small"),
)  # fmt: skip
_EVERYWHERE = ("foreign_host", "foreign_origin", "internal", "timeout")
_KEYED = ("unauthenticated", "insufficient_scope", "rate_limited")

_HEADERS: dict[str, Any] = {
    "x-request-id": {
        "description": "of the request: the caller's own where that was harmless, else a new one",
        "required": True,
        "schema": {"type": "string", "examples": [examples.problem["request_id"]]},
    },
    "retry-after": {
        "description": "seconds after which it is worth asking again",
        "required": True,
        "schema": {"type": "integer", "minimum": 1, "examples": [1]},
    },
    "www-authenticate": {
        "description": "of a key that is missing, wrong or not for this",
        "schema": {"type": "string", "examples": ["Bearer"]},
    },
}
_HEADERS_OF = {401: "www-authenticate", 403: "www-authenticate", 429: "retry-after", 503: "retry-after"}
_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key of `cnnray serve keys create`. A service without keys asks for none.",
}
TAGS = {
    "service": "Whether it lives, what it serves, how it does.",
    "classes": "What an image shows, and why.",
    "objects": "Where things are in an image.",
    "segments": "The class of every pixel.",
    "faces": "Faces in images, and whether two are one person's.",
    "paintings": "Photos painted in styles, at once.",
    "galleries": "People who are recognised: enrolled, found, erased.",
    "painting jobs": "Photos painted in the style of any picture, in the background.",
}


def errors(*codes: str | tuple[int, str], open: bool = False) -> Responses:
    """The `responses` of an endpoint for its errors.

    Args:
        codes: that it answers, besides those of all endpoints; with the status where several have that code.
        open: whether nobody needs a key for it.
    """
    responses: Responses = {}
    for status, meanings in MEANINGS.items():
        wanted = {*_EVERYWHERE, *(() if open else _KEYED), *codes}
        found = {code: meaning for code, meaning in meanings.items() if {code, (status, code)} & wanted}
        if found:
            responses[status] = _error(status, found)
    return responses


def picture(*kinds: str) -> dict[str, Any]:
    """The `content` of a response that is a picture of one of these media types."""
    return {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}


def figures(name: str, schema: str, *, required: bool = False) -> dict[str, Any]:
    """The header of a picture that has its figures, as JSON of that schema."""
    told: dict[str, Any] = {"type": "string", "contentMediaType": "application/json"}
    told["contentSchema"] = {"$ref": f"#/components/schemas/{schema}"}
    return {name: {"description": f"JSON, a {schema}", "required": required, "schema": told}}


def describe(app: FastAPI) -> None:
    """Make the document that the application serves at /openapi.json complete."""
    document = app.openapi()
    used, shared = set(), {HTTPStatus(status).name: _error(status, MEANINGS[status]) for status in MEANINGS}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            _complete(operation, needed_scope(method.upper(), path), shared)
            used |= set(operation["tags"])
    document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items() if name in used]
    parts: dict[str, Any] = document["components"]
    parts |= {"securitySchemes": {"bearer": _BEARER}, "headers": _HEADERS}
    _, extra = models_json_schema(
        [(Problem, "serialization"), (Stylized, "serialization")], ref_template="#/components/schemas/{model}"
    )
    text = json.dumps(document)
    parts["schemas"] |= {name: found for name, found in extra["$defs"].items() if f'/schemas/{name}"' in text}
    parts["responses"] = {name: found for name, found in shared.items() if f'/responses/{name}"' in text}


def errors_page() -> str:
    """docs/errors.md."""
    rows = [
        f"| {status} | `{code}` | {meaning} |"
        for status, meanings in MEANINGS.items()
        for code, meaning in meanings.items()
    ]
    shown = json.dumps(examples.problem, indent=2)
    return _PAGE.format(example=shown, rows="\n".join(rows))


def _error(status: int, meanings: Mapping[str, str]) -> dict[str, Any]:
    lines = "\n".join(f"- `{code}`: {meaning}" for code, meaning in meanings.items())
    code, meaning = next(iter(meanings.items()))
    phrase = HTTPStatus(status).phrase
    told = {"status": {"const": status}, "code": {"enum": list(meanings)}}
    schema = {"allOf": [{"$ref": "#/components/schemas/Problem"}, {"properties": told}]}
    example = {**examples.problem, "title": phrase, "status": status, "detail": meaning, "code": code}
    return {
        "description": f"{phrase}\n\n{lines}",
        "headers": _headers("x-request-id", *filter(None, [_HEADERS_OF.get(status)])),
        "content": {PROBLEM_JSON: {"schema": schema, "example": example}},
    }


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _complete(operation: dict[str, Any], scope: str | None, shared: dict[str, Any]) -> None:
    if scope is not None:
        operation["security"] = [{}, {"bearer": []}]
        key = f"a key of scope `{scope}`" if scope else "any key"
        operation["description"] += f"\n\nWhere the service has keys, this needs {key}."
    for status, response in operation["responses"].items():
        name = HTTPStatus(int(status)).name
        if status.startswith("2"):
            response["headers"] = _headers("x-request-id") | response.get("headers", {})
        elif response == shared[name]:  # it has every code of that status
            operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}


_PAGE = """# Errors of the service

Every error is a JSON object of the media type `application/problem+json` (RFC 9457):

```json
{example}
```

`detail` is a sentence for people and says what was expected and what came; a fault of the request names the parameter
or field that it lies in. `code` is for programs: it stays as it is when the words change. `request_id` is also the
header X-Request-ID, and finds the request in the service's log.

Answers with 429 and 503 have the header Retry-After, in seconds: the same request may succeed then. One with 504 or 500
may have been done; send enrolments and painting jobs with an `Idempotency-Key`, so that they are not done twice.

Several images in one request do not fail together: a bad one has its `error`, a `code` and a `detail`, in its place.

The OpenAPI document, at `/openapi.json` and to be read at `/docs`, says of every endpoint which of these it answers.

| status | `code` | meaning |
|--------|--------|---------|
{rows}
"""
