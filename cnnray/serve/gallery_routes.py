"""/v1/galleries: the endpoints in front of the deployment of galleries and that of faces.

An image is looked at by the deployment of faces; what it found goes to that of the galleries.
"""

import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request

from cnnray.config import FaceSearchConfig, QualityPolicy
from cnnray.errors import ImageError, OptionError
from cnnray.infer import face_results
from cnnray.infer.face_results import pick_face, to_json
from cnnray.infer.gallery import names, results
from cnnray.infer.gallery.as_json import gallery_json, identity_json, match_json, receipt_json
from cnnray.infer.gallery.results import Enrollment, Match, Person, Recognition, new_face
from cnnray.infer.gallery.rows import Contract, FaceRow, IdentityRow
from cnnray.serve import faces
from cnnray.serve import gallery_schemas as schemas
from cnnray.serve.answers import ask_all, fault, timings
from cnnray.serve.faces import Search, Wanted
from cnnray.serve.galleries import ask, ask_timed
from cnnray.serve.openapi import BODY, IMAGE, MODEL, errors
from cnnray.serve.problems import Refusal
from cnnray.serve.replica import Done
from cnnray.serve.uploads import MAX_IMAGES, OPENAPI_BODIES, read_images

MAX_CANDIDATES = 20
_PATH = "/v1/galleries/{gallery}"
_PERSON = _PATH + "/identities/{identity}"
_BIGGEST = 2**63 - 1  # of a database's integers


def refuse_slashes(request: Request) -> None:
    """Refuse an escaped "/" in the path: it would be taken as a border, and "a/faces/1" as a face of somebody else.

    Raises:
        Refusal: 422 bad_name.
    """
    if b"%2f" in request.scope["raw_path"].lower():
        raise Refusal(422, "bad_name", "expected no '/' in a name or an id of the path, got an escaped one")


def gallery_of(
    gallery: Annotated[str, Path(description="its name", examples=["staff"], json_schema_extra=schemas.GALLERY_NAME)],
) -> str:
    """The gallery's name, if it can be one."""
    return names.check_gallery(gallery)


def identity_of(
    identity: Annotated[str, Path(description="a person's id", examples=["e-1042"], json_schema_extra=schemas.ID)],
) -> str:
    """The id of a person, if it can be one; in form NFC."""
    return names.check_identity(identity)


Name = Annotated[str, Depends(gallery_of)]
Key = Annotated[str, Depends(identity_of)]

_RECORD = (*MODEL, "record_unavailable")  # codes of all endpoints of galleries
_GALLERY = (*_RECORD, "not_found", "bad_name", "no_gallery", "gallery_opening")  # of those of one gallery
_ONE = (*_GALLERY, "no_identity")  # of those of one person

router = APIRouter(dependencies=[Depends(refuse_slashes)], tags=["galleries"])


# ---- galleries -------------------------------------------------------------------------------------------------------


@router.get("/v1/galleries", summary="All galleries", responses=errors(*_RECORD))
async def list_galleries(request: Request) -> schemas.GalleryList:
    """By name, with their sizes."""
    found = await ask(request, "list_galleries")
    rows = [schemas.GallerySummary(**gallery_json(*listed)) for listed in found]
    return schemas.GalleryList(galleries=rows)


@router.post(
    "/v1/galleries",
    status_code=201,
    summary="A new gallery",
    responses=errors(*BODY, *_RECORD, "bad_name", "gallery_exists"),
)
async def create_gallery(request: Request, new: schemas.NewGallery) -> schemas.Gallery:
    """Empty, and bound to what embeds faces here; 409 gallery_exists if there is one of that name."""
    contract: Contract = await request.app.state.models[faces.NAME].contract.remote()
    return schemas.Gallery(**await ask(request, "create", new.name, contract, _policy(new.policy)))


@router.get(_PATH, summary="One gallery", responses=errors(*_GALLERY))
async def describe_gallery(request: Request, gallery: Name) -> schemas.Gallery:
    """What it is bound to, how large it is, its threshold and where that comes from."""
    return schemas.Gallery(**await ask(request, "use", gallery, "describe"))


@router.delete(_PATH, summary="Drop a gallery with everybody in it", responses=errors(*_GALLERY))
async def drop_gallery(request: Request, gallery: Name) -> schemas.DroppedGallery:
    """Its audit log stays."""
    return schemas.DroppedGallery(gallery=gallery, audit_hash=await ask(request, "drop", gallery))


