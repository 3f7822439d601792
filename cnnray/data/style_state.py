"""An unfinished painting on disk: one file, replaced as a whole, that a killed run goes on from.

The file is a safetensors document with the optimiser's facts and the history as metadata, followed by the 32 bytes of
its sha256, because safetensors itself would not notice a changed bit.
"""

import hashlib
import json
import struct

import safetensors.torch

from cnnray import files
from cnnray.errors import CheckpointError
from cnnray.infer.stylize import StyleState

_DIGEST_BYTES = 32


def save_style_state(uri: str, state: StyleState) -> None:
    """Replace the file at `uri`, all or nothing.

    Raises:
        StorageError: it cannot be written; the old state is still there.
    """
    tensors = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
    facts = {"facts": json.dumps(state.facts), "history": json.dumps(state.history)}
    content = safetensors.torch.save(tensors, facts)
    files.write_bytes(uri, content + hashlib.sha256(content).digest())


def load_style_state(uri: str) -> StyleState | None:
    """The state at `uri`, None where there is none yet.

    Raises:
        CheckpointError: the file was cut short or changed.
    """
    try:
        content = files.read_bytes(uri)
    except FileNotFoundError:
        return None
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise CheckpointError(f"the state {uri} was cut short or changed; delete it to paint from the start")
    length = struct.unpack("<Q", body[:8])[0]
    facts = json.loads(body[8 : 8 + length])["__metadata__"]
    return StyleState(safetensors.torch.load(body), json.loads(facts["facts"]), json.loads(facts["history"]))
