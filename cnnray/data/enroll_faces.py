"""`cnnray faces enroll` over a whole source: people into a gallery by Ray Data, resumable.

Workers find and embed the faces (see `meant_stage`), this process enrols them, some hundred in a transaction. Every
photo of a person is a request of its own key: the same command after a kill, or another one over the same photos,
enrols nobody twice, and nobody again who was erased since.

RUN/refused/*.parquet      photos that the gallery refused so far: a run that goes on does not ask again
RUN/quarantine/*.parquet   photos that could not be read, have no face that is meant, or that the gallery refused
RUN/manifest.json          counts, see `enroll_faces`
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cnnray import cluster, files
from cnnray.config import EnrollConfig, RecordConfig
from cnnray.data.feature_store import QUARANTINE_SCHEMA, Outputs, iter_parts, quarantine_row
from cnnray.data.meant_stage import embed_meant, load_people
from cnnray.data.progress import JobProgress
from cnnray.data.runs import RunFolder, refuse_bad
from cnnray.errors import GalleryError, OptionError
from cnnray.infer.face_results import pick_face
from cnnray.infer.faces import FacePipeline
from cnnray.infer.gallery import names
from cnnray.infer.gallery.gallery import Gallery, create_gallery
from cnnray.infer.gallery.record import Record
from cnnray.infer.gallery.results import Enrollment, Person, new_face
from cnnray.infer.gallery.rows import Contract, NewFace

_KIND = "enrolment"
_REFUSED = "refused"
_BATCH = 256  # photos of one transaction, for which other writers wait


def enroll_faces(
    source: str,
    out: str,
    gallery: str,
    config: EnrollConfig,
    *,
    record: RecordConfig | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Enrol people by their photos; the same call resumes after a kill.

    Args:
        source: as for `build_features`; labels are the ids of people.
        out: run folder, see above.
        gallery: its name; it is made where there is none.
        config: which faces, by which embedder.
        record: where the galleries are.
        address: of a Ray cluster; None is a local one.

    Returns:
        the manifest: images; enrolled, the photos whose face the gallery has now: added by this call, or
        already_there; identities of these; quarantined, quarantine_codes; gallery, gallery_version, model.

    Raises:
        GalleryError: "model_mismatch": the gallery is another embedder's; "bad_name" of the gallery.
        OptionError: a new gallery of an embedder without a threshold, see `contract_of`.
        DataError: photos without a person.
        QuarantineError: all is done, but more than `config.max_bad` of the photos are in quarantine.
        UserError, StorageError: as `build_features`.
    """
    source, place = files.absolute(source), record or RecordConfig()
    pipeline, opened = FacePipeline.load(config), Record(place.record)
    try:
        contract = open_contract(opened, gallery, pipeline, config.base_threshold)
        made_by = f"{source} by {pipeline.embedder.weights_sha256} into {gallery} of {opened.database.shown}"
        run = RunFolder.open(files.absolute(out), config, _KIND, source=made_by)
        cluster.connect(address)
        table, counts = embed_meant(run, load_people(run, source, config), config)
        create_gallery(opened, gallery, contract, exist_ok=True)
        into = Gallery.open(opened, gallery, place, contract)
        enrolled, refused = _enroll_rows(into, table, config, Outputs(run.uri, run.token))
        manifest = run.finish(_add_up(counts, enrolled, refused) | _facts(into))
    finally:
        opened.close()
    refuse_bad(run.uri, manifest, config)
    return manifest


def enroll_photo(
    gallery: Gallery, pipeline: FacePipeline, content: bytes, person: str, config: EnrollConfig, *, name: str = ""
) -> Enrollment:
    """Enrol one photo of a person, at once; also of one who was erased.

    Args:
        content: the photo's file.
        person: the id.
        name: for people; "" keeps the present one.

    Raises:
        ImageError, FaceError: a bad photo, or none of one face that is meant.
        GalleryError: as `Gallery.enroll`.
    """
    (found,) = pipeline.predict([content], config.search)
    if isinstance(found, Exception):
        raise found
    face = new_face(pick_face(found, "only" if config.pick == "auto" else config.pick, "the photo"), content)
    return gallery.enroll(_person(person, face, config, name=name))


