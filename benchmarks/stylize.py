"""The painter that comes with cnnray against optimisation, and its batches against the plain loop.

    python benchmarks/stylize.py [--photos N] [--speed-photos N] [--steps N] [--rounds N]    half an hour on two cores

Twenty photos that the painter has not seen (eight of the shared contents, scikit-image's and scikit-learn's photos, the
rest of groceries), as squares; the three styles of its paintings in the shared data, each photo in one of them in turn.
One judge for both: the taps and weights (10, 2, 2) that the painter was trained by, styles of 224 px. Optimisation is
`StyleOptimizer` from the photo, in one size, float32; the painter is `Stylizer`, as in the service. Last line, one JSON
object:

    speedup_to_same_loss   at 256 and at 512 px: seconds in which optimisation (Adam or L-BFGS, the faster for each
                           photo) reaches the loss that the painting has, over the painter's; median of six photos.
                           Where it does not reach it in `--steps`, their time counts.
    batch_ratio            images/s of the painter in batches of 16 at 256 px, over the loop that paints one after the
                           other in float32 as tutorials do; in turn, medians; and their largest difference, of 255
    style_ratio, content_ratio, loss_ratio
                           at 256 px: mean loss of the paintings, over that after `--steps` steps of Adam
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from skimage import data as skimage_photos
from sklearn.datasets import load_sample_images

from cnnray.config import StylizeConfig
from cnnray.infer.fast_stylize import SHIPPED, Stylizer
from cnnray.infer.stylize import StyleOptimizer
from cnnray.nn.checkpoint import load_checkpoint, load_into
from cnnray.nn.transform_net import ResidualPair, TransformNet
from cnnray.ops.style_pictures import fit_style

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CNNRAY_DATA", ROOT.parent / "shared" / "data"))
STYLES = {
    "woman_with_a_hat": "woman_with_hat_matisse.jpg",
    "contrast_of_forms": "contrast_of_forms.jpg",
    "composition_vii": "mondrian.jpg",
}
STYLE_SIDE, BATCH = 224, 16
_LOADED = ("astronaut", "chelsea", "coffee", "rocket")


def read(path):
    return np.asarray(Image.open(path).convert("RGB"))


def photos(count):
    found = [read(path) for path in sorted((DATA / "contents").iterdir())]
    found += [getattr(skimage_photos, name)() for name in _LOADED] + list(load_sample_images().images)
    groceries = sorted((DATA / "grocery").rglob("*.jpg"))
    missing = max(0, count - len(found))
    return [*found, *(read(path) for path in groceries[:: len(groceries) // max(missing, 1)][:missing])][:count]


def square(photo, side):
    return np.asarray(ImageOps.fit(Image.fromarray(photo), (side, side), Image.Resampling.LANCZOS))


def config(side, style, steps, **change):
    scale = max(style.shape[:2]) / side  # the style as it is, whatever the photo's size
    return StylizeConfig(
        size=side, style_scale=scale, variation_loss=2.0, steps=steps, pyramid=1, device="cpu", **change
    )


def judged(photo, style, painting):
    """Losses of a picture."""
    return StyleOptimizer(photo, [style], config(len(photo), style, 1), start_HWC=painting).step()


def seconds_to(loss, photo, style, steps):
    """Of optimisation from the photo, by the faster optimiser."""
    best = float("inf")
    for name in ("adam", "lbfgs"):
        optimizer = StyleOptimizer(photo, [style], config(len(photo), style, steps, optimizer=name))
        started = time.perf_counter()
        while optimizer.num_done < steps and time.perf_counter() - started < best:
            if optimizer.step().loss <= loss:
                break
        best = min(best, time.perf_counter() - started)
    return best


def timed(run):
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def median_seconds(rounds, *runs):
    """Of each, in turn."""
    for run in runs:
        run()
    times = [[timed(run)[0] for run in runs] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def speedup(painter, side, asked, steps, rounds):
    ratios = []
    for photo, name, style in asked:
        photo = square(photo, side)
        (seconds,) = median_seconds(rounds, lambda photo=photo, name=name: painter.predict([photo], name))
        (painting,) = painter.predict([photo], name)
        loss = judged(photo, style, painting).loss
        ratios.append(seconds_to(loss, photo, style, steps) / seconds)
        print(f"{side} px, {name}: loss {loss:.3f}, painter {seconds:.3f} s, ratio {ratios[-1]:.0f}", flush=True)
    return round(statistics.median(ratios), 1)


def qualities(painter, asked, steps):
    rows = []
    for photo, name, style in asked:
        photo = square(photo, 256)
        fast = judged(photo, style, painter.predict([photo], name)[0])
        slow = StyleOptimizer(photo, [style], config(256, style, steps)).run().losses
        rows.append([fast.style, slow.style, fast.content, slow.content, fast.loss, slow.loss])
        print(f"{name}: style, content, loss " + ", ".join(f"{value:.3f}" for value in rows[-1]), flush=True)
    means = np.mean(rows, axis=0)
    names = ("style_ratio", "content_ratio", "loss_ratio")
    return {name: round(float(means[2 * at] / means[2 * at + 1]), 3) for at, name in enumerate(names)}


def plain_layer(layer, x, at):
    """As tutorials write it."""
    if layer.grow > 1:
        x = F.interpolate(x, scale_factor=layer.grow, mode="nearest")
    x = F.conv2d(F.pad(x, (layer.pad,) * 4, mode="reflect"), layer.conv.weight, stride=layer.stride)
    x = F.instance_norm(x, weight=layer.scale_SC[at], bias=layer.shift_SC[at])
    return x.relu() if layer.relu else x


@torch.no_grad()
def plain_paint(net, picture, at):
    """One picture whose sides are multiples of four, in float32."""
    x = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    for layer in net.layers:
        if isinstance(layer, ResidualPair):
            x = x + plain_layer(layer.second, plain_layer(layer.first, x, at), at)
        else:
            x = plain_layer(layer, x, at)
    return (x.sigmoid() * 255).round().byte()[0].permute(1, 2, 0).numpy()


def batch_ratio(painter, asked, rounds):
    tensors, card = load_checkpoint(SHIPPED, "stylize")
    net = TransformNet(**card.arch).eval()
    load_into(net, tensors, SHIPPED)
    pictures = [square(photo, 256) for photo, _, _ in asked][:BATCH]
    names = [name for _, name, _ in asked][:BATCH]

    def loop():
        numbers = [painter.styles.index(name) for name in names]
        return [plain_paint(net, picture, at) for picture, at in zip(pictures, numbers, strict=True)]

    def ours():
        return painter.predict(pictures, names)

    apart = max(int(np.abs(one.astype(int) - two).max()) for one, two in zip(loop(), ours(), strict=True))
    slow, fast = median_seconds(rounds, loop, ours)
    return {
        "batch_ratio": round(slow / fast, 2),
        "images_per_s": round(len(pictures) / fast, 1),
        "largest_difference": apart,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--speed-photos", type=int, default=6)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    painter = Stylizer.load(SHIPPED, device="cpu")
    styles = {name: fit_style(read(DATA / "styles" / file), STYLE_SIDE) for name, file in STYLES.items()}
    names = list(styles)
    asked = [
        (photo, name, styles[name]) for at, photo in enumerate(photos(args.photos)) for name in [names[at % len(names)]]
    ]
    answer = batch_ratio(painter, asked, args.rounds)
    answer["speedup_to_same_loss"] = {
        str(side): speedup(painter, side, asked[: args.speed_photos], args.steps, args.rounds) for side in (256, 512)
    }
    print(json.dumps(answer), flush=True)
    answer |= qualities(painter, asked, args.steps)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
