"""The client's calls about galleries of faces; `cnnray.client.gallery_calls` says what a lost answer means."""

from collections.abc import Mapping, Sequence
from typing import Any

from cnnray.client import gallery_calls as calls
from cnnray.client.call import Image
from cnnray.client.connection import Connection
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
        return self._send(calls.create_gallery(name, policy))

    def list_galleries(self) -> list[GallerySummary]:
        """All galleries by name."""
        return self._send(calls.list_galleries())

    def gallery(self, name: str) -> Gallery:
        """One gallery."""
        return self._send(calls.gallery(name))

    def drop_gallery(self, name: str) -> DroppedGallery:
        """Take a gallery out with everybody in it.

        If the answer of an attempt was lost and the gallery is not there then, `audit_hash` is "".
        """
        return self._send(calls.drop_gallery(name))

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
        return self._send(calls.add_identity(gallery, identity, name, metadata))

    def list_identities(self, gallery: str, cursor: str = "", limit: int = 100) -> IdentityPage:
        """A page of a gallery's people.

        Args:
            cursor: of the page before; "" is the first page.
            limit: people of a page, 1 to 1000.
        """
        return self._send(calls.list_identities(gallery, cursor, limit))

    def identity(self, gallery: str, identity: str) -> IdentityDetail:
        """A person and the person's faces."""
        return self._send(calls.identity(gallery, identity))

    def update_identity(
        self, gallery: str, identity: str, name: str = "", metadata: Mapping[str, Any] | None = None
    ) -> IdentityDetail:
        """Give a person another name, or other metadata; "" and None keep the present."""
        return self._send(calls.update_identity(gallery, identity, name, metadata))

    def erase_identity(self, gallery: str, identity: str) -> Receipt:
        """Erase a person with name, metadata and faces: no search that begins afterwards finds the person.

        If the answer of an attempt was lost and the person is not there then, the receipt is empty.
        """
        return self._send(calls.erase_identity(gallery, identity))

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
        options = {"name": name, "pick": pick, "accept_quality": accept_quality, "accept_conflict": accept_conflict}
        return self._send(calls.enroll(gallery, identity, images, request_key, options))

    def delete_face(self, gallery: str, identity: str, face_id: int) -> Receipt:
        """Erase one face of a person, who stays.

        If the answer of an attempt was lost and the face is not there then, the receipt is empty.
        """
        return self._send(calls.delete_face(gallery, identity, face_id))

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
        return self._send(calls.recognize(gallery, image, threshold, candidates, search))

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
        return self._send(calls.verify_identity(gallery, identity, image, threshold, pick, search))
