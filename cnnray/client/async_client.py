"""The same methods as `Client` has, for asyncio; `tests/unit/test_async_client.py` holds the two together."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from cnnray.client import calls
from cnnray.client.answers import (
    Answer,
    Detection,
    FaceDetection,
    FaceVerification,
    Model,
    Painting,
    Segmentation,
)
from cnnray.client.async_galleries import AsyncGalleryClient
from cnnray.client.async_stylize_jobs import AsyncStylizeJobClient
from cnnray.client.call import Image
from cnnray.errors import ServiceError, StorageError


class AsyncClient(AsyncGalleryClient, AsyncStylizeJobClient):
    """What a service answers, for asyncio; see `AsyncConnection` for its arguments, and `Client` for its methods."""

    async def classify(
        self, image: Image, top_k: int = 5, explain: bool = False, explain_label: str | None = None
    ) -> Answer:
        """As `Client.classify`."""
        return await self._send(calls.classify(image, top_k, explain, explain_label))

    async def classify_many(
        self, images: Sequence[Image], top_k: int = 5, concurrency: int = 16, **explain: Any
    ) -> list[Answer | ServiceError | StorageError]:
        """As `Client.classify_many`."""
        if concurrency < 1:  # as of the sync client's pool; none would ever be its turn
            raise ValueError(f"expected a concurrency of at least 1, got {concurrency}")
        free = asyncio.Semaphore(concurrency)

        async def one(image: Image) -> Answer | ServiceError | StorageError:
            async with free:
                try:
                    return await self.classify(image, top_k, **explain)
                except (ServiceError, StorageError) as error:
                    return error

        tasks = [asyncio.ensure_future(one(image)) for image in images]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # those that an unexpected error has left behind
                task.cancel()

    async def detect(self, image: Image, **search: Any) -> Detection:
        """As `Client.detect`."""
        return await self._send(calls.detect(image, search))

    async def detect_many(self, images: Sequence[Image], **search: Any) -> list[Detection | ServiceError]:
        """As `Client.detect_many`."""
        return await self._send(calls.detect_many(images, search))

    async def draw_objects(self, image: Image, **search: Any) -> bytes:
        """As `Client.draw_objects`."""
        return await self._send(calls.draw_objects(image, search))

    async def detect_faces(self, image: Image, *, embeddings: bool = False, **search: Any) -> FaceDetection:
        """As `Client.detect_faces`."""
        return await self._send(calls.detect_faces(image, embeddings, search))

    async def detect_faces_many(
        self, images: Sequence[Image], *, embeddings: bool = False, **search: Any
    ) -> list[FaceDetection | ServiceError]:
        """As `Client.detect_faces_many`."""
        return await self._send(calls.detect_faces_many(images, embeddings, search))

    async def draw_faces(self, image: Image, **search: Any) -> bytes:
        """As `Client.draw_faces`."""
        return await self._send(calls.draw_faces(image, search))

    async def verify_faces(
        self, first: Image, second: Image, *, threshold: float | None = None, pick: str = "largest", **search: Any
    ) -> FaceVerification:
        """As `Client.verify_faces`."""
        return await self._send(calls.verify_faces(first, second, threshold, pick, search))

    async def segment(self, image: Image, *, draw: bool = False) -> Segmentation:
        """As `Client.segment`."""
        return await self._send(calls.segment(image, draw))

    async def stylize(self, image: Image, style: str | Sequence[str] | Mapping[str, float], **options: Any) -> Painting:
        """As `Client.stylize`."""
        return await self._send(calls.stylize(image, style, options))

    async def style_preview(self, style: str) -> bytes:
        """As `Client.style_preview`."""
        return await self._send(calls.style_preview(style))

    async def health(self) -> bool:
        """As `Client.health`."""
        return await self._send(calls.health())

    async def ready(self) -> bool:
        """As `Client.ready`."""
        return await self._send(calls.ready())

    async def wait_ready(self, timeout: float = 120.0) -> None:
        """As `Client.wait_ready`."""
        await self._send(calls.wait_ready(self.url, timeout))

    async def models(self) -> list[Model]:
        """As `Client.models`."""
        return await self._send(calls.models())
