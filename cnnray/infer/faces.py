"""Faces in photos: found, aligned, judged, embedded, compared.

    photo -> boxes (DlibDetector) -> five landmarks (LandmarkForest) -> aligned crops -> embeddings of length 1

On CPUs every core looks for faces in photos of its own (in a single photo all of them do), and then embeds crops of
whatever photos; on a GPU one photo after the other, all crops together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnray.config import EmbedderConfig, FaceSearchConfig
from cnnray.errors import CheckpointError, ImageError
from cnnray.infer.cores import ImageCores
from cnnray.infer.face_results import Face, Faces, Verification, VerifiedPair, pick_face
from cnnray.nn.device import choose_device, native_precision, num_cores
from cnnray.nn.embedders import LoadedEmbedder, load_embedder
from cnnray.nn.face_weights import load_published
from cnnray.nn.faces import WINDOW, DlibDetector
from cnnray.nn.landmarks import LandmarkForest
from cnnray.ops.align import align_faces
from cnnray.ops.boxes import suppress
from cnnray.ops.decode import read_pixels
from cnnray.ops.face_quality import FaceQuality, brightness, head_pose, sharpness
from cnnray.ops.transforms import channels_first, resize_image
from cnnray.ops.turns import turn_back

MAX_PIXELS = 4_000_000  # that are searched: about 1 GiB of activations
CROP, CROP_PADDING = 150, 0.25
_OVERLAP = 0.3  # IoU, from which faces found in a turned photo are the same
_BATCH = {"cpu": 16, "cuda": 256}  # crops of one pass
_DEFAULT = FaceSearchConfig()
_USUAL_SHAPE = (480, 640)  # height and width


@dataclass(frozen=True)
class _Found:
    """Faces of a photo before they are embedded: the photo, boxes [N, 4], scores [N], landmarks [N, 5, 2]."""

    image_CHW: Tensor
    boxes_N4: Tensor
    scores_N: Tensor
    landmarks_N52: Tensor


class FacePipeline:
    """Finds and embeds faces; safe to call from several threads at once.

    Args:
        detector, forest: dlib's published ones.
        embedder: what embeds.
        views: see `EmbedderConfig`.
        device, precision, threads: as in `load`.
    """

    def __init__(
        self,
        detector: DlibDetector,
        forest: LandmarkForest,
        embedder: LoadedEmbedder,
        views: int = 2,
        *,
        device: str = "auto",
        precision: str = "auto",
        threads: int = 0,
    ) -> None:
        self.device = choose_device(device)
        self.precision = native_precision(self.device) if precision == "auto" else precision
        self.embedder = embedder
        self.spec = embedder.spec
        self._views = self.spec.views(views)
        count = 1 if self.device.type == "cuda" else threads or num_cores()
        self._cores = ImageCores(count, join=True)
        self._pool = self._cores.each
        # measured: in float32 this detector is faster with channels first
        self._memory = torch.channels_last if self.precision == "bfloat16" else torch.contiguous_format
        self._detector = detector.to(self.device, memory_format=self._memory)  # type: ignore[call-overload]
        self._forest = forest
        self._net = embedder.net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def load(
        cls,
        config: EmbedderConfig | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        threads: int = 0,
    ) -> Self:
        """The pipeline with its published or trained weights.

        Args:
            config: which embedder; None is the default one.
            device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
            precision: "float32", "bfloat16", or "auto" (bfloat16 where the hardware multiplies it natively).
            threads: cores to use; 0 is all that the process may use.

        Raises:
            CheckpointError: weights or checkpoint are absent, cut short, changed or of something else.
            OptionError: a device that is not there.
        """
        config = config or EmbedderConfig()
        embedder = load_embedder(config.embedder, config.embedder_weights)
        detector, forest = load_published("detector"), load_published("landmarks")
        assert isinstance(detector, DlibDetector) and isinstance(forest, LandmarkForest)
        return cls(detector, forest, embedder, config.views, device=device, precision=precision, threads=threads)

    @property
    def name(self) -> str:
        """Embedder, number of views and first digits of the weights' hash: embeddings of other names do not compare."""
        return f"{self.embedder.name}:views={len(self._views)}@{self.embedder.weights_sha256[:12]}"

    @property
    def cosine_threshold(self) -> float | None:
        """Least cosine of two faces of one person: 1 - t * t / 2 of the embedder's largest distance t. None of one with
        a verification head, whose threshold is a probability."""
        return None if self._net.head is not None else 1 - self.spec.threshold**2 / 2

    def describe(self) -> dict[str, Any]:
        """What a user of the model wants to know, see `Classifier.describe`."""
        return {
            "name": self.name,
            "task": "faces",
            "classes": 0,
            "input_size": self.spec.size,
            "weights_sha256": self.embedder.weights_sha256,
            "backbone": self.embedder.name,
            "metrics": dict(self.spec.metrics),
        }

    def predict(
        self,
        images: Sequence[bytes | NDArray[np.uint8]],
        search: FaceSearchConfig | Sequence[FaceSearchConfig] = _DEFAULT,
        *,
        embed: bool = True,
    ) -> list[Faces | ImageError]:
        """The faces in photos.

        Args:
            images: encoded files, or decoded uint8 RGB [H, W, 3].
            search: what is asked of all photos, or of each.
            embed: whether embeddings are wanted.

        Returns:
            One entry per photo, in their order. A bad one has its error there and changes no other's answer.

        Raises:
            OptionError: an array of another shape or type.
        """
        searches = [search] * len(images) if isinstance(search, FaceSearchConfig) else list(search)
        found = self._cores.map(self._find, images, searches)
        good = [one for one in found if isinstance(one, _Found)]
        embedded = iter(self._embedded(good) if embed else [torch.zeros(len(one.scores_N), 0) for one in good])
        paired = [(one, next(embedded)) if isinstance(one, _Found) else one for one in found]
        return list(self._pool.map(_described, paired))

    def embed(self, faces_VNCHW: Sequence[Tensor]) -> Tensor:
        """Embeddings [N, D], float32 of length 1, on the CPU.

        Args:
            faces_VNCHW: the views of N aligned faces, uint8 [N, 3, size, size] each, in the order of `spec.views`.
        """
        size = _BATCH[self.device.type]
        parts = [view[at : at + size] for view in faces_VNCHW for at in range(0, len(view), size)]
        if not parts:
            return torch.zeros(0, self.spec.num_features)
        together = torch.cat(list(self._pool.map(self._forward, parts)))
        views = together.reshape(len(faces_VNCHW), -1, together.shape[1])
        return torch.nn.functional.normalize(views.mean(0), dim=1)

    def compare(self, a_D: NDArray[np.float32], b_D: NDArray[np.float32], threshold: float = -1.0) -> Verification:
        """Whether two embeddings are of one person.

        Args:
            threshold: largest distance, or with a verification head least probability; -1 is the embedder's own.
        """
        threshold = self.spec.threshold if threshold == -1 else threshold
        distance = float(np.linalg.norm(a_D - b_D))
        if self._net.head is None:
            return Verification(distance <= threshold, distance, threshold, None)
        with torch.inference_mode():
            difference = torch.from_numpy(np.abs(a_D - b_D))[None].to(self.device)
            probability = float(self._net.head(difference).sigmoid())
        return Verification(probability >= threshold, distance, threshold, probability)

    def verify(
        self,
        images: tuple[bytes | NDArray[np.uint8], bytes | NDArray[np.uint8]],
        search: FaceSearchConfig = _DEFAULT,
        *,
        pick: str = "largest",
        threshold: float = -1.0,
        names: tuple[str, str] = ("the first image", "the second image"),
    ) -> VerifiedPair:
        """Whether two photos show the same person.

        Args:
            images, search: as in `predict`.
            pick: see `pick_face`.
            threshold: as in `compare`.
            names: of the photos, for messages.

        Raises:
            ImageError: a bad photo.
            FaceError: a photo without a face, or with several where `pick` is "only".
        """
        photos: list[Faces] = []
        for found, name in zip(self.predict(images, search), names, strict=True):
            if isinstance(found, ImageError):
                raise ImageError(found.code, f"{name}: {found}")
            photos.append(found)
        first, second = (pick_face(photo, pick, name) for photo, name in zip(photos, names, strict=True))
        answer = self.compare(first.embedding_D, second.embedding_D, threshold)
        return VerifiedPair(answer, (first, second), (len(photos[0].faces), len(photos[1].faces)))

    def warm_up(self) -> None:
        """Look for faces in a picture and embed one in each thread, which then takes the memory that it works in."""
        self._cores.everywhere(partial(self._find, np.full((*_USUAL_SHAPE, 3), 128, np.uint8), _DEFAULT))
        grey = torch.full((1, 3, self.spec.size, self.spec.size), 128, dtype=torch.uint8)
        self._pool.everywhere(partial(self._forward, grey))

    def self_test(self) -> None:
        """Embed a grey face and look for faces in a grey photo, to see that the whole way works.

        Raises:
            CheckpointError: the answer is no point of length 1, so the weights are damaged.
        """
        self.predict([np.full((120, 160, 3), 128, np.uint8)])
        grey = torch.full((1, 3, self.spec.size, self.spec.size), 128, dtype=torch.uint8)
        length = float(self.embed([grey] * len(self._views)).norm())
        if not abs(length - 1) < 1e-3:
            raise CheckpointError(f"{self.name} failed its self-test: a grey face has an embedding of length {length}")

    def _find(self, source: bytes | NDArray[np.uint8], search: FaceSearchConfig) -> _Found | ImageError:
        image = read_pixels(source)
        if isinstance(image, ImageError):
            return image
        image_CHW = channels_first(image)
        with torch.inference_mode():  # belongs to the thread, so it is set here and not once
            return self._all_round(image_CHW, search) if search.rotated else self._upright(image_CHW, search)

    def _all_round(self, image_CHW: Tensor, search: FaceSearchConfig) -> _Found:
        """Faces however they lie: of the four ways to hold the photo, each face stands upright in one.

        The detector alone does not tell: it also finds faces that lie on their side, some with a higher score. Its
        score less the logarithm of `LandmarkForest.scatter` chose rightly for all of 205 photos, the score for 86 %.
        """
        boxes, landmarks, scores, values = [], [], [], []
        for turns in range(4):
            image = torch.rot90(image_CHW, turns, (1, 2)).contiguous()
            found = self._upright(image, search)
            values.append(found.scores_N - self._forest.scatter(image, found.boxes_N4).log())
            back = turn_back(found.boxes_N4, found.landmarks_N52, turns, *image_CHW.shape[1:])
            boxes.append(back[0])
            landmarks.append(back[1])
            scores.append(found.scores_N)
        together, points, confidences = torch.cat(boxes), torch.cat(landmarks), torch.cat(scores)
        groups = torch.zeros(len(confidences), dtype=torch.int64)
        kept, _ = suppress(together, torch.cat(values), groups, _OVERLAP, least=-math.inf)
        order = kept[confidences[kept].argsort(descending=True, stable=True)][: search.most]
        return _Found(image_CHW, together[order], confidences[order], points[order])

    def _upright(self, image_CHW: Tensor, search: FaceSearchConfig) -> _Found:
        """Faces that stand upright; the photo is enlarged until the smallest wanted have the detector's size."""
        height, width = image_CHW.shape[1:]
        scale = min(WINDOW / search.smallest_face, math.sqrt(MAX_PIXELS / (height * width)))
        rows, columns = (max(1, round(side * scale)) for side in (height, width))
        shown = image_CHW if scale == 1 else resize_image(image_CHW, rows, columns, "bilinear")
        shown = shown[None].to(self.device).contiguous(memory_format=self._memory)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            (found,) = self._detector.find(shown, search.confidence)
        boxes = found.boxes_N4[: search.most] * torch.tensor([width / columns, height / rows] * 2)
        return _Found(image_CHW, boxes, found.scores_N[: search.most], self._forest(image_CHW, boxes))

    def _embedded(self, photos: Sequence[_Found]) -> list[Tensor]:
        """Embeddings of the faces of each photo."""
        views = list(self._pool.map(self._cut, photos))
        embedded = self.embed([torch.cat(view) for view in zip(*views, strict=True)] if views else [])
        return list(embedded.split([len(photo.scores_N) for photo in photos]))

    def _cut(self, photo: _Found) -> list[Tensor]:
        views = []
        for padding, mirrored in self._views:
            faces = align_faces(photo.image_CHW, photo.landmarks_N52, self.spec.size, padding)
            views.append(faces.flip(3) if mirrored else faces)
        return views

    def _forward(self, faces_NCHW: Tensor) -> Tensor:
        faces_NCHW = faces_NCHW.to(self.device).contiguous(memory_format=torch.channels_last)
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"),
        ):
            embedded: Tensor = self._net(faces_NCHW).float().cpu()
        return embedded


