"""Aligned faces of identity folders, cut out once by Ray Data before training: every epoch takes its views from them.

RUN/predictions/*.parquet   a row per image: id, path, label, split, crop (path of a JPEG), width (px of the face)
RUN/crops/ID.jpg            the face with a margin, see `cnnray.ops.face_views`
RUN/quarantine              images that cannot be read, and those without the one face that was asked for
"""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from cnnray import files
from cnnray.config import EmbedderConfig, FacesConfig, SourceConfig
from cnnray.data.feature_store import Outputs
from cnnray.data.predict import answer_unit, count_predictions, read_predictions, run_stage
from cnnray.data.runs import RunFolder, count_by_code, refuse_bad
from cnnray.errors import DataError, ImageError
from cnnray.infer.face_results import Faces, pick_face
from cnnray.infer.faces import FacePipeline
from cnnray.ops.align import align_faces
from cnnray.ops.decode import decode
from cnnray.ops.face_views import STORED
from cnnray.ops.overlay import jpeg
from cnnray.ops.transforms import channels_first

CROPS = "crops"
_ALIGNED_PADDING = 0.25
SCHEMA = pa.schema({name: pa.string() for name in ("id", "path", "label", "split", "crop")} | {"width": pa.float32()})


class CropStage:
    """Finds the meant face of each image of a unit and stores it; the detector is loaded once. No Ray in here."""

    def __init__(self, config: FacesConfig, size: int, outputs: Outputs, *, threads: int) -> None:
        torch.set_num_threads(1)
        device = "cuda" if config.gpu else "cpu"
        self._pipeline = None if config.aligned else FacePipeline.load(EmbedderConfig(), device=device, threads=threads)
        self._config, self._size, self._outputs = config, size, outputs

    def __call__(self, unit: pa.Table) -> pa.Table:
        """Store one row per image of a unit that `read_unit` filled; returns counts."""
        return answer_unit(unit, self._outputs, SCHEMA, self._found, self._stored)

    def _found(self, images: list[bytes]) -> list[Faces | ImageError | None]:
        if self._pipeline is None:
            return [None] * len(images)
        return list(self._pipeline.predict(images, self._config.search, embed=False))

    def _stored(self, row: dict[str, Any], found: Faces | None) -> dict[str, Any]:
        """Store the face that is meant.

        Raises:
            ImageError, FaceError: it cannot be decoded, or there is none.
        """
        image_CHW = channels_first(decode(row["bytes"]))
        if found is None:
            crop, width = self._around(image_CHW), float(image_CHW.shape[2])
        else:
            face = pick_face(found, self._config.pick, row["id"])
            landmarks = torch.from_numpy(face.landmarks_52)[None]
            (crop,), width = align_faces(image_CHW, landmarks, self._size, STORED), face.quality.size
        name = files.join(CROPS, f"{hashlib.sha256(row['id'].encode()).hexdigest()[:32]}.jpg")
        self._outputs.write(name, jpeg(crop.permute(1, 2, 0).numpy()))
        return {key: row[key] for key in ("id", "path", "label", "split")} | {
            "crop": files.join(self._outputs.run, name),
            "width": width,
        }

    def _around(self, image_CHW: Tensor) -> Tensor:
        """An image that is an aligned face, with the margin that it lacks, black."""
        inner = round(self._size * (1 + 2 * _ALIGNED_PADDING) / (1 + 2 * STORED))
        face = Image.fromarray(image_CHW.permute(1, 2, 0).numpy()).resize((inner, inner), Image.Resampling.BILINEAR)
        crop = Image.new("RGB", (self._size, self._size))
        crop.paste(face, ((self._size - inner) // 2,) * 2)
        return channels_first(np.array(crop))


def cut_faces(run: RunFolder, index: pa.Table, size: int, config: FacesConfig) -> pa.Table:
    """Store the faces of all images of an index; what is stored already is not done again.

    Args:
        index: `id, path, label, split`.
        size: T, px of the stored crops.

    Returns:
        SCHEMA's rows sorted by id.

    Raises:
        DataError: no image has a face.
        QuarantineError: more than `config.max_bad` of the images were left out.
    """
    # one actor per node or GPU: the option `workers` is the number of trainers
    source = SourceConfig(gpu=config.gpu)
    run_stage(run, index, CropStage, {"config": config, "size": size}, source, title="faces")
    table = read_predictions(run.uri, SCHEMA)
    counts = count_predictions(run.uri, index, table)
    if not table.num_rows:
        codes = count_by_code(counts["quarantine_codes"])
        raise DataError(f"expected faces in {counts['images']:,} images, but none can be used: {codes}")
    refuse_bad(run.uri, counts, config)
    return table
