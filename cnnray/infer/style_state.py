"""An unfinished painting on disk, sealed (see `cnnray.nn.sealed`): one file that a killed run goes on from."""

import json

from cnnray.infer.stylize import StyleState
from cnnray.nn.sealed import load_sealed, save_sealed


def save_style_state(uri: str, state: StyleState) -> None:
    """Replace the file at `uri`, all or nothing.

    Raises:
        StorageError: it cannot be written; the old state is still there.
    """
    save_sealed(uri, state.tensors, {"facts": json.dumps(state.facts), "history": json.dumps(state.history)})


def load_style_state(uri: str) -> StyleState | None:
    """The state at `uri`, None where there is none yet.

    Raises:
        CheckpointError: the file was cut short or changed.
    """
    found = load_sealed(uri, "state", "delete it to paint from the start")
    if found is None:
        return None
    tensors, texts = found
    return StyleState(tensors, json.loads(texts["facts"]), json.loads(texts["history"]))
