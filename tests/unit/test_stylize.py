"""The optimiser of pictures: it descends, repeats itself bit by bit, goes on, and leaves alone what it should."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage import data as photos

from cnnray.config import StylizeConfig
from cnnray.errors import OptionError, UnknownNameError
from cnnray.infer.stylize import StyleOptimizer, StyleState
from cnnray.nn.optimizer_state import flat_state, restore_state
from cnnray.ops.planes import resized, to_pixels, to_planes
from cnnray.ops.style import luminance

FAST = StylizeConfig(
    steps=4, pyramid=1, variation_loss=2.0, style_taps=("stem", "stage1"), content_taps=("stage2",), device="cpu"
)


def fitted(pixels, height, width):
    return to_pixels(resized(to_planes(pixels), height, width))


@pytest.fixture(scope="module")
def cat():
    return fitted(photos.chelsea(), 64, 96)


@pytest.fixture(scope="module")
def styles():
    return [fitted(photos.immunohistochemistry(), 96, 96), fitted(photos.coffee(), 80, 120)]


def painted(content, styles, config=FAST, **given):
    return StyleOptimizer(content, styles, config, **given).run()


def test_the_losses_fall(cat, styles):
    result = painted(cat, styles[:1], replace(FAST, steps=25))
    assert result.history[0].content == 0 and result.history[0].step == 1
    assert result.losses.style < result.history[0].style / 4
    assert result.losses.loss < result.history[0].loss / 2
    assert result.image_HWC.shape == cat.shape and result.image_HWC.dtype == np.uint8
    row = result.history[3]
    weighed = 10 * row.style + 2 * row.content + FAST.variation_loss * row.variation
    assert row.loss == pytest.approx(weighed, rel=1e-5)


def test_lbfgs_gets_further_in_a_step_than_adam(cat, styles):
    adam, lbfgs = (painted(cat, styles[:1], replace(FAST, steps=25, optimizer=name)) for name in ("adam", "lbfgs"))
    assert lbfgs.losses.loss < adam.losses.loss
    losses = [row.loss for row in lbfgs.history]
    assert losses == sorted(losses, reverse=True)  # its line search takes no step up


def test_a_style_equal_to_the_content_is_there_from_the_start(cat):
    optimizer = StyleOptimizer(cat, [cat], FAST)
    first = optimizer.step()
    assert first.style == pytest.approx(0, abs=1e-9) and first.content == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("change", [{}, {"optimizer": "lbfgs"}, {"start": "noise", "keep_colors": True}], ids=str)
def test_the_same_seed_gives_the_same_bits(cat, styles, change):
    config = replace(FAST, **change)
    one, two = painted(cat, styles, config), painted(cat, styles, config)
    np.testing.assert_array_equal(one.image_HWC, two.image_HWC)
    assert one.history == two.history


def test_another_seed_gives_other_noise(cat, styles):
    one, two = (StyleOptimizer(cat, styles, replace(FAST, start="noise", seed=seed)).picture for seed in (0, 1))
    assert one.std() > 60 and (one != two).mean() > 0.9


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
@pytest.mark.parametrize("name", ["adam", "lbfgs"])
def test_a_resumed_painting_has_the_bits_of_an_uninterrupted_one(cat, styles, name, stop):
    config = replace(FAST, pyramid=2, optimizer=name)
    large = np.repeat(np.repeat(cat, 2, axis=0), 2, axis=1)
    whole = painted(large, styles[:1], config)
    first = StyleOptimizer(large, styles[:1], config)
    assert first.num_steps == 8
    for _ in range(stop):
        first.step()
    state = first.state()
    kept = StyleState(state.tensors, json.loads(json.dumps(state.facts)), json.loads(json.dumps(state.history)))
    for _ in range(2):
        first.step()  # what is kept does not change with it
    second = StyleOptimizer(large, styles[:1], config)
    second.restore(kept)
    assert second.num_done == stop
    result = second.run()
    np.testing.assert_array_equal(result.image_HWC, whole.image_HWC)
    assert result.history == whole.history and result.losses == whole.losses


def test_the_memory_of_optimisers_survives_json():
    def descend(optimizer, weights, num):
        for _ in range(num):

            def evaluate():
                optimizer.zero_grad()
                loss = ((weights - 3) ** 4).sum()
                loss.backward()
                return loss

            optimizer.step(evaluate)

    for build in (lambda p: torch.optim.Adam(p), lambda p: torch.optim.LBFGS(p, max_iter=2)):
        whole = torch.arange(4.0).requires_grad_()
        optimizer = build([whole])
        descend(optimizer, whole, 3)
        part = whole.detach().clone().requires_grad_()
        other = build([part])
        tensors, facts = flat_state(optimizer)
        restore_state(other, tensors, json.loads(json.dumps(facts)))
        descend(optimizer, whole, 3)
        descend(other, part, 3)
        assert torch.equal(whole, part)


def test_levels_are_painted_coarse_to_fine(cat, styles):
    large = np.repeat(np.repeat(cat, 4, axis=0), 4, axis=1)
    optimizer = StyleOptimizer(large, styles[:1], replace(FAST, size=192, pyramid=5, steps=2))
    assert optimizer.sizes == [(64, 96), (128, 192)]  # smaller ones would be below 64 px
    shapes = [(row.height, row.width) for row in optimizer.run().history]
    assert shapes == [(64, 96)] * 2 + [(128, 192)] * 2
    assert StyleOptimizer(cat, styles, replace(FAST, pyramid=3)).sizes == [(64, 96)]


def test_size_limits_the_longer_side_and_enlarges_nothing(cat, styles):
    assert painted(cat, styles[:1], replace(FAST, size=48, steps=1)).image_HWC.shape == (32, 48, 3)
    assert painted(cat, styles[:1], replace(FAST, size=4096, steps=1)).image_HWC.shape == cat.shape


class TestBlends:
    def test_1_to_0_is_the_first_style_alone(self, cat, styles):
        blend = painted(cat, styles, replace(FAST, style_weight=(1.0, 0.0)))
        np.testing.assert_array_equal(blend.image_HWC, painted(cat, styles[:1]).image_HWC)

    def test_only_the_ratio_of_the_weights_counts(self, cat, styles):
        one, two = (painted(cat, styles, replace(FAST, style_weight=given)) for given in ((1.0, 3.0), (2.0, 6.0)))
        np.testing.assert_array_equal(one.image_HWC, two.image_HWC)
        plain, even = painted(cat, styles), painted(cat, styles, replace(FAST, style_weight=(5.0, 5.0)))
        np.testing.assert_array_equal(plain.image_HWC, even.image_HWC)
        assert (one.image_HWC != plain.image_HWC).any()


class TestMasks:
    @pytest.fixture
    def left(self):
        mask = np.zeros((64, 96), np.uint8)
        mask[:, :40] = 255
        mask[:, 40:50] = 128
        return mask

    @pytest.mark.parametrize("change", [{}, {"keep_colors": True}, {"start": "noise"}, {"optimizer": "lbfgs"}], ids=str)
    def test_what_is_black_stays_exactly(self, cat, styles, left, change):
        image = painted(cat, styles, replace(FAST, **change), mask_HW=left).image_HWC
        np.testing.assert_array_equal(image[:, 50:], cat[:, 50:])
        assert (image[:, :40] != cat[:, :40]).mean() > 0.05

    def test_grey_mixes(self, cat, styles, left):
        config = replace(FAST, steps=1, start="noise")
        plain = StyleOptimizer(cat, styles, config).picture.astype(float)
        mixed = StyleOptimizer(cat, styles, config, mask_HW=left).picture
        share = 128 / 255
        expected = share * plain[:, 40:50] + (1 - share) * cat[:, 40:50]
        np.testing.assert_allclose(mixed[:, 40:50], expected, atol=1.01)

    def test_white_all_over_is_no_mask(self, cat, styles):
        config = replace(FAST, start="noise")
        plain = StyleOptimizer(cat, styles, config)
        white = StyleOptimizer(cat, styles, config, mask_HW=np.full((10, 10), 255, np.uint8))  # resized to the content
        assert np.abs(white.picture.astype(int) - plain.picture).max() <= 1
        assert white.step().loss == pytest.approx(plain.step().loss, rel=1e-4)

    def test_black_all_over_is_refused(self, cat, styles):
        with pytest.raises(OptionError, match="black all over"):
            StyleOptimizer(cat, styles, FAST, mask_HW=np.zeros((64, 96), np.uint8))


def test_colors_are_kept(cat, styles):
    image = painted(cat, styles[:1], replace(FAST, keep_colors=True)).image_HWC
    light, own = luminance(to_planes(image)), luminance(to_planes(cat))
    chroma, wanted = to_planes(image) - light, to_planes(cat) - own
    room = (image > 3).all(2) & (image < 252).all(2)
    np.testing.assert_allclose(chroma[0].permute(1, 2, 0)[room], wanted[0].permute(1, 2, 0)[room], atol=0.012)
    assert (light - own).abs().mean() > 0.01


def test_a_picture_is_gone_on_from(cat, styles):
    given = StyleOptimizer(cat, styles, FAST, start_HWC=np.full((10, 20, 3), 77, np.uint8))
    assert (given.picture == 77).all() and given.picture.shape == cat.shape


def test_smooth_activations_paint_another_picture(cat, styles):
    smooth = painted(cat, styles[:1], replace(FAST, smooth=True, steps=10))
    assert smooth.losses.style < smooth.history[0].style
    assert (smooth.image_HWC != painted(cat, styles[:1], replace(FAST, steps=10)).image_HWC).any()


def test_larger_styles_have_other_gram_matrices(cat, styles):
    one, two = (painted(cat, styles[:1], replace(FAST, steps=1, style_scale=scale)) for scale in (1.0, 2.0))
    assert one.history[0].style != two.history[0].style


class TestFailures:
    def broken(self, monkeypatch, optimizer, number):
        """From this step on the network sees nothing but NaN."""
        forward = optimizer._perceiver.forward

        def fail(images):
            maps = forward(images)
            return {tap: maps[tap] * float("nan") for tap in maps} if optimizer.num_done >= number else maps

        monkeypatch.setattr(optimizer._perceiver, "forward", fail)

    @pytest.mark.parametrize("name", ["adam", "lbfgs"])
    def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_picture(self, cat, styles, monkeypatch, name):
        config = replace(FAST, optimizer=name)
        good = StyleOptimizer(cat, styles, config)
        good.step()
        optimizer = StyleOptimizer(cat, styles, config)
        self.broken(monkeypatch, optimizer, 2)
        with pytest.raises(OptionError, match="the loss of step 3 is nan"):
            optimizer.run()
        assert optimizer.num_done == 2
        np.testing.assert_array_equal(optimizer.picture, good.picture)  # that of step 2, the last that was looked at

    def test_at_the_first_step_the_start_is_kept(self, cat, styles, monkeypatch):
        optimizer = StyleOptimizer(cat, styles, FAST)
        self.broken(monkeypatch, optimizer, 0)
        with pytest.raises(OptionError, match="the loss of step 1 is nan"):
            optimizer.run()
        np.testing.assert_array_equal(optimizer.picture, cat)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"style_weight": (1.0,)}, "a style_weight for each of 2 styles, or none; got 1"),
            ({"style_scale": 0.1}, "expected a style of at least 16 px"),
            ({"device": "tpu"}, "device must be"),
            ({"content_taps": ("stem@9",)}, "a magnification from 0.25 to 4"),
        ],
        ids=str,
    )
    def test_settings_that_do_not_fit_the_pictures(self, cat, styles, change, message):
        with pytest.raises(OptionError, match=message):
            StyleOptimizer(cat, styles, replace(FAST, **change))

    def test_unknown_names(self, cat, styles):
        with pytest.raises(UnknownNameError, match="unknown tap of efficientnet_lite0 'fire3'"):
            StyleOptimizer(cat, styles, replace(FAST, style_taps=("fire3",)))
        with pytest.raises(UnknownNameError, match="unknown backbone 'vgg99'"):
            StyleOptimizer(cat, styles, replace(FAST, backbone="vgg99"))

    def test_pictures_that_are_too_small(self, cat, styles):
        with pytest.raises(OptionError, match="expected a content of at least 16 px .* got 1 x 1"):
            StyleOptimizer(cat[:1, :1], styles, FAST)
        with pytest.raises(OptionError, match="style 2 is 5 x 9"):
            StyleOptimizer(cat, [styles[0], cat[:9, :5]], FAST)
        with pytest.raises(OptionError, match="at least one style"):
            StyleOptimizer(cat, [], FAST)

    def test_a_style_without_anything_in_it(self, cat, styles):
        with pytest.raises(OptionError, match="style 2 is of one colour all over"):
            StyleOptimizer(cat, [styles[0], np.full_like(cat, 7)], FAST)
        grey = np.repeat(cat[..., :1], 3, axis=2)
        StyleOptimizer(cat, [grey], FAST).step()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 8}, "size must be at least 32, got 8"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"pyramid": 0}, "pyramid must be at least 1"),
        ({"optimizer": "sgd"}, "optimizer must be one of adam, lbfgs; got 'sgd'"),
        ({"style_scale": 0.0}, "style_scale must be from 0.1 to 10"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"start": ""}, "start must be content, noise or the path"),
        ({"style_weight": (0.0, 0.0)}, "style_weight must be numbers of at least 0, one of them above 0; got 0, 0"),
        ({"style_weight": (1.0, -1.0)}, "got 1, -1"),
        ({"style_loss": 0.0, "content_loss": 0.0}, "style_loss and content_loss must be"),
        ({"style_loss": -1.0}, "got -1, 2"),
        ({"content_loss": float("nan")}, "got 10, nan"),
        ({"variation_loss": float("inf")}, "variation_loss must be a number of at least 0, got inf"),
    ],
    ids=str,
)
def test_options_out_of_range(change, message):
    with pytest.raises(OptionError, match=message):
        replace(FAST, **change)


def test_no_rim_is_painted_against_what_networks_pad_with(cat):
    """A smooth style on a smooth content: its edges are as smooth as its middle."""
    content = fitted(np.tile(np.linspace(90, 160, 64, dtype=np.uint8)[:, None, None], (1, 64, 3)), 64, 64)
    config = replace(FAST, steps=25, style_taps=("stem@2", "stage1@2"), variation_loss=0.0)
    image = painted(content, [cat], config).image_HWC.astype(float)
    rough = np.abs(np.diff(image, axis=1)).mean((1, 2))
    assert rough[0] < 1.5 * rough[8:-8].mean() and rough[-1] < 1.5 * rough[8:-8].mean()


def test_flat_pictures_are_painted(styles):
    grey = np.full((40, 40, 3), 127, np.uint8)
    assert painted(grey, styles[:1]).image_HWC.shape == grey.shape
    assert painted(grey, styles[:1], replace(FAST, keep_colors=True)).image_HWC.shape == grey.shape


def test_a_thin_style_leaves_out_sizes_at_which_it_would_be_nothing(cat):
    large = np.repeat(np.repeat(cat, 8, axis=0), 8, axis=1)
    thin = np.tile(np.arange(120, dtype=np.uint8)[:, None], (20, 1, 3))
    sizes = StyleOptimizer(large, [thin], replace(FAST, size=384, pyramid=3)).sizes
    assert sizes == [(64, 96), (128, 192), (256, 384)]
    thin = thin[:, :, :][:17].repeat(4, axis=1)[:, :480]
    assert StyleOptimizer(large, [thin], replace(FAST, size=480, pyramid=3)).sizes == [(320, 480)]
