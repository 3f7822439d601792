"""Labelled images as training data: decoded, augmented and mixed on the cluster's CPUs, batch by batch.

Legend: b examples of a worker's part of a batch, S px side of the images, K classes. A batch is
(images_bCHW uint8 [b, 3, S, S] in channels_last memory, targets_bK float32 with rows that sum to 1, weights_b float32).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from cnnray.config import FinetuneConfig
from cnnray.data.fetch import fetch_known
from cnnray.data.recipe import build_view_maker
from cnnray.data.stream import Batch, Stream
from cnnray.errors import DataError, ImageError
from cnnray.nn.spec import BackboneSpec
from cnnray.ops.decode import decode
from cnnray.ops.mix import cutmix_pair, mixup_pair
from cnnray.ops.views import ViewMaker
from cnnray.train.division import Division, divide
from cnnray.train.plan import BatchPlan, Planner

VAL_BATCH = 64


@dataclass(frozen=True)
class BatchMaker:
    """Makes a batch from its rows; travels to the tasks that run it.

    Attributes:
        views: makes the views of an image.
        class_weights: [K] float32.
        smoothing: of the labels of training images.
    """

    views: ViewMaker
    class_weights: npt.NDArray[np.float32]
    smoothing: float = 0.0

    def __call__(self, unit: pa.Table) -> Batch:
        """Decode, augment and mix.

        Args:
            unit: `id, path, label (class number), view, partner_id, partner_path, partner_label, partner_view, lam,
                mix, seed`; without partners where `mix` is "".

        Returns:
            image uint8 [b, S, S, 3], target float32 [b, K], weight float32 [b].

        Raises:
            DataError: an image that was good when the run began is no longer.
            StorageError: a file cannot be read.
        """
        rows = unit.to_pylist()
        targets = np.zeros((len(rows), len(self.class_weights)), np.float32)
        images = np.empty((len(rows), self.views.size, self.views.size, 3), np.uint8)
        for at, row in enumerate(rows):
            view, lam = self._view(row["id"], row["path"], row["view"]), 1.0
            if row["mix"]:
                view, lam = self._mixed(view, row)
            images[at] = view.permute(1, 2, 0).numpy()
            targets[at, row["label"]] += lam
            targets[at, row["partner_label"]] += 1 - lam
        weights = targets @ self.class_weights
        return {"image": images, "target": self._smoothed(targets, rows), "weight": weights}

    def _view(self, item: str, path: str, number: int) -> Tensor:
        data = fetch_known(path)
        try:
            return self.views.view(decode(data), item, number)[0]
        except ImageError as error:
            raise DataError(f"expected the image {path}, which was good when the run began: {error}") from error

    def _mixed(self, view: Tensor, row: dict[str, object]) -> tuple[Tensor, float]:
        """The view with its partner's mixed or pasted in, and the share that is its own."""
        other = self._view(str(row["partner_id"]), str(row["partner_path"]), int(str(row["partner_view"])))
        lam = float(str(row["lam"]))
        if row["mix"] == "mixup":
            return mixup_pair(view.float(), other.float(), lam).round().to(torch.uint8), lam
        # the same rectangle for the whole batch, on every worker
        return cutmix_pair(view, other, lam, torch.Generator().manual_seed(int(str(row["seed"]))))

    def _smoothed(self, targets_bK: npt.NDArray[np.float32], rows: list[dict[str, object]]) -> npt.NDArray[np.float32]:
        share = self.smoothing if rows and rows[0]["seed"] is not None else 0.0
        return targets_bK * np.float32(1 - share) + np.float32(share / targets_bK.shape[1])


