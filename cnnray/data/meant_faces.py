"""The face that is meant in each image of a run, in arrays.

Legend: N images in the order of the index; D numbers of an embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image

from cnnray.data.fetch import fetch_known
from cnnray.data.predict_faces import stored_faces
from cnnray.errors import FaceError
from cnnray.infer.face_results import pick_face
from cnnray.infer.faces import CROP, CROP_PADDING
from cnnray.ops.align import align_faces
from cnnray.ops.decode import decode
from cnnray.ops.transforms import channels_first

_REASONS = {"no_face": "no face was found", "several_faces": "several faces were found"}


@dataclass(frozen=True)
class MeantFaces:
    """One face of each image, or why there is none.

    Attributes:
        ids, paths: of the images.
        labels_N: whose images they are, str; "" where that is not known.
        embeddings_ND: float32 of length 1; NaN without a face.
        landmarks_N52: px, as `cnnray.ops.align` wants them; NaN without a face.
        faceless: ids of images that could be read, and why no face of them is meant.
        bad: ids of images in quarantine, and why.
    """

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    labels_N: NDArray[np.str_]
    embeddings_ND: NDArray[np.float32]
    landmarks_N52: NDArray[np.float32]
    faceless: Mapping[str, str]
    bad: Mapping[str, str]

    def crop(self, at: int) -> NDArray[np.uint8]:
        """The aligned face of an image, RGB [150, 150, 3]; black without one."""
        landmarks = torch.from_numpy(self.landmarks_N52[at : at + 1])
        if landmarks.isnan().any():
            return np.zeros((CROP, CROP, 3), np.uint8)
        image_CHW = channels_first(decode(fetch_known(self.paths[at])))
        return align_faces(image_CHW, landmarks, CROP, CROP_PADDING)[0].permute(1, 2, 0).numpy()

    def small(self, at: int) -> NDArray[np.uint8]:
        """The whole image, RGB, at most 150 px wide and high."""
        image = Image.fromarray(decode(fetch_known(self.paths[at])))
        image.thumbnail((CROP, CROP))
        return np.asarray(image)


def meant_faces(index: pa.Table, table: pa.Table, quarantine: pa.Table, pick: str, num_features: int) -> MeantFaces:
    """Pick the faces.

    Args:
        index: `id, path, label` of all images.
        table: `cnnray.data.predict_faces.SCHEMA`'s rows of those that could be read, with embeddings.
        quarantine: the others.
        pick: see `pick_face`.
        num_features: D.
    """
    ids, count = index["id"].to_pylist(), index.num_rows
    place = {name: at for at, name in enumerate(ids)}
    embeddings = np.full((count, num_features), np.nan, np.float32)
    landmarks, faceless = np.full((count, 5, 2), np.nan, np.float32), {}
    for row in table.drop_columns(["crops"]).to_pylist():
        try:
            face = pick_face(stored_faces(row), pick, row["id"])
        except FaceError as error:
            faceless[row["id"]] = _REASONS[error.code]
        else:
            embeddings[place[row["id"]]], landmarks[place[row["id"]]] = face.embedding_D, face.landmarks_52
    bad = {row["id"]: f"{row['code']}: {row['message']}" for row in quarantine.sort_by("id").to_pylist()}
    labels = np.array([label or "" for label in index["label"].to_pylist()], np.str_)
    return MeantFaces(tuple(ids), tuple(index["path"].to_pylist()), labels, embeddings, landmarks, faceless, bad)
