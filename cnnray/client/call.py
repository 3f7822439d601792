"""One question to the service without the sending of it, which `Connection` and `AsyncConnection` do.

Whatever is decided about a question is decided here and in `cnnray.client.retry`: what is sent, how the answer is read,
what a fault means. So both connections give the same answers and raise the same errors.
"""

import contextlib
import os
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import httpx

from cnnray.client.retry import Passing, Retry
from cnnray.errors import OptionError, ServiceError, StorageError

T = TypeVar("T")
Image = bytes | str | os.PathLike[str]

_NOT_NOW = (429, 502, 503, 504)
_UNTOUCHED = ("busy", "rate_limited", "gallery_opening")  # refusals before anything was done
_OCTETS = {"content-type": "application/octet-stream"}
_PROBLEM = ("type", "title", "status", "detail", "instance", "code", "request_id")  # members of every problem


def _give_up(error: ServiceError) -> Any:
    raise error


@dataclass(frozen=True, kw_only=True)
class Call(Generic[T]):
    """A question.

    Attributes:
        method, path, params, headers, json: as of httpx.
        image: what is sent as it is.
        parts: what is sent as a form: name of the field, name of the file, its image.
        read: the answer, from a response that is a success.
        done: codes with which the service refuses what was done already.
        recover: what to make of the error that ends the attempts: an answer, another question, or an error raised.
        retry: says after each failed attempt whether to try again.
        patience: seconds for `retry`; None is the connection's.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    image: Image | None = None
    parts: Sequence[tuple[str, str, Image]] = ()
    done: Collection[str] = ()
    recover: Callable[[ServiceError], "T | Call[T]"] = _give_up
    retry: type[Retry] = Retry
    patience: float | None = None

    @property
    def has_files(self) -> bool:
        """Whether `load` reads from a disk, which may take its time."""
        return any(not isinstance(image, bytes) for image in (self.image or b"", *(part[2] for part in self.parts)))

    def load(self) -> dict[str, Any]:
        """What httpx sends.

        Raises:
            StorageError: a file cannot be read.
        """
        sent: dict[str, Any] = {"params": self.params, "headers": self.headers, "json": self.json}
        if self.image is not None:
            sent |= {"content": _content(self.image), "headers": {**self.headers, **_OCTETS}}
        if self.parts:
            sent["files"] = [(name, (file, _content(image))) for name, file, image in self.parts]
        return sent

    def start(self, patience: float, now: float) -> Retry:
        """What judges the attempts of this question, of which the first begins now."""
        return self.retry(patience if self.patience is None else self.patience, now, self.done)

    def answer(self, response: httpx.Response) -> T:
        """What the service answers.

        Raises:
            ServiceError: it refuses, or the answer is none of a cnnray service.
        """
        if not response.is_success:
            raise _refusal(response)
        return self.read(response)


def idempotent(key: str) -> dict[str, str]:
    """The header by which the service knows all attempts of a request; a key of its own for "".

    Raises:
        OptionError: a header cannot hold the key.
    """
    if not key.isascii() or not key.isprintable():
        raise OptionError(f"expected printable ASCII characters as the key of a request, got {key!r}")
    return {"idempotency-key": key or uuid.uuid4().hex}


@contextlib.contextmanager
def connection_errors(url: str, path: str) -> Iterator[None]:
    """Turn httpx's errors into ServiceError; `url` is the service's, `path` what is asked."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise ServiceError(f"{url}{path} did not answer in time: {error or type(error).__name__}") from error
    except httpx.TransportError as error:
        passing = Passing(f"no connection to {url}: {error or type(error).__name__}")
        passing.harmless = isinstance(error, httpx.ConnectError)
        raise passing from error


def json_of(response: httpx.Response) -> dict[str, Any]:
    """The JSON object that an answer is.

    Raises:
        ServiceError: it is none.
    """
    body = _json_object(response)
    if body is None:
        raise ServiceError(f"{place_of(response)} answered, but not with JSON: is it a cnnray service?")
    return body


def place_of(response: httpx.Response) -> str:
    """The URL that answered, without its parameters, for messages."""
    return str(response.request.url.copy_with(query=None))


def _content(image: Image) -> bytes:
    if isinstance(image, bytes):
        return image
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {os.fspath(image)}: {error.strerror or error}") from error


def _refusal(response: httpx.Response) -> ServiceError:
    """The problem+json of `response` as an error; other bodies (a proxy's, another program's) by their status."""
    body = _json_object(response) or {}
    fields = {name: value for name, value in body.items() if isinstance(value, str)}
    # the service's own 500 is a problem with a code; one without is of the proxy, whose replica died on the request
    lost = response.status_code == 500 and "code" not in fields
    kind = Passing if lost or response.status_code in _NOT_NOW else ServiceError
    error = kind(
        f"{response.request.url.path} answered {response.status_code}: "
        f"{fields.get('detail') or response.text[:200] or response.reason_phrase}",
        code=fields.get("code", "service"),
        status=response.status_code,
        request_id=fields.get("request_id") or response.headers.get("x-request-id", ""),
        details={name: value for name, value in body.items() if name not in _PROBLEM},
    )
    if isinstance(error, Passing):
        error.retry_after = _seconds(response.headers.get("retry-after", ""))
        error.harmless = error.code in _UNTOUCHED
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
