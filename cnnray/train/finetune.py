"""Trains the upper stages of a network with a new head, or a whole network from scratch: `cnnray train finetune`.

From images: every batch runs through the whole network. From stored activations (`features build --tap T --pool none`):
the stages up to T are never run again. With the same views and seed both end with the same weights.

RUN/state/last.state   training state, replaced after every epoch; the same command goes on from it
RUN/images.parquet     the images that can be decoded; the others are in RUN/quarantine
RUN/manifest.json      written last: the run is finished
The rest is described in `cnnray.train.outcome`.
"""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from cnnray import cluster, files
from cnnray.config import FinetuneConfig
from cnnray.data.check import check_rows
from cnnray.data.feature_store import load_features, to_parquet
from cnnray.data.runs import RunFolder, read_manifest
from cnnray.data.stream import stream_here
from cnnray.data.units import load_index
from cnnray.nn.backbones import Backbone, build_backbone
from cnnray.nn.checkpoint import Card
from cnnray.nn.weights import absolute_weights
from cnnray.train.classify import answers_on, fingerprint, rebuild_backbone
from cnnray.train.finetune_task import (
    FinetuneTask,
    build_activation_data,
    build_activation_parts,
    build_image_parts,
    network_of_features,
    plan_task,
    stage_names,
)
from cnnray.train.head import predict_val
from cnnray.train.image_data import build_image_data
from cnnray.train.launch import Make, plan_stream
from cnnray.train.loop import Data
from cnnray.train.outcome import Answers, finish, train_and_export
from cnnray.train.plan import check_batches
from cnnray.train.state import State, Tensors

GOOD = "images.parquet"


@dataclass(frozen=True)
class Prepared:
    """A source that is ready to be trained on.

    Attributes:
        folder: of the run.
        task, backbone: what is trained, from where.
        classes: names.
        num_train, num_val: images.
        make: builds task and data in a worker.
        cpus: that a worker reserves.
        content: hash of the data.
        answers: of the trained network on the validation images, after its checkpoint is stored.
    """

    folder: RunFolder
    task: FinetuneTask
    backbone: Backbone
    classes: tuple[str, ...]
    num_train: int
    num_val: int
    make: Make
    cpus: float
    content: str
    answers: Callable[[State], Answers]


def train_finetune(source: str, out: str, config: FinetuneConfig, *, address: str | None = None) -> dict[str, Any]:
    """Fine-tune a network on images or on stored activations, and write a run folder with checkpoints and report.

    Args:
        source: images with labels, as for `build_features`, or a finished features run with maps.
        out: run folder, new or unfinished; on storage that all workers reach.
        address: of a Ray cluster; None is a local one.

    Returns:
        The manifest: "metrics" of the best epoch on the validation images, "checkpoint" (URI), "trained_stages"
        (names, highest first), counts, hashes.

    Raises:
        UserError: what the source, the settings or the run folder do not allow; says which.
        QuarantineError: too many images are bad.
        StorageError: disk full or unreachable.
    """
    source, out = files.absolute(source), files.absolute(out)
    config = replace(config, weights=absolute_weights(config.weights))
    cluster.connect(address)
    stored = files.exists(files.join(source, "manifest.json")) and read_manifest(source)["kind"] == "features"
    ready = _from_features(source, out, config) if stored else _from_images(source, out, config)
    export = functools.partial(_export, ready)
    weights = "random" if config.weights == "none" else ready.backbone.weights_sha256
    digest = fingerprint(f"{ready.content} {weights}", ready.task.config)
    state = train_and_export(ready.make, config, ready.folder, digest, export, cpus=ready.cpus)
    return ready.folder.finish(
        {
            "source": source,
            "content_sha256": ready.content,
            "counts": {"train": ready.num_train, "val": ready.num_val, "classes": len(ready.classes)},
            "trained_stages": stage_names(ready.task, ready.backbone),
            **finish(ready.folder, state, config, export, ready.answers(state), _subtitle(ready)),
        }
    )


