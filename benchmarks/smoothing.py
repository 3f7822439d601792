"""Whether activations smoothed by a softmax (Wang, Li and Vasconcelos 2021) paint better pictures, network by network.

    python benchmarks/smoothing.py [--steps 200] [--size 256] [--sheet docs/smoothing.jpg]     five minutes on two cores

Two photos in two styles of the shared data, by `StyleOptimizer` from the photo with its default weights, once with
plain and once with smoothed activations of EfficientNet-Lite0 and of SqueezeNet 1.0, the two networks whose weights are
at hand; neither is what the method was made for, a ResNet. The sheet is for looking at: that decides. Last line, one
JSON object; by network, plain and smoothed:

    unevenness   of the paintings over that of the photos, as total variation: noise raises it, and so do strokes
    style_loss   of the paintings as the network sees them without smoothing
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from skimage import data as skimage_photos
from stylize import DATA, read, square

from cnnray.config import StylizeConfig
from cnnray.infer.stylize import StyleOptimizer
from cnnray.ops.style import total_variation

NETWORKS = {"efficientnet_lite0": "default", "squeezenet1_0": str(DATA / "weights" / "squeezenet1_0.pth")}
STYLES = ("woman_with_hat_matisse.jpg", "contrast_of_forms.jpg")
KINDS = {"plain": False, "smoothed": True}


def unevenness(picture):
    return total_variation(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255).item()


def paint(photo, style, network, steps, smooth):
    """The painting, and its style loss without smoothing."""
    settings = {"size": len(photo), "backbone": network, "weights": NETWORKS[network], "pyramid": 1}
    config = StylizeConfig(**settings, steps=steps, smooth=smooth)
    painting = StyleOptimizer(photo, [style], config).run().image_HWC
    plain = StylizeConfig(**settings, steps=1)
    return painting, StyleOptimizer(photo, [style], plain, start_HWC=painting).step().style


def draw(rows, path):
    """Photo, plain, smoothed, one row for each network and photo."""
    figure = Figure(figsize=(9, 3.05 * len(rows)), dpi=100, layout="constrained")
    for cells, (network, pictures) in zip(figure.subplots(len(rows), 1 + len(KINDS)), rows, strict=True):
        for axes, title, picture in zip(cells, (network, *KINDS), pictures, strict=True):
            axes.imshow(picture, interpolation="lanczos")
            axes.set_title(title, fontsize=11)
            axes.axis("off")
    figure.savefig(path, pil_kwargs={"quality": 88})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--sheet", default="docs/smoothing.jpg")
    args = parser.parse_args()
    photos = [square(photo, args.size) for photo in (skimage_photos.chelsea(), skimage_photos.rocket())]
    styles = [read(DATA / "styles" / name) for name in STYLES]
    answer, rows = {}, []
    for network in NETWORKS:
        found = {kind: [] for kind in KINDS}
        for photo, style in zip(photos, styles, strict=True):
            paintings = []
            for kind, smooth in KINDS.items():
                painting, loss = paint(photo, style, network, args.steps, smooth)
                found[kind].append((unevenness(painting) / unevenness(photo), loss))
                paintings.append(painting)
            rows.append((network, [photo, *paintings]))
        for kind, figures in found.items():
            uneven, loss = np.mean(figures, axis=0).round(3).tolist()
            answer.setdefault(network, {})[kind] = {"unevenness": uneven, "style_loss": loss}
        print(json.dumps({network: answer[network]}), flush=True)
    Path(args.sheet).parent.mkdir(parents=True, exist_ok=True)
    draw(rows, args.sheet)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
