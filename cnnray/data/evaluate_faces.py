"""`cnnray evaluate faces`: how well an embedder verifies pairs and identifies people, by Ray Data, resumable.

RUN/predictions/*.parquet   the faces of each image, see `cnnray.data.predict_faces`
RUN/metrics.json            all figures
RUN/report.html             figures, curves, the worst mistakes
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cnnray import cluster, files
from cnnray.config import FacesEvaluateConfig
from cnnray.data.face_judges import DISTANCE, GalleryJudge, PairJudge
from cnnray.data.face_pairs import FacePairs, read_face_pairs
from cnnray.data.face_sections import faceless_sections, gallery_sections, pair_sections
from cnnray.data.feature_store import INDEX, INDEX_SCHEMA, read_parquet, read_quarantine, to_parquet
from cnnray.data.meant_faces import MeantFaces, meant_faces
from cnnray.data.predict_faces import open_faces, run_faces
from cnnray.data.readers import build_index
from cnnray.data.runs import RunFolder, count_by_code, refuse_bad
from cnnray.errors import DataError, OptionError
from cnnray.nn.embedders import LoadedEmbedder, load_embedder
from cnnray.page import Section, write_page

_KIND = "face evaluation"


def evaluate_faces(source: str, out: str, config: FacesEvaluateConfig, *, address: str | None = None) -> dict[str, Any]:
    """Embed the faces of people who are known, and compare them; the same call resumes after a kill.

    Args:
        source: a folder with a sub-folder of images for every person.
        out: run folder, see above.
        config: what is measured, and how. With pairs alone, only the images that they name are read.
        address: of a Ray cluster; None is a local one.

    Returns:
        "pairs" (figures of `summary_pairs`), "closed_set" (rank_K of `summary_identification`, num_not_enrolled) and
        "open_set" (its fnir_at_fpir_F), each where it was asked for; images, quarantined, faces, without_face (images
        that could be read, but have no face, or not the one that was asked for) and without_face_images; embedder,
        views, weights_sha256, unit. Thresholds are not similarities, but in `cnnray.data.face_judges`'s unit, which
        for a gallery always is the distance.

    Raises:
        OptionError: nothing is to be measured.
        DataError: pairs that cannot be read or of images that are not there; images without people, all people
            with one image, only bad images.
        CheckpointError: weights or checkpoint absent, damaged or of something else.
        QuarantineError: all is written, but more than `config.max_bad` of the images were bad.
    """
    if not config.pairs and not config.identification:
        raise OptionError("expected --pairs FILE, --identification, or both: nothing else is measured")
    source = files.absolute(source)
    pairs = read_face_pairs(config.pairs, source) if config.pairs else None
    embedder = load_embedder(config.embedder, config.embedder_weights)
    run = open_faces(source, out, config, _KIND)
    cluster.connect(address)
    index = _load_index(run, source, config, pairs)
    table, counts = run_faces(run, index, config)
    if not table.num_rows:
        run.finish(counts)
        codes = count_by_code(counts["quarantine_codes"])
        raise DataError(f"expected images to measure on in {source}, but all {counts['images']:,} are bad: {codes}")
    faces = meant_faces(index, table, read_quarantine(run.uri), config.pick, embedder.spec.num_features)
    figures, sections = _judge(faces, pairs, embedder, config)
    metrics = figures | _facts(faces, counts, embedder, config)
    files.write_json(run.path("metrics.json"), metrics)
    sections += faceless_sections(faces, config.draw_worst)
    write_page(run.path("report.html"), "Evaluation of faces", sections, f"{config.embedder} on {source}")
    manifest = run.finish(counts | {"without_face": len(faces.faceless), "metrics": figures})
    refuse_bad(run.uri, manifest, config)
    return metrics


def _judge(
    faces: MeantFaces, pairs: FacePairs | None, embedder: LoadedEmbedder, config: FacesEvaluateConfig
) -> tuple[dict[str, Any], list[Section]]:
    """All figures, and what the page says of them."""
    figures: dict[str, Any] = {}
    sections: list[Section] = []
    if pairs is not None:
        judge = PairJudge(faces, pairs, embedder.net.head)
        figures |= {"unit": judge.unit, "pairs": judge.figures}
        sections += pair_sections(judge, faces, embedder.name, config.draw_worst)
    if config.identification:
        people = GalleryJudge(faces, config.strangers, config.seed)
        figures |= {"closed_set": people.closed, "open_set": people.open}
        sections += gallery_sections(people, faces, embedder.name, config.draw_worst)
    return {"unit": DISTANCE} | figures, sections


def _facts(
    faces: MeantFaces, counts: dict[str, Any], embedder: LoadedEmbedder, config: FacesEvaluateConfig
) -> dict[str, Any]:
    return {name: counts[name] for name in ("images", "quarantined", "quarantine_codes", "faces")} | {
        "without_face": len(faces.faceless),
        "without_face_images": sorted(faces.faceless),
        "embedder": embedder.name,
        "views": config.views,
        "weights_sha256": embedder.weights_sha256,
    }


def _load_index(run: RunFolder, source: str, config: FacesEvaluateConfig, pairs: FacePairs | None) -> pa.Table:
    """The images as they were when the run began, stored in it once they are known to do."""
    uri = run.path(INDEX)
    if not files.exists(uri):
        if config.identification or pairs is None:
            index = build_index(source, config)
            _check_people(index, source)
        else:
            index = _named(pairs)
        files.write_bytes(uri, to_parquet(index))
    return read_parquet(uri)


def _named(pairs: FacePairs) -> pa.Table:
    """The images that pairs name."""
    images = pairs.images
    columns = [list(images), list(images.values()), [None] * len(images), ["test"] * len(images)]
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=INDEX_SCHEMA)


def _check_people(index: pa.Table, source: str) -> None:
    nameless = index["label"].null_count
    if nameless:
        raise DataError(
            f"expected a sub-folder of images for every person in {source}, but {nameless:,} of {index.num_rows:,} "
            "images have none"
        )
    counts = np.array(pc.value_counts(index["label"].combine_chunks()).field("counts"))
    if len(counts) < 2 or counts.max() < 2:
        raise DataError(
            f"expected two people or more in {source}, one of them with two images, to look for one of them by the "
            f"other; got {len(counts)} people with at most {counts.max()} images"
        )
