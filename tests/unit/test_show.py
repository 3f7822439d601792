"""Signals, heat and patches as pictures, on arrays that a person can check."""

import matplotlib
import numpy as np
import pytest

from cnnray.ops.augment import plain_view
from cnnray.ops.seen import lay_back, seen_box
from cnnray.ops.show import crop, enlarge, grid, heat_colours, heat_over, nine_beside_nine, signed_picture


def test_a_signed_signal_is_grey_at_zero_and_symmetric():
    signal = np.zeros((2, 2, 3), np.float32)
    signal[0, 0], signal[0, 1] = 0.5, -0.5
    signal[1, 0] = [1, -1, 0]
    picture = signed_picture(signal, percentile=100)
    assert picture.dtype == np.uint8
    assert picture[1, 1].tolist() == [128, 128, 128]
    assert picture[1, 0].tolist() == [255, 1, 128]
    assert picture[0, 0].tolist() == [192] * 3 and picture[0, 1].tolist() == [64] * 3
    assert np.array_equal(signed_picture(signal * 1e-9, percentile=100), picture)  # the unit does not matter
    assert (signed_picture(-signal, percentile=100).astype(int) + picture == 256).all()


def test_the_scale_is_that_of_the_larger_sign():
    assert signed_picture(np.array([[[-1.0, 0.5, 0.0]]]), percentile=100).tolist() == [[[1, 192, 128]]]


def test_one_extreme_value_does_not_hide_the_others():
    signal = np.zeros((40, 40, 3), np.float32)
    signal[:20] = 1.0
    signal[0, 0, 0] = 1e6
    assert signed_picture(signal)[10, 10].tolist() == [255] * 3
    assert signed_picture(signal, percentile=100)[10, 10].tolist() == [128] * 3


def test_nothing_is_grey():
    assert (signed_picture(np.zeros((3, 4, 3), np.float32)) == 128).all()


def test_the_colours_are_matplotlibs_inferno():
    heat = np.linspace(0, 1, 256)
    expected = matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255
    assert np.abs(heat_colours(heat) - expected).max() <= 7  # 16 steps with straight lines between them
    assert np.array_equal(heat_colours(np.array([-1.0, 2.0])), heat_colours(np.array([0.0, 1.0])))
    light = heat_colours(heat) @ [0.299, 0.587, 0.114]
    assert (np.diff(light) > -1).all() and light[-1] > 200 and light[0] < 5  # more heat is lighter


def test_heat_over_a_photo():
    photo = np.full((4, 4, 3), [100, 50, 200], np.uint8)
    heat = np.zeros((4, 4))
    heat[1, 2] = 1.0
    mixed = heat_over(photo, heat, alpha=0.5)
    grey = 0.299 * 100 + 0.587 * 50 + 0.114 * 200
    assert mixed[0, 0].tolist() == [round(grey)] * 3
    assert mixed[1, 2] == pytest.approx(0.5 * grey + 0.5 * heat_colours(np.array(1.0)), abs=1)


@pytest.mark.parametrize(
    "box", [(1, 1, 3, 4), (-2, -1, 2, 2), (3, 4, 7, 8), (-1, -1, 6, 7), (-5, 0, -2, 2), (9, 9, 11, 12)]
)
def test_a_crop_is_the_crop_of_the_padded_image(box):
    image = np.arange(5 * 6 * 3).reshape(5, 6, 3).astype(np.uint8)
    padded = np.pad(image, ((10, 10), (10, 10), (0, 0)), constant_values=7)
    top, left, bottom, right = (side + 10 for side in box)
    found = crop(image, box, fill=7)
    assert np.array_equal(found, padded[top:bottom, left:right])
    found[:] = 0
    assert image.max() == 89  # a copy


def test_a_grid():
    pictures = [np.full((2, 3, 3), number, np.uint8) for number in range(7)]
    sheet = grid(pictures, gap=1)
    assert sheet.shape == (8, 11, 3)
    assert sheet[:, :, 0].tolist()[0] == [0, 0, 0, 255, 1, 1, 1, 255, 2, 2, 2]
    assert sheet[:, :, 0].tolist()[2] == [255] * 11
    assert sheet[:, :, 0].tolist()[7] == [6, 6, 6, *[255] * 8]
    beside = nine_beside_nine(pictures, pictures[::-1], gap=1)
    assert beside.shape == (8, 26, 3) and beside[0, 15, 0] == 6 and beside[0, 12, 0] == 255


def test_enlarged_by_a_whole_number():
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert enlarge(picture, 7).shape == (6, 6, 3) and (enlarge(picture, 7)[:3, 3:] == picture[0, 1]).all()
    assert enlarge(picture, 1).shape == (2, 2, 3)


# --- what a network saw of a photo --------------------------------------------------------------------------------

SHAPES = [(100, 100), (80, 200), (300, 70), (10, 400), (33, 50)]


@pytest.mark.parametrize("height, width", SHAPES)
@pytest.mark.parametrize("size, resize", [(64, 64), (64, 72), (96, 64)])
def test_the_view_lies_where_it_is_said_to_lie(height, width, size, resize):
    """A photo of which each pixel tells its place: the view's pixels tell where they were taken from."""
    ramp_y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    ramp_x = np.linspace(0, 255, width)[None].repeat(height, 0)
    image = np.rint(np.stack([ramp_y, ramp_x, np.full_like(ramp_x, 255)], 2)).astype(np.uint8)
    view = plain_view(image, size=size, resize=resize).permute(1, 2, 0).numpy().astype(float)
    top, left, bottom, right = seen_box(height, width, size=size, resize=resize)
    rows, columns = np.nonzero(view[:, :, 2] == 255)  # the rest is beyond the photo
    middle = (
        (rows > rows.min() + 2)
        & (rows < rows.max() - 2)
        & (columns > columns.min() + 2)
        & (columns < columns.max() - 2)
    )
    rows, columns = rows[middle], columns[middle]
    y = top + (rows + 0.5) / size * (bottom - top) - 0.5
    x = left + (columns + 0.5) / size * (right - left) - 0.5
    step_y, step_x = (bottom - top) / size, (right - left) / size  # px of the photo for one of the view
    assert np.abs(view[rows, columns, 0] / 255 * (height - 1) - y).max() <= 0.5 * step_y + height / 255
    assert np.abs(view[rows, columns, 1] / 255 * (width - 1) - x).max() <= 0.5 * step_x + width / 255


def test_a_map_is_laid_back_on_the_part_that_was_seen():
    heat = np.zeros((50, 50), np.float32)
    heat[:, :25] = 1.0  # the left half of what was seen
    whole = lay_back(heat, 100, 200, size=50, resize=50)
    assert whole.shape == (100, 200) and whole.dtype == np.float32
    assert (whole[:, :50] == 0).all() and (whole[:, 150:] == 0).all()  # the network did not look there
    assert (whole[:, 52:97] == 1).all() and (whole[:, 103:] == 0).all()


def test_a_map_of_a_view_beyond_the_photo():
    heat = np.ones((60, 60), np.float32)
    heat[:10] = heat[50:] = 0.0  # black bars, where no photo was
    whole = lay_back(heat, 80, 80, size=60, resize=40)
    assert (whole[2:78, 2:78] == 1).all()


def test_a_line_of_pixels_costs_no_more_than_itself():
    whole = lay_back(np.ones((64, 64), np.float32), 1, 5000, size=64, resize=72)
    assert whole.shape == (1, 5000) and whole.sum() == 1.0 and whole[0, 2499:2501].sum() == 1.0
