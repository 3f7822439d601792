"""Where a network's weights come from, and the hash of what they are."""

import hashlib
import http.client
import json
import os
import posixpath
from collections.abc import Mapping

import torch
from torch import Tensor

from cnnray import files
from cnnray.errors import StorageError


def download_once(url: str) -> str:
    """Path of `url`'s file in torch.hub's cache, downloaded there unless it already is.

    The cache is $TORCH_HOME/hub/checkpoints, by default ~/.cache/torch/hub/checkpoints, as in torchvision, so files
    that either program downloaded serve both. A download is checked against the hash prefix in its file's name; a
    file that is already there is taken as it is. Several processes may download at once: each moves a whole file in.

    Raises:
        StorageError: the download failed; says where a file that was fetched by other means can be put.
    """
    name = posixpath.basename(url)
    path = os.path.join(torch.hub.get_dir(), "checkpoints", name)
    if os.path.exists(path):
        return path
    found = torch.hub.HASH_REGEX.search(name)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        torch.hub.download_url_to_file(url, path, found.group(1) if found else None, progress=False)
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # RuntimeError: the hash does not fit
        raise StorageError(
            f"cannot download {url} ({error}); put the file at {path}, or give a file of weights with --weights PATH, "
            "or use --weights none"
        ) from error
    return path


def absolute_weights(weights: str) -> str:
    """What an option `weights` is, a word such as "default" or a path or URI, with a path made absolute: workers, those
    of Ray Train above all, run in folders of their own."""
    is_word = weights in ("default", "none") or ("/" not in weights and not files.exists(weights))
    return weights if is_word else files.absolute(weights)


def content_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash of what the tensors are, whatever file or order they came from: sorted names, dtypes, shapes, bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = plain(tensors[name])
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def plain(tensor: Tensor) -> Tensor:
    """An own copy on the CPU in row-major order, so that equal tensors have equal bytes."""
    return tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
