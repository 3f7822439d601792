"""Trains a classification head on stored features: `cnnray train classify RUN --out RUN2`.

RUN2/state/last.state   training state, replaced after every epoch; the same command goes on from it
RUN2/manifest.json      written last: the run is finished
The rest is described in `cnnray.train.outcome`.
"""

import functools
import hashlib
import json
from dataclasses import asdict
from typing import Any

from cnnray import files
from cnnray.config import ClassifyConfig, TrainConfig
from cnnray.data.feature_store import FeatureTable, iter_parts, load_features
from cnnray.data.runs import RunFolder
from cnnray.errors import DataError
from cnnray.nn.backbones import Backbone, build_backbone, build_extractor
from cnnray.nn.checkpoint import Card
from cnnray.train.feature_data import FeatureData
from cnnray.train.head import build_head_data, build_parts, build_task, predict_val
from cnnray.train.outcome import Answers, finish, train_and_export
from cnnray.train.state import Tensors

CHANGES_NOTHING = ("workers", "gpu", "mlflow")  # in what is learned, up to rounding


def train_classify(features_run: str, out: str, config: ClassifyConfig) -> dict[str, Any]:
    """Train a head on the features of a finished run and write a run folder with checkpoint and report.

    Args:
        features_run: path or URI of the features.
        out: run folder, new or unfinished; on storage that all workers reach.

    Returns:
        The manifest: "metrics" of the best epoch on the validation images, "checkpoint" (URI), counts, hashes.

    Raises:
        RunFolderError: the features are not finished; `out` is finished, or was made with other settings.
        DataError: the features cannot train a classifier, see `build_feature_data`.
        OptionError: more workers than the cluster has.
        CheckpointError: the network's weights are no longer there.
    """
    features_run, out = files.absolute(features_run), files.absolute(out)
    table = load_features(features_run)
    data = build_head_data(table, config)
    backbone = rebuild_backbone(table.manifest)
    folder = RunFolder.open(out, config, "classify", source=features_run)
    make = functools.partial(build_parts, features_run, config)
    export = functools.partial(_export, table.manifest, backbone, data, config)
    digest = fingerprint(table.manifest["content_sha256"], config)
    state = train_and_export(make, config, folder, digest, export)

    head = build_task(data, config).build()
    head.load_state_dict(state.best)
    answers = answers_on(features_run, table, data, predict_val(head, data))
    subtitle = (
        f"{config.head} head on {len(data.first):,} training images of {len(data.classes)} classes, "
        f"checked on {len(data.val):,} validation images"
    )
    return folder.finish(
        {
            "features": {"run": features_run, "content_sha256": table.manifest["content_sha256"]},
            "counts": {"train": len(data.first), "val": len(data.val), "classes": len(data.classes)},
            **finish(folder, state, config, export, answers, subtitle),
        }
    )


def fingerprint(content: str, config: TrainConfig) -> str:
    """Hash of all that determines the trained weights: the data's and the settings; not the number of workers."""
    settings = {k: v for k, v in asdict(config).items() if k not in CHANGES_NOTHING}
    return hashlib.sha256(json.dumps([content, settings]).encode()).hexdigest()


def rebuild_backbone(manifest: dict[str, Any]) -> Backbone:
    """The frozen network that made the features.

    Raises:
        CheckpointError, UnknownNameError: it or its weights are not there.
        DataError: the weights are others than the features were made with, or were random.
    """
    network = manifest["backbone"]
    if network["weights"] == "none":
        raise DataError(
            f"expected features of a {network['name']} that can be built again, but its weights were random; "
            "build the features with --weights default or a file"
        )
    backbone = build_backbone(network["name"], network["weights"])
    if backbone.weights_sha256 != network["weights_sha256"]:
        raise DataError(
            f"expected the weights {network['weights_sha256'][:12]} of {network['name']}, with which the features were "
            f"made, but {network['weights']!r} now gives {backbone.weights_sha256[:12]}; build the features again"
        )
    return backbone


def answers_on(features_run: str, table: FeatureTable, data: FeatureData, probabilities: Any) -> Answers:
    """Answers with the paths of their images, which the features' run knows."""
    wanted = [str(name) for name in table.ids[data.val]]
    paths = _paths(features_run, set(wanted))
    return Answers([paths[name] for name in wanted], data.labels[data.val].numpy(), probabilities, data.classes)


def _paths(features_run: str, ids: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in iter_parts(features_run, ["id", "path"]):
        rows = zip(part.column("id").to_pylist(), part.column("path").to_pylist(), strict=True)
        found |= {name: path for name, path in rows if name in ids}
    return found


def _export(
    manifest: dict[str, Any], backbone: Backbone, data: FeatureData, config: ClassifyConfig, weights: Tensors
) -> tuple[Tensors, Card]:
    """Tensors and card of a checkpoint that needs nothing beside it: the lower part of the network and the head."""
    network = manifest["backbone"]
    extractor = build_extractor(backbone, network["tap"], network["pool"])
    tensors = {f"backbone.{name}": t for name, t in extractor.state_dict().items()}
    tensors |= {f"head.{name}": t for name, t in weights.items()}
    card = Card(
        task="classify",
        arch={
            "backbone": network["name"],
            "tap": network["tap"],
            "pool": network["pool"],
            "backbone_sha256": network["weights_sha256"],
            "head": config.head,
            "hidden": config.hidden,
            "num_features": data.features.shape[1],
        },
        classes=list(data.classes),
        input={**manifest["input"], "mean": list(backbone.spec.mean), "std": list(backbone.spec.std)},
        metrics={},
        data_hash=manifest["content_sha256"],
    )
    return tensors, card
