"""Checkpoints: the one writer and reader of `model.safetensors` + `card.json`, and the reader of foreign weights.

A checkpoint is a folder, local or at any URI. The card names the sha256 of the weights, so a mixture of two
checkpoints is seen; the file of the card is compared with what its own content serialises to, so a change of any
single bit in it is seen too. Replacing a checkpoint takes three steps, each all or nothing:

    1. write model-<sha12>.safetensors    the card still names the older weights in model.safetensors
    2. replace card.json                  the commit: from here the new weights are the valid ones
    3. rename it to model.safetensors     a reader in between finds the weights under their first name

A kill at any moment leaves the older checkpoint or the new one. One writer at a time; any number of readers.
"""

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from cnnray import __version__, files
from cnnray.errors import CheckpointError
from cnnray.nn.weights import plain

FORMAT = 1
WEIGHTS = "model.safetensors"
CARD = "card.json"
_READ_TRIES = 3
# Of saves that were killed: weights before their commit, and files that were not whole yet (cnnray.files).
_LEFTOVER = re.compile(r"model-[0-9a-f]{12}\.safetensors|\.(card|model).*\.tmp")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a checkpoint's weights are; JSON values only.

    Attributes:
        task: "classify", "detect", ...: which program can use it.
        arch: the network and its configuration, enough to build it again.
        classes: names in the order of the outputs.
        input: {"size", "resize" pixels, "interpolation", "mean", "std" per channel of RGB in [0, 1]}.
        metrics: figures measured when it was made.
        data_hash: content hash of the data it was trained on.
        versions: of the libraries that wrote it; empty is filled in when it is saved.
        weights_sha256: sha256 (hex) of the weights' file; filled in when it is saved.
    """

    task: str
    arch: dict[str, Any] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    input: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    data_hash: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    weights_sha256: str = ""


_TYPES: dict[str, type] = {
    "task": str,
    "arch": dict,
    "classes": list,
    "input": dict,
    "metrics": dict,
    "data_hash": str,
    "versions": dict,
    "weights_sha256": str,
}


def save_checkpoint(uri: str, tensors: Mapping[str, Tensor], card: Card) -> Card:
    """Write a checkpoint to folder `uri`, or replace the one that is there, safe against a kill at any moment.

    Args:
        tensors: a state dict; on any device, in any memory layout.
        card: its `weights_sha256`, and `versions` where empty, are filled in.

    Returns:
        The card as it was written, which is what `load_checkpoint` gives back.

    Raises:
        StorageError: disk full, read-only, unreachable; an older checkpoint is still there.
    """
    content = safetensors.torch.save({name: plain(tensor) for name, tensor in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    card = dataclasses.replace(card, weights_sha256=digest, versions=card.versions or current_versions())
    raw = _card_bytes(card)
    aside = files.join(uri, _aside_name(digest))
    files.write_bytes(aside, content)
    files.write_bytes(files.join(uri, CARD), raw)
    _rename(aside, files.join(uri, WEIGHTS))
    for leftover in files.list_files(uri):
        if _LEFTOVER.fullmatch(leftover.rpartition("/")[2]):
            files.remove(leftover)
    return _parse_card(raw, uri)


def load_checkpoint(uri: str, task: str | None = None) -> tuple[dict[str, Tensor], Card]:
    """Read a checkpoint and verify every bit of it.

    Args:
        task: refuse a checkpoint of another task; None takes any.

    Returns:
        The tensors on the CPU, and the card.

    Raises:
        CheckpointError: absent, unfinished, cut short, changed, of an unknown card version or of another task.
    """
    for _ in range(_READ_TRIES):  # a save may move the weights between our reading the card and them
        card = load_card(uri, task)
        content = _weights_content(uri, card.weights_sha256)
        if content is not None:
            return _parse_safetensors(content, uri), card
    raise CheckpointError(
        f"{files.join(uri, WEIGHTS)} is missing, cut short or changed: no file with the sha256 that {CARD} names "
        f"({card.weights_sha256[:12]}...)"
    )


def load_card(uri: str, task: str | None = None) -> Card:
    """Read and verify a checkpoint's card alone.

    Raises:
        CheckpointError: as in `load_checkpoint`.
    """
    name = files.join(uri, CARD)
    if not _is_file(name):
        raise CheckpointError(f"no checkpoint at {uri}: expected a folder with {CARD} and {WEIGHTS}")
    raw = files.read_bytes(name)
    card = _parse_card(raw, uri)
    if task is not None and card.task != task:
        raise CheckpointError(f"{uri} is a checkpoint of task {card.task!r}; expected task {task!r}")
    return card


def load_state_dict(uri: str) -> dict[str, Tensor]:
    """A foreign file of weights: a .safetensors file, or what torch.save wrote; never unpickles code.

    A dict that holds the state dict under "state_dict" or "model" is opened, and the prefix "module." of
    DataParallel is taken off.

    Args:
        uri: path or URI of the file.

    Raises:
        CheckpointError: absent, cut short, or no dict of tensors.
    """
    if not _is_file(uri):
        raise CheckpointError(f"no file of weights at {uri}")
    content = files.read_bytes(uri)
    if uri.endswith(".safetensors"):
        return _parse_safetensors(content, uri)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise any type; all mean the same to the caller
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(
            f"cannot read weights from {uri}: expected a whole state dict from torch.save, without code ({reason})"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{uri} holds {_describe(state)}; expected a dict of names to tensors")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy `tensors` into `module`; every name and shape must fit.

    Args:
        source: where the tensors came from, for the message.

    Raises:
        CheckpointError: names missing or not expected, or shapes that differ; nothing was copied then.
    """
    wanted = module.state_dict()
    # Files from before PyTorch 0.4.1 lack this counter, which inference never reads.
    missing = [n for n in wanted if n not in tensors and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in tensors if n not in wanted]
    shapes = [
        f"{n}: expected {list(t.shape)}, got {list(tensors[n].shape)}"
        for n, t in wanted.items()
        if n in tensors and tensors[n].shape != t.shape
    ]
    faults = [f"{title} {_first(names)}" for title, names in
              (("missing", missing), ("unexpected", unexpected), ("wrong shape", shapes)) if names]  # fmt: skip
    if faults:
        raise CheckpointError(f"weights from {source} do not fit: {'; '.join(faults)}")
    counters = {n: torch.zeros(()) for n in wanted if n not in tensors}
    module.load_state_dict(counters | dict(tensors))


