"""Painters with random weights, and small pictures to paint and to learn styles from."""

import numpy as np
import torch
from PIL import Image

from cnnray.nn.checkpoint import Card, save_checkpoint
from cnnray.nn.transform_net import TransformNet, style_parameters

STYLES = ("stripes", "dots")


def save_painter(folder, width=8, blocks=1, seed=0):
    """A checkpoint whose two styles differ; returns its folder."""
    torch.manual_seed(seed)
    net = TransformNet(len(STYLES), width, blocks)
    with torch.no_grad():
        for parameter in style_parameters(net):
            parameter += 0.3 * torch.randn_like(parameter)
    arch = {"num_styles": len(STYLES), "width": width, "blocks": blocks}
    save_checkpoint(str(folder), net.state_dict(), Card(task="stylize", arch=arch, classes=list(STYLES)))
    return str(folder)


def draw_photo(height=96, width=128, seed=0):
    """uint8 RGB [H, W, 3]: discs on a slope of colours."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([x / width, y / height, 0.5 * np.ones_like(x, float)], 2) * rng.uniform(0.5, 1, 3)
    for _ in range(6):
        inside = (y - rng.uniform(0, height)) ** 2 + (x - rng.uniform(0, width)) ** 2 < rng.uniform(5, 20) ** 2
        image[inside] = rng.uniform(0, 1, 3)
    return np.uint8(image * 255)


def draw_style(name, side=96):
    """uint8 RGB [side, side, 3]."""
    y, x = np.mgrid[:side, :side]
    if name == "stripes":
        inside, colors = (x + y) % 12 < 6, ([220, 60, 40], [250, 220, 90])
    else:
        inside, colors = (x % 16 - 8) ** 2 + (y % 16 - 8) ** 2 < 25, ([30, 60, 160], [190, 230, 250])
    return np.where(inside[..., None], *(np.array(color, np.uint8) for color in colors))


def write_pictures(folder, count=10):
    """FOLDER/photos/N.png and FOLDER/STYLE.png; returns the photos' folder and the styles' paths by name."""
    (folder / "photos").mkdir(parents=True)
    for number in range(count):
        Image.fromarray(draw_photo(seed=number)).save(folder / "photos" / f"{number}.png")
    for name in STYLES:
        Image.fromarray(draw_style(name)).save(folder / f"{name}.png")
    return str(folder / "photos"), {name: str(folder / f"{name}.png") for name in STYLES}
