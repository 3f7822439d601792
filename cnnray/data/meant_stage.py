"""The face that is meant in each photo of a source, embedded by Ray Data, resumable.

RUN/predictions/*.parquet   a row per photo with that face, see SCHEMA; the others are in quarantine
"""

import dataclasses
from typing import Any

import pyarrow as pa
import torch

from cnnray import files
from cnnray.config import EnrollConfig
from cnnray.data.feature_store import INDEX, Outputs, read_parquet, to_parquet
from cnnray.data.predict import answer_unit, count_predictions, read_predictions, run_stage
from cnnray.data.predict_faces import placed
from cnnray.data.readers import build_index
from cnnray.data.runs import RunFolder
from cnnray.errors import DataError
from cnnray.infer.face_results import Faces, pick_face
from cnnray.infer.faces import FacePipeline
from cnnray.infer.gallery.results import new_face
from cnnray.ops.face_quality import FaceQuality

QUALITIES = (*(field.name for field in dataclasses.fields(FaceQuality)), "confidence")
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "path": pa.string(),
        "label": pa.string(),
        "sha256": pa.string(),
        "faces": pa.int32(),
        "quality": pa.struct({name: pa.float64() for name in QUALITIES}),
        "embedding": pa.list_(pa.float32()),
    }
)


class MeantFaceStage:
    """Finds and stores the face that is meant in the photos of a unit; the models are loaded once. No Ray in here."""

    def __init__(self, config: EnrollConfig, outputs: Outputs, *, threads: int) -> None:
        torch.set_num_threads(1)
        self._pipeline = FacePipeline.load(config, device="cuda" if config.gpu else "cpu", threads=threads)
        self._config, self._outputs = config, outputs

    def __call__(self, unit: pa.Table) -> pa.Table:
        """Store one row per photo of a unit that `read_unit` filled; returns counts."""
        search = self._config.search
        return answer_unit(
            unit, self._outputs, SCHEMA, lambda images: self._pipeline.predict(images, search), self._stored
        )

    def _stored(self, row: dict[str, Any], answer: Faces) -> dict[str, Any]:
        face = new_face(pick_face(answer, self._config.pick, row["id"]), row["bytes"])
        return {name: row[name] for name in ("id", "path", "label")} | {
            "sha256": face.source_sha256,
            "faces": len(answer.faces),
            "quality": dict(face.quality),
            "embedding": face.embedding_D,
        }


def load_people(run: RunFolder, source: str, config: EnrollConfig) -> pa.Table:
    """The photos as they were when the run began, stored in it, each with its person as `label`.

    Raises:
        DataError: photos without a person; as `build_index`.
    """
    uri = run.path(INDEX)
    if not files.exists(uri):
        index = build_index(source, config)
        if nameless := index["label"].null_count:
            raise DataError(
                f"expected a folder of photos for every person in {source}, or a manifest with a column of people, but "
                f"{nameless:,} of {index.num_rows:,} photos have none"
            )
        files.write_bytes(uri, to_parquet(index))
    return read_parquet(uri)


def embed_meant(run: RunFolder, index: pa.Table, config: EnrollConfig) -> tuple[pa.Table, dict[str, Any]]:
    """SCHEMA's rows of the photos that have the face that is meant, sorted by id; and `count_predictions`'s counts."""
    meant = dataclasses.replace(placed(config), pick="central" if config.pick == "auto" else config.pick)
    run_stage(run, index, MeantFaceStage, {"config": meant}, config, "faces")
    table = read_predictions(run.uri, SCHEMA)
    return table, count_predictions(run.uri, index, table)
