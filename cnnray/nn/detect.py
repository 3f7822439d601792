"""A YOLO on any backbone: every cell of three grids predicts class scores and a box, in one pass.

You Only Look Once, Redmon et al. 2016, arXiv:1506.02640 (one pass, cells responsible for objects)
Feature Pyramid Networks, Lin et al. 2017, arXiv:1612.03144 (maps of several strides that know of each other)
FCOS, Tian et al. 2019, arXiv:1904.01355 (no anchor boxes: distances from the cell's centre to the sides)
YOLOX, Ge et al. 2021, arXiv:2107.08430 (separate branches for class and box)
TOOD, Feng et al. 2021, arXiv:2108.07755 (assignment; one score for class and quality, in place of p_c times c)
Generalized Focal Loss, Li et al. 2020, arXiv:2006.04388, equation 4 (quality focal loss, beta 2)
Distance-IoU Loss, Zheng et al. 2020, arXiv:1911.08287 (complete IoU)

Legend: N pictures, K classes, A cells of all grids together, finest grid first, each row by row.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import complete_box_iou_loss

from cnnray.errors import OptionError
from cnnray.nn.backbones import build_backbone
from cnnray.nn.blocks import PYTORCH, ConvNormAct
from cnnray.nn.encoder import BackboneEncoder, Layers
from cnnray.ops.assign import assign
from cnnray.ops.boxes import boxes_around, cell_centres
from cnnray.ops.detections import Candidates

STRIDES = (8, 16, 32)
MULTIPLE = 32  # sides of pictures
_PRIOR = 0.01  # score of an untrained cell, so that the many empty ones do not drown the first steps (RetinaNet)
_LEAST_SIDE = 0.01  # of a cell: the proportions of a box without a width have no gradient but NaN
_LOSS_SHARES = (1.0, 2.0)  # of scores and boxes


class Answers(NamedTuple):
    """What all cells say.

    Attributes:
        logits_NAK: of the classes; their sigmoid is the score.
        boxes_NA4: px.
        centres_A2: of the cells, (x, y) in px.
    """

    logits_NAK: Tensor
    boxes_NA4: Tensor
    centres_A2: Tensor


class Branch(nn.Sequential):
    """Two 3x3 convolutions and a 1x1 one to the numbers of each cell."""

    def __init__(self, width: int, outputs: int, bias: float) -> None:
        super().__init__(
            ConvNormAct(width, width, 3, style=PYTORCH),
            ConvNormAct(width, width, 3, style=PYTORCH),
            nn.Conv2d(width, outputs, 1),
        )
        last = self[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.normal_(last.weight, std=0.01)
        nn.init.constant_(last.bias, bias)


class Head(nn.Module):
    """What each cell of one grid says, by two branches."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.classes = Branch(width, num_classes, -math.log((1 - _PRIOR) / _PRIOR))
        self.sides = Branch(width, 4, 1.0)

    def forward(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, H * W, K], and distances to the box's four sides [N, H * W, 4] in cells; float32."""
        logits, sides = (branch(x_NCHW).flatten(2).transpose(1, 2).float() for branch in (self.classes, self.sides))
        # softplus: distances are positive, and grow with the number as straight as the object does
        return logits, F.softplus(sides) + _LEAST_SIDE


class Pyramid(nn.Module):
    """Maps of one width; each has been told what the coarser ones see.

    Args:
        channels: of the maps that come, finest first.
        width: of those that go.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(ConvNormAct(count, width, 1, style=PYTORCH) for count in channels)
        self.mixed = nn.ModuleList(ConvNormAct(width, width, 3, style=PYTORCH) for _ in channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[N, C, H, W] of each size to [N, width, H, W]; each map is half as large as the one before."""
        levels = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for finer in range(len(levels) - 2, -1, -1):
            levels[finer] = levels[finer] + F.interpolate(levels[finer + 1], scale_factor=2, mode="nearest")
        return [mix(x) for mix, x in zip(self.mixed, levels, strict=True)]


