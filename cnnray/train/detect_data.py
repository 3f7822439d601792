"""Images with boxes as training data: random scenes, or windows cut out of them.

Legend: as `cnnray.train.detect_task`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from cnnray.config import DetectConfig
from cnnray.data.feature_store import read_parquet
from cnnray.data.fetch import fetch_known
from cnnray.data.stream import Batch, Stream
from cnnray.errors import DataError, ImageError
from cnnray.nn.windows import FILLED, WINDOW
from cnnray.ops.assign import CROWD, PADDING
from cnnray.ops.decode import decode
from cnnray.ops.letterbox import Letterbox
from cnnray.ops.scenes import Labelled, SceneMaker, build_scene_maker
from cnnray.ops.seeds import generator_for, seed_for
from cnnray.ops.window_samples import sample_windows
from cnnray.train.detect_task import DetectTask, WindowTask
from cnnray.train.image_data import to_tensors
from cnnray.train.plan import BatchPlan, Planner

VAL_BATCH = 16
WINDOWS_EACH = 32  # of a picture
_SPAN = 2**20  # seeds of an epoch's draws lie apart from those of the next


@dataclass(frozen=True)
class SceneBatches:
    """Makes a batch from its rows; travels to the tasks that run it.

    Attributes:
        scenes: makes random scenes.
        seed: of the run.
    """

    scenes: SceneMaker
    seed: int

    def __call__(self, unit: pa.Table) -> Batch:
        """Decode pictures and compose scenes.

        Args:
            unit: `id, draw, parts`: parts is a list of one picture or four, each `path, boxes, labels`; a random scene
                where `draw` is above 0, else the one picture in a letterbox.

        Returns:
            image uint8 [b, S, S, 3], boxes float32 [b, M, 4], labels int64 [b, M].

        Raises:
            DataError: a picture that was good when the run began is no longer.
            StorageError: a file cannot be read.
        """
        made = [self.scene(row) for row in unit.to_pylist()]
        images = np.stack([scene.image_CHW.permute(1, 2, 0).numpy() for scene in made])
        most = max(1, *(len(scene.labels_M) for scene in made))
        boxes = np.zeros((len(made), most, 4), np.float32)
        labels = np.full((len(made), most), PADDING, np.int64)
        for at, scene in enumerate(made):
            boxes[at, : len(scene.labels_M)] = scene.boxes_M4.numpy()
            labels[at, : len(scene.labels_M)] = scene.labels_M.numpy()
        return {"image": images, "boxes": boxes, "labels": labels}

    def scene(self, row: dict[str, Any]) -> Labelled:
        """The random scene of a row, or its picture in a letterbox."""
        parts = [self._picture(part) for part in row["parts"]]
        if row["draw"]:
            return self.scenes(parts, generator_for(row["id"], self.seed, row["draw"]))
        ((image, boxes, labels),) = parts
        letterbox = Letterbox.fit(image.shape[1], image.shape[2], self.scenes.size)
        return Labelled(letterbox.apply(image.permute(1, 2, 0).numpy()), letterbox.into(boxes), labels)

    def _picture(self, part: dict[str, Any]) -> Labelled:
        try:
            image = decode(fetch_known(part["path"]))
        except ImageError as error:
            raise DataError(f"expected {part['path']}, which was good when the run began: {error}") from error
        boxes = torch.tensor(part["boxes"], dtype=torch.float32).reshape(-1, 4)
        return Labelled(
            torch.from_numpy(image).permute(2, 0, 1), boxes, torch.tensor(part["labels"], dtype=torch.int64)
        )


@dataclass(frozen=True)
class WindowBatches:
    """Makes batches of windows; travels to the tasks that run it.

    Attributes:
        batches: makes the scenes out of which windows are cut.
        background: number of the class of windows without an object.
    """

    batches: SceneBatches
    background: int

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.batches.seed

    def __call__(self, unit: pa.Table) -> Batch:
        """Windows of each picture: image uint8 [b, W, 32, 32, 3], labels int64 [b, W].

        Args:
            unit: as `SceneBatches`.

        Raises:
            DataError, StorageError: as `SceneBatches`.
        """
        images, labels = [], []
        for row in unit.to_pylist():
            generator = generator_for(f"{row['id']}|windows", self.seed, row["draw"])
            scene = self.batches.scene(row)
            cut, of_cut = sample_windows(scene, WINDOWS_EACH, WINDOW, FILLED, self.background, generator)
            images.append(cut.permute(0, 2, 3, 1).numpy())
            labels.append(of_cut.numpy())
        return {"image": np.stack(images), "labels": np.stack(labels)}


@dataclass(frozen=True)
class DetectData:
    """Images with boxes, divided; implements `loop.Data`.

    Attributes:
        train, val: `id, path, boxes, labels`; labels may be CROWD.
        planner: of the epochs.
        mosaic, plain_from: share of scenes of four, until this epoch.
        maker, stream: of the batches.
    """

    train: pa.Table
    val: pa.Table
    planner: Planner
    mosaic: float
    plain_from: int
    maker: SceneBatches | WindowBatches
    stream: Stream = field(repr=False)

    @property
    def num_steps(self) -> int:
        """Global batches in an epoch."""
        return self.planner.num_steps

    def batch_ids(self, epoch: int, step: int) -> list[str]:
        """Ids of the pictures in a global batch, without those beside them in mosaics."""
        plan = list(self.planner.epoch(epoch))[step]
        return [self.train["id"][int(item)].as_py() for item in plan.items]

    def train_batches(self, epoch: int, rank: int, world: int) -> Iterator[tuple[Tensor, ...]]:
        """This worker's part of each batch of an epoch: every picture once, and what stands beside it."""
        units = [self._unit(plan.part(rank, world), epoch) for plan in self.planner.epoch(epoch)]
        return map(to_tensors, self.stream(units, self.maker))

    def val_batches(self, rank: int, world: int) -> Iterator[tuple[Tensor, ...]]:
        """This worker's part of the validation pictures, whole."""
        mine = range(rank, self.val.num_rows, world)
        rows = [{"id": self.val["id"][at].as_py(), "draw": 0, "parts": [_part(self.val, at)]} for at in mine]
        units = [_table(rows[at : at + VAL_BATCH]) for at in range(0, len(rows), VAL_BATCH)]
        return map(to_tensors, self.stream(units, self.maker))

    def _unit(self, plan: BatchPlan, epoch: int) -> pa.Table:
        rows = []
        for item, view in zip(plan.items.tolist(), plan.views.tolist(), strict=True):
            name = self.train["id"][item].as_py()
            items = [item, *self._beside(name, view, epoch)]
            rows.append({"id": name, "draw": view, "parts": [_part(self.train, at) for at in items]})
        return _table(rows)

    def _beside(self, name: str, view: int, epoch: int) -> list[int]:
        """Three other pictures of a mosaic, or none: by the picture and its view alone."""
        draws = [seed_for(f"{name}|mosaic {at}", self.maker.seed, view) for at in range(4)]
        if epoch >= self.plain_from or draws[0] % _SPAN >= self.mosaic * _SPAN:
            return []
        return [draw % self.train.num_rows for draw in draws[1:]]


