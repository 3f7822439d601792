"""Trains an embedder of faces on identity folders: `cnnray train faces SOURCE --out RUN`.

RUN/crops/, predictions/         the aligned faces, cut out once; what cannot be used is in RUN/quarantine
RUN/train.parquet, val.parquet   the faces to learn from, and those of the people who are held out
RUN/start/                       where a backbone's training starts, see `cnnray.train.face_start`
RUN/state/last.state             training state, replaced after every epoch; the same command goes on from it
RUN/checkpoint/, last/           the embedder of the best and of the last epoch
RUN/metrics.json, report.html    verification and identification of the people held out, curves, the worst mistakes
RUN/manifest.json                written last: the run is finished
"""

import functools
import hashlib
from dataclasses import replace
from typing import Any

from cnnray import cluster, files
from cnnray.config import FacesConfig, ManifestConfig
from cnnray.data.face_crops import cut_faces
from cnnray.data.face_judges import to_unit
from cnnray.data.face_sections import gallery_sections, pair_sections
from cnnray.data.feature_store import read_quarantine, to_parquet
from cnnray.data.measure_faces import measure_faces
from cnnray.data.runs import RunFolder
from cnnray.data.stream import stream_here
from cnnray.data.units import load_index
from cnnray.nn.checkpoint import Card, load_checkpoint, save_checkpoint
from cnnray.nn.embedders import BACKBONE, build_embedding_net, input_of
from cnnray.nn.face_weights import TASK
from cnnray.nn.weights import absolute_weights
from cnnray.ops.face_views import stored_size
from cnnray.page import Picture, Section, write_page
from cnnray.report import training_curves
from cnnray.train.classify import fingerprint
from cnnray.train.face_data import Division, build_face_data, build_parts, divide_people
from cnnray.train.face_start import prepare_start
from cnnray.train.faces_task import FacesTask, architecture
from cnnray.train.launch import plan_stream
from cnnray.train.loop import best_epoch
from cnnray.train.outcome import CHECKPOINT, train_and_export
from cnnray.train.state import State, Tensors, without_steps

_START = "start"
_SCORE = "nearest other face shows the same person"
_FIGURES = ("accuracy", "auc", "equal_error_rate", "tar_at_far_0.01", "rank_1")


def train_faces(source: str, out: str, config: FacesConfig, *, address: str | None = None) -> dict[str, Any]:
    """Train an embedder and write a run folder with checkpoints and report.

    Args:
        source: a folder with a folder of images for every person, or a manifest; as for `build_features`.
        out: run folder, new or unfinished; on storage that all workers reach.
        address: of a Ray cluster; None is a local one.

    Returns:
        The manifest: "metrics" of the best epoch on people who were not learned from, "checkpoint" (URI), counts,
        hashes.

    Raises:
        DataError: images that cannot be trained on, see `cut_faces`, `divide_people`.
        UserError, QuarantineError, StorageError: as `train_finetune`.
    """
    source, out = files.absolute(source), files.absolute(out)
    config = replace(config, weights=absolute_weights(config.weights))
    arch = architecture(config)
    network = build_embedding_net(arch, config.weights)  # tells a wrong name before a folder is made
    given = input_of(arch)
    folder = RunFolder.open(out, config, TASK, source=source)
    cluster.connect(address)
    index = load_index(folder, source, ManifestConfig(path_column=config.path_column, label_column=config.label_column))
    size = stored_size(given["size"], given["paddings"][1])
    table = cut_faces(folder, index, size, config)
    division = divide_people(table, config)
    content = _store(folder, division)
    cpus, stream = plan_stream(config)
    task = FacesTask(config, _prepared(folder, division, config, arch), division.train.num_rows)
    build_face_data(division.train, division.val, config, stream_here)  # tells settings that do not fit
    make = functools.partial(build_parts, folder.path("train.parquet"), folder.path("val.parquet"), task, stream)
    export = functools.partial(_export, arch, given, content)
    state = train_and_export(make, config, folder, fingerprint(content, config), export, cpus=cpus)
    figures = _finish(folder, state, division, size, config)
    return folder.finish(
        {
            "source": source,
            "content_sha256": content,
            "counts": _counts(division) | {"quarantined": read_quarantine(out).num_rows},
            "params": sum(p.numel() for p in network.parameters()),
            "epochs": len(state.history),
            "best_epoch": best_epoch(state.history, config.monitor),
            "metrics": figures,
            "checkpoint": folder.path(CHECKPOINT),
            "weights_sha256": load_checkpoint(folder.path(CHECKPOINT), TASK)[1].weights_sha256,
        }
    )