def contract_of(pipeline: FacePipeline, base_threshold: float = 0.0) -> Contract:
    """What a new gallery of this pipeline is bound to.

    Args:
        base_threshold: least cosine of two faces of one person; 0 is the embedder's own.

    Raises:
        OptionError: it is 0, but the embedder has a verification head: then its own threshold is a probability, which
            does not come from the cosine alone.
    """
    threshold = base_threshold or pipeline.cosine_threshold
    if threshold is None:
        raise OptionError(
            f"the embedder {pipeline.embedder.name} verifies by a probability, which says nothing of cosines; give the "
            "least cosine of two faces of one person with --base-threshold"
        )
    return Contract(pipeline.name, pipeline.spec.num_features, threshold)


def open_contract(record: Record, gallery: str, pipeline: FacePipeline, base_threshold: float = 0.0) -> Contract:
    """The contract of a gallery that is there, or that a new one of this pipeline gets.

    Raises:
        GalleryError: "model_mismatch": it is another embedder's; "bad_name" of one that is not there.
        OptionError: as `contract_of`.
    """
    try:
        row = record.get_gallery(gallery)
    except GalleryError:
        names.check_gallery(gallery)
        return contract_of(pipeline, base_threshold)
    row.check_model(pipeline.name)
    return row.contract


def _enroll_rows(
    gallery: Gallery, table: pa.Table, config: EnrollConfig, outputs: Outputs
) -> tuple[list[Enrollment], list[dict[str, Any]]]:
    """Enrol the rows; who was, and the quarantine's entries of the others, which are stored, too.

    Whether a face conflicts with somebody depends on whose faces came before. So refusals are stored as they come: a
    run that goes on must not judge them by what came after.
    """
    enrolled: list[Enrollment] = []
    refused = [row for part in iter_parts(outputs.run, folder=_REFUSED) for row in part.to_pylist()]
    known = pa.array([row["id"] for row in refused], pa.string())
    table = table.filter(pc.invert(pc.is_in(table["id"], value_set=known)))
    with JobProgress("enrolled", table.num_rows) as progress:
        for rows in _batches(table):
            people = [_person(row["label"], _face(row), config, gallery.row.token) for row in rows]
            answers = list(zip(rows, gallery.enroll_many(people), strict=True))
            fresh = [quarantine_row(row, e.code, str(e)) for row, e in answers if isinstance(e, GalleryError)]
            outputs.store(_REFUSED, pa.Table.from_pylist(fresh, QUARANTINE_SCHEMA))
            refused += fresh
            enrolled += [done for _, done in answers if isinstance(done, Enrollment)]
            gallery.maintain()
            progress.advance(len(rows))
    outputs.quarantine(refused)
    return enrolled, refused


def _batches(table: pa.Table) -> Iterator[Sequence[dict[str, Any]]]:
    for at in range(0, table.num_rows, _BATCH):
        yield table.slice(at, _BATCH).to_pylist()


def _face(row: dict[str, Any]) -> NewFace:
    return NewFace(np.array(row["embedding"], np.float32), row["sha256"], row["quality"])


def _person(key: str, face: NewFace, config: EnrollConfig, token: str = "", *, name: str = "") -> Person:
    """A request to enrol a photo: with the token of a gallery one that is done once, else as often as it comes."""
    asked = [token, key, face.source_sha256, str(config.accept_quality), str(config.accept_conflict)]
    once = token and not config.accept_erased
    return Person(
        key=key,
        faces=[face],
        name=name,
        request_key=hashlib.sha256("\n".join(asked).encode()).hexdigest() if once else "",
        accept_quality=config.accept_quality,
        accept_conflict=config.accept_conflict,
    )


def _add_up(
    counts: dict[str, Any], enrolled: Sequence[Enrollment], refused: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    added = sum(done.added for done in enrolled if not done.replayed)
    codes = Counter(counts["quarantine_codes"]) + Counter(row["code"] for row in refused)
    return {
        "images": counts["images"],
        "enrolled": len(enrolled),
        "added": added,
        "already_there": len(enrolled) - added,
        "identities": len({done.key for done in enrolled}),
        "quarantined": counts["quarantined"] + len(refused),
        "quarantine_codes": dict(sorted(codes.items())),
    }


def _facts(gallery: Gallery) -> dict[str, Any]:
    found = gallery.describe()
    return {"gallery": found["name"], "gallery_version": found["gallery_version"], "model": found["model"]}
