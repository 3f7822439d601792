"""Painting jobs for asyncio, as `cnnray.client.stylize_jobs`."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from cnnray.client import stylize_calls as calls
from cnnray.client.call import Image
from cnnray.client.connection import AsyncConnection
from cnnray.client.stylize_calls import StylizeJob


class AsyncStylizeJobClient(AsyncConnection):
    """As `StylizeJobClient`."""

    async def start_stylize_job(
        self, content: Image, styles: Sequence[Image], mask: Image | None = None, *, key: str = "", **settings: Any
    ) -> StylizeJob:
        """As `Client.start_stylize_job`."""
        return await self._send(calls.start_stylize_job(content, styles, mask, key, settings))

    async def stylize_jobs(self, most: int = 100) -> list[StylizeJob]:
        """As `Client.stylize_jobs`."""
        return await self._send(calls.stylize_jobs(most))

    async def stylize_job(self, id: str) -> StylizeJob:
        """As `Client.stylize_job`."""
        return await self._send(calls.stylize_job(id))

    async def stylize_preview(self, id: str) -> bytes:
        """As `Client.stylize_preview`."""
        return await self._send(calls.stylize_preview(id))

    async def stylize_picture(self, id: str) -> bytes:
        """As `Client.stylize_picture`."""
        return await self._send(calls.stylize_picture(id))

    async def delete_stylize_job(self, id: str) -> None:
        """As `Client.delete_stylize_job`."""
        await self._send(calls.delete_stylize_job(id))

    async def wait_stylize_job(
        self, id: str, on_progress: Callable[[StylizeJob], None] | None = None, *, seconds: float = 1.0
    ) -> bytes:
        """As `Client.wait_stylize_job`."""
        while True:
            job = await self.stylize_job(id)
            if on_progress is not None:
                on_progress(job)
            if calls.is_painted(job):
                return await self.stylize_picture(id)
            await asyncio.sleep(seconds)
