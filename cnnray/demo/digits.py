"""1,797 handwritten digits as a folder of photos, one folder for each class.

They are real (UCI's optical recognition of handwritten digits, as scikit-learn ships them), written out as PNG files so
that the demo runs the very commands that a user runs on photos.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_digits


def write_digits(folder: Path) -> int:
    """Write scikit-learn's digits as FOLDER/CLASS/NUMBER.png: 8x8 px enlarged to 64x64, dark ink, a white margin."""
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        levels = np.uint8(255 - image / 16 * 255)  # the data has ink 0..16
        picture = Image.fromarray(levels).resize((64, 64), Image.Resampling.BICUBIC)
        # the ink reaches the edge, and the network looks at the middle of a picture
        ImageOps.expand(picture, border=16, fill=255).save(place / f"{number:04d}.png")
    return len(digits.target)
