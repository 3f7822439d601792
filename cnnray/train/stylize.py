"""Trains one network that paints photos in several styles: `cnnray train stylize --content PHOTOS --style S --out RUN`.

RUN/photos.parquet               the photos that can be decoded; the others are in RUN/quarantine
RUN/train.parquet, val.parquet   the photos on each side
RUN/styles/NAME.png              the style pictures, as the network that judges saw them
RUN/state/last.state             training state, replaced after every epoch; the same command goes on from it
RUN/checkpoint/, last/           the network of the best and of the last epoch
RUN/metrics.json, report.html    losses by style, curves, paintings of validation photos
RUN/manifest.json                written last: the run is finished
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from cnnray import cluster, files
from cnnray.config import StyleTrainConfig
from cnnray.data.check import check_rows
from cnnray.data.feature_store import to_parquet
from cnnray.data.fetch import fetch_image
from cnnray.data.runs import RunFolder
from cnnray.data.stream import stream_here
from cnnray.data.units import load_index
from cnnray.errors import DataError, OptionError
from cnnray.nn.checkpoint import Card, load_checkpoint, save_checkpoint
from cnnray.nn.transform_net import TransformNet
from cnnray.nn.weights import absolute_weights
from cnnray.ops.decode import decode
from cnnray.ops.overlay import png
from cnnray.ops.planes import to_pixels
from cnnray.ops.split import hold_out
from cnnray.ops.style_pictures import fit_style
from cnnray.page import Picture, Section, Table, write_page
from cnnray.report import picture_grid, training_curves
from cnnray.train.classify import fingerprint
from cnnray.train.launch import plan_stream
from cnnray.train.loop import best_epoch
from cnnray.train.outcome import CHECKPOINT, train_and_export
from cnnray.train.plan import check_batches
from cnnray.train.state import State, Tensors, without_steps
from cnnray.train.stylize_task import Judge, StylizeTask, build_parts, build_stylize_data

TASK = "stylize"
_SHOWN = 4  # photos of the report


def train_stylize(
    content: str,
    styles: Mapping[str, str],
    out: str,
    config: StyleTrainConfig,
    *,
    address: str | None = None,
) -> dict[str, Any]:
    """Train a network that paints in these styles, and write a run folder with checkpoint and report.

    Args:
        content: photos, a folder or a manifest.
        styles: path or URI of the picture of each style, by name.
        out: run folder, new or unfinished; on storage that all workers reach.
        address: of a Ray cluster; None is a local one.

    Returns:
        The manifest: "metrics" by style on the validation photos (style, content, variation), "checkpoint" (URI).

    Raises:
        OptionError: no style; a style too small, or taps that the backbone does not have.
        ImageError: a style that is no picture.
        DataError: too few photos.
        UserError, QuarantineError, StorageError: as `train_finetune`.
    """
    content, out = files.absolute(content), files.absolute(out)
    config = replace(config, weights=absolute_weights(config.weights))
    pictures = load_styles(styles, config.style_size or config.crop)
    judge = Judge(config, list(pictures.values()))  # tells a wrong style or tap before a folder is made
    folder = RunFolder.open(out, config, TASK, source=f"{content} in {', '.join(styles)}")
    cluster.connect(address)
    good, _ = check_rows(folder, load_index(folder, content, config, seed=config.seed), config)
    train, val = divide_photos(good, config)
    check_batches(train.num_rows, config)
    tables = {"train": to_parquet(train), "val": to_parquet(val)}
    for name, table in tables.items():
        files.write_bytes(folder.path(f"{name}.parquet"), table)
    for name, picture in pictures.items():
        files.write_bytes(folder.path(f"styles/{name}.png"), png(picture[0].permute(1, 2, 0).numpy()))
    seen = b"".join(picture.numpy().tobytes() for picture in pictures.values())
    digest = hashlib.sha256(b"".join(tables.values()) + seen).hexdigest()
    cpus, stream = plan_stream(config)
    paths = (folder.path("train.parquet"), folder.path("val.parquet"))
    make = functools.partial(build_parts, *paths, list(pictures.values()), config, stream)
    export = functools.partial(_export, list(pictures), config, digest)
    state = train_and_export(make, config, folder, fingerprint(digest, config), export, cpus=cpus)
    figures = _finish(folder, state, StylizeTask(config, judge, len(pictures)), val, list(pictures))
    return folder.finish(
        {
            "source": content,
            "content_sha256": digest,
            "styles": dict(styles),
            "counts": {"train": train.num_rows, "val": val.num_rows, "styles": len(pictures)},
            "epochs": len(state.history),
            "best_epoch": best_epoch(state.history, config.monitor),
            "metrics": figures,
            "checkpoint": folder.path(CHECKPOINT),
            "weights_sha256": load_checkpoint(folder.path(CHECKPOINT), TASK)[1].weights_sha256,
        }
    )


def load_styles(styles: Mapping[str, str], size: int) -> dict[str, Tensor]:
    """The style pictures, uint8 [1, 3, H, W], their shorter side `size` px where they are larger.

    Raises:
        OptionError: there is none.
        ImageError: one that is no picture.
    """
    if not styles:
        raise OptionError("expected at least one style picture, got none")
    found = {}
    for name, path in styles.items():
        picture = fit_style(decode(fetch_image(path)), size)
        found[name] = torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous()
    return found


def divide_photos(photos: pa.Table, config: StyleTrainConfig) -> tuple[pa.Table, pa.Table]:
    """Training and validation photos, `id, path`: a seeded fraction by id.

    Raises:
        DataError: nothing on one side.
    """
    side = pa.array(hold_out(photos["id"].to_pylist(), config.val_fraction, config.seed), pa.string())
    train, val = (photos.filter(pc.equal(side, name)).select(["id", "path"]) for name in ("train", "val"))
    if not train.num_rows or not val.num_rows:
        raise DataError(f"expected photos to train and to validate on, got {train.num_rows} and {val.num_rows}")
    return train, val


def _export(styles: Sequence[str], config: StyleTrainConfig, digest: str, weights: Tensors) -> tuple[Tensors, Card]:
    """Tensors and card of a checkpoint that needs nothing beside it."""
    arch = {"num_styles": len(styles), "width": config.width, "blocks": config.blocks}
    return weights, Card(task=TASK, arch=arch, classes=list(styles), data_hash=digest)


def _finish(
    folder: RunFolder, state: State, task: StylizeTask, val: pa.Table, styles: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Losses of the best checkpoint by style, as it will serve; figures, page."""
    checkpoint, best = folder.path(CHECKPOINT), best_epoch(state.history, task.config.monitor)
    tensors, card = load_checkpoint(checkpoint, TASK)
    net = task.build()
    net.load_state_dict(tensors)
    figures, rows = _measure(net.eval(), task, val, styles)
    save_checkpoint(checkpoint, tensors, replace(card, metrics=figures))
    history = without_steps(state.history)
    files.write_json(folder.path("metrics.json"), {"validation": figures, "best_epoch": best, "history": history})
    curves = Picture(training_curves(state.history, best, "1 - style's relative error"), f"{len(history)} epochs")
    table = Table(("style", *figures[styles[0]]), [(name, *figures[name].values()) for name in styles])
    shown = Picture(picture_grid(rows, ["photo", *styles]), "validation photos, painted by the checkpoint")
    sections = [Section("", [shown]), Section("Losses", [table]), Section("Training", [curves])]
    subtitle = f"{len(styles)} styles, checked on {val.num_rows:,} validation photos"
    write_page(folder.path("report.html"), "Painter", sections, subtitle)
    return figures


