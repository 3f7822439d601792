"""How the client talks to a service: connections, attempts, errors.

Answers that say "not now" (429, 502, 503, 504) and broken connections are tried again, for a bounded time.
"""

import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Self

import httpx

from cnnray.errors import OptionError, ServiceError, StorageError

Image = bytes | str | os.PathLike[str]

OCTETS = {"content-type": "application/octet-stream"}
FIRST_DELAY = 0.1
_NOT_NOW = (429, 502, 503, 504)
KEY_VARIABLE = "CNNRAY_API_KEY"
_PROBLEM = ("type", "title", "status", "detail", "instance", "code", "request_id")  # members of every problem
_LONGEST_DELAY = 2.0


class Connection:
    """A connection to one service; safe to share between threads, closed by `close` or a with block.

    Args:
        url: where the service is, "http://127.0.0.1:8000".
        timeout: seconds that one attempt may take.
        patience: seconds, from a call's first attempt, within which it is tried again after a 429, 502, 503, 504 (not
            before their Retry-After) or a broken connection; 0 tries once.
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
        if not url.startswith(("http://", "https://")):
            raise OptionError(f"expected a URL that begins with http:// or https://, got {url!r}")
        self.url = url.rstrip("/")
        self._patience = patience
        key = (os.environ.get(KEY_VARIABLE, "") if key is None else key).strip()
        if not key.isascii() or not key.isprintable():  # httpx would fail on it, and show it
            raise OptionError(f"expected a key of printable ASCII characters as {KEY_VARIABLE}, or as the client's key")
        shown = {"authorization": f"Bearer {key}"} if key else {}
        try:
            # A proxy from the environment (HTTP_PROXY) cannot reach this machine's own loopback.
            direct = httpx.URL(self.url).host in ("127.0.0.1", "localhost", "::1")
            self._http = httpx.Client(base_url=self.url, timeout=timeout, trust_env=not direct, headers=shown)
        except httpx.InvalidURL as error:
            raise OptionError(f"expected the URL of a service, got {url!r}: {error}") from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        return self._object(self._retried(method, path, **request))

    def _retried(self, method: str, path: str, done: Collection[str] = (), **request: Any) -> httpx.Response:
        """Attempts until one succeeds, fails for good, or the patience is used up.

        Args:
            done: codes with which the service refuses what was done already.

        Raises:
            DoneBefore: it said so after an attempt that may have done it, and whose answer was lost.
        """
        maybe_done = False
        deadline = time.monotonic() + self._patience
        delay = FIRST_DELAY
        while True:
            try:
                return self._attempt(method, path, **request)
            except _Passing as error:
                wait = max(delay, error.retry_after)
                if time.monotonic() + wait > deadline:
                    raise
                maybe_done = maybe_done or not error.harmless
            except ServiceError as error:
                if maybe_done and error.code in done:
                    raise DoneBefore(error) from error
                raise
            time.sleep(wait)
            delay = min(2 * delay, _LONGEST_DELAY)

    def _attempt(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **request)
        except httpx.TimeoutException as error:
            raise ServiceError(f"{self.url}{path} did not answer in time: {error or type(error).__name__}") from error
        except httpx.TransportError as error:
            passing = _Passing(f"no connection to {self.url}: {error or type(error).__name__}")
            passing.harmless = isinstance(error, httpx.ConnectError)
            raise passing from error
        if not response.is_success:
            raise _error(response)
        return response

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        body = _json_object(response)
        if body is None:
            path = response.request.url.path
            raise ServiceError(f"{self.url}{path} answered, but not with JSON: is it a cnnray service?")
        return body


class DoneBefore(ServiceError):
    """The service refuses what an earlier attempt of the same call may have done; `error` is how it says so."""

    def __init__(self, error: ServiceError) -> None:
        super().__init__(str(error), **vars(error))
        self.error = error


class _Passing(ServiceError):
    """A fault that another attempt may not meet; `harmless` where the service surely has not begun the request."""

    retry_after = 0.0
    harmless = False


def content_of(image: Image) -> bytes:
    """An image's encoded bytes, read where it is a path.

    Raises:
        StorageError: the file cannot be read.
    """
    if isinstance(image, bytes):
        return image
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {os.fspath(image)}: {error.strerror or error}") from error


def _error(response: httpx.Response) -> ServiceError:
    """The problem+json of `response` as an error; other bodies (a proxy's, another program's) by their status."""
    body = _json_object(response) or {}
    fields = {name: value for name, value in body.items() if isinstance(value, str)}
    kind = _Passing if response.status_code in _NOT_NOW else ServiceError
    error = kind(
        f"{response.request.url.path} answered {response.status_code}: "
        f"{fields.get('detail') or response.text[:200] or response.reason_phrase}",
        code=fields.get("code", "service"),
        status=response.status_code,
        request_id=fields.get("request_id") or response.headers.get("x-request-id", ""),
        details={name: value for name, value in body.items() if name not in _PROBLEM},
    )
    if isinstance(error, _Passing):
        error.retry_after = _seconds(response.headers.get("retry-after", ""))
        error.harmless = error.code in ("busy", "rate_limited")
    return error


def _json_object(response: httpx.Response) -> dict[str, Any] | None:
    try:
        body = response.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _seconds(retry_after: str) -> float:
    """Retry-After in its form of whole seconds; its other form, a date, counts as "soon"."""
    return float(retry_after) if retry_after.isdecimal() else 0.0
