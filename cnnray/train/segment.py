"""Trains a U-Net on images with masks: `cnnray train segment SOURCE --out RUN`.

RUN/train.parquet, val.parquet   the pairs on each side; bad ones are in RUN/quarantine
RUN/state/last.state             training state, replaced after every epoch; the same command goes on from it
RUN/checkpoint/, last/           the segmenter of the best and of the last epoch
RUN/metrics.json, report.html    figures over all validation pixels, curves, the worst images
RUN/tensorboard/                 the figures of every epoch
RUN/manifest.json                written last: the run is finished
"""

import functools
import hashlib
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cnnray import cluster, files
from cnnray.config import SegmentConfig
from cnnray.data.feature_store import to_parquet
from cnnray.data.pairs import Pairs, build_pairs, check_pairs
from cnnray.data.predict_segment import measure
from cnnray.data.runs import RunFolder
from cnnray.errors import DataError
from cnnray.nn.checkpoint import Card, load_checkpoint, save_checkpoint
from cnnray.nn.segment import PLAIN, build_segmenter
from cnnray.nn.weights import absolute_weights
from cnnray.ops.split import hold_out
from cnnray.page import Picture, Section, write_page
from cnnray.report import training_curves
from cnnray.train.classify import fingerprint
from cnnray.train.launch import plan_stream
from cnnray.train.loop import best_epoch
from cnnray.train.outcome import CHECKPOINT, train_and_export
from cnnray.train.plan import check_batches
from cnnray.train.segment_task import architecture, build_parts
from cnnray.train.state import State, Tensors, without_steps


def train_segment(source: str, out: str, config: SegmentConfig, *, address: str | None = None) -> dict[str, Any]:
    """Train a segmenter and write a run folder with checkpoints and report.

    Args:
        source: a folder with images/ and masks/ (or labels/), or a manifest with columns path and mask; "split" in it
            says train or val, else `config.val_fraction` of the images validate.
        out: run folder, new or unfinished; on storage that all workers reach.
        address: of a Ray cluster; None is a local one.

    Returns:
        The manifest: "metrics" of the best epoch over all validation pixels, "checkpoint" (URI), counts, hashes.

    Raises:
        DataError: pairs that cannot be trained on, see `build_pairs`, `check_pairs`, `divide_pairs`.
        UserError, QuarantineError, StorageError: as `train_finetune`.
    """
    source, out = files.absolute(source), files.absolute(out)
    config = replace(config, weights=absolute_weights(config.weights))
    listed = build_pairs(source, config)
    network = build_segmenter(architecture(config), 2, config.weights)  # tells a wrong name before a folder is made
    folder = RunFolder.open(out, config, "segment", source=source)
    cluster.connect(address)
    pairs = check_pairs(folder, listed, config)
    train, val = divide_pairs(pairs, config)
    check_batches(train.num_rows * config.crops, config)
    tables = {name: to_parquet(table) for name, table in (("train", train), ("val", val))}
    for name, table in tables.items():
        files.write_bytes(folder.path(f"{name}.parquet"), table)
    content = hashlib.sha256(b"".join(tables.values()) + pairs.space.text.encode()).hexdigest()

    cpus, stream = plan_stream(config)
    make = functools.partial(
        build_parts, folder.path("train.parquet"), folder.path("val.parquet"), pairs.space, config, stream
    )
    export = functools.partial(_export, pairs, config, content)
    state = train_and_export(make, config, folder, fingerprint(content, config), export, cpus=cpus)
    figures = _finish(folder, state, replace(pairs, table=val), config)
    return folder.finish(
        {
            "source": source,
            "content_sha256": content,
            "counts": {"train": train.num_rows, "val": val.num_rows, "classes": len(pairs.space.names)},
            "classes": pairs.space.text,
            "params": sum(p.numel() for p in network.parameters()),
            "epochs": len(state.history),
            "best_epoch": best_epoch(state.history, config.monitor),
            "metrics": figures,
            "checkpoint": folder.path(CHECKPOINT),
            "weights_sha256": load_checkpoint(folder.path(CHECKPOINT), "segment")[1].weights_sha256,
        }
    )


def divide_pairs(pairs: Pairs, config: SegmentConfig) -> tuple[pa.Table, pa.Table]:
    """Training and validation pairs: by their split, or a seeded fraction by id.

    Raises:
        DataError: nothing on one side, or a class that only validation masks have.
    """
    table = pairs.table
    names = set(table["split"].to_pylist()) - {"", None}
    if not names:
        side = hold_out(table["id"].to_pylist(), config.val_fraction, config.seed)
        table = table.set_column(3, "split", pa.array(side, pa.string()))
    train, val = (table.filter(pc.equal(table["split"], name)) for name in ("train", "val"))
    if not train.num_rows or not val.num_rows:
        raise DataError(
            f"expected images to train and to validate on, got {train.num_rows} and {val.num_rows}"
            + (f" (splits: {', '.join(sorted(names))})" if names else "; add images or change --val-fraction")
        )
    _check_classes(train, val, pairs)
    return train, val


def _check_classes(train: pa.Table, val: pa.Table, pairs: Pairs) -> None:
    """Every class of the validation masks must be learned from some training mask."""
    seen, asked = (set(pc.list_flatten(table["values"].combine_chunks()).to_pylist()) for table in (train, val))
    space = pairs.space
    lost = [name for name, value in zip(space.names, space.values, strict=True) if value in asked - seen]
    if lost:
        raise DataError(
            f"expected every class in the training masks, but {', '.join(lost)} is only in those of the "
            f"{val.num_rows} validation images; add training images with it or divide otherwise"
        )


def _finish(folder: RunFolder, state: State, val: Pairs, config: SegmentConfig) -> dict[str, float]:
    """Measure the best checkpoint on the validation images, as it will serve; figures, page."""
    checkpoint, best = folder.path(CHECKPOINT), best_epoch(state.history, config.monitor)
    judge = measure(checkpoint, val, config.draw_worst)
    tensors, card = load_checkpoint(checkpoint, "segment")
    save_checkpoint(checkpoint, tensors, replace(card, metrics=judge.figures))
    history = without_steps(state.history)
    files.write_json(
        folder.path("metrics.json"),
        {"validation": judge.figures, "best_epoch": best, "history": history, "classes": judge.table},
    )
    caption = f"{len(history)} epochs; the checkpoint is from epoch {best + 1}, the best one"
    curves = Picture(training_curves(state.history, best, "overlap of foreground classes"), caption)
    result, *others = judge.sections()
    encoder = "plain U-Net" if config.encoder == PLAIN else f"U-Net on {config.encoder}"
    subtitle = f"{encoder}, {len(val.space.names)} classes, checked on {val.table.num_rows:,} validation images"
    write_page(folder.path("report.html"), "Segmenter", [result, Section("Training", [curves]), *others], subtitle)
    return judge.figures


def _export(pairs: Pairs, config: SegmentConfig, content: str, weights: Tensors) -> tuple[Tensors, Card]:
    """Tensors and card of a checkpoint that needs nothing beside it."""
    card = Card(
        task="segment",
        arch=architecture(config),
        classes=list(pairs.space.names),
        input={
            "tile": config.tile,
            "overlap": config.overlap,
            "values": list(pairs.space.values),
            "ignore": pairs.space.ignore,
        },
        metrics={},
        data_hash=content,
    )
    return weights, card
