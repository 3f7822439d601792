"""Who may ask for what: by key, or, where there are no keys, whoever sits at this machine.

What lies under /v1 is asked for with a key, but for what tells a load balancer that the service lives, and so are the
metrics; the page, its files and the documentation hold no data.
"""

import ipaddress
import re
from typing import Protocol
from urllib.parse import SplitResult, parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from cnnray.serve.key_ring import KeyRing
from cnnray.serve.problems import Refusal

_OPEN = ("/v1/health", "/v1/ready")
_ANY_KEY = ("/v1/models", "/metrics")
_CLAIM = "/v1/faces/verify"
_GALLERY = re.compile(r"/v1/galleries/[^/]+")
_RECOGNIZE = re.compile(r"/v1/galleries/[^/]+/recognize")


class Access(Protocol):
    """Decides about a request before anything of its body is read."""

    async def check(self, request: Scope) -> None:
        """Return where it may pass.

        Args:
            request: ASGI's scope of it; its state gets `key`, the id of the key that was shown.

        Raises:
            Refusal: it may not.
        """


def needed_scope(method: str, path: str, query: str = "") -> str | None:
    """The scope of `keys.SCOPES` that a request needs, "" where any key will do, None where none is needed.

    Args:
        path, query: as routed, so the path unescaped and the query not.
    """
    if path in _ANY_KEY:
        return ""
    if not path.startswith("/v1/") or path in _OPEN:
        return None
    if path == _CLAIM and "gallery" in parse_qs(query, keep_blank_values=True):  # whether somebody is in it
        return "faces:read"
    if not (path + "/").startswith("/v1/galleries/"):
        return "infer"
    if method in ("GET", "HEAD") or (method == "POST" and _RECOGNIZE.fullmatch(path)):
        return "faces:read"
    return "admin" if method == "DELETE" and _GALLERY.fullmatch(path) else "faces:write"


class ByKey:
    """Every request shows a key; see `Access`."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    async def check(self, request: Scope) -> None:
        """Raises as `KeyRing.check`."""
        scope = needed_scope(request["method"], request["path"], request["query_string"].decode("latin-1"))
        if scope is not None:
            key = await self._ring.check(Headers(scope=request).get("authorization", ""), scope)
            request.setdefault("state", {})["key"] = key.id


class ByPlace:
    """No keys: programs on this machine may ask, and pages that came from this service; see `Access`.

    A page from elsewhere that is open in a browser on this machine could otherwise ask, too: browsers send forms to any
    address, and a name of the page's own can be made to lead here.

    Args:
        local: whether only names of this machine are right as Host; else any is.
        origins: other places whose pages may ask, as "https://example.org".
    """

    def __init__(self, *, local: bool, origins: tuple[str, ...] = ()) -> None:
        self._local, self._origins = local, origins

    async def check(self, request: Scope) -> None:
        """Raises Refusal: 403 `foreign_host` or `foreign_origin`."""
        headers = Headers(scope=request)
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._local and host and not is_loopback(_split(f"//{host}").hostname or ""):
            detail = f"without keys the service answers to names of its machine, such as 127.0.0.1; got {host[:100]!r}"
            raise Refusal(403, "foreign_host", detail)
        if origin is not None and origin not in self._origins and _split(origin).netloc != host:
            detail = f"without keys the service takes no requests from pages of other places; got {origin[:100]!r}"
            raise Refusal(403, "foreign_origin", detail)


def _split(url: str) -> SplitResult:
    """Without any part where it is no URL."""
    try:
        parts = urlsplit(url)
        _ = parts.hostname
        return parts
    except ValueError:
        return SplitResult("", "", "", "", "")


def is_loopback(host: str) -> bool:
    """Whether only this machine is reached by it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
