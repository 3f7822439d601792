"""What benchmarks of the service share: checkpoints, photos, a service on a cluster of its own, its processes."""

import contextlib
import io
import os
import re
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import psutil
import ray
import torch
from PIL import Image

from cnnray.client import Client
from cnnray.config import ServeConfig
from cnnray.nn.backbones import find_spec
from cnnray.nn.checkpoint import load_checkpoint, save_checkpoint
from cnnray.nn.detectors import build_detector
from cnnray.ops.decode import decode
from cnnray.serve import haproxy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
PROXY = os.environ.get("CNNRAY_PROXY", "default")  # as of `cnnray serve up --proxy`
if PROXY == "haproxy":
    haproxy.prepare()  # before ray.serve is imported
from cnnray.serve.app import ENVIRONMENT, down, up  # noqa: E402
from tests.classifiers import save_classifier  # noqa: E402
from tests.detectors import save_detector  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CNNRAY_DATA", ROOT.parent / "shared" / "data"))
GALLERY = "people"
YOLO = {"model": "yolo", "backbone": "resnet18", "width": 64}
_SPREAD, _CANDIDATES, _CONFIDENCE = 100.0, 100, 0.3  # of the detector, whose scores would else be all the same
_REPLICA = re.compile(r"ServeReplica:\w+:(\w+)")
_STORE_BYTES = 150 * 2**20
_END_SECONDS = 15


# ---- models ----------------------------------------------------------------------------------------------------------


def make_classifier(folder: str) -> str:
    """EfficientNet-Lite0 with a random head of 81 classes, at its full size."""
    small = save_classifier(f"{folder}/small", [f"class {number}" for number in range(81)])
    tensors, card = load_checkpoint(small)
    spec = find_spec("efficientnet_lite0")
    full = replace(card, input=card.input | {"size": spec.input_size, "resize": spec.resize})
    save_checkpoint(f"{folder}/classifier", tensors, full)
    return f"{folder}/classifier"


def make_detector(folder: str, size: int = 416) -> str:
    """A YOLO on ResNet-18 with random weights that finds some dozens of objects in a photo, not none or thousands."""
    tensors, card = load_checkpoint(save_detector(f"{folder}/raw", YOLO, ("one", "other", "third"), size))
    tensors |= {name: _SPREAD * t for name, t in tensors.items() if name.endswith("classes.2.weight")}
    net = build_detector(card.arch, len(card.classes))
    net.load_state_dict(tensors)
    with torch.inference_mode():
        shown = [torch.from_numpy(decode(photo)[:size, :size].copy()).permute(2, 0, 1) for photo in large_photos(4)]
        logits = net(torch.stack(shown)).logits_NAK
    least = logits.flatten().sort(descending=True).values[_CANDIDATES * len(shown)]
    shift = torch.logit(torch.tensor(_CONFIDENCE)) - least
    tensors |= {name: t + shift for name, t in tensors.items() if name.endswith("classes.2.bias")}
    save_checkpoint(f"{folder}/detector", tensors, card)
    return f"{folder}/detector"


def make_models(folder: str) -> dict[str, str]:
    """Options of a service with every model that these benchmarks ask."""
    return {
        "classifier": make_classifier(folder),
        "detector": make_detector(folder),
        "faces": "dlib_resnet",
        "record": f"{folder}/galleries.db",
    }


# ---- photos ----------------------------------------------------------------------------------------------------------


