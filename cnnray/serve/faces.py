"""/v1/faces: the deployment that finds and embeds faces, and the endpoints in front of it.

No face and no embedding is written down here, in logs neither.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from numpy.typing import NDArray

from cnnray.config import EmbedderConfig, FaceSearchConfig, ServeConfig
from cnnray.errors import ImageError
from cnnray.infer import face_results
from cnnray.infer.face_results import Verification, draw_photo, pick_face, to_json
from cnnray.infer.faces import FacePipeline
from cnnray.infer.gallery import names
from cnnray.infer.gallery.contracts import contract_of
from cnnray.infer.gallery.results import ClaimedMatch
from cnnray.infer.gallery.rows import Contract
from cnnray.ops.decode import decode
from cnnray.ops.overlay import png
from cnnray.serve import galleries
from cnnray.serve.answers import PNG, ask_all, fault, header, refuse_several, timings
from cnnray.serve.face_schemas import Face, FaceDetections, FaceVerification, SearchedPhoto
from cnnray.serve.gallery_schemas import ClaimedVerification, KnownPerson, SearchTimings
from cnnray.serve.openapi import IMAGE, errors, figures, picture
from cnnray.serve.problems import Refusal
from cnnray.serve.replica import Job, Replica
from cnnray.serve.uploads import MAX_IMAGES, OPENAPI_BODIES, openapi_claim, read_field, read_images, read_named_images

NAME = "faces"
MAX_FACES = 500
PAIR = ("first", "second")
_NO_CROP = np.zeros((0, 0, 3), np.uint8)

router = APIRouter(tags=["faces"])


class Wanted(NamedTuple):
    """The option of a job."""

    search: FaceSearchConfig
    embed: bool
    draw: bool


def search_of(
    confidence: Annotated[float, Query(ge=-1, le=2, allow_inf_nan=False, description="least score of a face")] = 0.0,
    smallest_face: Annotated[int, Query(ge=20, le=500, description="side in px of the smallest faces looked for")] = 40,
    rotated: Annotated[bool, Query(description="also faces on their side or upside down; takes five times")] = False,
) -> FaceSearchConfig:
    """What a request asks for."""
    return FaceSearchConfig(confidence=confidence, smallest_face=smallest_face, rotated=rotated)


Search = Annotated[FaceSearchConfig, Depends(search_of)]


@router.post(
    "/v1/faces/detect",
    summary="The faces in one image or in several",
    openapi_extra={"requestBody": OPENAPI_BODIES},
    response_model=FaceDetections,
    responses={
        200: {"content": picture(PNG), "headers": figures("x-faces", "FaceDetections")},
        **errors(*IMAGE, "one_image_to_draw"),
    },
)
async def detect_faces(
    request: Request,
    search: Search,
    most: Annotated[int, Query(ge=1, le=MAX_FACES, description="faces of an image")] = 100,
    embeddings: Annotated[bool, Query(description="also each face's embedding")] = False,
    draw: Annotated[bool, Query(description="the image with its faces as a PNG; for one image alone")] = False,
) -> Any:
    """Boxes, five landmarks and the quality of each face's picture, surest first.

    Images (JPEG, PNG, WebP, ...) come as a form's field `file`, which may be there several times, or one as the body.
    Of several, a bad one has its error in its place and spoils no other. With `?draw=true` the answer is a PNG; its
    header X-Faces has the JSON, without the faces where they are too many for a header.
    """
    began = time.perf_counter()
    images = await read_images(request, MAX_IMAGES)
    if draw:
        refuse_several(images)
    done = await ask_all(request, NAME, images, Wanted(replace(search, most=most), embeddings, draw))
    body = FaceDetections(
        model=done[0].model,
        images=[_searched(one.result) for one in done],
        batch_size=max(one.batch_size for one in done),
        timings=timings(done, began),
        request_id=request.state.request_id,
    )
    if not draw:
        return body
    return Response(done[0].result.content, media_type=PNG, headers={"x-faces": header(body, "faces")})


@router.post(
    "/v1/faces/verify",
    summary="Whether two images show the same person, or one shows somebody of a gallery",
    openapi_extra={"requestBody": openapi_claim(PAIR, "`gallery` and `identity`")},
    responses=errors(
        *IMAGE,
        "no_face",
        "several_faces",
        "bad_name",
        "no_gallery",
        "gallery_opening",
        "no_identity",
        "model_mismatch",
        "record_unavailable",
    ),
)
async def verify_faces(
    request: Request,
    search: Search,
    threshold: Annotated[
        float | None,
        Query(
            ge=-1,
            le=2,
            allow_inf_nan=False,
            description="see the answer's; without it, the model's own",
            examples=[0.6],
        ),
    ] = None,
    pick: Annotated[
        Literal["largest", "central", "only"],
        Query(description="which face of an image with several; only: such an image is refused"),
    ] = "largest",
    gallery: Annotated[str, Query(description="with `identity`: of which gallery", examples=["staff"])] = "",
    identity: Annotated[
        str, Query(description="the id of whom the person claims to be, instead of `second`", examples=["e-1042"])
    ] = "",
) -> FaceVerification | ClaimedVerification:
    """Compares one face of the image in the form's field `first` with one of that in the field `second`.

    With `gallery` and `identity` one image comes, as `first` or as the body, and is compared with the faces of that
    person; `threshold` is then a cosine from -1 to 1. An image without a face gets 422 with the code no_face; with
    pick=only, one with several gets several_faces.
    """
    began = time.perf_counter()
    if bool(gallery) != bool(identity):
        raise Refusal(422, "invalid_parameter", "query gallery, query identity: expected both or none of them")
    _check_threshold(threshold, *((-1.0, 1.0) if gallery else (0.0, 2.0)))
    if gallery:
        return await _verify_claim(request, Wanted(search, True, False), pick, threshold, gallery, identity)
    images = await read_named_images(request, PAIR)
    done = await ask_all(request, NAME, images, Wanted(search, True, False))
    photos = [_photo(one.result, f"the {name} image") for one, name in zip(done, PAIR, strict=True)]
    first, second = (pick_face(photo, pick, f"the {name} image") for photo, name in zip(photos, PAIR, strict=True))
    answer: Verification = await request.app.state.models[NAME].compare.remote(
        first.embedding_D, second.embedding_D, -1.0 if threshold is None else threshold
    )
    return FaceVerification(
        model=done[0].model,
        same=answer.same,
        distance=answer.distance,
        probability=answer.probability,
        threshold=answer.threshold,
        faces=[Face(**to_json(face)) for face in (first, second)],
        found=[len(photo.faces) for photo in photos],
        timings=timings(done, began),
        request_id=request.state.request_id,
    )


def _check_threshold(threshold: float | None, low: float, high: float) -> None:
    if threshold is not None and not low <= threshold <= high:
        detail = f"query threshold: Input should be from {low:g} to {high:g}, got {threshold!r}"
        raise Refusal(422, "invalid_parameter", detail)


async def _verify_claim(
    request: Request, wanted: Wanted, pick: str, threshold: float | None, gallery: str, key: str
) -> ClaimedVerification:
    began = time.perf_counter()
    names.check_gallery(gallery)
    (done,) = await ask_all(request, NAME, [await read_field(request, PAIR[0])], wanted)
    face = pick_face(done.result.found, pick)
    found: ClaimedMatch
    found, search_ms = await galleries.ask_timed(
        request, "use", gallery, "verify", face.embedding_D, key, model=done.model, threshold=threshold
    )
    return ClaimedVerification(
        model=done.model,
        gallery=gallery,
        gallery_version=found.version,
        identity=KnownPerson(id=found.identity.key, name=found.identity.name),
        same=found.same,
        score=found.score,
        threshold=found.threshold,
        face=Face(**to_json(face)),
        found=len(done.result.found.faces),
        timings=SearchTimings(**timings([done], began).model_dump(), search_ms=search_ms),
        request_id=request.state.request_id,
    )


@dataclass(frozen=True)
class Photo:
    """What was found in an image as it travels: faces without their crops, and a PNG (b"" where none is wanted)."""

    found: face_results.Faces
    content: bytes


class Faces(Replica):
    """A replica of the pipeline of faces; the option of a job is a Wanted."""

    def __init__(self, config: ServeConfig) -> None:
        self._pipeline = load_pipeline(config, device="cuda" if config.gpu else "cpu")
        super().__init__(self._pipeline, config)
        self._pipeline.warm_up()

    def answer(self, jobs: Sequence[Job]) -> list[Any]:
        """Photo or ImageError for each job."""
        answers: dict[int, Photo | ImageError] = {}
        for embed in (False, True):  # whoever wants boxes alone does not wait for the embeddings of others' faces
            places = [place for place, job in enumerate(jobs) if job.option.embed == embed]
            images, searches = ([jobs[at].image for at in places], [jobs[at].option.search for at in places])
            results = self._pipeline.predict(images, searches, embed=embed)
            answers |= {at: _travelling(jobs[at], result) for at, result in zip(places, results, strict=True)}
        return [answers[place] for place in range(len(jobs))]

    async def compare(self, a_D: NDArray[np.float32], b_D: NDArray[np.float32], threshold: float) -> Verification:
        """See `FacePipeline.compare`."""
        return self._pipeline.compare(a_D, b_D, threshold)

    async def contract(self) -> Contract:
        """What a gallery of these embeddings is bound to, see `contract_of`."""
        return contract_of(self._pipeline)


def load_pipeline(config: ServeConfig, *, device: str) -> FacePipeline:
    """What the options ask for.

    Raises:
        CheckpointError: an unknown name, or weights or checkpoint that are absent, damaged or of something else.
    """
    return FacePipeline.load(EmbedderConfig(embedder=config.faces, views=config.face_views), device=device)


def _travelling(job: Job, result: face_results.Faces | ImageError) -> Photo | ImageError:
    if isinstance(result, ImageError):
        return result
    content = png(draw_photo(decode(job.image), result.faces)) if job.option.draw else b""
    faces = tuple(replace(face, crop_HWC=_NO_CROP) for face in result.faces)
    return Photo(replace(result, faces=faces), content)


def _photo(result: Photo | ImageError, name: str) -> face_results.Faces:
    if isinstance(result, ImageError):
        raise ImageError(result.code, f"{name}: {result}")
    return result.found


def _searched(result: Photo | ImageError) -> SearchedPhoto:
    if isinstance(result, ImageError):
        return SearchedPhoto(error=fault(result))
    faces = [
        Face(**to_json(face), embedding=face.embedding_D.tolist() if face.embedding_D.size else None)
        for face in result.found.faces
    ]
    return SearchedPhoto(height=result.found.height, width=result.found.width, faces=faces)