@dataclass(frozen=True)
class ImageData:
    """Images of an index, divided; implements `loop.Data`.

    Attributes:
        ids, paths: [n] of all images.
        division: which train, which validate, their classes.
        planner: of the epochs.
        maker: of the batches.
        stream: where they are made.
    """

    ids: npt.NDArray[np.object_]
    paths: npt.NDArray[np.object_]
    division: Division
    planner: Planner
    maker: BatchMaker
    stream: Stream

    @property
    def num_steps(self) -> int:
        """Global batches in an epoch."""
        return self.planner.num_steps

    def batch_ids(self, epoch: int, step: int) -> Sequence[str]:
        """Ids of the images in a global batch."""
        plan = list(self.planner.epoch(epoch))[step]
        return [str(name) for name in self.ids[self.division.train[plan.items]]]

    def train_batches(self, epoch: int, rank: int, world: int) -> Iterator[tuple[Tensor, ...]]:
        """This worker's part of each batch of an epoch: every training image once."""
        plans = [plan.part(rank, world) for plan in self.planner.epoch(epoch)]
        return map(to_tensors, self.stream([self._unit(plan) for plan in plans], self.maker))

    def val_batches(self, rank: int, world: int) -> Iterator[tuple[Tensor, ...]]:
        """This worker's part of the validation images, at their plain views."""
        mine = self.division.val[rank::world]
        parts = [mine[at : at + VAL_BATCH] for at in range(0, len(mine), VAL_BATCH)]
        return map(to_tensors, self.stream([self._plain(part) for part in parts], self.maker))

    def _unit(self, plan: BatchPlan) -> pa.Table:
        own, others = self.division.train[plan.items], self.division.train[plan.partners]
        count = len(own)
        columns = self._table(own, plan.views, others, plan.partner_views) | {
            "lam": pa.repeat(plan.lam, count),
            "mix": pa.repeat(plan.mix, count),
            "seed": pa.repeat(plan.seed, count),
        }
        return pa.table(columns)

    def _plain(self, rows: npt.NDArray[np.int64]) -> pa.Table:
        zeros, count = np.zeros(len(rows), np.int64), len(rows)
        columns = self._table(rows, zeros, rows, zeros)
        return pa.table(
            columns | {"lam": pa.repeat(1.0, count), "mix": pa.repeat("", count), "seed": pa.nulls(count, pa.int64())}
        )

    def _table(
        self,
        rows: npt.NDArray[np.int64],
        views: npt.NDArray[np.int64],
        others: npt.NDArray[np.int64],
        other_views: npt.NDArray[np.int64],
    ) -> dict[str, pa.Array]:
        columns = {}
        for prefix, at, view in (("", rows, views), ("partner_", others, other_views)):
            columns[f"{prefix}id"] = pa.array(self.ids[at], pa.string())
            columns[f"{prefix}path"] = pa.array(self.paths[at], pa.string())
            columns[f"{prefix}label"] = pa.array(self.division.labels[at])
            columns[f"{prefix}view"] = pa.array(view)
        return columns


def to_tensors(batch: Batch) -> tuple[Tensor, ...]:
    """Arrays of a stream, which may lie in shared memory, as tensors of this process."""
    images, *others = batch.values()
    return torch.from_numpy(images.copy()).movedim(-1, -3), *(torch.from_numpy(a.copy()) for a in others)


def build_image_data(index: pa.Table, spec: BackboneSpec, config: FinetuneConfig, stream: Stream) -> ImageData:
    """Divide an index of images and check that a classifier can be trained on it.

    Args:
        index: `id, path, label, split`, of images that can be decoded.
        spec: of the network, which says size and interpolation of the views.
        config: of labels, views, mixing, batch size and seed.
        stream: where batches are made.

    Raises:
        DataError: what `divide` refuses.
    """
    ids, paths, labels, splits = (
        np.array(index[name].to_pylist(), dtype=object) for name in ("id", "path", "label", "split")
    )
    division = divide(ids, labels, splits, config, config.seed)
    views = build_view_maker(spec, config.augment, config.seed)
    count = len(division.train)
    planner = Planner(
        counts=np.full(count, config.views + 1) if config.views else None,
        num_items=count,
        batch_size=config.batch_size,
        seed=config.seed,
        mixup_alpha=config.mixup_alpha,
        cutmix_alpha=config.cutmix_alpha,
    )
    maker = BatchMaker(views, division.class_weights, config.label_smoothing)
    return ImageData(ids, paths, division, planner, maker, stream)