def _measure(
    net: TransformNet, task: StylizeTask, val: pa.Table, styles: Sequence[str]
) -> tuple[dict[str, dict[str, float]], list[list[np.ndarray[Any, Any]]]]:
    """Mean losses by style, and rows of pictures: a photo and its paintings."""
    data = build_stylize_data(val, val, len(styles), task.config, stream_here)
    sums = torch.zeros(len(styles), 3, dtype=torch.float64)
    pictures: list[np.ndarray[Any, Any]] = []
    with torch.no_grad():
        for images, weights in data.val_batches(0, 1):
            photos = images.float() / 255
            painted = net(photos, weights)
            losses = torch.stack(task.judge.losses(painted, photos, weights), 1)
            sums += weights.T.double() @ losses.double()
            for photo, painting, style in zip(photos, painted, weights.argmax(1).tolist(), strict=True):
                shown = [photo, painting] if style == 0 else [painting]
                pictures += [to_pixels(one[None]) for one in shown]
    means = sums / val.num_rows
    figures = {
        name: dict(zip(("style", "content", "variation"), map(float, row), strict=True))
        for name, row in zip(styles, means, strict=True)
    }
    step = len(styles) + 1
    return figures, [pictures[at : at + step] for at in range(0, len(pictures), step)][:_SHOWN]
