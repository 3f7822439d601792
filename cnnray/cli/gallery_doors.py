"""Galleries for commands: those of a record on this machine, or of a running service, with the same answers.

Answers are JSON values with the names that the service's API has.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cnnray.cli.console import say
from cnnray.cli.query_photos import asked
from cnnray.config import EnrollConfig, RecognizeConfig, RecordConfig
from cnnray.errors import CnnrayError

if TYPE_CHECKING:
    from cnnray.client import Client, Recognized

Values = dict[str, Any]
_PAGE = 1000
_PHOTOS = 32  # in memory at a time


class Door(Protocol):
    """What commands ask of galleries; see `cnnray.client.Client`, whose errors and GalleryError they raise."""

    def list_galleries(self) -> list[Values]:
        """All."""

    def drop_gallery(self, gallery: str) -> Values:
        """Take one out; its name and the audit log's last hash."""

    def list_identities(self, gallery: str) -> list[Values]:
        """All people of a gallery."""

    def identity(self, gallery: str, identity: str) -> Values:
        """A person with faces."""

    def update_identity(self, gallery: str, identity: str, name: str, metadata: Values | None) -> Values:
        """Other name, or metadata."""

    def erase(self, gallery: str, identity: str, face: int | None) -> Values:
        """Erase a person, or one face; the receipt."""

    def enroll(self, gallery: str, identity: str, photo: Path, name: str, config: EnrollConfig) -> Values:
        """Enrol a photo."""

    def recognize(self, gallery: str, photos: list[Path], config: RecognizeConfig) -> list[Values]:
        """Who is in photos: image, height, width, faces; or image and error."""


@contextlib.contextmanager
def open_door(url: str, record: RecordConfig) -> Iterator[Door]:
    """To the service at a URL; "" is this machine's record."""
    if url:
        from cnnray.client import Client

        with Client(url) as client:
            yield Remote(client)
    else:
        with open_record(record) as opened:
            yield Local(opened, record)


@contextlib.contextmanager
def open_record(config: RecordConfig) -> Iterator[Any]:
    """The record on this machine, closed afterwards."""
    from cnnray.infer.gallery.record import Record

    record = Record(config.record)
    try:
        yield record
    finally:
        record.close()


def say_if_nobody(gallery: str, threshold: float) -> None:
    """Tell that a gallery has a threshold above every score."""
    if threshold > 1:
        say(
            f"gallery {gallery} recognises nobody as yet: its embedder verifies by a probability, not by a cosine. "
            "Run cnnray faces calibrate, or make a gallery with --base-threshold"
        )


class Local:
    """Galleries of a record."""

    def __init__(self, record: Any, config: RecordConfig) -> None:
        self._record, self._config = record, config

    def open(self, gallery: str, contract: Any = None) -> Any:
        """The Gallery."""
        from cnnray.infer.gallery.gallery import Gallery

        return Gallery.open(self._record, gallery, self._config, contract)

    def list_galleries(self) -> list[Values]:
        """See `Door`."""
        from cnnray.infer.gallery.as_json import gallery_json

        return [gallery_json(*listed) for listed in self._record.list_galleries()]

    def drop_gallery(self, gallery: str) -> Values:
        """See `Door`."""
        from cnnray.infer.gallery.gallery import drop_gallery

        return {"gallery": gallery, "audit_hash": drop_gallery(self._record, gallery, self._config)}

    def list_identities(self, gallery: str) -> list[Values]:
        """See `Door`."""
        from cnnray.infer.gallery.as_json import identity_json

        row, found, after = self._record.get_gallery(gallery), [], 0
        while page := self._record.list_identities(row, after, _PAGE):
            found += [identity_json(identity) for identity in page]
            after = page[-1].id
        return found

    def identity(self, gallery: str, identity: str) -> Values:
        """See `Door`."""
        from cnnray.infer.gallery.as_json import identity_json
        from cnnray.infer.gallery.names import check_identity

        row, faces = self._record.get_identity(self._record.get_gallery(gallery), check_identity(identity))
        return identity_json(row) | {"faces": [asdict(face) for face in faces]}

    def update_identity(self, gallery: str, identity: str, name: str, metadata: Values | None) -> Values:
        """See `Door`."""
        from cnnray.infer.gallery.as_json import identity_json

        opened = self.open(gallery)
        opened.update(identity, name=name, metadata=metadata)
        return identity_json(opened.get(identity)[0])

    def erase(self, gallery: str, identity: str, face: int | None) -> Values:
        """See `Door`."""
        from cnnray.infer.gallery.as_json import receipt_json

        opened = self.open(gallery)
        return receipt_json(opened.erase(identity) if face is None else opened.delete_face(identity, face))

    def enroll(self, gallery: str, identity: str, photo: Path, name: str, config: EnrollConfig) -> Values:
        """See `Door`; the gallery is made where there is none."""
        from cnnray.data.enroll_faces import find_face, to_person
        from cnnray.data.fetch import fetch_image
        from cnnray.infer.faces import FacePipeline
        from cnnray.infer.gallery.contracts import open_contract
        from cnnray.infer.gallery.gallery import create_gallery

        content, pipeline = fetch_image(str(photo)), FacePipeline.load(config)
        contract = open_contract(self._record, gallery, pipeline, config.base_threshold)
        face = find_face(pipeline, content, config)  # before there is a gallery
        create_gallery(self._record, gallery, contract, exist_ok=True)
        done = self.open(gallery, contract).enroll(to_person(identity, face, config, name=name))
        values = {"gallery": gallery, "identity": done.key, "face_ids": list(done.face_ids), "added": done.added}
        return values | {"gallery_version": done.version, "replayed": done.replayed, "model": pipeline.name}

    def recognize(self, gallery: str, photos: list[Path], config: RecognizeConfig) -> list[Values]:
        """See `Door`."""
        from cnnray.infer.faces import FacePipeline
        from cnnray.infer.gallery.contracts import open_contract

        self._record.get_gallery(gallery)
        pipeline = FacePipeline.load(config)
        opened = self.open(gallery, open_contract(self._record, gallery, pipeline))
        seen: list[Any] = []
        for start in range(0, len(photos), _PHOTOS):
            contents = [_fetched(photo) for photo in photos[start : start + _PHOTOS]]
            found = iter(pipeline.predict([read for read in contents if isinstance(read, bytes)], config.search))
            seen += [next(found) if isinstance(read, bytes) else read for read in contents]
        return _answers(photos, seen, lambda faces: _recognized(opened, faces, config))


