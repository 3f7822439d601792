"""A training run's state between epochs: one file, replaced as a whole, that a killed run goes on from.

It is sealed (see `cnnray.nn.sealed`), with tensors "model.*", "best.*", "optimizer.*", "average.*", and history and
fingerprint as texts. One file, not two, so that weights, moments and history can never be of different epochs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from cnnray.errors import RunFolderError
from cnnray.nn.sealed import load_sealed, load_texts, save_sealed

Tensors = dict[str, torch.Tensor]
History = list[dict[str, Any]]


@dataclass(frozen=True)
class State:
    """What a run knows after some epochs.

    Attributes:
        model: the weights now, by name, on the CPU.
        best: the weights of the best epoch, or their average.
        optimizer: the optimizer's moments, "INDEX.NAME" -> tensor, parameters numbered as in the optimizer.
        history: one row per finished epoch, in order; its length is the number of the next epoch.
        average: the moving average of the weights; {} where none is kept.
    """

    model: Tensors
    best: Tensors
    optimizer: Tensors = field(default_factory=dict)
    history: History = field(default_factory=list)
    average: Tensors = field(default_factory=dict)


def save_state(uri: str, state: State, fingerprint: str) -> None:
    """Replace the file at `uri`, all or nothing.

    Raises:
        StorageError: it cannot be written; the old state is still there.
    """
    groups = {"model": state.model, "optimizer": state.optimizer, "average": state.average}
    if state.best is not (state.average or state.model):
        groups["best"] = state.best
    tensors = {f"{group}.{name}": t for group, named in groups.items() for name, t in named.items()}
    save_sealed(uri, tensors, {"history": json.dumps(state.history), "fingerprint": fingerprint})


def load_state(uri: str, fingerprint: str) -> State | None:
    """The state at `uri`, None where there is none yet.

    Args:
        fingerprint: of everything that determines the result; must be the one that the state was saved with.

    Raises:
        CheckpointError: the file was cut short or changed.
        RunFolderError: it belongs to a run with other settings or data.
    """
    found = load_sealed(uri, "training state", "delete it to train from the start")
    if found is None:
        return None
    tensors, texts = found
    if texts["fingerprint"] != fingerprint:
        raise RunFolderError(
            f"expected a training state of these settings and features, but {uri} was made with others; "
            "repeat the first command to resume, or choose another --out"
        )
    groups: dict[str, Tensors] = {"model": {}, "best": {}, "optimizer": {}, "average": {}}
    for key, tensor in tensors.items():
        group, _, name = key.partition(".")
        groups[group][name] = tensor
    best = groups["best"] or groups["average"] or groups["model"]
    return State(groups["model"], best, groups["optimizer"], json.loads(texts["history"]), groups["average"])


def load_history(uri: str) -> History:
    """The rows of the finished epochs alone, for showing progress: reads a few kB; [] where there is no state yet."""
    texts = load_texts(uri)
    rows: History = [] if texts is None else json.loads(texts["history"])
    return rows


def without_steps(history: Sequence[Mapping[str, Any]]) -> History:
    """The rows without the losses of single steps: what is told of a finished run."""
    return [{name: value for name, value in row.items() if name != "step_losses"} for row in history]
