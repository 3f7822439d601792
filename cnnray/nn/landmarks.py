"""Five landmarks of a face by dlib's published cascade of regression trees, for all faces of a picture at once.

One Millisecond Face Alignment with an Ensemble of Regression Trees, Kazemi and Sullivan 2014, CVPR

Legend: N faces, L landmarks, C steps of the cascade, T trees of a step, S splits of a tree, F pixels that a step looks
at. Shapes are in the face's box: (0, 0) is its top left corner, (1, 1) its bottom right one.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from cnnray.nn.dlib_file import ShapeFile
from cnnray.ops.align import similarity


def _moves(count: int = 16, amount: float = 0.12) -> Tensor:
    """Changes [count, 4] of a box's corners, in its widths: shifted and scaled by normal numbers, always the same."""
    x, y, scale = (torch.randn(3, count, generator=torch.Generator().manual_seed(0)) * amount).unbind(0)
    return torch.stack([x - scale / 2, y - scale / 2, x + scale / 2, y + scale / 2], 1)


_MOVES = _moves()


class LandmarkForest(nn.Module):
    """Boxes of faces to their landmarks.

    Each step compares pairs of pixels, whose places move and turn with the shape found so far; each tree then adds a
    small change of the shape.

    Args:
        tensors: of `forest_tensors`.
    """

    initial: Tensor
    first: Tensor
    second: Tensor
    thresholds: Tensor
    leaves: Tensor
    anchors: Tensor
    deltas: Tensor

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, image_CHW: Tensor, boxes_N4: Tensor) -> Tensor:
        """Landmarks [N, L, 2] as (x, y) in px, float32.

        Args:
            image_CHW: uint8 RGB [3, H, W].
            boxes_N4: of the faces, xyxy px; they may reach out of the picture.
        """
        grey = (image_CHW.to(torch.int32).sum(0) // 3).float()
        shapes = self.initial.expand(len(boxes_N4), -1, -1)
        for step in range(len(self.anchors)):
            pixels = self._pixels(grey, boxes_N4, shapes, step)
            shapes = shapes + self._changes(pixels, step)
        return _in_picture(shapes, boxes_N4)

    def scatter(self, image_CHW: Tensor, boxes_N4: Tensor) -> Tensor:
        """How far the landmarks move when the box does: [N], deviation in widths of the box.

        About 0.05 of a face that stands upright, and 0.1 of one that lies on its side or of what is no face: there the
        trees find nothing to hold on to. It takes as long as the landmarks of sixteen faces.

        Args:
            image_CHW, boxes_N4: as for the landmarks.
        """
        sides = (boxes_N4[:, 2] - boxes_N4[:, 0])[:, None, None]
        moved = boxes_N4[:, None] + _MOVES.to(boxes_N4) * sides
        landmarks = self(image_CHW, moved.reshape(-1, 4)).reshape(-1, len(_MOVES), 10)
        deviation = (landmarks - landmarks.mean(1, keepdim=True)).square().mean(1).sqrt()  # std() warns of no faces
        moved_by: Tensor = deviation.mean(1) / sides[:, 0, 0].clamp(min=1)
        return moved_by

    def _pixels(self, grey_HW: Tensor, boxes: Tensor, shapes: Tensor, step: int) -> Tensor:
        """Intensities [N, F] of the step's pixels; 0 outside of the picture."""
        turned = torch.einsum("nij,fj->nfi", similarity(self.initial, shapes)[0], self.deltas[step])
        places = _in_picture(turned + shapes[:, self.anchors[step]], boxes).add(0.5).floor().long()
        height, width = grey_HW.shape
        x, y = places.unbind(-1)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        return grey_HW[y.clamp(0, height - 1), x.clamp(0, width - 1)] * inside

    def _changes(self, pixels_NF: Tensor, step: int) -> Tensor:
        """What the step's trees add to the shapes, [N, L, 2]."""
        count, splits = len(pixels_NF), self.first.shape[-1]
        goes_left = pixels_NF[:, self.first[step]] - pixels_NF[:, self.second[step]] > self.thresholds[step]
        node = torch.zeros(count, self.first.shape[1], 1, dtype=torch.int64, device=pixels_NF.device)
        for _ in range((splits + 1).bit_length() - 1):  # trees are full: all reach their leaves at once
            node = 2 * node + 2 - goes_left.gather(2, node).long()
        leaf = (node - splits)[..., None].expand(-1, -1, -1, self.leaves.shape[-1])
        added = self.leaves[step].expand(count, -1, -1, -1).gather(2, leaf).squeeze(2).sum(1)
        return added.reshape(count, *self.initial.shape)


def forest_tensors(file: ShapeFile) -> dict[str, Tensor]:
    """The cascade as it is computed.

    Returns:
        initial [L, 2], the mean shape; first, second int64 [C, T, S], pixels that are compared, thresholds [C, T, S];
        leaves [C, T, S + 1, 2 L]; anchors int64 [C, F] and deltas [C, F, 2], landmarks that pixels hang on, and where.
    """

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([np.stack([getattr(tree, name) for tree in trees]) for trees in file.forests]))

    places = stacked("places_S2")
    return {
        "initial": torch.from_numpy(file.initial_P).reshape(-1, 2),
        "first": places[..., 0].contiguous(),
        "second": places[..., 1].contiguous(),
        "thresholds": stacked("thresholds_S"),
        "leaves": stacked("leaves_LP"),
        "anchors": torch.from_numpy(np.stack(file.anchors)),
        "deltas": torch.from_numpy(np.stack(file.deltas)),
    }


def _in_picture(points_NL2: Tensor, boxes_N4: Tensor) -> Tensor:
    """From a box's own coordinates to px."""
    return boxes_N4[:, None, :2] + points_NL2 * (boxes_N4[:, None, 2:] - boxes_N4[:, None, :2])