_ROW = pa.schema(
    {
        "id": pa.string(),
        "draw": pa.int64(),
        "parts": pa.list_(
            pa.struct({"path": pa.string(), "boxes": pa.list_(pa.list_(pa.float32())), "labels": pa.list_(pa.int64())})
        ),
    }
)


def _table(rows: Sequence[Mapping[str, object]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), _ROW)


def _part(table: pa.Table, at: int) -> dict[str, object]:
    return {name: table[name][at].as_py() for name in ("path", "boxes", "labels")}


def build_detect_data(
    train: pa.Table, val: pa.Table, num_classes: int, config: DetectConfig, stream: Stream
) -> DetectData:
    """The data of a run.

    Args:
        train, val: of `Annotations.table`.
        num_classes: K.
        config: model, size, augmentation, batch size, seed.
        stream: where batches are made.
    """
    planner = Planner(counts=None, num_items=train.num_rows, batch_size=config.batch_size, seed=config.seed)
    maker: SceneBatches | WindowBatches
    maker = SceneBatches(build_scene_maker(config.augment, config.size, mirror=config.mirror), config.seed)
    if config.model == "windows":
        maker = WindowBatches(maker, background=num_classes)
    plain_from = round(config.epochs * (1 - config.plain_epochs))
    return DetectData(_marked(train), _marked(val), planner, config.mosaic, plain_from, maker, stream)


def _marked(table: pa.Table) -> pa.Table:
    """The columns that are needed; crowds in place of their class."""
    rows = zip(table["labels"].to_pylist(), table["crowd"].to_pylist(), strict=True)
    labels = [[CROWD if crowd else label for label, crowd in zip(*row, strict=True)] for row in rows]
    return table.select(["id", "path", "boxes"]).append_column("labels", pa.array(labels, pa.list_(pa.int64())))


def build_parts(
    train: str, val: str, num_classes: int, config: DetectConfig, stream: Stream
) -> tuple[DetectTask | WindowTask, DetectData]:
    """Task and data of a run, the same in every process; `train` and `val` are URIs of their tables."""
    data = build_detect_data(read_parquet(train), read_parquet(val), num_classes, config, stream)
    return WindowTask(num_classes) if config.model == "windows" else DetectTask(config, num_classes), data
