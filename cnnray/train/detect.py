"""Trains a detector on images with boxes: `cnnray train detect SOURCE --out RUN`.

RUN/train.parquet, val.parquet   the images on each side; bad ones are in RUN/quarantine, bad boxes in problems.parquet
RUN/state/last.state             training state, replaced after every epoch; the same command goes on from it
RUN/checkpoint/, last/           the detector of the best and of the last epoch
RUN/metrics.json, report.html    COCO's figures on the validation images, curves, the worst images
RUN/tensorboard/                 the figures of every epoch
RUN/manifest.json                written last: the run is finished
"""

import functools
import hashlib
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from cnnray import cluster, files
from cnnray.config import DetectConfig
from cnnray.data.annotations import Annotations
from cnnray.data.boxes import check_boxes, divide_boxes
from cnnray.data.detect_report import BoxJudge
from cnnray.data.feature_store import to_parquet
from cnnray.data.formats import read_annotations
from cnnray.data.predict_detect import measure
from cnnray.data.runs import RunFolder
from cnnray.errors import DataError
from cnnray.nn.checkpoint import Card, load_checkpoint, save_checkpoint
from cnnray.nn.detectors import build_detector, describe
from cnnray.nn.weights import absolute_weights
from cnnray.page import Picture, Section, write_page
from cnnray.report import training_curves
from cnnray.train.classify import fingerprint
from cnnray.train.detect_data import build_parts
from cnnray.train.detect_task import architecture
from cnnray.train.launch import plan_stream
from cnnray.train.loop import best_epoch
from cnnray.train.outcome import CHECKPOINT, train_and_export
from cnnray.train.plan import check_batches
from cnnray.train.state import State, Tensors, without_steps

_SCORE = "average precision of a picture, IoU 0.5"


def train_detect(source: str, out: str, config: DetectConfig, *, address: str | None = None) -> dict[str, Any]:
    """Train a detector and write a run folder with checkpoints and report.

    Args:
        source: a COCO file, or a folder in COCO's, Pascal VOC's or YOLO's layout, see `cnnray.data.formats`. Its splits
            "train" and "val" divide it; without "val" `config.val_fraction` of what is not "test" validates.
        out: run folder, new or unfinished; on storage that all workers reach.
        address: of a Ray cluster; None is a local one.

    Returns:
        The manifest: "metrics" of the best epoch, COCO's; "checkpoint" (URI), counts, problems by code, hashes.

    Raises:
        DataError: a source that cannot be read or trained on, see `read_annotations`, `check_boxes`, `divide_boxes`.
        UserError, QuarantineError, StorageError: as `train_finetune`.
    """
    source, out = files.absolute(source), files.absolute(out)
    config = replace(config, weights=absolute_weights(config.weights))
    annotations = read_annotations(source, config.images)
    if not annotations.categories:
        raise DataError(f"expected boxes and their classes in {source}, but it names no class")
    network = build_checked(config, len(annotations.categories))
    folder = RunFolder.open(out, config, "detect", source=source)
    cluster.connect(address)
    good = check_boxes(folder, annotations, config)
    train, val = divide_boxes(good, config.val_fraction, config.seed)
    check_batches(train.num_rows, config)
    tables = {name: to_parquet(table) for name, table in (("train", train), ("val", val))}
    for name, table in tables.items():
        files.write_bytes(folder.path(f"{name}.parquet"), table)
    content = hashlib.sha256(b"".join(tables.values()) + "\n".join(good.categories).encode()).hexdigest()

    cpus, stream = plan_stream(config)
    count = len(good.categories)
    make = functools.partial(
        build_parts, folder.path("train.parquet"), folder.path("val.parquet"), count, config, stream
    )
    export = functools.partial(_export, good, config, content)
    state = train_and_export(make, config, folder, fingerprint(content, config), export, cpus=cpus)
    judge = _finish(folder, state, replace(good, table=val), config)
    return folder.finish(
        {
            "source": source,
            "content_sha256": content,
            "counts": {"train": train.num_rows, "val": val.num_rows, "boxes": good.num_boxes, "classes": count},
            "problems": annotations.codes,
            "params": sum(p.numel() for p in network.parameters()),
            "epochs": len(state.history),
            "best_epoch": best_epoch(state.history, config.monitor),
            "metrics": judge.figures,
            "checkpoint": folder.path(CHECKPOINT),
            "weights_sha256": load_checkpoint(folder.path(CHECKPOINT), "detect")[1].weights_sha256,
        }
    )


def build_checked(config: DetectConfig, num_classes: int) -> nn.Module:
    """The network before training, after it was shown one picture: what does not fit is told now, not by a worker.

    Raises:
        UnknownNameError, CheckpointError, StorageError, OptionError: as `build_detector`.
    """
    network: nn.Module = build_detector(architecture(config), num_classes, config.weights)
    with torch.no_grad():
        network(torch.zeros(1, 3, config.size, config.size, dtype=torch.uint8))
    return network


def _finish(folder: RunFolder, state: State, val: Annotations, config: DetectConfig) -> BoxJudge:
    """Measure the best checkpoint on the validation images, as it will serve; figures, page."""
    checkpoint, best = folder.path(CHECKPOINT), best_epoch(state.history, config.monitor)
    judge = measure(checkpoint, val, config.confidence, config.overlap)
    tensors, card = load_checkpoint(checkpoint, "detect")
    save_checkpoint(checkpoint, tensors, replace(card, metrics=judge.figures))
    history = without_steps(state.history)
    files.write_json(
        folder.path("metrics.json"),
        {"validation": judge.figures, "best_epoch": best, "history": history, "classes": judge.table},
    )
    caption = f"{len(history)} epochs; the checkpoint is from epoch {best + 1}, the best one"
    result, *others = judge.sections(config.draw_worst)
    subtitle = (
        f"{describe(architecture(config))}, {len(val.categories)} classes, checked on {val.table.num_rows:,} images"
    )
    score = "share of windows that are right" if config.model == "windows" else _SCORE
    curves = Picture(training_curves(state.history, best, score), caption)
    write_page(folder.path("report.html"), "Detector", [result, Section("Training", [curves]), *others], subtitle)
    return judge


def _export(annotations: Annotations, config: DetectConfig, content: str, weights: Tensors) -> tuple[Tensors, Card]:
    """Tensors and card of a checkpoint that needs nothing beside it."""
    if config.model == "windows":  # what was trained is a part of it
        weights = {f"classifier.{name}": tensor for name, tensor in weights.items()}
    card = Card(
        task="detect",
        arch=architecture(config),
        classes=list(annotations.categories),
        input={"size": config.size, "category_ids": list(annotations.category_ids)},
        metrics={},
        data_hash=content,
    )
    return weights, card
