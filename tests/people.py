"""Small folders of people: links to real photos, and photos of nobody."""

import io

import numpy as np
from PIL import Image


def link_people(data_dir, folder, people=8, images=5, first=10):
    """Some people of `lfw_dev` with some of their photos each; returns the folder."""
    for person in sorted(path for path in (data_dir / "lfw_dev").iterdir() if path.is_dir())[first : first + people]:
        (folder / person.name).mkdir(parents=True)
        for photo in sorted(person.glob("*.jpg"))[:images]:
            (folder / person.name / photo.name).symlink_to(photo)
    return folder


def nobody(side=150):
    """A photo without a face, as a JPEG."""
    noise = np.random.default_rng(0).integers(80, 120, (side, side, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()
