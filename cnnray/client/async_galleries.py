"""Galleries of faces for asyncio, as `cnnray.client.galleries`."""

from collections.abc import Mapping, Sequence
from typing import Any

from cnnray.client import gallery_calls as calls
from cnnray.client.call import Image
from cnnray.client.connection import AsyncConnection
from cnnray.client.gallery_answers import (
    ClaimedVerification,
    DroppedGallery,
    Enrolled,
    Gallery,
    GallerySummary,
    Identity,
    IdentityDetail,
    IdentityPage,
    Receipt,
    Recognized,
)


class AsyncGalleryClient(AsyncConnection):
    """As `GalleryClient`."""

    # ---- galleries ---------------------------------------------------------------------------------------------------

    async def create_gallery(self, name: str, policy: Mapping[str, float] | None = None) -> Gallery:
        """As `Client.create_gallery`."""
        return await self._send(calls.create_gallery(name, policy))

    async def list_galleries(self) -> list[GallerySummary]:
        """As `Client.list_galleries`."""
        return await self._send(calls.list_galleries())

    async def gallery(self, name: str) -> Gallery:
        """As `Client.gallery`."""
        return await self._send(calls.gallery(name))

    async def drop_gallery(self, name: str) -> DroppedGallery:
        """As `Client.drop_gallery`."""
        return await self._send(calls.drop_gallery(name))

    # ---- people ------------------------------------------------------------------------------------------------------

    async def add_identity(
        self, gallery: str, identity: str, name: str = "", metadata: Mapping[str, Any] | None = None
    ) -> Identity:
        """As `Client.add_identity`."""
        return await self._send(calls.add_identity(gallery, identity, name, metadata))

    async def list_identities(self, gallery: str, cursor: str = "", limit: int = 100) -> IdentityPage:
        """As `Client.list_identities`."""
        return await self._send(calls.list_identities(gallery, cursor, limit))

    async def identity(self, gallery: str, identity: str) -> IdentityDetail:
        """As `Client.identity`."""
        return await self._send(calls.identity(gallery, identity))

    async def update_identity(
        self, gallery: str, identity: str, name: str = "", metadata: Mapping[str, Any] | None = None
    ) -> IdentityDetail:
        """As `Client.update_identity`."""
        return await self._send(calls.update_identity(gallery, identity, name, metadata))

    async def erase_identity(self, gallery: str, identity: str) -> Receipt:
        """As `Client.erase_identity`."""
        return await self._send(calls.erase_identity(gallery, identity))

    # ---- faces -------------------------------------------------------------------------------------------------------

    async def enroll(
        self,
        gallery: str,
        identity: str,
        images: Image | Sequence[Image],
        *,
        name: str = "",
        request_key: str = "",
        accept_quality: bool = False,
        accept_conflict: bool = False,
        pick: str = "only",
    ) -> Enrolled:
        """As `Client.enroll`."""
        options = {"name": name, "pick": pick, "accept_quality": accept_quality, "accept_conflict": accept_conflict}
        return await self._send(calls.enroll(gallery, identity, images, request_key, options))

    async def delete_face(self, gallery: str, identity: str, face_id: int) -> Receipt:
        """As `Client.delete_face`."""
        return await self._send(calls.delete_face(gallery, identity, face_id))

    async def recognize(
        self, gallery: str, image: Image, *, threshold: float | None = None, candidates: int = 0, **search: Any
    ) -> Recognized:
        """As `Client.recognize`."""
        return await self._send(calls.recognize(gallery, image, threshold, candidates, search))

    async def verify_identity(
        self,
        gallery: str,
        identity: str,
        image: Image,
        *,
        threshold: float | None = None,
        pick: str = "largest",
        **search: Any,
    ) -> ClaimedVerification:
        """As `Client.verify_identity`."""
        return await self._send(calls.verify_identity(gallery, identity, image, threshold, pick, search))
