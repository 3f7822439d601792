"""The script that a user would write: DataLoader, torchvision transforms, fp32, one network. The features baseline.

    python benchmarks/plain_features.py MANIFEST.csv OUT.npz [LIMIT]

Prints one JSON object: images, seconds of the loop after its first batch, seconds in all.
"""

import csv
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from cnnray.nn.backbones import build_backbone, build_extractor

BATCH = 64


class Photos(Dataset):
    def __init__(self, manifest, limit, spec):
        with open(manifest) as file:
            self.rows = list(csv.DictReader(file))[:limit]
        self.base = Path(manifest).parent
        modes = transforms.InterpolationMode
        mode = modes.BICUBIC if spec.interpolation == "bicubic" else modes.BILINEAR
        self.transform = transforms.Compose(
            [transforms.Resize(spec.resize, mode), transforms.CenterCrop(spec.input_size), transforms.ToTensor()]
        )

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, at):
        return self.transform(Image.open(os.path.join(self.base, self.rows[at]["path"])).convert("RGB"))


def main():
    manifest, out = sys.argv[1:3]
    limit = int(sys.argv[3]) if len(sys.argv) > 3 else None
    began = time.perf_counter()
    backbone = build_backbone("efficientnet_lite0", "default")
    network = build_extractor(backbone, "", "avg").eval()
    photos = Photos(manifest, limit, backbone.spec)
    features, marks = [], []
    with torch.inference_mode():
        for batch in DataLoader(photos, batch_size=BATCH, num_workers=2):
            features.append(network(batch).numpy())
            marks.append(time.perf_counter())
    np.savez(out, ids=[row.get("id", row["path"]) for row in photos.rows], features=np.concatenate(features))
    print(
        json.dumps(
            {
                "images": len(photos),
                "images_per_s": (len(photos) - len(features[0])) / (marks[-1] - marks[0]),
                "seconds": time.perf_counter() - began,
            }
        )
    )


if __name__ == "__main__":
    main()
