"""Small segmenters and pairs of pictures and masks for tests."""

import numpy as np
import torch
from PIL import Image

from cnnray.nn.checkpoint import Card, save_checkpoint
from cnnray.nn.segment import build_segmenter

ARCH = {"encoder": "plain", "width": 4, "depth": 2}
INPUT = {"tile": 96, "overlap": 32, "values": [0, 255], "ignore": -1}


def save_segmenter(folder, arch=ARCH, classes=("background", "blob"), **given):
    """A checkpoint with random weights whose answers vary within a picture."""
    torch.manual_seed(0)
    net = build_segmenter(arch, len(classes))
    card = Card(task="segment", arch=dict(arch), classes=list(classes), input=INPUT | given, metrics={"mean_iou": 0.5})
    save_checkpoint(str(folder), net.state_dict(), card)
    return str(folder)


def draw_blobs(seed, height=80, width=96):
    """A noisy picture uint8 [H, W, 3] with bright discs, and its mask uint8 [H, W] of 0 and 255."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for _ in range(4):
        cy, cx, radius = rng.integers(height), rng.integers(width), rng.integers(8, 16)
        mask |= (y - cy) ** 2 + (x - cx) ** 2 < radius**2
    picture = rng.integers(0, 90, (height, width, 3)) + 130 * mask[..., None]
    return picture.astype(np.uint8), mask.astype(np.uint8) * 255


def write_pairs(root, count=12, foreground=255, **sizes):
    """A folder with images/ and masks/, where what is no background has this value."""
    for number in range(count):
        picture, mask = draw_blobs(number, **sizes)
        for name, pixels in (("images", picture), ("masks", mask // 255 * foreground)):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / name / f"{number:02d}.png")
    return str(root)
