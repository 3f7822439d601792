"""A transform network as a task of the training loop, and photos as its data.

Legend: b examples of a worker's part of a batch, P px side of the crops, S styles. A batch is
(images_bCHW uint8 [b, 3, P, P] in channels_last memory, weights_bS float32: which style each is to be painted in).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from cnnray.config import StyleTrainConfig
from cnnray.data.feature_store import read_parquet
from cnnray.data.fetch import fetch_known
from cnnray.data.stream import Batch, Stream
from cnnray.errors import DataError, ImageError
from cnnray.nn.backbones import build_backbone
from cnnray.nn.stylize import Losses, Perceiver, StyleTargets, find_taps, style_losses
from cnnray.nn.transform_net import TransformNet
from cnnray.ops.decode import decode
from cnnray.ops.views import ViewMaker
from cnnray.train.loop import Step
from cnnray.train.optim import Group
from cnnray.train.plan import BatchPlan, Planner

VAL_BATCH = 8


class Judge:
    """The frozen network that says how well something is painted.

    Args:
        config: backbone, taps, weights of the losses.
        styles: pictures uint8 [1, 3, H, W], of the size in which they are seen.

    Raises:
        OptionError, UnknownNameError: taps that the backbone does not have, or a style too small for them.
    """

    def __init__(self, config: StyleTrainConfig, styles: Sequence[Tensor]) -> None:
        backbone = build_backbone(config.backbone, config.weights)
        taps = find_taps(backbone, config.style_taps, config.content_taps)
        self._content = taps.content
        self._perceiver = Perceiver(backbone, taps.every, smooth=config.smooth).to(memory_format=torch.channels_last)
        self._targets = StyleTargets.of(self._perceiver, taps.style, [style.float() / 255 for style in styles])

    def losses(self, painted_N3HW: Tensor, photos_N3HW: Tensor, weights_NS: Tensor) -> Losses:
        """Of paintings of photos, RGB in [0, 1], in a blend of styles."""
        self._move(painted_N3HW.device)
        with torch.no_grad():
            wanted = self._perceiver(photos_N3HW, self._content)
        grams = self._targets.blend(weights_NS)
        return style_losses(self._perceiver(painted_N3HW), grams, wanted, painted_N3HW.float())

    def _move(self, device: torch.device) -> None:
        if self._perceiver.mean.device != device:
            self._perceiver.to(device)
            self._targets = StyleTargets({tap: grams.to(device) for tap, grams in self._targets.grams.items()})


@dataclass(frozen=True)
class StylizeTask:
    """See `loop.Task`.

    Attributes:
        config: of the run.
        judge: of the paintings.
        num_styles: S.
    """

    config: StyleTrainConfig
    judge: Judge
    num_styles: int

    def build(self) -> TransformNet:
        """The network before training."""
        return TransformNet(self.num_styles, self.config.width, self.config.blocks)

    def groups(self, model: nn.Module) -> Sequence[Group]:
        """All learns alike."""
        return [Group((model,))]

    def step(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Step:
        """Weighted sum of the losses; the score is 1 less the style's relative error."""
        images, weights_NS = batch
        photos = images.float() / 255
        losses = self.judge.losses(model(photos, weights_NS), photos, weights_NS)
        total = (
            self.config.style_loss * losses.style
            + self.config.content_loss * losses.content
            + self.config.variation_loss * losses.variation
        )
        score = (1 - losses.style.detach()).sum()
        return Step(total.sum(), total.new_tensor(float(len(images))), score, len(images))


