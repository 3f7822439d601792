"""An embedder on stored faces of people that it has not seen: what a training run reports.

Legend: N faces, T px side of the stored crops, V views.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from cnnray.config import EmbedderConfig
from cnnray.data.face_judges import GalleryJudge, PairJudge
from cnnray.data.face_pairs import FOLDS, FacePairs
from cnnray.data.fetch import fetch_known
from cnnray.data.meant_faces import MeantFaces
from cnnray.infer.faces import FacePipeline
from cnnray.ops.align import template
from cnnray.ops.decode import decode
from cnnray.ops.face_views import STORED, cut_view
from cnnray.ops.transforms import channels_first

_TOGETHER = 256
_ALL = 500  # faces, up to which all pairs are compared
_SOME = 100_000  # pairs of more
_STRANGERS = 0.5


class Measured(NamedTuple):
    """What came out.

    Attributes:
        faces: with their embeddings.
        pairs, gallery: judged.
    """

    faces: MeantFaces
    pairs: PairJudge
    gallery: GalleryJudge


def measure_faces(checkpoint: str, table: pa.Table, size: int, seed: int, views: int = 2) -> Measured:
    """Embed stored faces in this process, compare them in pairs, and look for them in galleries.

    Args:
        checkpoint: of the embedder, or a name.
        table: rows of `cnnray.data.face_crops`.
        size: T.
        seed: of pairs and strangers.
        views: of each face.
    """
    pipeline = FacePipeline.load(EmbedderConfig(embedder=checkpoint, views=views))
    paths = table["crop"].to_pylist()
    parts = [paths[at : at + _TOGETHER] for at in range(0, len(paths), _TOGETHER)]
    embedded = torch.cat([pipeline.embed(_views(pipeline, part, views)) for part in parts])
    landmarks = template(size, STORED).expand(len(paths), -1, -1).numpy()
    labels = np.array(table["label"].to_pylist(), np.str_)
    faces = MeantFaces(tuple(table["id"].to_pylist()), tuple(paths), labels, embedded.numpy(), landmarks, {}, {})
    pairs = PairJudge(faces, all_pairs(faces, seed), pipeline.embedder.net.cpu().head)
    return Measured(faces, pairs, GalleryJudge(faces, _STRANGERS, seed))


def all_pairs(faces: MeantFaces, seed: int) -> FacePairs:
    """All pairs of up to 500 faces; of more, 100,000 at random, and all that their neighbours by name make."""
    count = len(faces.ids)
    first, second = np.triu_indices(count, 1)
    if count > _ALL:
        rng = np.random.default_rng(seed)
        order = np.argsort(faces.labels_N, kind="stable")
        first = np.concatenate([order[:-1], rng.integers(count, size=_SOME)])
        second = np.concatenate([order[1:], rng.integers(count, size=_SOME)])
        first, second = first[first != second], second[first != second]
    same = faces.labels_N[first] == faces.labels_N[second]
    folds = np.empty(len(first), np.int64)
    for kind in (True, False):
        folds[same == kind] = np.arange(int((same == kind).sum())) % FOLDS
    ids, paths = (np.array(names, object) for names in (faces.ids, faces.paths))
    return FacePairs(tuple(ids[first]), tuple(ids[second]), tuple(paths[first]), tuple(paths[second]), same, folds)


def _views(pipeline: FacePipeline, paths: list[str], count: int) -> list[Tensor]:
    crops = [channels_first(decode(fetch_known(path))) for path in paths]
    size = pipeline.spec.size
    return [
        torch.stack([cut_view(crop, size, padding, mirrored) for crop in crops])
        for padding, mirrored in pipeline.spec.views(count)
    ]
