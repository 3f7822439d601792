"""What the record gives and takes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnray.config import QualityPolicy
from cnnray.errors import GalleryError

_LENGTH_TOLERANCE = 1e-3


class Contract(NamedTuple):
    """The embedder that a gallery is bound to.

    Attributes:
        model: its name with its weights, see `FacePipeline.name`.
        num_features: D.
        threshold: least cosine of two faces of one person by the embedder itself: for verification, and for
            recognition until the gallery is calibrated.
    """

    model: str
    num_features: int
    threshold: float


@dataclass(frozen=True)
class GalleryRow:
    """A gallery of the record.

    Attributes:
        id, token: of this gallery and no other, also not of a later one of the same name.
        name: for users.
        contract: what it is bound to.
        policy: which pictures are enrolled.
        calibration: see `cnnray.infer.gallery.calibrate`; None before the first.
        version: number of its newest change.
        created_at: ISO 8601, UTC.
    """

    id: int
    token: str
    name: str
    contract: Contract
    policy: QualityPolicy
    calibration: dict[str, Any] | None
    version: int
    created_at: str

    def check_model(self, model: str) -> None:
        """See that embeddings of a model compare with the gallery's.

        Raises:
            GalleryError: "model_mismatch".
        """
        if model != self.contract.model:
            raise GalleryError(
                "model_mismatch",
                f"gallery {self.name!r} has embeddings of {self.contract.model}, which those of {model} do not compare "
                "with; choose that embedder and its views, or another gallery",
                {"expected": self.contract.model, "got": model},
            )

    @classmethod
    def read(cls, row: Any) -> "GalleryRow":
        """From a row of the table."""
        return cls(
            row.id,
            row.token,
            row.name,
            Contract(row.model, row.num_features, float(row.base_threshold)),
            QualityPolicy(**json.loads(row.policy)),
            None if row.calibration is None else json.loads(row.calibration),
            row.version,
            row.created_at,
        )


@dataclass(frozen=True)
class IdentityRow:
    """A person of a gallery.

    Attributes:
        id: of this person and nobody else ever.
        key: the id by which users know the person.
        name: for people.
        metadata: JSON values, whatever users keep of a person.
        created_at: ISO 8601, UTC.
        faces: enrolled, where they were counted.
    """

    id: int
    key: str
    name: str
    metadata: dict[str, Any]
    created_at: str
    faces: int = 0


@dataclass(frozen=True)
class FaceRow:
    """An enrolled face without its embedding: id, hash of its photo, quality by name, ISO 8601 time."""

    id: int
    source_sha256: str
    quality: dict[str, float]
    created_at: str


@dataclass(frozen=True)
class NewFace:
    """A face to enrol.

    Attributes:
        embedding_D: float32 of length 1.
        source_sha256: of the photo's bytes; a photo is enrolled once for a person.
        quality: of the picture, by the names of `FaceQuality`, and `confidence`.
    """

    embedding_D: NDArray[np.float32] = field(repr=False)
    source_sha256: str
    quality: Mapping[str, float] = field(default_factory=dict)


class Rows(NamedTuple):
    """Faces: ids, whose they are, float32 embeddings of length 1."""

    face_ids_N: NDArray[np.int64]
    identity_ids_N: NDArray[np.int64]
    embeddings_ND: NDArray[np.float32]


class Delta(NamedTuple):
    """What happened to a gallery after a version.

    Attributes:
        version: that it leads to.
        changed_I: identities whose faces changed, sorted.
        faces: all that these have now, by identity and then by id.
        removed: whether a face went.
        settings: whether thresholds or policy changed.
    """

    version: int
    changed_I: NDArray[np.int64]
    faces: Rows
    removed: bool
    settings: bool


def check_vectors(vectors: NDArray[np.floating], num_features: int) -> NDArray[np.float32]:
    """Embeddings [N, D] as float32, contiguous.

    Raises:
        GalleryError: "bad_vector": of another length, not finite, or not of length 1.
    """
    found = np.ascontiguousarray(vectors, np.float32)
    if found.ndim != 2 or found.shape[1] != num_features:
        raise GalleryError("bad_vector", f"expected embeddings of {num_features} numbers, got {list(found.shape)}")
    if not np.isfinite(found).all():
        raise GalleryError("bad_vector", "expected finite numbers in an embedding, got NaN or infinity")
    lengths = np.linalg.norm(found, axis=1)
    if len(found) and float(np.abs(lengths - 1).max()) > _LENGTH_TOLERANCE:
        worst = lengths[np.abs(lengths - 1).argmax()]
        raise GalleryError("bad_vector", f"expected embeddings of length 1, got one of length {worst:.4g}")
    return found


def read_vectors(blobs: list[bytes], num_features: int) -> NDArray[np.float32]:
    """Embeddings [N, D] as the record keeps them: little-endian float32."""
    return np.frombuffer(b"".join(blobs), "<f4").reshape(len(blobs), num_features).astype(np.float32, copy=False)