@dataclass(frozen=True)
class PhotoMaker:
    """Makes a batch of crops from its rows; travels to the tasks that run it."""

    views: ViewMaker

    def __call__(self, unit: pa.Table) -> Batch:
        """Decode and cut out.

        Args:
            unit: `id, path, view, style`; view 0 is the middle of the photo.

        Returns:
            image uint8 [b, P, P, 3], style int64 [b].

        Raises:
            DataError: a photo that was good when the run began is no longer.
            StorageError: a file cannot be read.
        """
        images = []
        for row in unit.to_pylist():
            data = fetch_known(row["path"])
            try:
                images.append(self.views.view(decode(data), row["id"], row["view"])[0].permute(1, 2, 0).numpy())
            except ImageError as error:
                raise DataError(f"expected the photo {row['path']}, good when the run began: {error}") from error
        return {"image": np.stack(images), "style": unit["style"].to_numpy()}


@dataclass(frozen=True)
class StylizeData:
    """Photos, divided; implements `loop.Data`. Every photo is painted once an epoch, in a style of its turn.

    Attributes:
        train, val: `id, path`.
        num_styles: S.
        planner: of the epochs.
        maker, stream: of the batches.
    """

    train: pa.Table
    val: pa.Table
    num_styles: int
    planner: Planner
    maker: PhotoMaker
    stream: Stream

    @property
    def num_steps(self) -> int:
        """Global batches in an epoch."""
        return self.planner.num_steps

    def batch_ids(self, epoch: int, step: int) -> list[str]:
        """Ids of the photos in a global batch."""
        plan = list(self.planner.epoch(epoch))[step]
        return [str(self.train["id"][int(item)].as_py()) for item in plan.items]

    def train_batches(self, epoch: int, rank: int, world: int) -> Iterator[tuple[Tensor, ...]]:
        """This worker's part of each batch of an epoch."""
        units = [self._unit(plan.part(rank, world)) for plan in self.planner.epoch(epoch)]
        return map(self._to_tensors, self.stream(units, self.maker))

    def val_batches(self, rank: int, world: int) -> Iterator[tuple[Tensor, ...]]:
        """This worker's part of the validation photos, each in every style."""
        rows = [
            {"id": row["id"], "path": row["path"], "view": 0, "style": style}
            for row in self.val.to_pylist()
            for style in range(self.num_styles)
        ][rank::world]
        units = [pa.Table.from_pylist(rows[at : at + VAL_BATCH]) for at in range(0, len(rows), VAL_BATCH)]
        return map(self._to_tensors, self.stream(units, self.maker))

    def _unit(self, plan: BatchPlan) -> pa.Table:
        rows = self.train.take(pa.array(plan.items)).select(["id", "path"])
        # photo after photo and epoch after epoch another one, so that each meets them all
        styles = (plan.items + plan.views) % self.num_styles
        return rows.append_column("view", pa.array(plan.views)).append_column("style", pa.array(styles))

    def _to_tensors(self, batch: Batch) -> tuple[Tensor, ...]:
        images = torch.tensor(batch["image"]).permute(0, 3, 1, 2)  # copied: what Ray hands on is read-only
        styles = torch.tensor(batch["style"])
        return images, nn.functional.one_hot(styles, self.num_styles).float()


def build_stylize_data(
    train: pa.Table, val: pa.Table, num_styles: int, config: StyleTrainConfig, stream: Stream
) -> StylizeData:
    """The data of a run.

    Args:
        train, val: `id, path`.
        stream: where batches are made.
    """
    planner = Planner(counts=None, num_items=train.num_rows, batch_size=config.batch_size, seed=config.seed)
    views = ViewMaker(size=config.crop, resize=config.crop, interpolation="bilinear", augment="light", seed=config.seed)
    return StylizeData(train, val, num_styles, planner, PhotoMaker(views), stream)


def build_parts(
    train: str, val: str, styles: Sequence[Tensor], config: StyleTrainConfig, stream: Stream
) -> tuple[StylizeTask, StylizeData]:
    """Task and data of a run, the same in every process; `train` and `val` are URIs of their tables."""
    data = build_stylize_data(read_parquet(train), read_parquet(val), len(styles), config, stream)
    return StylizeTask(config, Judge(config, styles), len(styles)), data
