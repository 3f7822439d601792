"""The client's calls about galleries of faces.

An attempt whose answer is lost may have been done, and the next one is refused: there is such a gallery already, the
person is gone. A call that meets this after such an attempt, and finds what it was to bring about, has succeeded; an
answer that can no longer be had is then empty, as the methods say. Without such an attempt before, it is an error.
"""

import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from cnnray.client.answers import read
from cnnray.client.connection import OCTETS, Connection, DoneBefore, Image, content_of
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
    read_claim,
    read_detail,
    read_enrolled,
    read_page,
    read_recognized,
)
from cnnray.errors import OptionError

_ALL = "/v1/galleries"


class GalleryClient(Connection):
    """Galleries of a service; see `Client`.

    All methods raise ServiceError where the service refuses or does not answer, with the code of `GalleryError` where
    there is one; OptionError for an empty name or id; StorageError for an image file that cannot be read.
    """

    # ---- galleries ---------------------------------------------------------------------------------------------------

    def create_gallery(self, name: str, policy: Mapping[str, float] | None = None) -> Gallery:
        """A new gallery, bound to what embeds faces at the service.

        If the answer of an attempt was lost and there is a gallery of that name and policy then, that is taken as this
        one.

        Args:
            name: 1 to 64 letters, digits, "_" or "-".
            policy: fields of `cnnray.config.QualityPolicy` that are not to be as usual.
        """
        asked = {"name": name} | ({} if policy is None else {"policy": dict(policy)})
        try:
            return read(Gallery, self._call("POST", _ALL, done=("gallery_exists",), json=asked))
        except DoneBefore as refusal:
            found = self.gallery(name)
            if any(found.policy.get(field) != value for field, value in (policy or {}).items()):
                raise refusal.error from None
            return found

    def list_galleries(self) -> list[GallerySummary]:
        """All galleries by name."""
        return [read(GallerySummary, row) for row in self._call("GET", _ALL).get("galleries", [])]

    def gallery(self, name: str) -> Gallery:
        """One gallery."""
        return read(Gallery, self._call("GET", _gallery(name)))

    def drop_gallery(self, name: str) -> DroppedGallery:
        """Take a gallery out with everybody in it.

        If the answer of an attempt was lost and the gallery is not there then, `audit_hash` is "".
        """
        try:
            return read(DroppedGallery, self._call("DELETE", _gallery(name), done=("no_gallery",)))
        except DoneBefore:
            return DroppedGallery(name, "")

    # ---- people ------------------------------------------------------------------------------------------------------

    def add_identity(
        self, gallery: str, identity: str, name: str = "", metadata: Mapping[str, Any] | None = None
    ) -> Identity:
        """Somebody new, without faces; not needed before `enroll`.

        If the answer of an attempt was lost and there is somebody of that id, name and metadata then, that is taken as
        this person.

        Args:
            identity: the id by which you know the person.
            name: for people; "" is the id.
            metadata: JSON values.
        """
        asked = {"id": identity, "name": name, "metadata": dict(metadata or {})}
        path = _gallery(gallery) + "/identities"
        try:
            return read(Identity, self._call("POST", path, done=("identity_exists",), json=asked))
        except DoneBefore as refusal:
            found = self.identity(gallery, identity)
            if (found.name, found.metadata) != (name or found.id, asked["metadata"]):
                raise refusal.error from None
            return Identity(found.id, found.name, found.metadata, found.created_at, found.num_faces)

    def list_identities(self, gallery: str, cursor: str = "", limit: int = 100) -> IdentityPage:
        """A page of a gallery's people.

        Args:
            cursor: of the page before; "" is the first page.
            limit: people of a page, 1 to 1000.
        """
        params = {"cursor": cursor, "limit": limit}
        return read_page(self._call("GET", _gallery(gallery) + "/identities", params=params))

    def identity(self, gallery: str, identity: str) -> IdentityDetail:
        """A person and the person's faces."""
        return read_detail(self._call("GET", _person(gallery, identity)))

    def update_identity(
        self, gallery: str, identity: str, name: str = "", metadata: Mapping[str, Any] | None = None
    ) -> IdentityDetail:
        """Give a person another name, or other metadata; "" and None keep the present."""
        asked = {"name": name} | ({} if metadata is None else {"metadata": dict(metadata)})
        return read_detail(self._call("PATCH", _person(gallery, identity), json=asked))

    def erase_identity(self, gallery: str, identity: str) -> Receipt:
        """Erase a person with name, metadata and faces: no search that begins afterwards finds the person.

        If the answer of an attempt was lost and the person is not there then, the receipt is empty.
        """
        return self._erase(_person(gallery, identity), "no_identity", gallery, identity)

    # ---- faces -------------------------------------------------------------------------------------------------------

    def enroll(
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
        """Enrol one face of every photo, of all of them or none; who is not in the gallery yet comes into it.

        Args:
            images: one or up to 16: the encoded files' bytes, or their paths.
            name: for people; "" keeps the present one, or is the id.
            request_key: a request that comes again with the same one is done once, ASCII; "" makes one, so that this
                call's own attempts enrol once.
            accept_quality: also pictures below the gallery's policy.
            accept_conflict: also faces that somebody else is recognised by.
            pick: which face of a photo with several: "only" refuses it, "largest", "central".
        """
        photos = [images] if isinstance(images, bytes | str | os.PathLike) else images
        parts = [("file", (f"{number}", content_of(photo))) for number, photo in enumerate(photos)]
        params = {"name": name, "pick": pick, "accept_quality": accept_quality, "accept_conflict": accept_conflict}
        headers = {"idempotency-key": _header(request_key or uuid.uuid4().hex)}
        path = _person(gallery, identity) + "/faces"
        return read_enrolled(self._call("POST", path, files=parts, params=params, headers=headers))

    def delete_face(self, gallery: str, identity: str, face_id: int) -> Receipt:
        """Erase one face of a person, who stays.

        If the answer of an attempt was lost and the face is not there then, the receipt is empty.
        """
        return self._erase(f"{_person(gallery, identity)}/faces/{face_id}", "no_such_face", gallery, identity)

    def recognize(
        self, gallery: str, image: Image, *, threshold: float | None = None, candidates: int = 0, **search: Any
    ) -> Recognized:
        """Whose the faces in a photo are, or nobody's of the gallery.

        Args:
            image: the encoded file's bytes, or its path.
            threshold: least score; None is the gallery's own.
            candidates: people that each face is most like, 0 to 20.
            search: confidence, smallest_face, rotated: see `cnnray.config.FaceSearchConfig`.
        """
        params = {**search, "candidates": candidates} | ({} if threshold is None else {"threshold": threshold})
        path = _gallery(gallery) + "/recognize"
        return read_recognized(
            self._call("POST", path, content=content_of(image), params=params, headers=OCTETS),
        )

    def verify_identity(
        self,
        gallery: str,
        identity: str,
        image: Image,
        *,
        threshold: float | None = None,
        pick: str = "largest",
        **search: Any,
    ) -> ClaimedVerification:
        """Whether a photo shows the person of that id.

        Args:
            image: the encoded file's bytes, or its path.
            threshold: least score; None is the model's own for two faces.
            pick: which face of a photo with several: "largest", "central", or "only", which refuses it.
            search: as of `recognize`.
        """
        _segment(gallery), _segment(identity)
        params = {**search, "pick": pick, "gallery": gallery, "identity": identity}
        params |= {} if threshold is None else {"threshold": threshold}
        path = "/v1/faces/verify"
        return read_claim(self._call("POST", path, content=content_of(image), params=params, headers=OCTETS))

    def _erase(self, path: str, gone: str, gallery: str, identity: str) -> Receipt:
        try:
            return read(Receipt, self._call("DELETE", path, done=(gone,)))
        except DoneBefore:
            return Receipt(gallery, identity)


def _gallery(name: str) -> str:
    return f"{_ALL}/{_segment(name)}"


def _person(gallery: str, identity: str) -> str:
    return f"{_gallery(gallery)}/identities/{_segment(identity)}"


def _header(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise OptionError(f"expected printable ASCII characters as request_key, got {text!r}")
    return text


def _segment(text: str) -> str:
    """A name or id as a part of a path. An id ".." is escaped, too: a path that ends in it is that of the gallery."""
    if not text:
        raise OptionError("expected a name or an id, got an empty one")
    try:
        return quote(text, safe="").replace(".", "%2E")
    except UnicodeEncodeError as error:
        raise OptionError(f"expected a name or an id, got half a character in {text!r}") from error
