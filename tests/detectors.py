"""Small detectors, and pictures with coloured shapes, for tests."""

import json

import numpy as np
import torch
from PIL import Image

from cnnray.nn.checkpoint import Card, save_checkpoint
from cnnray.nn.detectors import build_detector

ARCH = {"model": "yolo", "backbone": "residual:width=0.25", "width": 16}
CLASSES = ("square", "bar")
COLOURS = ((230, 40, 40), (40, 60, 230))


def save_detector(folder, arch=ARCH, classes=CLASSES, size=96, surer=0.0):
    """A checkpoint with random weights whose answers vary within a picture; `surer` raises YOLO's logits."""
    torch.manual_seed(0)
    net = build_detector(arch, len(classes))
    with torch.no_grad():
        for name, bias in net.named_parameters():
            if surer and name.endswith("classes.2.bias"):
                bias += surer
    card = Card(task="detect", arch=dict(arch), classes=list(classes), input={"size": size}, metrics={"map50": 0.5})
    save_checkpoint(str(folder), net.state_dict(), card)
    return str(folder)


def draw_shapes(seed, height=96, width=96, most=3):
    """A noisy picture uint8 [H, W, 3] with red squares and blue bars that do not touch, and [(box, label)]."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 90, (height, width, 3)).astype(np.uint8)
    found = []
    for _ in range(20):
        label = int(rng.integers(2))
        high, wide = (
            (int(rng.integers(14, 34)),) * 2 if label == 0 else (int(rng.integers(8, 14)), int(rng.integers(28, 44)))
        )
        y, x = int(rng.integers(0, height - high)), int(rng.integers(0, width - wide))
        box = (x, y, x + wide, y + high)
        if all(box[2] + 3 < b[0] or b[2] + 3 < box[0] or box[3] + 3 < b[1] or b[3] + 3 < box[1] for b, _ in found):
            picture[y : y + high, x : x + wide] = COLOURS[label]
            found.append((box, label))
        if len(found) == 1 + seed % most:
            break
    return picture, found


def write_shapes(root, count=12, classes=CLASSES, **sizes):
    """A COCO file beside images/."""
    (root / "images").mkdir(parents=True)
    images, notes = [], []
    for number in range(count):
        picture, found = draw_shapes(number, **sizes)
        Image.fromarray(picture).save(root / "images" / f"{number:02d}.png")
        height, width = picture.shape[:2]
        images.append({"id": number, "file_name": f"{number:02d}.png", "height": height, "width": width})
        for (x1, y1, x2, y2), label in found:
            note = {"id": len(notes), "image_id": number, "category_id": label + 1}
            notes.append(note | {"bbox": [x1, y1, x2 - x1, y2 - y1]})
    names = [{"id": at, "name": name} for at, name in enumerate(classes, start=1)]
    content = {"images": images, "annotations": notes, "categories": names}
    (root / "shapes.json").write_text(json.dumps(content))
    return str(root / "shapes.json")
