"""Stored faces of people as training data: batches of P people with K faces each, random views made on the cluster.

Legend: b faces of a worker's part of a batch, B of the whole one, S px side of the views. A batch is as in
`cnnray.train.faces_task`.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from cnnray.config import FacesConfig
from cnnray.data.feature_store import read_parquet
from cnnray.data.fetch import fetch_known
from cnnray.data.stream import Batch, Stream
from cnnray.errors import DataError, ImageError, OptionError
from cnnray.nn.embedders import input_of
from cnnray.ops.decode import decode
from cnnray.ops.face_views import cut_view, random_view
from cnnray.ops.seeds import generator_for, seed_for
from cnnray.ops.transforms import channels_first
from cnnray.train.face_plan import FacePlanner, Numbers
from cnnray.train.faces_task import FacesTask, architecture
from cnnray.train.image_data import to_tensors

logger = logging.getLogger(__name__)

VAL_BATCH = 256  # faces that are compared with each other


@dataclass(frozen=True)
class FaceMaker:
    """Makes a batch from its rows; travels to the tasks that run it.

    Attributes:
        size: S.
        padding: of plain views, around which that of random ones is drawn.
        augment: preset of random views.
        seed: of the run.
    """

    size: int
    padding: float
    augment: str
    seed: int

    def __call__(self, unit: pa.Table) -> Batch:
        """Decode and cut.

        Args:
            unit: `id, crop, view`: a random view where `view` is not 0, else the plain one.

        Returns:
            image uint8 [b, S, S, 3].

        Raises:
            DataError: a stored face is damaged.
            StorageError: a file cannot be read.
        """
        images = np.empty((unit.num_rows, self.size, self.size, 3), np.uint8)
        for at, row in enumerate(unit.to_pylist()):
            try:
                crop = channels_first(decode(fetch_known(row["crop"])))
            except ImageError as error:
                raise DataError(f"expected the stored face {row['crop']}, but it is damaged: {error}") from error
            if row["view"]:
                generator = generator_for(row["id"], self.seed, row["view"])
                view = random_view(crop, self.size, self.padding, self.augment, generator)
            else:
                view = cut_view(crop, self.size, self.padding)
            images[at] = view.permute(1, 2, 0).numpy()
        return {"image": images}


class Division(NamedTuple):
    """People to learn from and people to validate with.

    Attributes:
        train, val: rows of `cnnray.data.face_crops`, sorted by id.
        alone: of those to learn from, people left out because they have one face only.
    """

    train: pa.Table
    val: pa.Table
    alone: int


def divide_people(table: pa.Table, config: FacesConfig) -> Division:
    """By the source's val split, or a seeded share of the people by name; nobody is on both sides.

    People with one face make no pair: they are not learned from, and counted.

    Args:
        table: rows of `cnnray.data.face_crops`.

    Raises:
        DataError: images without people, too few people with two faces on a side, or people on both.
    """
    splits = set(table["split"].to_pylist())
    if "val" not in splits:
        table = table.filter(pc.equal(table["split"], "train"))
    labels = table["label"].to_pylist()
    if None in labels:
        raise DataError("expected a folder of images for every person (or labels in the manifest), but there are none")
    counts = dict(zip(*(part.tolist() for part in np.unique(labels, return_counts=True)), strict=True))
    paired = sorted(name for name, count in counts.items() if count > 1)
    if "val" in splits:
        val = table.filter(pc.equal(table["split"], "val"))
        train = table.filter(pc.equal(table["split"], "train"))
    else:
        order = sorted(paired, key=lambda name: seed_for(name, config.seed, 0))
        held = order[: max(2, round(config.val_people * len(paired)))]
        inside = pc.is_in(table["label"], value_set=pa.array(held, pa.string()))
        train, val = table.filter(pc.invert(inside)), table.filter(inside)
    sides = {name: set(side["label"].to_pylist()) for name, side in (("train", train), ("val", val))}
    if both := sorted(sides["train"] & sides["val"]):
        raise DataError(f"expected other people to validate with than to learn from, but {both[0]!r} is in both splits")
    alone = sides["train"] - set(_with_pairs(train))
    train = train.filter(pc.is_in(train["label"], value_set=pa.array(_with_pairs(train), pa.string())))
    if alone:
        logger.warning("%d people with one face are not learned from", len(alone))
    for name, side in (("learn from", train), ("validate with", val)):
        if len(_with_pairs(side)) < 2:
            raise DataError(
                f"expected at least two people with two faces each to {name}, got {len(_with_pairs(side))}; of "
                f"{len(counts)} people {len(paired)} have two faces or more"
            )
    return Division(train, val, len(alone))


def _with_pairs(table: pa.Table) -> list[str]:
    """People with two faces or more."""
    counts = table.group_by("label").aggregate([([], "count_all")])
    return sorted(counts.filter(pc.greater(counts["count_all"], 1))["label"].to_pylist())


@dataclass(frozen=True)
class FaceData:
    """Faces of people, divided; implements `loop.Data`.

    Attributes:
        train, val: rows of `cnnray.data.face_crops`.
        train_people, val_people: numbers of the people on the rows.
        planner: of the epochs.
        maker, stream: of the batches.
    """

    train: pa.Table
    val: pa.Table
    train_people: Numbers
    val_people: Numbers
    planner: FacePlanner
    maker: FaceMaker
    stream: Stream

    @property
    def num_steps(self) -> int:
        """Global batches in an epoch."""
        return self.planner.num_steps

    def batch_ids(self, epoch: int, step: int) -> Sequence[str]:
        """Ids of the images in a global batch."""
        return list(self.train["id"].take(list(self.planner.epoch(epoch))[step].items_B).to_pylist())

    def train_batches(self, epoch: int, rank: int, world: int) -> Iterator[tuple[Tensor, ...]]:
        """This worker's part of each batch of an epoch."""
        plans = list(self.planner.epoch(epoch))
        units = [_unit(self.train, plan.items_B[rank::world], plan.views_B[rank::world]) for plan in plans]
        for plan, batch in zip(plans, self.stream(units, self.maker), strict=True):
            yield _batch(batch, self.train_people[plan.items_B], rank, world, plan.seed)

    def val_batches(self, rank: int, world: int) -> Iterator[tuple[Tensor, ...]]:
        """This worker's part of each batch of validation faces at their plain views, person after person."""
        parts = val_parts(self.val_people)
        units = [_unit(self.val, part[rank::world], np.zeros(len(part[rank::world]), np.int64)) for part in parts]
        for number, (part, batch) in enumerate(zip(parts, self.stream(units, self.maker), strict=True)):
            yield _batch(batch, self.val_people[part], rank, world, number)


