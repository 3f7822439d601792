"""Tensors and texts in one file that shows every changed bit: the state of something unfinished.

The file is a safetensors document with the texts as metadata, followed by the 32 bytes of its sha256, because
safetensors itself would not notice a changed bit. It is replaced as a whole, so what is in it belongs together.
"""

import hashlib
import json
import struct
from collections.abc import Mapping

import safetensors.torch
from torch import Tensor

from cnnray import files
from cnnray.errors import CheckpointError

DIGEST_BYTES = 32


def save_sealed(uri: str, tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> None:
    """Replace the file at `uri`, all or nothing.

    Raises:
        StorageError: it cannot be written; the old one is still there.
    """
    content = safetensors.torch.save({name: t.contiguous() for name, t in tensors.items()}, dict(texts))
    files.write_bytes(uri, content + hashlib.sha256(content).digest())


def load_sealed(uri: str, title: str, cure: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Tensors on the CPU and texts of the file at `uri`, None where there is none yet.

    Args:
        title: what the file is, for the message.
        cure: what helps where it is damaged, for the message.

    Raises:
        CheckpointError: the file was cut short or changed.
    """
    try:
        content = files.read_bytes(uri)
    except FileNotFoundError:
        return None
    body, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise CheckpointError(f"the {title} {uri} was cut short or changed; {cure}")
    return safetensors.torch.load(body), _texts(body)


def load_texts(uri: str) -> dict[str, str] | None:
    """The texts alone, not verified, without reading the tensors; None where there is no file yet."""
    fs, path = files.filesystem(uri)
    try:
        with fs.open(path, "rb") as file:
            head = file.read(8)
            head += file.read(struct.unpack("<Q", head)[0])
    except FileNotFoundError:
        return None
    return _texts(head)


def _texts(body: bytes) -> dict[str, str]:
    """A safetensors document begins with 8 bytes, the length of its JSON header."""
    length = struct.unpack("<Q", body[:8])[0]
    texts: dict[str, str] = json.loads(body[8 : 8 + length])["__metadata__"]
    return texts
