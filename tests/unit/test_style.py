"""The losses of style transfer: every function against a slow oracle or numbers found by hand."""

import colorsys

import numpy as np
import pytest
import torch

from cnnray.ops import style
from cnnray.ops.planes import resized, size_with_longer, to_pixels, to_planes


@pytest.fixture
def maps():
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def slow_gram(maps_NCHW, weights_NHW):
    num, channels, height, width = maps_NCHW.shape
    gram = np.zeros((num, channels, channels))
    for n in range(num):
        for i in range(channels):
            for j in range(channels):
                for y in range(height):
                    for x in range(width):
                        weight = weights_NHW[n, y, x]
                        gram[n, i, j] += weight * maps_NCHW[n, i, y, x] * maps_NCHW[n, j, y, x]
        gram[n] /= weights_NHW[n].sum()
    return gram


def test_gram_matrix_by_loops(maps):
    expected = slow_gram(maps.numpy(), np.ones((2, 4, 5)))
    np.testing.assert_allclose(style.gram_matrix(maps).numpy(), expected, rtol=1e-12)


def test_weighed_gram_matrix_by_loops(maps):
    weights = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = slow_gram(maps.numpy(), weights.numpy())
    np.testing.assert_allclose(style.gram_matrix(maps, weights).numpy(), expected, rtol=1e-12)


def test_weights_of_0_and_1_cut_a_region_out(maps):
    weights = torch.zeros(2, 4, 5)
    weights[:, :2] = 1
    torch.testing.assert_close(style.gram_matrix(maps, weights), style.gram_matrix(maps[:, :, :2]))
    assert (style.gram_matrix(maps, torch.zeros(2, 4, 5)) == 0).all()


def test_gram_matrix_does_not_know_places_and_sizes(maps):
    shuffled = maps.flatten(2)[..., torch.randperm(20, generator=torch.Generator().manual_seed(2))].view(2, 3, 10, 2)
    torch.testing.assert_close(style.gram_matrix(shuffled), style.gram_matrix(maps))
    torch.testing.assert_close(style.gram_matrix(maps.repeat(1, 1, 2, 3)), style.gram_matrix(maps))


def test_few_bits_are_widened_and_many_stay(maps):
    assert style.gram_matrix(maps.bfloat16()).dtype == torch.float32
    assert style.relative_error(maps.bfloat16(), maps.bfloat16()).dtype == torch.float32
    assert style.smoothed(maps.half()).dtype == torch.float32
    assert style.gram_matrix(maps).dtype == style.smoothed(maps).dtype == torch.float64


def test_smoothed_by_hand():
    maps = torch.log(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[5.0, 1.0], [2.0, 2.0]]]], dtype=torch.float64))
    expected = torch.tensor([[[[1, 2], [3, 4]], [[5, 1], [2, 2]]]], dtype=torch.float64) / 20 * 8
    torch.testing.assert_close(style.smoothed(maps), expected)
    torch.testing.assert_close(style.smoothed(maps + 7), expected)  # a softmax does not know what is added to all


def test_relative_error_by_hand():
    found = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    wanted = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    assert style.relative_error(found, wanted).tolist() == [4.0, pytest.approx(16 / 25)]
    assert style.relative_error(found, wanted[1:]).tolist() == [pytest.approx(8 / 25), pytest.approx(16 / 25)]
    assert style.relative_error(wanted, wanted).tolist() == [0, 0]
    assert style.relative_error(0 * wanted, wanted).tolist() == [1, 1]
    assert torch.isfinite(style.relative_error(found, 0 * wanted)).all()


def test_weights_cut_out_what_is_compared():
    found, wanted = torch.tensor([[[1.0, 2.0], [3.0, 9.0]]]), torch.tensor([[[1.0, 1.0], [2.0, 4.0]]])
    left = torch.tensor([[[1.0, 1.0], [0.5, 0.0]]])
    assert style.relative_error(found, wanted, left).tolist() == [pytest.approx((0 + 1 + 0.5) / (1 + 1 + 2))]
    images = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(7))
    mask = torch.zeros(2, 1, 6, 8)
    mask[..., :5] = 1
    # of neighbours the right one counts: there are four in a row on the left
    torch.testing.assert_close(style.total_variation(images, mask), style.total_variation(images[..., :5]))
    torch.testing.assert_close(style.total_variation(images, mask * 0 + 0.3), style.total_variation(images))
    assert style.total_variation(images, mask * 0).tolist() == [0, 0]