def _store(folder: RunFolder, division: Division) -> str:
    """Keep who is on which side; the hash of what is learned from and validated with, wherever it is stored."""
    digest = hashlib.sha256()
    for name, table in (("train", division.train), ("val", division.val)):
        files.write_bytes(folder.path(f"{name}.parquet"), to_parquet(table))
        digest.update(to_parquet(table.select(["id", "label", "width"])))
    return digest.hexdigest()


def _prepared(folder: RunFolder, division: Division, config: FacesConfig, arch: dict[str, Any]) -> str:
    """The checkpoint that training starts from, made once; "" where the published network is the start."""
    if arch["model"] != BACKBONE:
        return ""
    uri = folder.path(_START)
    if not files.exists(files.join(uri, "card.json")):
        prepare_start(build_face_data(division.train, division.val, config, stream_here), config, uri)
    return uri


def _counts(division: Division) -> dict[str, int]:
    people = {
        name: len(set(table["label"].to_pylist())) for name, table in division._asdict().items() if name != "alone"
    }
    return {
        "train": division.train.num_rows,
        "val": division.val.num_rows,
        "train_people": people["train"],
        "val_people": people["val"],
        "people_with_one_face": division.alone,
    }


def _finish(
    folder: RunFolder, state: State, division: Division, size: int, config: FacesConfig
) -> dict[str, float | None]:
    """Measure the best checkpoint on the people held out, as it will be used; figures, threshold, page."""
    checkpoint, best = folder.path(CHECKPOINT), best_epoch(state.history, config.monitor)
    measured = measure_faces(checkpoint, division.val, size, config.seed)
    figures = measured.pairs.figures | measured.gallery.closed
    figures = {name: figures[name] for name in _FIGURES}
    tensors, card = load_checkpoint(checkpoint, TASK)
    threshold = to_unit(measured.pairs.threshold, measured.pairs.unit)
    save_checkpoint(checkpoint, tensors, replace(card, metrics=figures, input=card.input | {"threshold": threshold}))
    history = without_steps(state.history)
    files.write_json(
        folder.path("metrics.json"),
        {"validation": figures, "threshold": threshold, "best_epoch": best, "history": history},
    )
    caption = f"{len(history)} epochs; the checkpoint is from epoch {best + 1}, the best one"
    curves = Section("Training", [Picture(training_curves(state.history, best, _SCORE), caption)])
    name, count = f"{config.start}, {config.loss}", _counts(division)
    verification, *others = pair_sections(measured.pairs, measured.faces, name, config.draw_worst)
    sections = [verification, curves, *others]
    sections += gallery_sections(measured.gallery, measured.faces, name, config.draw_worst)
    subtitle = (
        f"{config.start}, {config.loss} loss, {count['train_people']:,} people to learn from, checked on "
        f"{count['val']:,} faces of {count['val_people']:,} others"
    )
    write_page(folder.path("report.html"), "Embedder of faces", sections, subtitle)
    return figures


def _export(arch: dict[str, Any], given: dict[str, Any], content: str, weights: Tensors) -> tuple[Tensors, Card]:
    """Tensors and card of a checkpoint that needs nothing beside it; its threshold is measured later."""
    start = 0.5 if arch["head"] else 1.0
    card = Card(task=TASK, arch=arch, input=given | {"threshold": start}, metrics={}, data_hash=content)
    return weights, card