class Remote:
    """Galleries of a service."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def list_galleries(self) -> list[Values]:
        """See `Door`."""
        return [asdict(one) for one in self._client.list_galleries()]

    def drop_gallery(self, gallery: str) -> Values:
        """See `Door`."""
        return asdict(self._client.drop_gallery(gallery))

    def list_identities(self, gallery: str) -> list[Values]:
        """See `Door`."""
        found: list[Values] = []
        cursor = ""
        while True:
            page = self._client.list_identities(gallery, cursor, _PAGE)
            found += [asdict(one) for one in page.identities]
            cursor = page.cursor
            if not cursor:
                return found

    def identity(self, gallery: str, identity: str) -> Values:
        """See `Door`."""
        return asdict(self._client.identity(gallery, identity))

    def update_identity(self, gallery: str, identity: str, name: str, metadata: Values | None) -> Values:
        """See `Door`."""
        return asdict(self._client.update_identity(gallery, identity, name=name, metadata=metadata))

    def erase(self, gallery: str, identity: str, face: int | None) -> Values:
        """See `Door`."""
        if face is None:
            return asdict(self._client.erase_identity(gallery, identity))
        return asdict(self._client.delete_face(gallery, identity, face))

    def enroll(self, gallery: str, identity: str, photo: Path, name: str, config: EnrollConfig) -> Values:
        """See `Door`; the gallery must be there."""
        accept = {name: getattr(config, name) for name in ("accept_quality", "accept_conflict")}
        pick = "only" if config.pick == "auto" else config.pick
        return asdict(self._client.enroll(gallery, identity, [photo], name=name, pick=pick, **accept))

    def recognize(self, gallery: str, photos: list[Path], config: RecognizeConfig) -> list[Values]:
        """See `Door`."""
        search = {name: getattr(config, name) for name in ("confidence", "smallest_face", "rotated")}
        options: Values = search | {"threshold": config.threshold, "candidates": config.candidates}

        def ask(photo: Path) -> "Recognized":
            return self._client.recognize(gallery, photo, **options)

        with asked(photos, ask, 1) as found:
            return _answers(photos, list(found), asdict)


def _answers(photos: Sequence[Path], found: Sequence[Any], tell: Callable[[Any], Values]) -> list[Values]:
    """Of each photo what is told of what was found in it, or the error in its place.

    Raises:
        CnnrayError: all failed; that of the first one.
    """
    if found and all(isinstance(one, CnnrayError) for one in found):
        raise found[0]
    answers = []
    for photo, one in zip(photos, found, strict=True):
        bad = isinstance(one, CnnrayError)
        told = {"error": {"code": one.code, "detail": str(one)}} if bad else tell(one)
        answers.append({"image": str(photo)} | told)
    return answers


def _fetched(photo: Path) -> bytes | CnnrayError:
    from cnnray.data.fetch import fetch_image
    from cnnray.errors import DataError

    try:
        return fetch_image(str(photo))
    except DataError as error:
        return error


def _recognized(gallery: Any, found: Any, config: RecognizeConfig) -> Values:
    from cnnray.infer.face_results import to_json

    matches = _matches(gallery, found.faces, config)
    faces = [to_json(face) | match for face, match in zip(found.faces, matches, strict=True)]
    return {"height": found.height, "width": found.width, "faces": faces}


def _matches(gallery: Any, faces: Any, config: RecognizeConfig) -> list[Values]:
    """Whose each of the faces is, as JSON values."""
    import numpy as np

    from cnnray.infer.gallery.as_json import match_json

    if not faces:
        return []
    found = gallery.recognize(
        np.stack([face.embedding_D for face in faces]), threshold=config.threshold, candidates=config.candidates
    )
    return [match_json(match, found) for match in found.matches]
