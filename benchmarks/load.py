"""Load for benchmarks of the service: HTTP/1.1 over raw sockets in asyncio, as many as ask in turn or at a fixed rate.

Only 127.0.0.1 is asked. A raw connection costs a tenth of an HTTP library's time, which the service needs itself on the
same cores.
"""

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

HOST = "127.0.0.1"
LIMIT_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """What came for a request: status 0 where the connection ended without an answer, -1 where none came in time.

    `began` (when it was sent, or was to be sent) and `ended` are seconds of time.perf_counter.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def json(self) -> Any:
        return json.loads(self.body)


def post(path: str, content: bytes, kind: str = "application/octet-stream") -> bytes:
    """A whole request with an image as its body."""
    lines = (f"POST {path} HTTP/1.1", f"host: {HOST}", f"content-type: {kind}", f"content-length: {len(content)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


class Connection:
    """One that is kept, and opened again where it broke; asks one request at a time."""

    def __init__(self, url: str, limit: float = LIMIT_SECONDS) -> None:
        parts = urlsplit(url)
        assert parts.hostname == HOST and parts.port, url
        self._port, self._limit = parts.port, limit
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes, began: float = 0.0, *, half_close: bool = False) -> Answer:
        """Send and read the answer; `half_close` says after the request that no more will come."""
        began = began or time.perf_counter()
        status, headers, body = 0, {}, b""
        try:
            async with asyncio.timeout(self._limit):
                status, headers, body = await self._exchange(request, half_close)
        except TimeoutError:
            status = -1
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            status = 0
        if status <= 0 or half_close or headers.get("connection") == "close":
            self.close()
        return Answer(status, headers, body, began, time.perf_counter())

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def _exchange(self, request: bytes, half_close: bool) -> tuple[int, dict[str, str], bytes]:
        if self._reader is None or self._writer is None or self._reader.at_eof():
            self._reader, self._writer = await asyncio.open_connection(HOST, self._port)
        try:
            self._writer.write(request)
            await self._writer.drain()
            if half_close:
                self._writer.write_eof()
        except OSError:  # refused before all was sent: the answer may be there
            pass
        return await _read(self._reader)


async def _read(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    status = 100
    while status == 100:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    if "content-length" in headers:
        return status, headers, await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding") != "chunked":
        return status, headers, await reader.read()
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readline()
    return status, headers, body


async def ask_in_turn(url: str, requests: Sequence[bytes], connections: int, seconds: float) -> list[Answer]:
    """A closed loop: every connection sends its next request when it has its answer."""
    order, answers = itertools.count(), []
    deadline = time.perf_counter() + seconds

    async def one() -> None:
        connection = Connection(url)
        while time.perf_counter() < deadline:
            answers.append(await connection.ask(requests[next(order) % len(requests)]))
        connection.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return answers


async def ask_at_rate(url: str, requests: Sequence[bytes], rate: float, seconds: float) -> list[Answer]:
    """An open loop: requests are sent at their times whatever became of those before; until all are answered."""
    idle: list[Connection] = []

    async def one(at: int, due: float) -> Answer:
        connection = idle.pop() if idle else Connection(url)
        answer = await connection.ask(requests[at % len(requests)], due)
        idle.append(connection)
        return answer

    began, tasks = time.perf_counter(), []
    for at in range(int(rate * seconds)):
        due = began + at / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(at, due)))
    answers = await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return list(answers)


def rate_of(answers: Sequence[Answer], began: float, seconds: float) -> float:
    """Answers 200 per second that came within a window."""
    return sum(answer.status == 200 and answer.ended <= began + seconds for answer in answers) / seconds


def percentile_ms(answers: Sequence[Answer], share: float) -> float:
    """Of the time that answers took; NaN of none."""
    return 1000 * float(np.percentile([answer.seconds for answer in answers], share)) if answers else float("nan")


def statuses(answers: Sequence[Answer]) -> dict[str, int]:
    """How often each came."""
    return {str(status): count for status, count in sorted(Counter(answer.status for answer in answers).items())}
