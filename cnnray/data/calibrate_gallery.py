"""`cnnray faces calibrate`: the threshold of a gallery, measured, stored in it, and shown.

OUT/report.html        figures and curves
OUT/calibration.json   the same for programs
OUT/cohort             the faces of a cohort of photos: a run folder
"""

from typing import Any

import numpy as np
import pyarrow as pa

from cnnray import cluster, files
from cnnray.config import CalibrateConfig
from cnnray.data.gallery_report import write_gallery_report
from cnnray.data.meant_stage import SCHEMA, embed_meant, load_people
from cnnray.data.predict import read_predictions
from cnnray.data.runs import RunFolder, read_manifest, refuse_bad
from cnnray.errors import DataError, GalleryError, OptionError
from cnnray.infer.faces import FacePipeline
from cnnray.infer.gallery.calibrate import CalibrationPlan, Cohort, calibrate
from cnnray.infer.gallery.change import now
from cnnray.infer.gallery.gallery import Gallery
from cnnray.infer.gallery.rows import Rows

_KIND = "cohort"


def calibrate_gallery(
    gallery: Gallery, out: str, config: CalibrateConfig, *, cohort: str = "", address: str | None = None
) -> dict[str, Any]:
    """Measure the threshold at `config.fpir`, and have the gallery use it.

    Args:
        out: folder of the report, see above.
        cohort: photos of strangers, as for `enroll_faces`, or the folder of its finished run; "" takes the gallery's
            own people as strangers to each other.
        address: of a Ray cluster, for photos; None is a local one.

    Returns:
        `Calibration.to_json`, and gallery.

    Raises:
        DataError: too few people to compare; as `load_people`.
        GalleryError: "model_mismatch" of the cohort.
        OptionError: `out` is the folder of a run.
    """
    if files.exists(files.join(out, "config.toml")):
        raise OptionError(f"expected a folder for the report as --out, but {out} is the folder of a run")
    strangers = _load_cohort(gallery, cohort, out, config, address) if cohort else None
    rows, plan = _load_faces(gallery), CalibrationPlan(fpir=config.fpir)
    found = calibrate(rows.embeddings_ND, rows.identity_ids_N, plan, at=now(), cohort=strangers)
    gallery.set_calibration(found)
    ids = {identity for pair in found.suspects for identity in (pair.identity_a, pair.identity_b)}
    names = {number: row.name for number, row in gallery.record.find_identities(ids).items()}
    values = {"gallery": gallery.row.name} | found.to_json()
    files.write_json(files.join(out, "calibration.json"), values)
    write_gallery_report(files.join(out, "report.html"), found, names, gallery.row.name)
    return values


def _load_faces(gallery: Gallery) -> Rows:
    """All faces: the index has one point for each person."""
    nothing = np.zeros(0, np.int64)
    empty = Rows(nothing, nothing, np.zeros((0, gallery.row.contract.num_features), np.float32))
    with gallery.record.load_faces(gallery.row.id) as (_, _, blocks):
        parts = [empty, *blocks]
    return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _load_cohort(gallery: Gallery, cohort: str, out: str, config: CalibrateConfig, address: str | None) -> Cohort:
    """Faces of strangers, from a run that has them or from photos."""
    if files.exists(files.join(cohort, "manifest.json")):
        model, table = read_manifest(cohort).get("model", "another kind of run"), read_predictions(cohort, SCHEMA)
    else:
        model, table = _embed_cohort(cohort, files.join(out, "cohort"), config, address)
    if model != gallery.row.contract.model:
        raise GalleryError(
            "model_mismatch",
            f"expected a cohort embedded by {gallery.row.contract.model}, as the gallery; got {model}",
            {"expected": gallery.row.contract.model, "got": model},
        )
    if not table.num_rows:
        raise DataError(f"expected faces in the cohort {cohort}, but there are none")
    _, labels = np.unique(table["label"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    embeddings = table["embedding"].combine_chunks().flatten().to_numpy()
    return Cohort(embeddings.reshape(table.num_rows, -1), labels.astype(np.int64))


def _embed_cohort(source: str, out: str, config: CalibrateConfig, address: str | None) -> tuple[str, pa.Table]:
    """The model's name and `meant_stage`'s rows of photos; a finished run of them is taken as it is."""
    source, out, pipeline = files.absolute(source), files.absolute(out), FacePipeline.load(config)
    made_by = f"{source} by {pipeline.embedder.weights_sha256}"
    if not RunFolder.is_finished(out, config, _KIND, source=made_by):
        run = RunFolder.open(out, config, _KIND, source=made_by)
        cluster.connect(address)
        _, counts = embed_meant(run, load_people(run, source, config), config)
        manifest = run.finish(counts | {"model": pipeline.name})
        refuse_bad(out, manifest, config)
    return pipeline.name, read_predictions(out, SCHEMA)