def _described(found: tuple[_Found, Tensor] | ImageError) -> Faces | ImageError:
    """Faces as they are answered."""
    if isinstance(found, ImageError):
        return found
    photo, embeddings = found
    height, width = photo.image_CHW.shape[1:]
    crops = align_faces(photo.image_CHW, photo.landmarks_N52, CROP, CROP_PADDING)
    limits = torch.tensor([width, height] * 2, dtype=torch.float32)
    inner = photo.boxes_N4.clamp(min=0).minimum(limits)
    sides, kept = (boxes[:, 2:] - boxes[:, :2] for boxes in (photo.boxes_N4, inner))
    columns = torch.stack(
        [sides.amin(1), kept.prod(1) / sides.prod(1).clamp(min=1e-6), sharpness(crops), brightness(crops)], 1
    )
    qualities = torch.cat([columns, head_pose(photo.landmarks_N52)], 1).tolist()
    faces = []
    for at, values in enumerate(qualities):
        left, top, right, bottom = inner[at].tolist()
        faces.append(
            Face(
                (left, top, right, bottom),
                float(photo.scores_N[at]),
                photo.landmarks_N52[at].numpy(),
                FaceQuality(*values),
                crops[at].permute(1, 2, 0).numpy(),
                embeddings[at].numpy(),
            )
        )
    return Faces(height, width, tuple(faces))