# ---- people ----------------------------------------------------------------------------------------------------------


@router.post(
    _PATH + "/identities",
    status_code=201,
    summary="Somebody new, without faces as yet",
    responses=errors(*BODY, *_GALLERY, "identity_exists"),
)
async def add_identity(request: Request, gallery: Name, new: schemas.NewIdentity) -> schemas.Identity:
    """Not needed before an enrolment; 409 identity_exists if there is somebody of that id."""
    return _person(await ask(request, "use", gallery, "add", new.id, name=new.name, metadata=new.metadata))


@router.get(_PATH + "/identities", summary="The people of a gallery", responses=errors(*_GALLERY, "invalid_parameter"))
async def list_identities(
    request: Request,
    gallery: Name,
    cursor: Annotated[
        str, Query(pattern="^[0-9]{0,18}$", description="from the page before this one", examples=["2"])
    ] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="people of a page")] = 100,
) -> schemas.IdentityPage:
    """In the order in which they came, page by page."""
    found, rest = await ask(request, "use", gallery, "people", int(cursor or 0), limit)
    return schemas.IdentityPage(identities=[_person(row) for row in found], cursor=str(rest) if rest else None)


@router.get(_PERSON, summary="A person and the person's faces", responses=errors(*_ONE))
async def get_identity(request: Request, gallery: Name, identity: Key) -> schemas.IdentityDetail:
    """The faces without their embeddings."""
    return _detail(*await ask(request, "use", gallery, "get", identity))


@router.patch(_PERSON, summary="Another name, or other metadata", responses=errors(*BODY, *_ONE))
async def update_identity(
    request: Request, gallery: Name, identity: Key, changes: schemas.Changes
) -> schemas.IdentityDetail:
    """What is left out stays."""
    return _detail(*await ask(request, "update", gallery, identity, name=changes.name, metadata=changes.metadata))


@router.delete(_PERSON, summary="Erase a person", responses=errors(*_ONE))
async def erase_identity(request: Request, gallery: Name, identity: Key) -> schemas.Receipt:
    """With name, metadata and faces; no search that begins afterwards finds the person."""
    return _receipt(await ask(request, "use", gallery, "erase", identity))


@router.delete(
    _PERSON + "/faces/{face_id}",
    summary="Erase one face of a person",
    responses=errors(*_ONE, "invalid_parameter", "no_such_face"),
)
async def delete_face(
    request: Request,
    gallery: Name,
    identity: Key,
    face_id: Annotated[int, Path(ge=1, le=_BIGGEST, description="of the person's `faces`", examples=[7])],
) -> schemas.Receipt:
    """The person stays, also without any face."""
    return _receipt(await ask(request, "use", gallery, "delete_face", identity, face_id))


@router.post(
    _PERSON + "/faces",
    summary="Enrol faces of a person",
    openapi_extra={"requestBody": OPENAPI_BODIES},
    responses=errors(
        *IMAGE,
        *_GALLERY,
        "no_face",
        "several_faces",
        "low_quality",
        "identity_conflict",
        "model_mismatch",
        "key_reused",
        "erased",
    ),
)
async def enroll(
    request: Request,
    gallery: Name,
    identity: Key,
    name: Annotated[
        str,
        Query(
            description="for people; without it, the present one, or the id",
            examples=["Ada Lovelace"],
            json_schema_extra=schemas.NAME,
        ),
    ] = "",
    pick: Annotated[
        Literal["largest", "central", "only"],
        Query(description="which face of an image with several; only: such an image is refused"),
    ] = "only",
    accept_quality: Annotated[bool, Query(description="also pictures below the gallery's policy")] = False,
    accept_conflict: Annotated[bool, Query(description="also faces that somebody else is recognised by")] = False,
    idempotency_key: Annotated[
        str,
        Header(
            description="a request that comes again with the same one is done once",
            examples=["badge-77"],
            json_schema_extra={"maxLength": 128},
        ),
    ] = "",
) -> schemas.Enrolled:
    """One face of every image, of all of them or none; who is not in the gallery yet comes into it.

    Images come as to /v1/faces/detect. Refused are 422 no_face, several_faces, low_quality (with `reasons`), 409
    identity_conflict (with the `identity` that the face is taken for), 409 key_reused, 410 erased.
    """
    began = time.perf_counter()
    images = await read_images(request, MAX_IMAGES)
    done = await ask_all(request, faces.NAME, images, Wanted(FaceSearchConfig(), True, False))
    picked = [_picked(one, pick, at, len(done)) for at, one in enumerate(done)]
    person = Person(
        key=identity,
        faces=[new_face(face, image) for face, image in zip(picked, images, strict=True)],
        name=name,
        request_key=idempotency_key,
        accept_quality=accept_quality,
        accept_conflict=accept_conflict,
    )
    enrolled: Enrollment = await ask(request, "use", gallery, "enroll", person, model=done[0].model)
    return schemas.Enrolled(
        gallery=gallery,
        identity=enrolled.key,
        face_ids=list(enrolled.face_ids),
        added=enrolled.added,
        gallery_version=enrolled.version,
        replayed=enrolled.replayed,
        faces=[schemas.PickedFace(**to_json(face)) for face in picked],
        model=done[0].model,
        timings=timings(done, began),
        request_id=request.state.request_id,
    )


