"""A U-Net as a task of the training loop, and images with masks as its data.

Legend: b examples of a worker's part of a batch, S px side of the squares. A batch is
(images_bCHW uint8 [b, 3, S, S] in channels_last memory, classes_bHW uint8 [b, S, S] with IGNORE where a pixel does not
count).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor, nn

from cnnray.config import SegmentConfig
from cnnray.data.feature_store import read_parquet
from cnnray.data.fetch import fetch_known
from cnnray.data.stream import Batch, Stream
from cnnray.errors import DataError, ImageError
from cnnray.nn.segment import PLAIN, SegmentNet, build_segmenter
from cnnray.ops.augment import interleaved
from cnnray.ops.decode import decode
from cnnray.ops.losses import cross_entropy, dice_loss, overlap_score
from cnnray.ops.masks import IGNORE, LabelSpace, decode_mask
from cnnray.ops.seeds import generator_for
from cnnray.ops.warp import Warp, build_warp
from cnnray.train.image_data import to_tensors
from cnnray.train.loop import Step
from cnnray.train.optim import Group
from cnnray.train.plan import BatchPlan, Planner

VAL_BATCH = 16


def architecture(config: SegmentConfig) -> dict[str, object]:
    """What `build_segmenter` builds the network from."""
    return {"encoder": config.encoder, "width": config.width, "depth": config.depth}


@dataclass(frozen=True)
class SegmentTask:
    """See `loop.Task`.

    Attributes:
        config: of the run.
        num_classes: K.
    """

    config: SegmentConfig
    num_classes: int

    def build(self) -> SegmentNet:
        """The network before training."""
        return build_segmenter(architecture(self.config), self.num_classes, self.config.weights)

    def groups(self, model: nn.Module) -> Sequence[Group]:
        """All learns from the start, a pre-trained encoder more slowly."""
        assert isinstance(model, SegmentNet)
        fresh = self.config.encoder == PLAIN or self.config.weights == "none"
        encoder = Group((model.encoder,), 1.0 if fresh else self.config.encoder_lr)
        return [encoder, Group((model.decoder, model.classifier))]

    def step(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Step:
        """Dice and cross-entropy of each picture; the score is the overlap of its classes, see `overlap_score`."""
        images, classes = batch
        logits, share = model(images), self.config.dice
        losses = share * dice_loss(logits, classes) + (1 - share) * cross_entropy(logits, classes)
        score = overlap_score(logits.detach(), classes).sum()
        return Step(losses.sum(), losses.new_tensor(float(len(images))), score, len(images))


@dataclass(frozen=True)
class PairMaker:
    """Makes a batch from its rows; travels to the tasks that run it.

    Attributes:
        space: of the masks.
        warp: makes random views.
        seed: of the run.
    """

    space: LabelSpace
    warp: Warp
    seed: int

    def __call__(self, unit: pa.Table) -> Batch:
        """Decode pictures and masks and cut squares out of them.

        Args:
            unit: `id, path, mask, view, top, left`: a random view where `view` is above 0, else the square whose
                corner is (top, left) px, mirrored outside of the picture.

        Returns:
            image uint8 [b, S, S, 3], classes uint8 [b, S, S].

        Raises:
            DataError: a picture or mask that was good when the run began is no longer.
            StorageError: a file cannot be read.
        """
        rows, size = unit.to_pylist(), self.warp.size
        images = np.empty((len(rows), size, size, 3), np.uint8)
        classes = np.empty((len(rows), size, size), np.uint8)
        read: dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]] = {}
        for at, row in enumerate(rows):
            if row["path"] not in read:
                read = {row["path"]: self._pair(row["path"], row["mask"])}  # tiles of one picture follow each other
            image, mask = read[row["path"]]
            if row["view"]:
                generator = generator_for(row["id"], self.seed, row["view"])
                view, view_mask = self.warp(torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask), generator)
                images[at], classes[at] = interleaved(view).permute(1, 2, 0).numpy(), view_mask.numpy()
            else:
                images[at] = square(image, row["top"], row["left"], size, mode="symmetric")
                classes[at] = square(mask, row["top"], row["left"], size, mode="constant", constant_values=IGNORE)
        return {"image": images, "classes": classes}

    def _pair(self, path: str, mask: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        try:
            return decode(fetch_known(path)), self.space.indices(decode_mask(fetch_known(mask)))
        except ImageError as error:
            raise DataError(f"expected {path} and {mask}, which were good when the run began: {error}") from error


def square(pixels: npt.NDArray[np.uint8], top: int, left: int, size: int, **outside: object) -> npt.NDArray[np.uint8]:
    """Pixels [size, size, ...] from (top, left) on; what is outside as `numpy.pad` makes it."""
    part = pixels[top : top + size, left : left + size]
    more = [(0, size - part.shape[0]), (0, size - part.shape[1]), (0, 0)][: pixels.ndim]
    padded: npt.NDArray[np.uint8] = np.pad(part, more, **outside)  # type: ignore[call-overload]
    return padded


@dataclass(frozen=True)
class SegmentData:
    """Pairs of pictures and masks, divided; implements `loop.Data`.

    Attributes:
        train, val: `id, path, mask, split, height, width`.
        planner: of the epochs; its items are crops, so many of each picture.
        crops: of each picture in an epoch.
        maker, stream: of the batches.
    """

    train: pa.Table
    val: pa.Table
    planner: Planner
    crops: int
    maker: PairMaker
    stream: Stream = field(repr=False)

    @property
    def num_steps(self) -> int:
        """Global batches in an epoch."""
        return self.planner.num_steps

    def batch_ids(self, epoch: int, step: int) -> list[str]:
        """Ids of the pictures in a global batch."""
        plan = list(self.planner.epoch(epoch))[step]
        return [self.train["id"][int(item) // self.crops].as_py() for item in plan.items]

    def train_batches(self, epoch: int, rank: int, world: int) -> Iterator[tuple[Tensor, ...]]:
        """This worker's part of each batch of an epoch: every crop once."""
        units = [self._unit(plan.part(rank, world)) for plan in self.planner.epoch(epoch)]
        return map(to_tensors, self.stream(units, self.maker))

    def val_batches(self, rank: int, world: int) -> Iterator[tuple[Tensor, ...]]:
        """This worker's part of the squares that together cover the validation pictures."""
        mine = self._tiles()[rank::world]
        units = [pa.Table.from_pylist(mine[at : at + VAL_BATCH]) for at in range(0, len(mine), VAL_BATCH)]
        return map(to_tensors, self.stream(units, self.maker))

    def _unit(self, plan: BatchPlan) -> pa.Table:
        rows = self.train.take(pa.array(plan.items // self.crops)).select(["id", "path", "mask"])
        # a view's number is 1 and more, and never comes again: epoch after epoch, crop after crop
        views = (plan.views - 1) * self.crops + plan.items % self.crops + 1
        zeros = pa.array(np.zeros(len(views), np.int64))
        return rows.append_column("view", pa.array(views)).append_column("top", zeros).append_column("left", zeros)

    def _tiles(self) -> list[dict[str, object]]:
        size = self.maker.warp.size
        return [
            {name: row[name] for name in ("id", "path", "mask")} | {"view": 0, "top": top, "left": left}
            for row in self.val.to_pylist()
            for top in range(0, row["height"], size)
            for left in range(0, row["width"], size)
        ]


def build_segment_data(
    train: pa.Table, val: pa.Table, space: LabelSpace, config: SegmentConfig, stream: Stream
) -> SegmentData:
    """The data of a run.

    Args:
        train, val: of `Pairs.table`.
        space: of the masks.
        config: crop, crops, augmentation, batch size, seed.
        stream: where batches are made.
    """
    planner = Planner(
        counts=None, num_items=train.num_rows * config.crops, batch_size=config.batch_size, seed=config.seed
    )
    maker = PairMaker(space, build_warp(config.augment, config.crop), config.seed)
    return SegmentData(train, val, planner, config.crops, maker, stream)


def build_parts(
    train: str, val: str, space: LabelSpace, config: SegmentConfig, stream: Stream
) -> tuple[SegmentTask, SegmentData]:
    """Task and data of a run, the same in every process; `train` and `val` are URIs of their tables."""
    data = build_segment_data(read_parquet(train), read_parquet(val), space, config, stream)
    return SegmentTask(config, len(space.names)), data
