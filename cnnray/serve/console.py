"""The web console at /: a page and its files, as they lie beside this module, with no build in between.

The page shows what a browser alone can do with the service; it holds no data, so nobody needs a key to see it. What it
may do is bounded by its Content-Security-Policy: run its own scripts, and talk to this service.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from cnnray.serve.problems import Refusal

_PAGE = "index.html"
# Of each kind of file that is served. Not guessed from the machine's tables: some call JavaScript plain text.
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Asset:
    """A file of the console: its bytes, and the headers that go with them."""

    content: bytes
    headers: Mapping[str, str]


def console_router() -> APIRouter:
    """GET / and GET /console/NAME, of the files as they are now."""
    assets = load_assets()
    router = APIRouter(include_in_schema=False)

    async def page(request: Request) -> Response:
        return _answer(request, assets[_PAGE])

    async def file(request: Request, name: Annotated[str, Path(max_length=100)]) -> Response:
        if name not in assets:
            raise Refusal(404, "not_found", f"the console has no file {name!r}")
        return _answer(request, assets[name])

    router.add_api_route("/", page, methods=["GET", "HEAD"])
    router.add_api_route("/console/{name}", file, methods=["GET", "HEAD"])
    return router


def load_assets() -> dict[str, Asset]:
    """The console's files by name; those of other kinds are not among them."""
    found = {}
    for file in resources.files("cnnray.serve").joinpath("console").iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _TYPES:
            found[file.name] = _asset(file.read_bytes(), _TYPES[suffix])
    return found


def _asset(content: bytes, kind: str) -> Asset:
    # no-cache lets a browser keep a file, but it asks each time whether that is still the one: a new version of the
    # service shows at once, and an unchanged file costs an answer without a body
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"content-type": kind, "etag": tag, "cache-control": "no-cache", "content-security-policy": _POLICY}
    return Asset(content, headers)


def _answer(request: Request, asset: Asset) -> Response:
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if asset.headers["etag"] in known:
        return Response(status_code=304, headers=asset.headers)
    return Response(asset.content, headers=asset.headers)
