"""What every request passes before the application sees it, as pure ASGI: who asks, size, number and time.

Nothing here trusts the request: not its Content-Length, not its pace, not its x-request-id.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cnnray.serve.access import Access
from cnnray.serve.pressure import Pressure
from cnnray.serve.problems import OF_NO_PRESSURE, RETRY_SOON, Refusal, internal_error, problem

logger = logging.getLogger("ray.serve")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BODY_METHODS = {"POST", "PUT", "PATCH"}
_DOCUMENTATION = "/docs"
_REFUSALS_PER_SECOND, _LONGEST_REFUSAL_SECONDS = 100, 1.0
FULL = "x-cnnray-full"  # of a refusal for which nothing of the request was looked at, where HAProxy reads it
REFUSED = "x-cnnray-refused"  # of a request: how many like it HAProxy has refused since the last that passed
# Unless the application says otherwise. Answers are data: no browser is to guess their kind, keep, embed or run them.
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
_OF_DOCUMENTATION = "default-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"


class Guard:
    """ASGI middleware around the whole application; every refusal is a problem+json.

    Requests get `request.state.request_id`: the caller's x-request-id where that is 1 to 128 harmless characters,
    else a new one. (Serve's proxy puts the header into the answer.)

    Args:
        app: the application.
        access: who may ask for what; asked before anything of a body is read.
        max_body_bytes: a larger body gets 413: at once where Content-Length says so, else as soon as more has come.
        max_in_flight: requests with a body, at the same time, from their first byte on; more get 503, which bounds the
            memory that bodies take. Requests without one (health, readiness) always pass.
        timeout_s: seconds from the first byte of a request until its answer begins; then it is cancelled: 504.
        count: is told of every request that is over: method, route as the application names it ("" where it has none),
            status (0 where no answer began), seconds.
        count_refused: where HAProxy stands in front, which is then told when there is no room (see `haproxy`): is told
            of requests that it refused by itself: method, route, how many.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        *,
        max_body_bytes: int,
        max_in_flight: int,
        timeout_s: float,
        count: Callable[[str, str, int, float], None] = lambda method, route, status, seconds: None,
        count_refused: Callable[[str, str, int], None] | None = None,
    ) -> None:
        self._app, self._access = app, access
        self._max_body_bytes = max_body_bytes
        self._max_in_flight = max_in_flight
        self._timeout_s = timeout_s
        self._count, self._count_refused = count, count_refused
        self._in_flight, self._refusing = 0, 0
        self._pressure = Pressure(max_in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection of any ASGI type; only "http" is guarded."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, answer = time.perf_counter(), _Answer(send, scope["path"])
        try:
            await self._pass(scope, receive, answer)
        finally:
            self._tell(scope, answer.status, time.perf_counter() - began)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        """Count the request and log it: never its path, which may name a person, nor anything of its body or answer."""
        route = getattr(scope.get("route"), "path", "")
        self._count(scope["method"], route, status, seconds)
        if self._count_refused and (refused := Headers(scope=scope).get(REFUSED, "")).isdecimal():
            self._count_refused(scope["method"], route, int(refused))
        facts = {"method": scope["method"], "endpoint": route, "status": status, "ms": round(1000 * seconds, 1)}
        state = scope.get("state", {})
        logger.info("request", extra=facts | {"request": state.get("request_id"), "key": state.get("key", "")})

    async def _pass(self, scope: Scope, receive: Receive, send: "_Answer") -> None:
        headers = Headers(scope=scope)
        request_id = safe_request_id(headers.get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        try:
            _check_path(scope["path"])
            await self._access.check(scope)
        except Refusal as refusal:
            response = problem(refusal.status_code, refusal.code, refusal.detail, request_id, refusal.headers)
            await response(scope, receive, send)
            return
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            await problem(413, "body_too_large", self._too_large(), request_id)(scope, receive, send)
        elif scope["method"] not in _BODY_METHODS:
            await self._run(scope, receive, send, request_id)
        elif self._in_flight >= self._max_in_flight:
            await self._refuse(scope, receive, send, request_id)
        else:
            self._in_flight += 1
            try:
                await self._in_line(scope, receive, send, request_id)
            finally:
                self._in_flight -= 1

    async def _in_line(self, scope: Scope, receive: Receive, send: "_Answer", request_id: str) -> None:
        """Let it in where others like it found room lately; else refuse it before any of its body is read."""
        kind = kind_of(scope["path"])
        if not self._pressure.enter(kind):
            await self._refuse(scope, receive, send, request_id)
            return
        try:
            await self._run(scope, self._counted(receive), send, request_id)
        finally:
            elsewhere = scope["state"].get(OF_NO_PRESSURE, False)
            self._pressure.leave(kind, send.status in (503, 504) and not elsewhere)

    async def _refuse(self, scope: Scope, receive: Receive, send: "_Answer", request_id: str) -> None:
        """Say that there is no room, the later the more are being told so; where HAProxy asks, at once.

        Some callers ask again as soon as they are refused: forty-eight had 900 refusals a second of this event loop,
        which all the while has to see to those who were let in.
        """
        if not self._count_refused:
            self._refusing += 1
            try:
                await asyncio.sleep(min(_LONGEST_REFUSAL_SECONDS, self._refusing / _REFUSALS_PER_SECOND))
            finally:
                self._refusing -= 1
        response = full(request_id)
        if self._count_refused:
            response.headers[FULL] = "1"
        await response(scope, receive, send)

    async def _run(self, scope: Scope, receive: Receive, send: "_Answer", request_id: str) -> None:
        timer = asyncio.timeout(self._timeout_s)
        try:
            async with timer:
                await self._app(scope, receive, send)
        except Exception as error:
            late = isinstance(error, TimeoutError) and timer.expired()
            if not late:
                logger.exception("request %s failed", request_id)
            if send.finished:
                return
            if send.started:  # the status line is out: all that is left is to break the connection off
                raise
            if late:
                detail = f"no answer within {self._timeout_s:g} seconds, the limit of this service"
                response = problem(504, "timeout", detail, request_id)
            else:
                response = internal_error(request_id)
            await response(scope, receive, send)

    def _counted(self, receive: Receive) -> Receive:
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._max_body_bytes:
                raise Refusal(413, "body_too_large", self._too_large())
            return message

        return counted

    def _too_large(self) -> str:
        return f"expected a body of at most {self._max_body_bytes} bytes"


class _Answer:
    """`send` that adds the headers of safety which an answer does not have by itself, and knows how far it has come.

    `status` is 0 until the answer begins.
    """

    def __init__(self, send: Send, path: str) -> None:
        self._send = send
        documentation = {"content-security-policy": _OF_DOCUMENTATION} if path.startswith(_DOCUMENTATION) else {}
        self._headers = HEADERS | documentation
        self.status, self.started, self.finished = 0, False, False

    async def __call__(self, message: Message) -> None:
        self.started = True
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in self._headers.items():
                headers.setdefault(name, value)
        await self._send(message)
        self.finished = message["type"] == "http.response.body" and not message.get("more_body", False)


def _check_path(path: str) -> None:
    """Raises Refusal: 404 for control characters. No path of ours has any, and routes overlook a last line feed: who
    may ask for `/v1/galleries` would be decided by what `/v1/galleries%0A` needs."""
    if _CONTROL.search(path):
        raise Refusal(404, "not_found", "path: expected no control characters")


def kind_of(path: str) -> str:
    """What requests that wait in one line have in common: the path, without the names of a gallery and of people.

    Whose face is enrolled makes no other kind of it; and nothing is to be kept of a name.
    """
    parts = path.split("/")  # "", v1, galleries, GALLERY, identities, ID, faces
    return "/".join(parts[:3] + parts[4::2]) if parts[1:3] == ["v1", "galleries"] else path


def full(request_id: str) -> Response:
    """The answer where there is no room for a request."""
    detail = "as many requests like this one are being answered as are answered in time"
    return problem(503, "busy", detail, request_id, RETRY_SOON)


def safe_request_id(sent: str | None) -> str:
    """The caller's id where it is safe to log and repeat, else a new one."""
    return sent if sent is not None and REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