def test_total_variation_by_hand():
    image = torch.zeros(1, 3, 2, 3)
    image[0, 0] = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.5]])
    down = (0 + 1 + 0.25) / 9  # 3 channels, 1 row, 3 columns
    along = (1 + 0 + 0 + 0.25) / 12
    assert style.total_variation(image).tolist() == [pytest.approx(down + along)]
    assert style.total_variation(image[..., :1]).tolist() == [0]
    assert style.total_variation(image[:, :, :1, :1]).tolist() == [0]


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: style.gram_matrix(x),
        lambda x: style.gram_matrix(x, torch.linspace(0, 1, 20).double().view(1, 4, 5).expand(2, 4, 5)),
        style.smoothed,
        lambda x: style.relative_error(style.gram_matrix(x), torch.ones(2, 3, 3).double()),
        lambda x: style.relative_error(style.smoothed(x), torch.ones(1, 3, 4, 5).double()),
        style.total_variation,
        lambda x: style.total_variation(x, torch.linspace(0, 1, 20).double().view(1, 1, 4, 5)),
    ],
    ids=["gram", "weighed gram", "smoothed", "style", "smooth content", "variation", "weighed variation"],
)
def test_gradients_are_those_of_finite_differences(maps, loss):
    assert torch.autograd.gradcheck(loss, maps.requires_grad_())


def test_luminance_is_that_of_bt601():
    colors = torch.eye(3).view(3, 3, 1, 1)
    assert style.luminance(colors).flatten().tolist() == pytest.approx([0.299, 0.587, 0.114])
    assert style.luminance(torch.full((1, 3, 1, 1), 0.4)).item() == pytest.approx(0.4)


def test_like_luminance_takes_over_mean_and_deviation():
    generator = torch.Generator().manual_seed(3)
    light = 0.3 + 0.1 * torch.rand(1, 1, 6, 7, generator=generator)
    content = 0.4 + 0.2 * torch.rand(1, 1, 9, 5, generator=generator)
    fitted = style.like_luminance(light, content)
    assert fitted.mean().item() == pytest.approx(content.mean().item(), abs=1e-6)
    assert fitted.std(correction=0).item() == pytest.approx(content.std(correction=0).item(), abs=1e-6)
    assert (fitted.flatten().argsort() == light.flatten().argsort()).all()
    flat = style.like_luminance(torch.full((1, 1, 2, 2), 0.7), content)
    torch.testing.assert_close(flat, content.mean().expand(1, 1, 2, 2))


class TestKeepColors:
    @pytest.fixture
    def styled(self):
        return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    @pytest.fixture
    def content(self):
        return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def test_lightness_is_that_of_the_styled_picture(self, styled, content):
        kept = style.keep_colors(styled, content)
        torch.testing.assert_close(style.luminance(kept), style.luminance(styled))
        assert kept.min() >= 0 and kept.max() <= 1

    def test_hue_is_that_of_the_content(self, styled, content):
        kept = style.keep_colors(styled, content)
        pairs = zip(kept.permute(0, 2, 3, 1).reshape(-1, 3), content.permute(0, 2, 3, 1).reshape(-1, 3), strict=True)
        for found, own in pairs:
            hue, saturation, _ = colorsys.rgb_to_hsv(*found.tolist())
            wanted = colorsys.rgb_to_hsv(*own.tolist())[0]
            if saturation > 1e-6:
                assert min(abs(hue - wanted), 1 - abs(hue - wanted)) < 1e-6

    def test_with_room_the_color_is_whole_and_without_it_paler(self):
        content = torch.tensor([0.6, 0.5, 0.4], dtype=torch.float64).view(1, 3, 1, 1)
        darker = torch.full((1, 3, 1, 1), 0.4, dtype=torch.float64)
        moved = content - style.luminance(content) + 0.4
        torch.testing.assert_close(style.keep_colors(darker, content), moved)
        white, black = torch.ones_like(content), torch.zeros_like(content)
        torch.testing.assert_close(style.keep_colors(white, content), white)
        torch.testing.assert_close(style.keep_colors(black, content), black)

    def test_the_picture_itself_stays(self, content):
        torch.testing.assert_close(style.keep_colors(content, content), content)


def test_pixels_become_planes_and_come_back():
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = np.stack([every, every[::-1], every.T], axis=2)
    planes = to_planes(pixels)
    assert planes.shape == (1, 3, 16, 16) and planes.max() == 1 and planes.min() == 0
    np.testing.assert_array_equal(to_pixels(planes), pixels)
    assert to_planes(every[::-1]).shape == (1, 1, 16, 16)
    assert to_pixels(planes * 3 - 1).dtype == np.uint8


def test_planes_are_resized():
    planes = torch.rand(1, 3, 30, 40, generator=torch.Generator().manual_seed(6))
    assert resized(planes, 30, 40) is planes
    assert resized(planes, 7, 9).shape == (1, 3, 7, 9)
    assert resized(planes, 7, 9).mean().item() == pytest.approx(planes.mean().item(), abs=0.01)
    assert size_with_longer(planes, 20) == (15, 20)
    assert size_with_longer(torch.zeros(1, 1, 1000, 1), 20) == (20, 1)