# ---- recognition -----------------------------------------------------------------------------------------------------


@router.post(
    _PATH + "/recognize",
    summary="Who is in one image or in several",
    openapi_extra={"requestBody": OPENAPI_BODIES},
    responses=errors(*IMAGE, *_GALLERY, "model_mismatch"),
)
async def recognize(
    request: Request,
    gallery: Name,
    search: Search,
    threshold: Annotated[
        float | None,
        Query(
            ge=-1, le=1, allow_inf_nan=False, description="least score; without it, the gallery's own", examples=[0.85]
        ),
    ] = None,
    candidates: Annotated[int, Query(ge=0, le=MAX_CANDIDATES, description="people that each face is most like")] = 0,
) -> schemas.Recognized:
    """Each face with the person whose it is, or nobody of the gallery.

    Images come as to /v1/faces/detect; of several, a bad one has its error in its place.
    """
    began = time.perf_counter()
    images = await read_images(request, MAX_IMAGES)
    done = await ask_all(request, faces.NAME, images, Wanted(search, True, False))
    photos = [None if isinstance(one.result, ImageError) else one.result.found for one in done]
    embeddings = [face.embedding_D for photo in photos if photo is not None for face in photo.faces]
    found: Recognition
    found, search_ms = await ask_timed(
        request, "recognize", gallery, done[0].model, embeddings, threshold=threshold, candidates=candidates
    )
    matches = iter(found.matches)
    return schemas.Recognized(
        model=done[0].model,
        gallery=gallery,
        gallery_version=found.version,
        images=[
            schemas.RecognizedPhoto(error=fault(one.result))
            if photo is None
            else schemas.RecognizedPhoto(
                height=photo.height,
                width=photo.width,
                faces=[_recognized(face, next(matches), found) for face in photo.faces],
            )
            for one, photo in zip(done, photos, strict=True)
        ],
        batch_size=max(one.batch_size for one in done),
        timings=schemas.SearchTimings(**timings(done, began).model_dump(), search_ms=search_ms),
        request_id=request.state.request_id,
    )


def _picked(done: Done, pick: str, at: int, count: int) -> face_results.Face:
    """The face of an image that is to be enrolled; none of several images may fail."""
    name = "the image" if count == 1 else f"image {at + 1} of {count}"
    if isinstance(done.result, ImageError):
        raise ImageError(done.result.code, f"{name}: {done.result}")
    return pick_face(done.result.found, pick, name)


def _recognized(face: face_results.Face, match: Match, found: Recognition) -> schemas.RecognizedFace:
    return schemas.RecognizedFace(**to_json(face), **match_json(match, found))


def _policy(given: Any) -> QualityPolicy | None:
    if given is None:
        return None
    try:
        return QualityPolicy(**given.model_dump())
    except OptionError as error:
        raise Refusal(422, "invalid_parameter", f"body policy: {error}") from error


def _person(row: IdentityRow) -> schemas.Identity:
    return schemas.Identity(**identity_json(row))


def _detail(row: IdentityRow, stored: Sequence[FaceRow]) -> schemas.IdentityDetail:
    return schemas.IdentityDetail(**identity_json(row), faces=[schemas.StoredFace(**vars(face)) for face in stored])


def _receipt(receipt: results.Receipt) -> schemas.Receipt:
    return schemas.Receipt(**receipt_json(receipt))
