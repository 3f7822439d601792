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
from cnnray.errors import GalleryError
from cnnray.infer.face_results import pick_face
from cnnray.infer.faces import FacePipeline
from cnnray.infer.gallery.contracts import open_contract
from cnnray.infer.gallery.gallery import Gallery, create_gallery
from cnnray.infer.gallery.record import Record
from cnnray.infer.gallery.results import Enrollment, Person, new_face
from cnnray.infer.gallery.rows import NewFace

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
        already_there; identities of these; quarantined, quarantine_codes; gallery, gallery_version, model, and the
        gallery's threshold at its present size.

    Raises:
        GalleryError: "model_mismatch": the gallery is another embedder's; "bad_name" of the gallery.
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


def find_face(pipeline: FacePipeline, content: bytes, config: EnrollConfig) -> NewFace:
    """The face that is meant in one photo, to enrol.

    Args:
        content: the photo's file.

    Raises:
        ImageError, FaceError: a bad photo, or none of one face that is meant.
    """
    (found,) = pipeline.predict([content], config.search)
    if isinstance(found, Exception):
        raise found
    return new_face(pick_face(found, "only" if config.pick == "auto" else config.pick, "the photo"), content)


def to_person(key: str, face: NewFace, config: EnrollConfig, *, token: str = "", name: str = "") -> Person:
    """A request to enrol a photo of a person.

    Args:
        key: the id.
        token: of the gallery, where the request is to be done once however often it comes; "" does it as often, also
            of one who was erased.
        name: for people; "" keeps the present one.
    """
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
            people = [to_person(row["label"], _face(row), config, token=gallery.row.token) for row in rows]
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
    names = ("gallery_version", "model", "threshold")
    return {"gallery": found["name"]} | {name: found[name] for name in names}
