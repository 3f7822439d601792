"""A trained classifier from its checkpoint: encoded images in, labels and probabilities out.

On CPUs every core runs its own forward passes of a few images: on two cores that took half the time of one forward
pass over both, and single images do not pay for threads that wait for each other. On a GPU, large batches.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnnray.errors import CheckpointError, ImageError, OptionError, UnknownNameError
from cnnray.infer.cores import Cores
from cnnray.infer.embed import CPU_BATCH, Embedder
from cnnray.nn.backbones import Extractor, build_backbone, build_extractor
from cnnray.nn.checkpoint import Card, load_checkpoint, load_into
from cnnray.nn.device import choose_device, gpu_batches, native_precision, num_cores, pad_batch
from cnnray.nn.heads import Head, build_head
from cnnray.ops.augment import plain_view
from cnnray.ops.decode import read_pixels

TASK = "classify"
GPU_BATCH = 64
_ARCH = ("backbone", "tap", "pool", "head", "hidden", "num_features")
_INPUT = ("size", "resize", "interpolation")


@dataclass(frozen=True)
class Classification:
    """What the classifier says about one image.

    Attributes:
        label: the most probable class; of equals, the first in the checkpoint's order.
        probability: its softmax probability, in [0, 1].
        top: (label, probability) of the most probable classes, best first; the first is label and probability.
    """

    label: str
    probability: float
    top: tuple[tuple[str, float], ...]


class Classifier:
    """A frozen backbone and the head that was trained on its features; safe to call from several threads at once.

    Args:
        extractor: images_NCHW uint8 to features [N, D].
        head: features [N, D] to logits [N, K].
        card: the checkpoint's.
        device, compile, precision, threads, few: as in `load`.
    """

    def __init__(
        self,
        extractor: Extractor,
        head: nn.Module,
        card: Card,
        *,
        device: str = "auto",
        compile: bool = False,
        precision: str = "auto",
        threads: int = 0,
        few: int = 0,
    ) -> None:
        self.card = card
        self.device = choose_device(device)
        self.precision = native_precision(self.device) if precision == "auto" else precision
        self._threads = threads or num_cores()
        self._pool = Cores(self._threads)
        # cuDNN's plans (see `gpu_batches`) belong to the thread that they were made in
        self._passes = ThreadPoolExecutor(1) if self.device.type == "cuda" else self._pool
        self._extractor = extractor.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)
        self._head = head.eval().requires_grad_(False).to(self.device)
        self._features: Callable[[Tensor], Tensor] = self._compiled() if compile else self._eager()
        self._few, self._features_of_few = few, self._eager() if compile and few else self._features
        if compile:  # in the threads and the mode in which it will run: each is compiled for
            size = card.input["size"]
            self.probabilities(torch.zeros(CPU_BATCH * self._threads, 3, size, size, dtype=torch.uint8))

    @classmethod
    def load(
        cls,
        uri: str,
        *,
        device: str = "auto",
        compile: bool = False,
        precision: str = "auto",
        threads: int = 0,
        few: int = 0,
    ) -> Self:
        """The classifier of a checkpoint, which needs nothing else: the backbone's weights are in it.

        Args:
            uri: the checkpoint's folder.
            device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
            compile: torch.compile the backbone: minutes to start, worth it for many thousands of images.
            precision: "float32", "bfloat16", or "auto" (bfloat16 where the hardware multiplies it natively).
            threads: cores to use; 0 is all that the process may use.
            few: images of which a core gets at most so many at once go uncompiled, which is sooner done: what is
                compiled is for batches of CPU_BATCH. An image's last bits then depend on how many came with it.

        Raises:
            CheckpointError: absent, cut short, changed, of another task, or of an architecture that does not fit.
            OptionError: a device that is not there.
        """
        extractor, head, card = load_parts(uri)
        options: dict[str, Any] = {"device": device, "compile": compile, "precision": precision}
        return cls(extractor, head, card, threads=threads, few=few, **options)

    @property
    def name(self) -> str:
        """Backbone and first digits of the weights' hash: changes when the weights do."""
        return f"{self.card.arch['backbone']}@{self.card.weights_sha256[:12]}"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the columns of `probabilities`."""
        return tuple(self.card.classes)

    def describe(self) -> dict[str, Any]:
        """What a user of the model wants to know: name, task, classes (number), input_size, weights, metrics."""
        return {
            "name": self.name,
            "task": self.card.task,
            "classes": len(self.card.classes),
            "input_size": self.card.input["size"],
            "weights_sha256": self.card.weights_sha256,
            "backbone": self.card.arch["backbone"],
            "metrics": self.card.metrics,
        }

    def predict(self, images: Sequence[bytes | NDArray[np.uint8]], top_k: int = 5) -> list[Classification | ImageError]:
        """Classify images.

        Args:
            images: encoded files, or decoded uint8 RGB [H, W, 3].
            top_k: classes in `Classification.top`, at least 1; fewer where the model has fewer.

        Returns:
            One entry per image, in their order. A bad image has its error there and changes no other's answer.

        Raises:
            OptionError: top_k under 1, or an array of another shape or type.
        """
        if top_k < 1:
            raise OptionError(f"top_k must be at least 1, got {top_k}")
        views = list(self._pool.map(self._view, images))
        good = [view for view in views if isinstance(view, Tensor)]
        answers = iter(self._answers(self.probabilities(torch.stack(good)), top_k) if good else ())
        return [next(answers) if isinstance(view, Tensor) else view for view in views]

    def probabilities(self, images_NCHW: Tensor) -> Tensor:
        """Softmax probabilities of preprocessed images.

        Args:
            images_NCHW: uint8 [N, 3, size, size], N at least 1; size is `card.input["size"]`.

        Returns:
            float32 [N, K] on the CPU; rows sum to 1.
        """
        return torch.cat(list(self._passes.map(self._forward, images_NCHW.split(self._split(len(images_NCHW))))))

    def warm_up(self, most: int) -> None:
        """See every number of images that `most` at once are divided into, once: the first time takes longer, on a GPU
        seconds (see `gpu_batches`), and on a CPU each thread then takes the memory that it works in."""
        size = self.card.input["size"]
        if self.device.type == "cuda":
            for count in gpu_batches(min(most, GPU_BATCH)):
                self.probabilities(torch.zeros(count, 3, size, size, dtype=torch.uint8))
            return
        for count in range(1, self._split(most) + 1):
            self._pool.everywhere(partial(self._forward, torch.zeros(count, 3, size, size, dtype=torch.uint8)))

    def self_test(self) -> None:
        """Classify a grey image, to see that the whole way works.

        Raises:
            CheckpointError: the answer is no probability distribution, so the weights are damaged.
        """
        size = self.card.input["size"]
        row = self.probabilities(torch.full((1, 3, size, size), 128, dtype=torch.uint8))[0]
        if not torch.isfinite(row).all() or abs(float(row.sum()) - 1) > 1e-3:
            raise CheckpointError(
                f"{self.name} failed its self-test: probabilities of a grey image are {row[:5].tolist()}"
            )

    def _split(self, count: int) -> int:
        """Most images of `count` that go through the network at once."""
        return GPU_BATCH if self.device.type == "cuda" else min(CPU_BATCH, math.ceil(count / self._threads))

    def _view(self, image: bytes | NDArray[np.uint8]) -> Tensor | ImageError:
        pixels = read_pixels(image)
        if isinstance(pixels, ImageError):
            return pixels
        given = self.card.input
        return plain_view(pixels, size=given["size"], resize=given["resize"], interpolation=given["interpolation"])

    def _forward(self, images: Tensor) -> Tensor:
        with torch.inference_mode():  # belongs to the thread, so it is set here and not once
            features = self._features_of_few if len(images) <= self._few else self._features
            found = features(pad_batch(images, self.device))[: len(images)]
            return torch.softmax(self._head(found), dim=1).cpu()

    def _eager(self) -> Callable[[Tensor], Tensor]:
        low = self.precision == "bfloat16"
        extractor = self._extractor.ready_for_bfloat16() if low else self._extractor

        def features(images: Tensor) -> Tensor:
            images = images.to(self.device).contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
                found: Tensor = extractor(images)
            return found.float()

        return features

    def _compiled(self) -> Callable[[Tensor], Tensor]:
        embedder = Embedder(
            self._extractor, self.card.input["size"], precision=self.precision, compile=True, device=str(self.device)
        )
        return lambda images: torch.from_numpy(embedder.embed(images)).to(self.device)

    def _answers(self, probabilities_NK: Tensor, top_k: int) -> list[Classification]:
        values, order = probabilities_NK.sort(dim=1, descending=True, stable=True)
        labels = self.card.classes
        answers = []
        for row, indices in zip(values[:, :top_k].tolist(), order[:, :top_k].tolist(), strict=True):
            top = tuple((labels[index], value) for index, value in zip(indices, row, strict=True))
            answers.append(Classification(top[0][0], top[0][1], top))
        return answers


def load_parts(uri: str) -> tuple[Extractor, Head, Card]:
    """Extractor, head and card of a classifier's checkpoint, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: as in `Classifier.load`.
    """
    tensors, card = load_checkpoint(uri, TASK)
    extractor, head = _build(card, uri)
    for prefix, module in (("backbone.", extractor), ("head.", head)):
        part = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        load_into(module, part, f"{uri} ({prefix}*)")
    return extractor.eval(), head.eval(), card


def _build(card: Card, uri: str) -> tuple[Extractor, Head]:
    """Extractor and head as the card describes them, without their weights."""
    arch = card.arch
    missing = [name for name in _ARCH if name not in arch] + [name for name in _INPUT if name not in card.input]
    if missing or not card.classes:
        raise CheckpointError(f"the card of {uri} lacks {', '.join(missing) or 'classes'}")
    try:
        extractor = build_extractor(build_backbone(arch["backbone"], "none"), arch["tap"], arch["pool"])
        return extractor, build_head(arch["head"], arch["num_features"], len(card.classes), arch["hidden"])
    except UnknownNameError as error:
        raise CheckpointError(f"{uri} was made by another version of cnnray: {error}") from error
