"""The first YOLO, and with a single cell what came before it: classification with localisation of one object.

You Only Look Once, Redmon et al. 2016, arXiv:1506.02640, section 2. Different from the paper: one box for each cell, so
no rivalry between two; width and height are in cells and may exceed 1.

Legend: N pictures, S cells along each side, K classes. What a cell says is (p_c, b_x, b_y, b_w, b_h, c_1 .. c_K), as in
`cnnray.ops.boxes.encode_grid`: whether the centre of an object is in it, where, how large the object is, and of which
class.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnray.errors import OptionError
from cnnray.nn.backbones import build_backbone
from cnnray.nn.blocks import PYTORCH, ConvNormAct
from cnnray.nn.segment import BackboneEncoder
from cnnray.ops.boxes import decode_grid, encode_grid
from cnnray.ops.detections import Found, pick

_BOX, _EMPTY = 5.0, 0.5  # the paper's weights of boxes, and of cells without an object
_WIDTH = 128


class GridNet(nn.Module):
    """Square pictures to what the cells of a grid say.

    Args:
        encoder: its coarsest map is averaged into S x S cells.
        cells: S; 1 localises a single object.
        num_classes: K.
        mean, std: normalisation of RGB in [0, 1].
    """

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
        self.mix = ConvNormAct(encoder.channels[-1], _WIDTH, 1, style=PYTORCH)
        self.head = nn.Conv2d(_WIDTH, 5 + num_classes, 1)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """What the cells say, float32 [N, S, S, 5 + K]: p_c and centre in [0, 1], sizes above 0, classes sum to 1.

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
        found = self.head(F.adaptive_avg_pool2d(self.mix(deepest), self.cells)).permute(0, 2, 3, 1).float()
        parts = (found[..., :3].sigmoid(), F.softplus(found[..., 3:5]), found[..., 5:].softmax(-1))
        return torch.cat(parts, dim=-1)

    def find(self, images_NCHW: Tensor, confidence: float, overlap: float = 0.5) -> list[Found]:
        """The objects in square pictures: every cell's box with p_c times its class's probability, then suppression."""
        results = []
        for grid in self(images_NCHW):
            boxes, scores, labels = decode_grid(grid.cpu(), images_NCHW.shape[-1])
            of_classes = torch.zeros(len(scores), grid.shape[-1] - 5)
            of_classes[torch.arange(len(scores)), labels] = scores
            results.append(pick(of_classes, boxes, confidence, overlap))
        return results


def grid_targets(boxes_bM4: Tensor, labels_bM: Tensor, cells: int, num_classes: int, size: float) -> Tensor:
    """`encode_grid` of each picture, float32 [b, S, S, 5 + K]; labels below 0 are no objects."""
    rows = zip(boxes_bM4.cpu(), labels_bM.cpu(), strict=True)
    return torch.stack([encode_grid(b[n >= 0], n[n >= 0], cells, num_classes, size) for b, n in rows])


def grid_loss(found_bSSF: Tensor, target_bSSF: Tensor) -> Tensor:
    """The paper's equation 3, for each picture: [b].

    Squared errors: of p_c in every cell (half in empty ones); of centre, root of width and height (five times) and
    class probabilities where there is an object, that is where the target's p_c is 1: elsewhere nobody knows them.
    """
    has_object = target_bSSF[..., 0]
    away = (found_bSSF - target_bSSF).square()
    of_presence = away[..., 0] * torch.where(has_object > 0, 1.0, _EMPTY)
    of_sizes = (found_bSSF[..., 3:5].clamp(min=1e-6).sqrt() - target_bSSF[..., 3:5].sqrt()).square().sum(-1)
    of_boxes = _BOX * (away[..., 1:3].sum(-1) + of_sizes)
    total: Tensor = of_presence + has_object * (of_boxes + away[..., 5:].sum(-1))
    return total.sum((1, 2))


def build_grid_net(backbone: str, cells: int, num_classes: int, weights: str = "none") -> GridNet:
    """A grid over a backbone, in evaluation mode.

    Raises:
        UnknownNameError, CheckpointError, StorageError: as `build_backbone`.
        OptionError: numbers out of range.
    """
    body = build_backbone(backbone, weights)
    return GridNet(BackboneEncoder(body), cells, num_classes, body.spec.mean, body.spec.std).eval()
