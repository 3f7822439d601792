"""What the clients ask about galleries of faces, as `cnnray.client.calls`.

An attempt whose answer is lost may have been done, and the next one is refused: there is such a gallery already, the
person is gone. A call that meets this after such an attempt, and finds what it was to bring about, has succeeded; an
answer that can no longer be had is then empty, as the methods say. Without such an attempt before, it is an error.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from cnnray.client.answers import read
from cnnray.client.call import Call, Image, idempotent, json_of
from cnnray.client.calls import numbered
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
from cnnray.client.retry import DoneBefore
from cnnray.errors import OptionError, ServiceError

T = TypeVar("T")
_ALL = "/v1/galleries"


def create_gallery(name: str, policy: Mapping[str, float] | None) -> Call[Gallery]:
    """See `Client`, as of all functions here."""

    def same(refusal: DoneBefore) -> Call[Gallery]:
        def check(answer: httpx.Response) -> Gallery:
            found = _gallery_of(answer)
            if any(found.policy.get(field) != value for field, value in (policy or {}).items()):
                raise refusal.error from None
            return found

        return dataclasses.replace(gallery(name), read=check)

    asked = {"name": name} | ({} if policy is None else {"policy": dict(policy)})
    return Call(
        method="POST", path=_ALL, json=asked, read=_gallery_of, done=("gallery_exists",), recover=_if_done(same)
    )


def list_galleries() -> Call[list[GallerySummary]]:
    """All galleries."""

    def listed(answer: httpx.Response) -> list[GallerySummary]:
        return [read(GallerySummary, row) for row in json_of(answer).get("galleries", [])]

    return Call(method="GET", path=_ALL, read=listed)


def gallery(name: str) -> Call[Gallery]:
    """One gallery."""
    return Call(method="GET", path=_place(name), read=_gallery_of)


def drop_gallery(name: str) -> Call[DroppedGallery]:
    """Take a gallery out."""
    return Call(
        method="DELETE",
        path=_place(name),
        read=lambda answer: read(DroppedGallery, json_of(answer)),
        done=("no_gallery",),
        recover=_if_done(lambda _: DroppedGallery(name, "")),
    )


def add_identity(gallery: str, key: str, name: str, metadata: Mapping[str, Any] | None) -> Call[Identity]:
    """Somebody new, of that id."""
    asked = {"id": key, "name": name, "metadata": dict(metadata or {})}

    def same(refusal: DoneBefore) -> Call[Identity]:
        def check(answer: httpx.Response) -> Identity:
            found = read_detail(json_of(answer))
            if (found.name, found.metadata) != (name or found.id, asked["metadata"]):
                raise refusal.error from None
            return Identity(found.id, found.name, found.metadata, found.created_at, found.num_faces)

        return Call(method="GET", path=_person(gallery, key), read=check)

    return Call(
        method="POST",
        path=_place(gallery) + "/identities",
        json=asked,
        read=lambda answer: read(Identity, json_of(answer)),
        done=("identity_exists",),
        recover=_if_done(same),
    )


def list_identities(gallery: str, cursor: str, limit: int) -> Call[IdentityPage]:
    """A page of a gallery's people."""
    params = {"cursor": cursor, "limit": limit}
    path = _place(gallery) + "/identities"
    return Call(method="GET", path=path, params=params, read=lambda answer: read_page(json_of(answer)))


def identity(gallery: str, key: str) -> Call[IdentityDetail]:
    """A person and the person's faces."""
    return Call(method="GET", path=_person(gallery, key), read=_detail_of)


def update_identity(gallery: str, key: str, name: str, metadata: Mapping[str, Any] | None) -> Call[IdentityDetail]:
    """Another name, or other metadata."""
    asked = {"name": name} | ({} if metadata is None else {"metadata": dict(metadata)})
    return Call(method="PATCH", path=_person(gallery, key), json=asked, read=_detail_of)


def erase_identity(gallery: str, key: str) -> Call[Receipt]:
    """Erase a person."""
    return _erase(_person(gallery, key), "no_identity", gallery, key)


def enroll(
    gallery: str, key: str, images: Image | Sequence[Image], request_key: str, options: Mapping[str, Any]
) -> Call[Enrolled]:
    """Enrol one face of every photo; all attempts of the call have one idempotency key."""
    photos = [images] if isinstance(images, bytes | str | os.PathLike) else images
    return Call(
        method="POST",
        path=_person(gallery, key) + "/faces",
        params=options,
        headers=idempotent(request_key),
        parts=numbered(photos),
        read=lambda answer: read_enrolled(json_of(answer)),
    )


def delete_face(gallery: str, key: str, face_id: int) -> Call[Receipt]:
    """Erase one face."""
    return _erase(f"{_person(gallery, key)}/faces/{face_id}", "no_such_face", gallery, key)


def recognize(
    gallery: str, image: Image, threshold: float | None, candidates: int, search: Mapping[str, Any]
) -> Call[Recognized]:
    """Whose the faces in a photo are."""
    params = {**search, "candidates": candidates} | ({} if threshold is None else {"threshold": threshold})
    return Call(
        method="POST",
        path=_place(gallery) + "/recognize",
        params=params,
        image=image,
        read=lambda answer: read_recognized(json_of(answer)),
    )


def verify_identity(
    gallery: str, key: str, image: Image, threshold: float | None, pick: str, search: Mapping[str, Any]
) -> Call[ClaimedVerification]:
    """Whether a photo shows the person of that id."""
    _segment(gallery), _segment(key)
    params = {**search, "pick": pick, "gallery": gallery, "identity": key}
    params |= {} if threshold is None else {"threshold": threshold}
    path = "/v1/faces/verify"
    return Call(method="POST", path=path, params=params, image=image, read=lambda answer: read_claim(json_of(answer)))


def _erase(path: str, gone: str, gallery: str, key: str) -> Call[Receipt]:
    return Call(
        method="DELETE",
        path=path,
        read=lambda answer: read(Receipt, json_of(answer)),
        done=(gone,),
        recover=_if_done(lambda _: Receipt(gallery, key)),
    )


def _if_done(then: Callable[[DoneBefore], T | Call[T]]) -> Callable[[ServiceError], T | Call[T]]:
    """What follows where an earlier attempt may have done it; other errors are final."""

    def recover(error: ServiceError) -> T | Call[T]:
        if not isinstance(error, DoneBefore):
            raise error
        return then(error)

    return recover


def _gallery_of(answer: httpx.Response) -> Gallery:
    return read(Gallery, json_of(answer))


def _detail_of(answer: httpx.Response) -> IdentityDetail:
    return read_detail(json_of(answer))


def _place(gallery: str) -> str:
    return f"{_ALL}/{_segment(gallery)}"


def _person(gallery: str, key: str) -> str:
    return f"{_place(gallery)}/identities/{_segment(key)}"


def _segment(text: str) -> str:
    """A name or id as a part of a path. An id ".." is escaped, too: a path that ends in it is that of the gallery."""
    if not text:
        raise OptionError("expected a name or an id, got an empty one")
    try:
        return quote(text, safe="").replace(".", "%2E")
    except UnicodeEncodeError as error:
        raise OptionError(f"expected a name or an id, got half a character in {text!r}") from error
