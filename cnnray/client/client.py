"""The client's one class: a method for every endpoint.

Every call here is one that can be repeated without harm; those that change galleries are in `cnnray.client.galleries`.
"""

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

from cnnray.client.answers import (
    Answer,
    ClassShare,
    Detection,
    FaceDetection,
    FaceVerification,
    Model,
    Painting,
    Segmentation,
    read,
    read_answer,
    read_detection,
    read_faces,
    read_verification,
)
from cnnray.client.connection import FIRST_DELAY, OCTETS, Image, content_of
from cnnray.client.galleries import GalleryClient
from cnnray.client.stylize_jobs import StylizeJobClient
from cnnray.errors import ServiceError, StorageError


class Client(GalleryClient, StylizeJobClient):
    """What a service answers, see `Connection` for its arguments; the galleries' part is `GalleryClient`, that of
    painting jobs `StylizeJobClient`."""

    def classify(self, image: Image, top_k: int = 5, explain: bool = False, explain_label: str | None = None) -> Answer:
        """Classify one image.

        Args:
            image: the encoded file's bytes, or its path.
            top_k: classes wanted in `Answer.top`, at least 1.
            explain: also `Answer.explanation`, what in the image speaks for the class.
            explain_label: the class to explain; None is that of the answer.

        Raises:
            StorageError: the file cannot be read.
            ServiceError: the service refused (its `code` and `request_id` are on the error) or did not answer.
        """
        params: dict[str, Any] = {"top_k": top_k} | ({"explain": True} if explain else {})
        params |= {} if explain_label is None else {"explain_label": explain_label}
        return read_answer(self._call("POST", "/v1/classify", content=content_of(image), params=params, headers=OCTETS))

    def classify_many(
        self, images: Sequence[Image], top_k: int = 5, concurrency: int = 16, **explain: Any
    ) -> list[Answer | ServiceError | StorageError]:
        """Classify images, at most `concurrency` at a time; the service batches what comes together.

        Args:
            explain: explain, explain_label, as of `classify`. A service explains one image at a time; a concurrency
                above 2 only waits.

        Returns:
            As many as came, in their order; an image that failed has its error in its place and spoils no other.
        """

        def one(image: Image) -> Answer | ServiceError | StorageError:
            try:
                return self.classify(image, top_k, **explain)
            except (ServiceError, StorageError) as error:
                return error

        with ThreadPoolExecutor(concurrency) as pool:
            return list(pool.map(one, images))

    def detect(self, image: Image, **search: Any) -> Detection:
        """The objects in one image.

        Args:
            image: the encoded file's bytes, or its path.
            search: confidence, overlap, suppression, most, slice: see `cnnray.config.SearchConfig`.

        Raises:
            StorageError: the file cannot be read.
            ServiceError: as `classify`.
        """
        body = self._call("POST", "/v1/detect", content=content_of(image), params=search, headers=OCTETS)
        (found,) = body.get("images") or [{}]
        return read_detection(found, body)

    def detect_many(self, images: Sequence[Image], **search: Any) -> list[Detection | ServiceError]:
        """The objects in up to 16 images, which travel in one request.

        Returns:
            As many as came, in their order; a bad image has its error in its place.

        Raises:
            StorageError: a file cannot be read.
            ServiceError: the service refused the whole, or did not answer.
        """
        parts = [("file", (f"{number}", content_of(image))) for number, image in enumerate(images)]
        body = self._call("POST", "/v1/detect", files=parts, params=search)
        return [
            _fault(part, body) if part.get("error") else read_detection(part, body) for part in body.get("images", [])
        ]

    def draw_objects(self, image: Image, **search: Any) -> bytes:
        """One image with the boxes of its objects, as a PNG; else as `detect`."""
        params = {**search, "draw": True}
        return self._retried("POST", "/v1/detect", content=content_of(image), params=params, headers=OCTETS).content

    def detect_faces(self, image: Image, *, embeddings: bool = False, **search: Any) -> FaceDetection:
        """The faces in one image.

        Args:
            image: the encoded file's bytes, or its path.
            embeddings: also each face's embedding.
            search: confidence, smallest_face, rotated, most: see `cnnray.config.FaceSearchConfig`.

        Raises:
            StorageError: the file cannot be read.
            ServiceError: as `classify`.
        """
        params = {**search, "embeddings": embeddings}
        body = self._call("POST", "/v1/faces/detect", content=content_of(image), params=params, headers=OCTETS)
        (found,) = body.get("images") or [{}]
        return read_faces(found, body)

    def detect_faces_many(
        self, images: Sequence[Image], *, embeddings: bool = False, **search: Any
    ) -> list[FaceDetection | ServiceError]:
        """The faces in up to 16 images, which travel in one request; else as `detect_many`."""
        parts = [("file", (f"{number}", content_of(image))) for number, image in enumerate(images)]
        body = self._call("POST", "/v1/faces/detect", files=parts, params={**search, "embeddings": embeddings})
        return [_fault(part, body) if part.get("error") else read_faces(part, body) for part in body.get("images", [])]

    def draw_faces(self, image: Image, **search: Any) -> bytes:
        """One image with the boxes and landmarks of its faces, as a PNG; else as `detect_faces`."""
        params = {**search, "draw": True}
        return self._retried(
            "POST", "/v1/faces/detect", content=content_of(image), params=params, headers=OCTETS
        ).content

    def verify_faces(
        self, first: Image, second: Image, *, threshold: float | None = None, pick: str = "largest", **search: Any
    ) -> FaceVerification:
        """Whether two images show the same person.

        Args:
            first, second: the encoded files' bytes, or their paths.
            threshold: largest distance of one person's faces, or least probability where the model gives one; None is
                the model's own.
            pick: which face of an image with several: "largest", "central", or "only", which refuses such an image.
            search: confidence, smallest_face, rotated, as of `detect_faces`.

        Raises:
            StorageError: a file cannot be read.
            ServiceError: as `classify`; its code is "no_face" or "several_faces" where an image lacks the one face.
        """
        params = {**search, "pick": pick} | ({} if threshold is None else {"threshold": threshold})
        parts = {"first": ("first", content_of(first)), "second": ("second", content_of(second))}
        return read_verification(self._call("POST", "/v1/faces/verify", files=parts, params=params))

    def segment(self, image: Image, *, draw: bool = False) -> Segmentation:
        """The class of every pixel of one image.

        Args:
            image: the encoded file's bytes, or its path.
            draw: the image with its classes in colour, in place of the class map.

        Raises:
            StorageError: the file cannot be read.
            ServiceError: as `classify`.
        """
        content, figures = self._picture("/v1/segment", "x-segmentation", image, {"draw": draw})
        classes = tuple(read(ClassShare, row) for row in figures.get("classes", []))
        return read(Segmentation, {**figures, "classes": classes, "content": content})

    def stylize(self, image: Image, style: str | Sequence[str] | Mapping[str, float], **options: Any) -> Painting:
        """A photo painted in a style.

        Args:
            image: the encoded file's bytes, or its path.
            style: its name, or the shares of several by name (also as "NAME:SHARE"), which are blended.
            options: strength (0 to 1), keep_colors, longest_side (px), format ("jpg", "png").

        Raises:
            StorageError: the file cannot be read.
            ServiceError: as `classify`.
        """
        asked = [f"{name}:{share}" for name, share in style.items()] if isinstance(style, Mapping) else style
        content, figures = self._picture("/v1/stylize", "x-stylize", image, {"style": asked, **options})
        return read(Painting, {**figures, "content": content})

    def style_preview(self, style: str) -> bytes:
        """A small picture in a style, as JPEG.

        Raises:
            ServiceError: as `classify`; unknown_name of a style that is not there.
        """
        return self._retried("GET", f"/v1/stylize/styles/{quote(style, safe='')}").content

    def _picture(self, path: str, name: str, image: Image, params: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """A picture, and the figures in the header of that name."""
        response = self._retried("POST", path, content=content_of(image), params=params, headers=OCTETS)
        try:
            return response.content, dict(json.loads(response.headers[name]))
        except (KeyError, ValueError, TypeError) as error:
            raise ServiceError(f"{self.url}{path} answered, but without figures: is it a cnnray service?") from error

    def health(self) -> bool:
        """Whether the service's process lives; tried once."""
        return self._is_ok("/v1/health")

    def ready(self) -> bool:
        """Whether every model has answered a self-test; tried once."""
        return self._is_ok("/v1/ready")

    def wait_ready(self, timeout: float = 120.0) -> None:
        """Return as soon as the service is ready.

        Raises:
            ServiceError: it was not within `timeout` seconds; says what it answered last.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._object(self._attempt("GET", "/v1/ready"))
                return
            except ServiceError as error:
                if time.monotonic() >= deadline:
                    raise ServiceError(
                        f"{self.url} was not ready after {timeout:g} s: {error}",
                        code=error.code,
                        status=error.status,
                        request_id=error.request_id,
                    ) from error
            time.sleep(FIRST_DELAY)

    def models(self) -> list[Model]:
        """The models behind the service.

        Raises:
            ServiceError: the service refused or did not answer.
        """
        return [read(Model, model) for model in self._call("GET", "/v1/models").get("models", [])]

    def _is_ok(self, path: str) -> bool:
        try:
            self._object(self._attempt("GET", path))
        except ServiceError:
            return False
        return True


def _fault(part: dict[str, Any], body: dict[str, Any]) -> ServiceError:
    error = part["error"]
    return ServiceError(error["detail"], code=error["code"], status=422, request_id=body.get("request_id", ""))
