"""A training run's state between epochs: one file, replaced as a whole, that a killed run goes on from.

The file is a safetensors document (tensors "model.*", "best.*", "optimizer.*", "average.*"; history and fingerprint as
metadata) followed by the 32 bytes of its sha256, because safetensors itself would not notice a changed bit.
One file, not two, so that weights, moments and history can never be of different epochs.
"""

import hashlib
import json
import struct
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch

from cnnray import files
from cnnray.errors import CheckpointError, RunFolderError

Tensors = dict[str, torch.Tensor]
History = list[dict[str, Any]]
DIGEST_BYTES = 32


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
    tensors = {f"{group}.{name}": t.contiguous() for group, named in groups.items() for name, t in named.items()}
    content = safetensors.torch.save(tensors, {"history": json.dumps(state.history), "fingerprint": fingerprint})
    files.write_bytes(uri, content + hashlib.sha256(content).digest())


def load_state(uri: str, fingerprint: str) -> State | None:
    """The state at `uri`, None where there is none yet.

    Args:
        fingerprint: of everything that determines the result; must be the one that the state was saved with.

    Raises:
        CheckpointError: the file was cut short or changed.
        RunFolderError: it belongs to a run with other settings or data.
    """
    try:
        content = files.read_bytes(uri)
    except FileNotFoundError:
        return None
    body, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise CheckpointError(f"the training state {uri} was cut short or changed; delete it to train from the start")
    metadata = _metadata(body)
    if metadata["fingerprint"] != fingerprint:
        raise RunFolderError(
            f"expected a training state of these settings and features, but {uri} was made with others; "
            "repeat the first command to resume, or choose another --out"
        )
    groups: dict[str, Tensors] = {"model": {}, "best": {}, "optimizer": {}, "average": {}}
    for key, tensor in safetensors.torch.load(body).items():
        group, _, name = key.partition(".")
        groups[group][name] = tensor
    best = groups["best"] or groups["average"] or groups["model"]
    return State(groups["model"], best, groups["optimizer"], json.loads(metadata["history"]), groups["average"])


def load_history(uri: str) -> History:
    """The rows of the finished epochs alone, for showing progress: reads a few kB; [] where there is no state yet."""
    fs, path = files.filesystem(uri)
    try:
        with fs.open(path, "rb") as file:
            head = file.read(8)
            head += file.read(struct.unpack("<Q", head)[0])
    except FileNotFoundError:
        return []
    rows: History = json.loads(_metadata(head)["history"])
    return rows


def _metadata(body: bytes) -> dict[str, str]:
    """The text metadata of a safetensors document: its first 8 bytes are the length of a JSON header."""
    length = struct.unpack("<Q", body[:8])[0]
    metadata: dict[str, str] = json.loads(body[8 : 8 + length])["__metadata__"]
    return metadata
