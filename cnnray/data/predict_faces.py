"""`cnnray faces detect` over a whole source: faces found, aligned and embedded by Ray Data, resumable.

RUN/predictions/*.parquet   a row per image, see SCHEMA
RUN/faces.json              the same for people and programs, without embeddings and crops
RUN/overlays/ID.png         with --draw: the image with its faces
"""

import dataclasses
import json
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch

from cnnray import cluster, files
from cnnray.config import EmbedderConfig, FacesPredictConfig
from cnnray.data.feature_store import Outputs
from cnnray.data.picture_names import picture_name
from cnnray.data.predict import answer_unit, count_predictions, read_predictions, run_stage
from cnnray.data.predict_segment import OVERLAYS
from cnnray.data.runs import RunFolder, refuse_bad
from cnnray.data.units import load_index
from cnnray.infer.face_results import Face, Faces, draw_photo, face_json
from cnnray.infer.faces import FacePipeline
from cnnray.nn.embedders import EMBEDDERS, load_embedder
from cnnray.ops.decode import decode
from cnnray.ops.face_quality import FaceQuality
from cnnray.ops.overlay import jpeg, png

RESULTS = "faces.json"
_KIND = "faces"
Config = TypeVar("Config", bound=EmbedderConfig)
_QUALITY = [field.name for field in dataclasses.fields(FaceQuality)]
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "path": pa.string(),
        "label": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "boxes": pa.list_(pa.list_(pa.float32(), 4)),
        "confidences": pa.list_(pa.float32()),
        "landmarks": pa.list_(pa.list_(pa.float32(), 10)),
        "qualities": pa.list_(pa.struct({name: pa.float32() for name in _QUALITY})),
        "embeddings": pa.list_(pa.list_(pa.float32())),
        "crops": pa.list_(pa.binary()),
    }
)


class FaceStage:
    """Finds and stores the faces in the images of a unit; the models are loaded once. No Ray in here."""

    def __init__(self, config: FacesPredictConfig, outputs: Outputs, *, threads: int) -> None:
        torch.set_num_threads(1)
        self._pipeline = FacePipeline.load(config, device="cuda" if config.gpu else "cpu", threads=threads)
        self._config, self._outputs = config, outputs

    def __call__(self, unit: pa.Table) -> pa.Table:
        """Store one row per image of a unit that `read_unit` filled; returns counts."""
        search, embed = self._config.search, self._config.embed
        return answer_unit(
            unit,
            self._outputs,
            SCHEMA,
            lambda images: self._pipeline.predict(images, search, embed=embed),
            self._stored,
        )

    def _stored(self, row: dict[str, Any], answer: Faces) -> dict[str, Any]:
        if self._config.draw:
            picture = draw_photo(decode(row["bytes"]), answer.faces)
            self._outputs.write(files.join(OVERLAYS, picture_name(row["id"])), png(picture))
        faces = answer.faces
        return {name: row[name] for name in ("id", "path", "label")} | {
            "height": answer.height,
            "width": answer.width,
            "boxes": [face.box for face in faces],
            "confidences": [face.confidence for face in faces],
            "landmarks": [face.landmarks_52.reshape(-1) for face in faces],
            "qualities": [dataclasses.asdict(face.quality) for face in faces],
            "embeddings": [face.embedding_D for face in faces],
            "crops": [jpeg(face.crop_HWC) if self._config.crops else b"" for face in faces],
        }


def predict_faces(source: str, out: str, config: FacesPredictConfig, *, address: str | None = None) -> dict[str, Any]:
    """Find the faces in every image of a source; the same call resumes after a kill.

    Args:
        source: as for `build_features`; labels are stored beside the faces where there are any.
        out: run folder, see above.
        config: which faces, what is stored of them.
        address: of a Ray cluster; None is a local one.

    Returns:
        the manifest: images, predictions, faces, without_faces (images), quarantined, quarantine_codes, ...

    Raises:
        CheckpointError: weights or checkpoint absent, damaged or of something else.
        UserError, StorageError: as `build_features`.
    """
    source = files.absolute(source)
    run = open_faces(source, out, config, _KIND)
    cluster.connect(address)
    table, counts = run_faces(run, load_index(run, source, config), config)
    rows = [row_json(row) for row in table.drop_columns(["embeddings", "crops"]).to_pylist()]
    files.write_bytes(run.path(RESULTS), json.dumps(rows, indent=1).encode())
    manifest = run.finish(counts)
    refuse_bad(run.uri, manifest, config)
    return manifest


def open_faces(source: str, out: str, config: FacesPredictConfig, kind: str) -> RunFolder:
    """The run folder for the faces of a source; the weights are part of its identity: two embedders must not mix."""
    weights = load_embedder(config.embedder, config.embedder_weights).weights_sha256
    return RunFolder.open(files.absolute(out), config, kind, source=f"{files.absolute(source)} by {weights}")


def run_faces(run: RunFolder, index: pa.Table, config: FacesPredictConfig) -> tuple[pa.Table, dict[str, Any]]:
    """The faces of all images of an index that can be read, SCHEMA's rows sorted by id; and counts."""
    run_stage(run, index, FaceStage, {"config": placed(config)}, config)
    table = read_predictions(run.uri, SCHEMA)
    found = [len(row) for row in table["confidences"].to_pylist()]
    counts = count_predictions(run.uri, index, table)
    return table, counts | {"faces": sum(found), "without_faces": found.count(0)}


def placed(config: Config) -> Config:
    """With checkpoint or file of weights as an absolute path: workers run in folders of their own."""
    places: dict[str, Any] = {
        name: files.absolute(value)
        for name in ("embedder", "embedder_weights")
        if (value := getattr(config, name)) not in (*EMBEDDERS, "default", "none") and files.exists(value)
    }
    return dataclasses.replace(config, **places)


def row_json(row: dict[str, Any]) -> dict[str, Any]:
    """A row of SCHEMA as JSON values, see `face_json`."""
    columns = (row["boxes"], row["confidences"], row["landmarks"], row["qualities"])
    faces = [face_json(*values) for values in zip(*columns, strict=True)]
    return {name: row[name] for name in ("id", "path", "label", "height", "width")} | {"faces": faces}


def stored_faces(row: dict[str, Any]) -> Faces:
    """A row of SCHEMA, "crops" aside, as the pipeline's answer; its crops are empty."""
    columns = (row[name] for name in ("boxes", "confidences", "landmarks", "qualities", "embeddings"))
    faces = [
        Face(
            tuple(box),
            confidence,
            np.array(landmarks, np.float32).reshape(-1, 2),
            FaceQuality(**quality),
            np.zeros((0, 0, 3), np.uint8),
            np.array(embedding, np.float32),
        )
        for box, confidence, landmarks, quality, embedding in zip(*columns, strict=True)
    ]
    return Faces(row["height"], row["width"], tuple(faces))
