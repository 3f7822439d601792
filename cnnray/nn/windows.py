"""A classifier for windows, and the same network turned fully convolutional: all windows of a picture in one pass.

A linear layer on a map of C x h x w numbers is a convolution with a kernel of h x w. Written so, the network takes
pictures of any size, and each place of its output is what the classifier says of one window. Neighbouring windows
share nearly all their computations.

OverFeat, Sermanet et al. 2013, arXiv:1312.6229, section 3.5; Fully Convolutional Networks, Long et al. 2015,
arXiv:1411.4038
"""

import copy
import math

import torch
from torch import Tensor, nn

from cnnray.errors import OptionError
from cnnray.nn.blocks import PYTORCH
from cnnray.ops.detections import Candidates
from cnnray.ops.windows import cut_windows, plan_windows, pyramid, window_boxes

WINDOW = 32  # px
FILLED = 0.8  # share of a window's side that the longer side of its object takes on average
_TOGETHER = 256  # windows, where they are looked at one by one
_WIDTHS = (16, 32)
_HIDDEN = 128


class WindowNet(nn.Sequential):
    """A small classifier of RGB windows without any padding: [N, 3, 32, 32] in [0, 1] to logits [N, K].

    Two rounds of convolution, batch norm, ReLU and a maximum over 2x2, then two linear layers. Nothing is padded: a
    window's answer must not depend on where it was cut out.
    """

    def __init__(self, num_classes: int) -> None:
        layers: list[nn.Module] = []
        channels, side = 3, WINDOW
        for width, kernel in zip(_WIDTHS, (5, 3), strict=True):
            layers += [nn.Conv2d(channels, width, kernel, bias=False), nn.BatchNorm2d(width), PYTORCH.act()]
            layers.append(nn.MaxPool2d(2))
            channels, side = width, (side - kernel + 1) // 2
        layers += [nn.Flatten(), nn.Linear(channels * side**2, _HIDDEN), PYTORCH.act(), nn.Linear(_HIDDEN, num_classes)]
        super().__init__(*layers)


def total_stride(network: nn.Sequential) -> int:
    """Px from one place of the output to the next: the product of all strides."""
    steps = [layer.stride for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)]
    return math.prod(step if isinstance(step, int) else int(step[0]) for step in steps)


def fully_convolutional(network: nn.Sequential, size: int) -> nn.Sequential:
    """The same classifier for pictures of any size; in evaluation mode, with weights of its own.

    Where nothing is padded, place (row, column) of its output [N, K, rows, columns] is what `network` says of the
    window whose corner is at (row, column) times `total_stride`, up to float rounding. With padding, `network` sees
    zeros around each window where this one sees the picture.

    Args:
        network: a chain of layers: convolutions, poolings, activations, then Flatten and linear layers. A global
            average (AdaptiveAvgPool2d(1)) before Flatten becomes an average over the window.
        size: side in px of the windows that it was trained on.

    Raises:
        OptionError: a layer that has no such form, or no linear layer.
    """
    network = copy.deepcopy(network).eval()
    layers: list[nn.Module] = []
    x = torch.zeros(1, _first_channels(network), size, size, device=next(network.parameters()).device)
    shape: tuple[int, ...] | None = None  # of the map that was flattened
    for layer in network:
        before = tuple(x.shape[1:])
        with torch.no_grad():
            x = layer(x)
        if isinstance(layer, nn.Flatten):
            shape = before
        elif isinstance(layer, nn.Linear):
            if shape is None:
                raise OptionError("expected Flatten before the first linear layer of a classifier of windows")
            layers.append(_as_convolution(layer, shape))
            shape = (layer.out_features, 1, 1)
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            if layer.output_size not in (1, (1, 1)):
                raise OptionError(f"expected a global average, got {layer}")
            layers.append(nn.AvgPool2d((before[1], before[2]), stride=1))
        else:
            layers.append(layer)
    if shape is None:
        raise OptionError("expected a classifier that ends in linear layers, got one without any")
    return nn.Sequential(*layers).eval().requires_grad_(False)


def _as_convolution(linear: nn.Linear, shape: tuple[int, ...]) -> nn.Conv2d:
    channels, height, width = shape
    kernel, device = (height, width), linear.weight.device
    conv = nn.Conv2d(channels, linear.out_features, kernel, bias=linear.bias is not None, device=device)
    with torch.no_grad():
        conv.weight.copy_(linear.weight.reshape(conv.weight.shape))
        if conv.bias is not None:
            conv.bias.copy_(linear.bias)
    return conv


def _first_channels(network: nn.Sequential) -> int:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
    raise OptionError("expected a classifier that begins with convolutions, got one without any")


class WindowDetector(nn.Module):
    """Objects found by a classifier of windows that looks at every place of a picture, at many scales.

    Its boxes are the windows, without what an object leaves free in them on average: all are squares, and stand where
    the network's stride and the scales allow.

    Args:
        num_classes: K; the classifier knows one more, the background, which is the last.

    Attributes:
        classifier: of windows.
        one_by_one: whether each window is cut out and looked at by itself: the slow way to the same answers.
    """

    multiple = 1

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.classifier = WindowNet(num_classes + 1)
        self.one_by_one = False
        self._whole: dict[torch.device, nn.Module] = {}

    def forward(self, images_NCHW: Tensor) -> list[Candidates]:
        """All windows of each picture at each scale, in evaluation mode, with the weights of the first call.

        Args:
            images_NCHW: uint8 [N, 3, H, W].
        """
        device = images_NCHW.device
        if device not in self._whole:
            self._whole[device] = fully_convolutional(self.classifier, WINDOW)
        return [self._search(image, None if self.one_by_one else self._whole[device]) for image in images_NCHW]

    def candidates(self, output: list[Candidates], side: int) -> list[Candidates]:
        """As they are; see `cnnray.nn.detectors.Net`."""
        return output

    def _search(self, image_CHW: Tensor, whole: nn.Module | None) -> Candidates:
        stride, scores, boxes = total_stride(self.classifier), [], []
        for scale, level in pyramid(image_CHW, WINDOW):
            corners = plan_windows(level.shape[1], level.shape[2], WINDOW, stride)
            if whole is not None:
                logits = whole(level[None] / 255)[0].flatten(1).T
            else:
                parts = corners.split(_TOGETHER)
                logits = torch.cat([self.classifier(cut_windows(level, part, WINDOW) / 255) for part in parts])
            scores.append(logits.float().softmax(1)[:, :-1])
            boxes.append(window_boxes(corners, WINDOW, scale))
        if not scores:
            return Candidates(torch.zeros(0, self.num_classes), torch.zeros(0, 4))
        margin = (1 - FILLED) / 2 * torch.tensor([1.0, 1.0, -1.0, -1.0])
        windows = torch.cat(boxes)
        return Candidates(torch.cat(scores).cpu(), windows + (windows[:, 2:] - windows[:, :2]).repeat(1, 2) * margin)
