"""Masks of classes: files of every kind, and the numbers in them."""

import io

import numpy as np
import pytest
from PIL import Image

from cnnray.errors import DataError, ImageError, OptionError
from cnnray.ops.masks import IGNORE, LabelSpace, decode_mask

VALUES = np.array([[0, 1, 2], [3, 200, 255]], np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def palette_image():
    image = Image.fromarray(VALUES, "L").convert("P")
    image = Image.frombytes("P", (3, 2), VALUES.tobytes())
    image.putpalette([v for i in range(256) for v in (255 - i, i // 2, 7)])
    return image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.frombytes("L", (3, 2), VALUES.tobytes()), VALUES),
        (palette_image(), VALUES),  # the index, not the colour
        (Image.fromarray(VALUES > 2), VALUES > 2),
        (Image.fromarray(np.repeat(VALUES[..., None], 3, 2)), VALUES),
        (Image.fromarray(np.dstack([VALUES] * 3 + [np.full_like(VALUES, 9)])), VALUES),
        (Image.fromarray(VALUES.astype(np.uint16) * 200), VALUES.astype(int) * 200),
    ],
    ids=["L", "P", "1", "RGB", "RGBA", "I;16"],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_the_numbers_of_a_file_are_read_as_they_are(image, expected, kind):
    mask = decode_mask(encoded(image, kind))
    assert mask.dtype == np.int32
    np.testing.assert_array_equal(mask, expected)


def test_a_mask_is_turned_as_its_image_would_be():
    image = Image.frombytes("L", (3, 2), VALUES.tobytes())
    exif = Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(decode_mask(encoded(image, exif=exif)), np.rot90(VALUES, -1))


def test_colours_and_damage_are_refused_with_a_code():
    colours = np.dstack([VALUES, VALUES, 255 - VALUES])
    with pytest.raises(ImageError, match="one number per pixel, got colours") as caught:
        decode_mask(encoded(Image.fromarray(colours)))
    assert caught.value.code == "unsupported_format"
    with pytest.raises(ImageError, match="whole numbers, got an image of mode F"):
        decode_mask(encoded(Image.fromarray(VALUES.astype(np.float32)), "TIFF"))
    with pytest.raises(ImageError) as caught:
        decode_mask(encoded(Image.frombytes("L", (3, 2), VALUES.tobytes()))[:50])
    assert caught.value.code == "truncated"
    with pytest.raises(ImageError) as caught:
        decode_mask(b"")
    assert caught.value.code == "empty"


def test_classes_are_declared_in_one_text():
    space = LabelSpace.parse("background=0, road=7,car=300,ignore=255")
    assert space == LabelSpace(("background", "road", "car"), (0, 7, 300), 255)
    assert LabelSpace.parse(space.text) == space
    mask = np.array([[300, 0], [255, 7]], np.int32)
    assert space.indices(mask).tolist() == [[2, 0], [IGNORE, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("road", "expected classes such as"),
        ("a=0,b", "expected classes such as"),
        ("a=0,b=-1", "expected classes such as"),
        ("a=0", "expected 2 to 255 classes, got 1"),
        ("a=0,ignore=255", "expected 2 to 255 classes, got 1"),
        ("a=0,a=1", "every name of classes once, but a comes twice"),
        ("a=0,b=0", "every number of classes once, but 0 comes twice"),
    ],
)
def test_wrong_declarations_are_refused(text, message):
    with pytest.raises(OptionError, match=message):
        LabelSpace.parse(text)


def test_binary_masks_need_no_declaration():
    assert LabelSpace.from_values([0, 255]).values == (0, 255)
    assert LabelSpace.from_values([1, 0, 1]).values == (0, 1)
    for values in ([0], [0, 128, 255], range(90)):
        with pytest.raises(DataError, match='say which class each is with --classes, such as "background=0'):
            LabelSpace.from_values(values)


def test_undeclared_numbers_are_named_with_their_pixels():
    space = LabelSpace.parse("a=0,b=1")
    with pytest.raises(DataError, match=r"expected only the numbers of a=0,b=1 in a mask, got 7, 9 at 3 pixels"):
        space.indices(np.array([[0, 7, 9], [7, 1, 0]], np.int32))
