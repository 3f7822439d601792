"""Enrolment: who is let into a gallery, in one transaction."""

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from cnnray.config import QualityPolicy
from cnnray.errors import GalleryError
from cnnray.infer.gallery import names
from cnnray.infer.gallery.change import Change
from cnnray.infer.gallery.index import FaceIndex
from cnnray.infer.gallery.means import mean_embeddings
from cnnray.infer.gallery.record import Record
from cnnray.infer.gallery.results import Enrollment, Person, explain, judge
from cnnray.infer.gallery.rows import GalleryRow, IdentityRow, check_vectors


class Enrolling:
    """People who are enrolled one after the other in one transaction; the index does not have them yet.

    Args:
        change: the transaction.
        record: to say who somebody is.
        index: of all others, caught up.
        threshold: from which score on a face is somebody's.
    """

    def __init__(self, change: Change, record: Record, index: FaceIndex, threshold: float) -> None:
        self._change, self._record, self._index, self._threshold = change, record, index, threshold
        self._vectors: list[NDArray[np.float32]] = []
        self._ids: list[NDArray[np.int64]] = []
        self._people: dict[int, IdentityRow] = {}

    def enroll(self, person: Person) -> Enrollment | GalleryError:
        """Enrol a person whom `check_person` let through; of who is refused nothing is written."""
        change = self._change
        try:
            if person.request_key:
                before = change.find_answer(person.request_key, person.fingerprint)
                if before is not None:
                    return Enrollment(**before | {"face_ids": tuple(before["face_ids"]), "replayed": True})
            identity = change.find_identity(person.key)
            vectors = np.stack([face.embedding_D for face in person.faces])
            if not person.accept_conflict:
                self._refuse_conflict(vectors, identity.id if identity else 0)
        except GalleryError as error:
            return error
        metadata = None if person.metadata is None else names.dump_metadata(dict(person.metadata))
        if identity is None:
            identity = change.add_identity(person.key, person.name or person.key, metadata or "{}")
        elif values := changed_columns(identity, person.name, metadata):
            change.update_identity(identity, **values)
            change.audit("update", identity.id, columns=sorted(values))
        before_version = change.version
        face_ids = change.add_faces(identity.id, person.faces)
        added = change.version - before_version
        self._add(vectors, identity)
        done = Enrollment(person.key, tuple(face_ids), added, change.version)
        if added:
            change.audit("enroll", identity.id, faces=face_ids)
        if person.request_key:
            change.remember_answer(person.request_key, person.fingerprint, identity.id, asdict(done))
        return done

    def _refuse_conflict(self, vectors_ND: NDArray[np.float32], own_id: int) -> None:
        """A face is somebody else's if it would be recognised as theirs, and is not more like its own person."""
        identity_id, score = self._nearest_other(vectors_ND, own_id)
        if score < self._threshold:
            return
        key = (self._record.find_identities([identity_id]) | self._people)[identity_id].key
        raise GalleryError(
            "identity_conflict",
            f"this face is {key!r} already: a score of {score:.3f}, with {self._threshold:.3f} as threshold",
            {"identity": key, "score": score, "threshold": self._threshold},
        )

    def _add(self, vectors_ND: NDArray[np.float32], identity: IdentityRow) -> None:
        self._people[identity.id] = identity
        ids, points = mean_embeddings(np.full(len(vectors_ND), identity.id), vectors_ND)
        self._vectors.append(points)
        self._ids.append(ids)

    def _nearest_other(self, vectors_ND: NDArray[np.float32], own_id: int) -> tuple[int, float]:
        """Who resembles one of these faces most, and more than its own person: number and score; 0 and -inf where
        there is nobody."""
        own_N = np.full(len(vectors_ND), own_id, np.int64)
        found = self._index.search(vectors_ND, 1, without_N=own_N)
        ids_N, scores_N = found.identity_ids_NK[:, 0].copy(), found.scores_NK[:, 0].copy()
        own_scores_N = self._index.compare(vectors_ND, own_N)
        if self._ids:  # who came in this transaction
            ids, scores_MN = np.concatenate(self._ids), np.concatenate(self._vectors) @ vectors_ND.T
            own_M = ids == own_id
            own_scores_N = np.maximum(own_scores_N, scores_MN[own_M].max(0, initial=-np.inf))
            scores_MN[own_M] = -np.inf
            better_N = scores_MN.max(0) > scores_N
            ids_N[better_N], scores_N[better_N] = ids[scores_MN.argmax(0)][better_N], scores_MN.max(0)[better_N]
        scores_N[own_scores_N >= scores_N] = -np.inf
        at = int(scores_N.argmax())
        return (int(ids_N[at]), float(scores_N[at])) if scores_N[at] > -np.inf else (0, -np.inf)


def check_person(person: Person, row: GalleryRow) -> Person | GalleryError:
    """The person with names in their normal form and embeddings that are points of length 1."""
    try:
        if not person.faces:
            raise GalleryError("too_few_faces", f"expected a face of {person.key!r} to enrol")
        key, name = names.check_identity(person.key), person.name
        if name:
            name = names.check_text("name", name)
        if person.request_key:
            names.check_text("request key", person.request_key)
        names.dump_metadata(dict(person.metadata or {}))
        check_vectors(np.stack([face.embedding_D for face in person.faces]), row.contract.num_features)
        _refuse_quality(person, row.policy)
    except GalleryError as error:
        return error
    return Person(**vars(person) | {"key": key, "name": name})


def changed_columns(identity: IdentityRow, name: str, metadata: str | None) -> dict[str, str]:
    """The columns that are to change."""
    values = {"name": name} if name and name != identity.name else {}
    if metadata is not None and metadata != names.dump_metadata(identity.metadata):
        values["metadata"] = metadata
    return values


def _refuse_quality(person: Person, policy: QualityPolicy) -> None:
    for face in person.faces if not person.accept_quality else ():
        if reasons := judge(face.quality, policy):
            raise GalleryError(
                "low_quality",
                f"the face of {person.key!r} is not good enough to enrol: {explain(reasons, policy)}",
                {"reasons": reasons},
            )
