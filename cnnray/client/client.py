"""The client's one class: a method for every endpoint. What each asks and how its answer is read is in
`cnnray.client.calls`; `AsyncClient` has the same methods for asyncio.

Every call here is one that can be repeated without harm; those that change galleries are in `cnnray.client.galleries`.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from cnnray.client.call import Image
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
        return self._send(calls.classify(image, top_k, explain, explain_label))

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
        return self._send(calls.detect(image, search))

    def detect_many(self, images: Sequence[Image], **search: Any) -> list[Detection | ServiceError]:
        """The objects in up to 16 images, which travel in one request.

        Returns:
            As many as came, in their order; a bad image has its error in its place.

        Raises:
            StorageError: a file cannot be read.
            ServiceError: the service refused the whole, or did not answer.
        """
        return self._send(calls.detect_many(images, search))

    def draw_objects(self, image: Image, **search: Any) -> bytes:
        """One image with the boxes of its objects, as a PNG; else as `detect`."""
        return self._send(calls.draw_objects(image, search))

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
        return self._send(calls.detect_faces(image, embeddings, search))

    def detect_faces_many(
        self, images: Sequence[Image], *, embeddings: bool = False, **search: Any
    ) -> list[FaceDetection | ServiceError]:
        """The faces in up to 16 images, which travel in one request; else as `detect_many`."""
        return self._send(calls.detect_faces_many(images, embeddings, search))

    def draw_faces(self, image: Image, **search: Any) -> bytes:
        """One image with the boxes and landmarks of its faces, as a PNG; else as `detect_faces`."""
        return self._send(calls.draw_faces(image, search))

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
        return self._send(calls.verify_faces(first, second, threshold, pick, search))

    def segment(self, image: Image, *, draw: bool = False) -> Segmentation:
        """The class of every pixel of one image.

        Args:
            image: the encoded file's bytes, or its path.
            draw: the image with its classes in colour, in place of the class map.

        Raises:
            StorageError: the file cannot be read.
            ServiceError: as `classify`.
        """
        return self._send(calls.segment(image, draw))

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
        return self._send(calls.stylize(image, style, options))

    def style_preview(self, style: str) -> bytes:
        """A small picture in a style, as JPEG.

        Raises:
            ServiceError: as `classify`; unknown_name of a style that is not there.
        """
        return self._send(calls.style_preview(style))

    def health(self) -> bool:
        """Whether the service's process lives; tried once."""
        return self._send(calls.health())

    def ready(self) -> bool:
        """Whether every model has answered a self-test; tried once."""
        return self._send(calls.ready())

    def wait_ready(self, timeout: float = 120.0) -> None:
        """Return as soon as the service is ready.

        Raises:
            ServiceError: it was not within `timeout` seconds; says what it answered last.
        """
        self._send(calls.wait_ready(self.url, timeout))

    def models(self) -> list[Model]:
        """The models behind the service.

        Raises:
            ServiceError: the service refused or did not answer.
        """
        return self._send(calls.models())
