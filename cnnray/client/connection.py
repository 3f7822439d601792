"""How the clients send what they ask: one connection that waits, one for asyncio. See `Call` for all else."""

import asyncio
import os
import time
from typing import Any, Self, TypeVar

import httpx

from cnnray.client.call import Call, connection_errors
from cnnray.errors import OptionError, ServiceError

T = TypeVar("T")
KEY_VARIABLE = "CNNRAY_API_KEY"


class Connection:
    """A connection to one service; safe to share between threads, closed by `close` or a with block.

    Args:
        url: where the service is, "http://127.0.0.1:8000".
        timeout: seconds that one attempt may take.
        patience: seconds, from a call's first attempt, within which it is tried again after a 429, 502, 503, 504 (not
            before their Retry-After), a broken connection or a proxy's 500; 0 tries once.
        key: that the service asks for; None takes what the environment has as CNNRAY_API_KEY, "" shows none.

    Raises:
        OptionError: the URL is no http or https URL.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        timeout: float = 60.0,
        patience: float = 30.0,
        key: str | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._patience = patience
        self._http = httpx.Client(**_http_options(url, key), timeout=timeout)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, call: Call[T]) -> T:
        try:
            return self._try(call)
        except ServiceError as error:
            answer = call.recover(error)
        return self._send(answer) if isinstance(answer, Call) else answer

    def _try(self, call: Call[T]) -> T:
        sent = call.load()
        retry = call.start(self._patience, time.monotonic())
        while True:
            try:
                with connection_errors(self.url, call.path):
                    response = self._http.request(call.method, call.path, **sent)
                return call.answer(response)
            except ServiceError as error:
                delay = retry.delay(error, time.monotonic())
            time.sleep(delay)


class AsyncConnection:
    """A connection to one service for one event loop, closed by `aclose` or an async with block; else as
    `Connection`. Calls that wait for one of its connections to be free do so without a limit."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        timeout: float = 60.0,
        patience: float = 30.0,
        key: str | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._patience = patience
        # Many calls at once are usual here; those that wait for a connection have not been too slow an answer.
        self._http = httpx.AsyncClient(**_http_options(url, key), timeout=httpx.Timeout(timeout, pool=None))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _send(self, call: Call[T]) -> T:
        try:
            return await self._try(call)
        except ServiceError as error:
            answer = call.recover(error)
        return await self._send(answer) if isinstance(answer, Call) else answer

    async def _try(self, call: Call[T]) -> T:
        sent = await asyncio.to_thread(call.load) if call.has_files else call.load()
        retry = call.start(self._patience, time.monotonic())
        while True:
            try:
                with connection_errors(self.url, call.path):
                    response = await self._http.request(call.method, call.path, **sent)
                return call.answer(response)
            except ServiceError as error:
                delay = retry.delay(error, time.monotonic())
            await asyncio.sleep(delay)


def _http_options(url: str, key: str | None) -> dict[str, Any]:
    """What both of httpx's clients are made with; raises as `Connection`."""
    if not url.startswith(("http://", "https://")):
        raise OptionError(f"expected a URL that begins with http:// or https://, got {url!r}")
    key = (os.environ.get(KEY_VARIABLE, "") if key is None else key).strip()
    if not key.isascii() or not key.isprintable():  # httpx would fail on it, and show it
        raise OptionError(f"expected a key of printable ASCII characters as {KEY_VARIABLE}, or as the client's key")
    try:
        base = httpx.URL(url.rstrip("/"))
    except httpx.InvalidURL as error:
        raise OptionError(f"expected the URL of a service, got {url!r}: {error}") from error
    # A proxy from the environment (HTTP_PROXY) cannot reach this machine's own loopback.
    direct = base.host in ("127.0.0.1", "localhost", "::1")
    shown = {"authorization": f"Bearer {key}"} if key else {}
    return {"base_url": base, "trust_env": not direct, "headers": shown}