class DetectNet(nn.Module):
    """Pictures to the answers of all cells.

    Args:
        encoder: gives maps of STRIDES among others.
        width: channels of the pyramid and the branches.
        num_classes: K.
        mean, std: normalisation of RGB in [0, 1].

    Attributes:
        encoder: pre-trained; `pyramid` and `heads` are not.
    """

    multiple = MULTIPLE
    mean: Tensor
    std: Tensor

    def __init__(
        self, encoder: BackboneEncoder, width: int, num_classes: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))
        self.encoder = encoder
        self.used = [encoder.strides.index(stride) for stride in STRIDES]
        self.pyramid = Pyramid([encoder.channels[at] for at in self.used], width)
        self.heads = nn.ModuleList(Head(width, num_classes) for _ in STRIDES)

    def forward(self, images_NCHW: Tensor) -> Answers:
        """What all cells say, float32.

        Args:
            images_NCHW: uint8 in 0..255 or float in [0, 1], [N, 3, H, W]; H and W are multiples of MULTIPLE.
        """
        x = images_NCHW.to(self.mean.dtype)
        if images_NCHW.dtype == torch.uint8:
            x = x / 255
        maps = self.encoder((x - self.mean) / self.std)
        levels = self.pyramid([maps[at] for at in self.used])
        logits, distances, centres = [], [], []
        for level, stride, head in zip(levels, STRIDES, self.heads, strict=True):
            of_classes, of_sides = head(level)
            logits.append(of_classes)
            distances.append(of_sides * stride)
            centres.append(cell_centres(level.shape[-2], level.shape[-1], stride).to(level.device))
        places = torch.cat(centres)
        return Answers(torch.cat(logits, dim=1), boxes_around(places, torch.cat(distances, dim=1)), places)

    def candidates(self, output: Answers, side: int) -> list[Candidates]:
        """Every cell's box; see `cnnray.nn.detectors.Net`."""
        return [Candidates(*pair) for pair in zip(output.logits_NAK.sigmoid(), output.boxes_NA4, strict=True)]

    def layers(self) -> Layers:
        """See `cnnray.nn.detectors.Learner`."""
        return Layers(tuple(self.encoder.stages), self.encoder.num_low, (self.pyramid, self.heads))


class Losses(NamedTuple):
    """Sums over a batch.

    Attributes:
        total: of the loss; carries the gradient.
        weight: what it is to be divided by, so that it does not depend on how many objects there are.
    """

    total: Tensor
    weight: Tensor


def detection_loss(answers: Answers, objects_bM4: Tensor, labels_bM: Tensor) -> Losses:
    """Quality focal loss of all scores, and complete IoU of the boxes that have an object.

    Cross-entropy alone leaves rare classes behind: in each picture thousands of cells push their score down by a
    little, and a few push it up.

    Args:
        objects_bM4: true boxes, px; float32.
        labels_bM: int64, see `cnnray.ops.assign`.

    Returns:
        The weight is the sum of the qualities and one for each picture, so that pictures without objects count too.
    """
    logits = answers.logits_NAK
    found = assign(logits.sigmoid(), answers.boxes_NA4, answers.centres_A2, objects_bM4, labels_bM)
    target = torch.zeros_like(logits).scatter_(2, found.labels_bA[..., None], found.quality_bA[..., None])
    far = (target - logits.detach().sigmoid()).square()
    of_scores = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * far).sum(-1)
    of_scores = of_scores.masked_fill(found.ignored_bA, 0.0).sum()
    has_object = found.quality_bA > 0
    own, true = answers.boxes_NA4[has_object], found.boxes_bA4[has_object]
    of_boxes = (complete_box_iou_loss(own, true, reduction="none") * found.quality_bA[has_object]).sum()
    total = _LOSS_SHARES[0] * of_scores + _LOSS_SHARES[1] * of_boxes
    return Losses(total, found.quality_bA.sum() + len(logits))


def build_detect_net(arch: Mapping[str, Any], num_classes: int, weights: str = "none") -> DetectNet:
    """A detector in evaluation mode.

    Args:
        arch: "backbone": a name of the registry; "width": channels of pyramid and branches.
        num_classes: K, at least 1.
        weights: of the backbone, see `build_backbone`.

    Raises:
        UnknownNameError, CheckpointError, StorageError: as `build_backbone`.
        OptionError: numbers out of range, or a backbone without maps of the three strides.
    """
    width = int(arch["width"])
    if num_classes < 1 or width < 1:
        raise OptionError(f"expected at least 1 class and a width of at least 1, got {num_classes} and {width}")
    backbone = build_backbone(arch["backbone"], weights)
    encoder = BackboneEncoder(backbone)
    if not set(STRIDES) <= set(encoder.strides):
        raise OptionError(
            f"expected a backbone with maps of strides {', '.join(map(str, STRIDES))} for a detector, but "
            f"{backbone.name} has {', '.join(map(str, encoder.strides[1:]))}"
        )
    return DetectNet(encoder, width, num_classes, backbone.spec.mean, backbone.spec.std).eval()