def photos(folder: str, count: int) -> list[bytes]:
    """Real ones of a folder of the data, spread over it."""
    paths = sorted((DATA / folder).rglob("*.jpg"))
    assert len(paths) >= count, f"{DATA / folder} has {len(paths)} photos"
    return [path.read_bytes() for path in paths[:: len(paths) // count][:count]]


def large_photos(count: int, width: int = 1920, height: int = 1080) -> list[bytes]:
    """Of 1080p, cropped and enlarged from smaller ones."""
    made = []
    for content in photos("contents", min(count, 8)):
        image = Image.open(io.BytesIO(content)).convert("RGB")
        high = min(image.height, image.width * height // width)
        top = (image.height - high) // 2
        crop = image.crop((0, top, min(image.width, high * width // height), top + high))
        buffer = io.BytesIO()
        crop.resize((width, height), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=85)
        made.append(buffer.getvalue())
    return made


def mixed_photos(folder: str, count: int = 32) -> list[bytes]:
    """Every fourth of 1080p."""
    large, small = large_photos(8), photos(folder, count)
    return [large[at // 4 % len(large)] if at % 4 == 3 else photo for at, photo in enumerate(small)]


def people(count: int) -> dict[str, list[Path]]:
    """Two photos each of so many people of LFW; the first is enrolled."""
    folders = sorted(path for path in (DATA / "lfw_dev").iterdir() if path.is_dir())[:count]
    return {folder.name: sorted(folder.glob("*.jpg"))[:2] for folder in folders}


def enroll(client: Client, known: dict[str, list[Path]]) -> None:
    """Into the gallery, which is made."""
    client.create_gallery(GALLERY)
    options: dict[str, Any] = {"accept_conflict": True, "accept_quality": True, "pick": "central"}
    for name, paths in known.items():
        client.enroll(GALLERY, name, paths[0], **options)


# ---- the service -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def folder() -> Iterator[str]:
    """For checkpoints and databases."""
    with tempfile.TemporaryDirectory(prefix="cnnray-service-") as path:
        yield path


@contextlib.contextmanager
def cluster(num_cpus: int) -> Iterator[None]:
    """A small local one with so many logical CPUs; none of its processes is left afterwards, SIGTERM included."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"} | ENVIRONMENT
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    with warnings.catch_warnings(action="ignore"):
        ray.init(address="local", num_cpus=num_cpus, object_store_memory=_STORE_BYTES, **quiet)
    try:
        yield
    finally:
        started = psutil.Process().children(recursive=True)
        ray.shutdown()
        _, left = psutil.wait_procs([p for p in started if _is_ray(p)], timeout=_END_SECONDS)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()


@contextlib.contextmanager
def service(**options: Any) -> Iterator[str]:
    """The URL of one on the cluster, ended afterwards."""
    try:
        yield up(ServeConfig(port=0, proxy=PROXY, **options))
    finally:
        down()


class Threads:
    """Threads that run `run` while the with block lasts, which ends by setting `stopped`.

    Args:
        count: of them.
        patience_s: for each to end.
    """

    def __init__(self, count: int, patience_s: float) -> None:
        self.stopped, self._patience_s = threading.Event(), patience_s
        self._threads = [threading.Thread(target=self.run, daemon=True) for _ in range(count)]

    def run(self) -> None:
        """Go on until `stopped`."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self._threads:
            thread.join(self._patience_s)


def processes() -> dict[psutil.Process, str]:
    """Those of this process's own cluster, by their part: replicas by deployment, the rest by what it is."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended while we looked
            if _is_ray(process):
                found[process] = _part(process)
    return found


def replicas() -> dict[psutil.Process, str]:
    """Of these the ones that answer requests, by deployment."""
    found = {}
    for process, part in processes().items():
        with contextlib.suppress(psutil.Error):
            if _REPLICA.search(" ".join(process.cmdline())):
                found[process] = part
    return found


def _is_ray(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        words = " ".join(process.cmdline())
        return words.startswith("ray::") or "/ray/" in words
    return False


def _part(process: psutil.Process) -> str:
    words = process.cmdline()
    replica = _REPLICA.search(" ".join(words))
    if replica:
        return replica[1]
    if words[0].startswith("ray::"):
        return re.split(r"[.:\s]", words[0].removeprefix("ray::"))[0]
    return next((Path(word).stem for word in words if "/ray/" in word), words[0])
