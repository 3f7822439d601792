"""Masks as pictures."""

import io

import numpy as np
from PIL import Image

from cnnray.ops.masks import IGNORE, decode_mask
from cnnray.ops.overlay import mask_png, outlines, overlay, palette


def test_colours_differ_and_the_background_is_black():
    colours = palette(29)
    assert colours.shape == (29, 3) and not colours[0].any()
    assert len({tuple(c) for c in colours}) == 29


def test_only_classes_are_coloured():
    image = np.full((6, 8, 3), 100, np.uint8)
    classes = np.zeros((6, 8), np.uint8)
    classes[1:5, 1:6] = 2
    classes[0, 7] = IGNORE
    drawn = overlay(image, classes, 3, alpha=0.5)
    np.testing.assert_array_equal(drawn[classes != 2], image[classes != 2])
    np.testing.assert_array_equal(drawn[2, 2], np.rint((100 + palette(3)[2].astype(float)) / 2))
    np.testing.assert_array_equal(drawn[1, 1], palette(3)[2])  # the outline is opaque
    assert outlines(np.where(classes == IGNORE, 0, classes)).sum() == 14


def test_a_mask_comes_back_from_its_png():
    classes = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    for values in ((0, 128, 255), (0, 1, 40000)):
        content = mask_png(classes, values)
        assert Image.open(io.BytesIO(content)).mode == ("L" if max(values) < 256 else "I;16")
        np.testing.assert_array_equal(decode_mask(content), np.array(values)[classes])