def val_parts(people_N: Numbers) -> list[Numbers]:
    """Rows in batches of at most about VAL_BATCH, of nearly equal size, whole people together where they fit."""
    order = np.argsort(people_N, kind="stable")
    return np.array_split(order, -(-len(order) // VAL_BATCH))


def face_units(table: pa.Table, items: Numbers, view: int, size: int) -> list[pa.Table]:
    """One view of rows of a table, cut into units for a FaceMaker.

    Args:
        items: numbers of the rows.
        view: 0 for the plain view, else the number of a random one.
        size: rows of a unit.
    """
    parts = [items[at : at + size] for at in range(0, len(items), size)]
    return [_unit(table, part, np.full(len(part), view)) for part in parts]


def _unit(table: pa.Table, items: Numbers, views: Numbers) -> pa.Table:
    rows = table.select(["id", "crop"]).take(items).combine_chunks()
    return rows.append_column("view", pa.array(views))


def _batch(batch: Batch, people_B: Numbers, rank: int, world: int, seed: int) -> tuple[Tensor, ...]:
    numbers = torch.arange(len(people_B))[rank::world]
    return *to_tensors(batch), torch.from_numpy(people_B), numbers, torch.tensor([seed])


def build_face_data(train: pa.Table, val: pa.Table, config: FacesConfig, stream: Stream) -> FaceData:
    """Task data of divided faces.

    Raises:
        OptionError: more people in a batch than there are, or fewer faces in one than workers.
    """
    people = config.batch_size // config.images_per_person
    train_people, val_people = _numbered(train), _numbered(val)
    people = min(people, int(train_people.max()) + 1)
    if config.worker_range[1] > min(people * config.images_per_person, *map(len, val_parts(val_people))):
        raise OptionError(f"expected at most as many workers as faces in a batch, got {config.workers} workers")
    given = input_of(architecture(config))
    planner = FacePlanner(people_N=train_people, people=people, images=config.images_per_person, seed=config.seed)
    maker = FaceMaker(given["size"], given["paddings"][1], config.augment, config.seed)
    return FaceData(train, val, train_people, val_people, planner, maker, stream)


def _numbered(table: pa.Table) -> npt.NDArray[np.int64]:
    return np.unique(table["label"].to_pylist(), return_inverse=True)[1].astype(np.int64)


def build_parts(train: str, val: str, task: FacesTask, stream: Stream) -> tuple[FacesTask, FaceData]:
    """Task and data of a run on the faces listed in two files, the same in every process."""
    return task, build_face_data(read_parquet(train), read_parquet(val), task.config, stream)