def current_versions() -> dict[str, str]:
    """Versions of what shapes a network's numbers."""
    return {"cnnray": __version__} | {name: version(name) for name in ("torch", "torchvision")}


def _aside_name(digest: str) -> str:
    return f"model-{digest[:12]}.safetensors"


def _is_file(uri: str) -> bool:
    fs, path = files.filesystem(uri)
    with files.storage_errors(uri):
        return bool(fs.isfile(path))


def _rename(source: str, target: str) -> None:
    fs, source_path = files.filesystem(source)
    with files.storage_errors(target):
        fs.mv(source_path, files.filesystem(target)[1])


def _weights_content(uri: str, digest: str) -> bytes | None:
    """The content whose sha256 is `digest`, under its final name or, within a save, its first one."""
    for name in (WEIGHTS, _aside_name(digest)):
        try:
            content = files.read_bytes(files.join(uri, name))
        except FileNotFoundError:
            continue
        if hashlib.sha256(content).hexdigest() == digest:
            return content
    return None


def _parse_safetensors(content: bytes, source: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except Exception as error:  # SafetensorError, or any error on a header that is not JSON
        raise CheckpointError(f"cannot read weights from {source}: not a whole safetensors file ({error})") from error


def _card_bytes(card: Card) -> bytes:
    fields = {"format": FORMAT, **dataclasses.asdict(card)}
    digest = hashlib.sha256(json.dumps(fields).encode()).hexdigest()
    return (json.dumps({**fields, "card_sha256": digest}, indent=2) + "\n").encode()


def _parse_card(raw: bytes, uri: str) -> Card:
    name = files.join(uri, CARD)
    try:
        fields = json.loads(raw)
    except ValueError as error:
        raise CheckpointError(f"{name} is cut short or changed: it is not JSON ({error})") from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        found = fields.get("format") if isinstance(fields, dict) else None
        raise CheckpointError(f"{name} has format {found!r}; this version of cnnray reads format {FORMAT}")
    known = {"format", "card_sha256", *_TYPES}
    if set(fields) != known:
        raise CheckpointError(
            f"{name} must have the fields {', '.join(sorted(known))}; missing {sorted(known - set(fields))}, "
            f"unknown {sorted(set(fields) - known)}"
        )
    for key, kind in _TYPES.items():
        if not isinstance(fields[key], kind):
            raise CheckpointError(f"{name}: expected a {kind.__name__} as {key!r}, got {fields[key]!r}")
    card = Card(**{key: fields[key] for key in _TYPES})
    if _card_bytes(card) != raw:
        raise CheckpointError(f"{name} was changed after it was written: its checksum does not fit its content")
    return card


def _first(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _describe(state: Any) -> str:
    if not isinstance(state, Mapping):
        return f"a {type(state).__name__}"
    return f"a dict with keys {_first([str(k) for k in state])}" if state else "an empty dict"
