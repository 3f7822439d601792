"""The first YOLO, and with a single cell what came before it: classification with localisation of one object.

You Only Look Once, Redmon et al. 2016, arXiv:1506.02640, section 2. Different from the paper: one box for each cell, so
no rivalry between two; width and height are in cells and may exceed 1; losses of probabilities are logarithms.

Legend: N pictures, S cells along each side, K classes. What a cell says is (p_c, b_x, b_y, b_w, b_h, c_1 .. c_K), as in
`cnnray.ops.boxes.encode_grid`: whether the centre of an object is in it, where, how large the object is, and of which
class.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnray.errors import OptionError
from cnnray.nn.backbones import build_backbone
from cnnray.nn.blocks import PYTORCH, ConvNormAct
from cnnray.nn.encoder import BackboneEncoder, Layers
from cnnray.ops.boxes import decode_grid, encode_grid
from cnnray.ops.detections import Candidates

_BOX, _EMPTY = 5.0, 0.5  # the paper's weights of boxes, and of cells without an object
_WIDTH, _HIDDEN, _GROUPS = 128, 256, 8
_PLACES = 6  # of the map, along each side, at least


class GridNet(nn.Module):
    """Square pictures to what the cells of a grid say.

    Args:
        encoder: on its coarsest map each cell reads the places that it covers, like a fully connected layer (with a
            single cell it is one, over the whole map): where in the cell something is must not be averaged away.
        cells: S; 1 localises a single object.
        num_classes: K.
        mean, std: normalisation of RGB in [0, 1].
    """

    multiple = 0
    mean: Tensor
    std: Tensor

    def __init__(
        self, encoder: BackboneEncoder, cells: int, num_classes: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        if cells < 1 or num_classes < 1:
            raise OptionError(f"expected at least 1 cell and 1 class, got {cells} and {num_classes}")
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))
        self.encoder, self.cells = encoder, cells
        self.covered = -(-_PLACES // cells)  # places along each side of a cell
        self.mix = nn.Sequential(
            ConvNormAct(encoder.channels[-1], _WIDTH, 1, style=PYTORCH), ConvNormAct(_WIDTH, _WIDTH, 3, style=PYTORCH)
        )
        self.head = nn.Sequential(
            nn.Conv2d(_WIDTH, _HIDDEN, self.covered, stride=self.covered, bias=False),
            nn.GroupNorm(_GROUPS, _HIDDEN),  # a sum over thousands of numbers, which a few steps would drive anywhere
            PYTORCH.act(),
            nn.Conv2d(_HIDDEN, 5 + num_classes, 1),
        )

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """What the cells say, float32 [N, S, S, 5 + K], still to be squeezed into ranges: see `answers`.

        Args:
            images_NCHW: uint8 in 0..255 or float in [0, 1], [N, 3, H, W].

        Raises:
            OptionError: the backbone's map of these pictures has fewer places than the grid has cells.
        """
        x = images_NCHW.to(self.mean.dtype)
        if images_NCHW.dtype == torch.uint8:
            x = x / 255
        deepest = self.encoder((x - self.mean) / self.std)[-1]
        if min(deepest.shape[-2:]) < self.cells:
            raise OptionError(
                f"expected pictures of at least {self.cells * self.encoder.strides[-1]} px for {self.cells} x "
                f"{self.cells} cells, got {images_NCHW.shape[-1]} x {images_NCHW.shape[-2]} px"
            )
        places = F.adaptive_avg_pool2d(self.mix(deepest), self.cells * self.covered)
        said: Tensor = self.head(places).permute(0, 2, 3, 1).float()
        return said

    def candidates(self, output: Tensor, side: int) -> list[Candidates]:
        """Every cell's box, p_c times its class's probability as score; see `cnnray.nn.detectors.Net`."""
        found = []
        for grid in answers(output.cpu()):
            boxes, scores, labels = decode_grid(grid, side)
            found.append(Candidates(F.one_hot(labels, grid.shape[-1] - 5) * scores[:, None], boxes))
        return found

    def layers(self) -> Layers:
        """See `cnnray.nn.detectors.Learner`."""
        return Layers(tuple(self.encoder.stages), self.encoder.num_low, (self.mix, self.head))


def answers(said: Tensor) -> Tensor:
    """What cells say, in range: p_c and centre in [0, 1], sizes above 0, classes that sum to 1; [..., 5 + K]."""
    # the square root of a size is learned, as in the paper
    parts = (said[..., :3].sigmoid(), F.softplus(said[..., 3:5]).square(), said[..., 5:].softmax(-1))
    return torch.cat(parts, dim=-1)


def grid_targets(boxes_bM4: Tensor, labels_bM: Tensor, cells: int, num_classes: int, size: float) -> Tensor:
    """`encode_grid` of each picture, float32 [b, S, S, 5 + K]; labels below 0 are no objects."""
    rows = zip(boxes_bM4.cpu(), labels_bM.cpu(), strict=True)
    return torch.stack([encode_grid(b[n >= 0], n[n >= 0], cells, num_classes, size) for b, n in rows])


def grid_loss(said_bSSF: Tensor, target_bSSF: Tensor) -> Tensor:
    """The loss of each picture, summed over its cells: [b]. With one cell it is that of a single object's localisation.

    Of p_c in every cell, logistic (half in empty ones). Where there is an object, that is where the target's p_c is 1,
    also five times the squared error of centre and root of width and height, and the logarithm of its class's
    probability: elsewhere nobody knows them. The paper (equation 3) squares all errors, which hardly teaches a
    probability that is wrong for sure.

    Args:
        said_bSSF: the network's output.
        target_bSSF: of `grid_targets`.
    """
    has_object = target_bSSF[..., 0]
    of_presence = F.binary_cross_entropy_with_logits(said_bSSF[..., 0], has_object, reduction="none")
    of_centres = (said_bSSF[..., 1:3].sigmoid() - target_bSSF[..., 1:3]).square().sum(-1)
    of_sizes = (F.softplus(said_bSSF[..., 3:5]) - target_bSSF[..., 3:5].sqrt()).square().sum(-1)
    of_classes = -(target_bSSF[..., 5:] * said_bSSF[..., 5:].log_softmax(-1)).sum(-1)
    total: Tensor = of_presence * torch.where(has_object > 0, 1.0, _EMPTY)
    return (total + has_object * (_BOX * (of_centres + of_sizes) + of_classes)).sum((1, 2))


def build_grid_net(arch: Mapping[str, Any], num_classes: int, weights: str = "none") -> GridNet:
    """A grid over a backbone, in evaluation mode.

    Args:
        arch: "backbone": a name of the registry; "cells": S.
        num_classes: K.
        weights: of the backbone, see `build_backbone`.

    Raises:
        UnknownNameError, CheckpointError, StorageError: as `build_backbone`.
        OptionError: numbers out of range.
    """
    body = build_backbone(arch["backbone"], weights)
    return GridNet(BackboneEncoder(body), int(arch["cells"]), num_classes, body.spec.mean, body.spec.std).eval()
