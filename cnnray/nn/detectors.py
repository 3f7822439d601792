"""Detectors by name: what a checkpoint's `arch` says, built.

yolo       `cnnray.nn.detect`: grids of three strides over any backbone
grid       `cnnray.nn.grid`: the first YOLO, one grid of S x S cells; with one cell it localises a single object
windows    `cnnray.nn.windows`: a classifier of windows at every place and scale
and torchvision's, see `cnnray.nn.torchvision_detectors`
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from cnnray.errors import UnknownNameError
from cnnray.nn.detect import build_detect_net
from cnnray.nn.encoder import Layers
from cnnray.nn.grid import build_grid_net
from cnnray.nn.torchvision_detectors import DETECTORS, build_torchvision_detector
from cnnray.nn.windows import WindowDetector
from cnnray.ops.detections import Candidates


class Net(Protocol):
    """What all detectors have; each is a torch module.

    Attributes:
        multiple: of which the sides of pictures must be, whose longer one is as in training; 0: pictures must be such
            squares.
    """

    multiple: int

    def __call__(self, images_NCHW: Tensor) -> Any:
        """The network's output for uint8 pictures [N, 3, H, W]."""

    def candidates(self, output: Any, side: int) -> list[Candidates]:
        """What may be in each picture, in px of it.

        Args:
            output: of the network in evaluation mode.
            side: of the pictures, where they are squares.
        """


class Learner(Net, Protocol):
    """What those have that are shown whole pictures in training: all but windows, whose classifier learns alone."""

    def layers(self) -> Layers:
        """Its parts, as they learn."""


Build = Callable[[Mapping[str, Any], int, str], nn.Module]


def _windows(arch: Mapping[str, Any], num_classes: int, weights: str) -> nn.Module:
    return WindowDetector(num_classes).eval()


def _torchvision(arch: Mapping[str, Any], num_classes: int, weights: str) -> nn.Module:
    return build_torchvision_detector(arch["model"], num_classes, weights, int(arch.get("size", 0)))


BUILDERS: dict[str, Build] = {"yolo": build_detect_net, "grid": build_grid_net, "windows": _windows} | dict.fromkeys(
    DETECTORS, _torchvision
)


def describe(arch: Mapping[str, Any]) -> str:
    """A detector in words, such as "YOLO on resnet18"."""
    own: dict[str, Callable[[], str]] = {
        "yolo": lambda: f"YOLO on {arch['backbone']}",
        "grid": lambda: f"{arch['cells']} x {arch['cells']} cells on {arch['backbone']}",
        "windows": lambda: "sliding windows",
    }
    return own.get(arch["model"], lambda: str(arch["model"]))()


def build_detector(arch: Mapping[str, Any], num_classes: int, weights: str = "none") -> Any:
    """A detector, see `Net`, in evaluation mode.

    Args:
        arch: "model": a name of BUILDERS; the rest is said there: "backbone", "width", "cells", "size".
        num_classes: K.
        weights: of the backbone, or of one of torchvision's detectors: "default", "none" or a path or URI.

    Raises:
        UnknownNameError: no such model or backbone.
        OptionError, CheckpointError, StorageError: as the builders.
    """
    if arch["model"] not in BUILDERS:
        raise UnknownNameError("detector", arch["model"], BUILDERS)
    return BUILDERS[arch["model"]](arch, num_classes, weights)