def _from_images(source: str, out: str, config: FinetuneConfig) -> Prepared:
    backbone = build_backbone(config.network, config.weights)
    folder = RunFolder.open(out, config, "finetune", source=source)
    good, _ = check_rows(folder, load_index(folder, source, config, seed=config.seed), config)
    files.write_bytes(folder.path(GOOD), to_parquet(good))
    data = build_image_data(good, backbone.spec, config, stream_here)
    num_train, classes = len(data.division.train), data.division.classes
    task = plan_task(config, num_train, len(classes))
    check_batches(num_train, config)
    cpus, stream = plan_stream(config)
    return Prepared(
        folder=folder,
        task=task,
        backbone=backbone,
        classes=classes,
        num_train=num_train,
        num_val=len(data.division.val),
        make=functools.partial(build_image_parts, folder.path(GOOD), task, stream),
        cpus=cpus,
        content=hashlib.sha256(to_parquet(good)).hexdigest(),
        answers=lambda state: Answers(
            list(data.paths[data.division.val]),
            data.division.labels[data.division.val],
            _answer(task, backbone, state, replace(data, stream=stream)),
            classes,
        ),
    )


def _from_features(source: str, out: str, config: FinetuneConfig) -> Prepared:
    table = load_features(source)
    backbone = rebuild_backbone(table.manifest)
    settings = network_of_features(table, config)
    data = build_activation_data(table, settings)
    task = plan_task(settings, len(data.first), len(data.classes), table.manifest["backbone"]["tap"])
    check_batches(len(data.first), config)
    return Prepared(
        folder=RunFolder.open(out, config, "finetune", source=source),
        task=task,
        backbone=backbone,
        classes=data.classes,
        num_train=len(data.first),
        num_val=len(data.val),
        make=functools.partial(build_activation_parts, source, task),
        cpus=1.0,
        content=table.manifest["content_sha256"],
        answers=lambda state: answers_on(source, table, data, _answer(task, backbone, state, data)),
    )


def _answer(task: FinetuneTask, backbone: Backbone, state: State, data: Data) -> npt.NDArray[np.float32]:
    """Probabilities of the best weights on the validation examples; on a GPU of the cluster where training had one."""

    def probabilities(weights: Tensors) -> npt.NDArray[np.float32]:
        model = task.assemble(backbone)
        model.load_state_dict(weights)
        return predict_val(model, data, precision=task.config.precision, device="cuda" if task.config.gpu else "cpu")

    if not task.config.gpu:
        return probabilities(state.best)
    found: npt.NDArray[np.float32] = ray.get(ray.remote(num_gpus=1)(probabilities).remote(state.best))
    return found


def _export(ready: Prepared, weights: Tensors) -> tuple[Tensors, Card]:
    """Tensors and card of a checkpoint that needs nothing beside it."""
    spec = ready.backbone.spec
    card = Card(
        task="classify",
        arch={
            "backbone": ready.backbone.name,
            "tap": spec.default_tap,
            "pool": "avg",
            "backbone_sha256": ready.backbone.weights_sha256,
            "head": "linear",
            "hidden": 1,
            "num_features": weights["head.mean"].numel(),
        },
        classes=list(ready.classes),
        input={
            "size": spec.input_size,
            "resize": spec.resize,
            "interpolation": spec.interpolation,
            "mean": list(spec.mean),
            "std": list(spec.std),
        },
        metrics={},
        data_hash=ready.content,
    )
    return weights, card


def _subtitle(ready: Prepared) -> str:
    names = stage_names(ready.task, ready.backbone)
    start = "from scratch" if ready.task.config.weights == "none" else f"{len(names)} stages fine-tuned"
    return (
        f"{ready.backbone.name}, {start}, on {ready.num_train:,} training images of {len(ready.classes)} classes, "
        f"checked on {ready.num_val:,} validation images"
    )
