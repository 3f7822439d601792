"""Oracles: torchvision's transforms and kernels at the drawn parameters, slow NumPy references, exact moments."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from cnnray.errors import OptionError, UnknownNameError
from cnnray.ops.augment import PRESETS, build_augment, plain_view
from cnnray.ops.mix import cutmix, cutmix_pair, mixup, mixup_pair, sample_lam
from cnnray.ops.seeds import generator_for, seed_for
from cnnray.ops.transforms import (
    Affine,
    ColorJitter,
    Erase,
    GaussianBlur,
    RandomCrop,
    ResizedCrop,
    Sometimes,
    adjust_contrast,
    grayscale,
    horizontal_flip,
    resize_image,
    vertical_flip,
)
from cnnray.report import augmentation_grid

MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def photo(height, width, seed=0):
    """Blobs with edges: smooth as a photo, with the full range of values."""
    small = np.random.default_rng(seed).integers(0, 256, (max(1, height // 6), max(1, width // 6), 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.BICUBIC))


def chw(image_HWC):
    return torch.from_numpy(image_HWC).permute(2, 0, 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def image():
    return chw(photo(60, 80))


def largest_difference(a, b):
    return int((a.int() - b.int()).abs().max())


# ---- seeds


def test_seeds_are_stable_distinct_and_in_range():
    # Computed with `b2sum -l 64`: stored features would no longer match if it ever changed.
    assert seed_for("a.jpg", 0, 1) == int("35abe8957e97a271", 16) >> 1
    seeds = {seed_for(f"{i}", run, view) for i in range(20) for run in range(5) for view in range(5)}
    assert len(seeds) == 500
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_do_not_confuse_ids_with_numbers():
    assert seed_for("2:x", 1, 0) != seed_for("x", 1, 2)
    assert seed_for("x\udcff", 1, 0) != seed_for("x", 1, 0)
    assert torch.equal(
        torch.rand(3, generator=generator_for("x", 1, 2)), torch.rand(3, generator=generator_for("x", 1, 2))
    )


# ---- plain view


def torchvision_view(image_HWC, size, resize, interpolation):
    steps = [v2.Resize(resize, interpolation=MODES[interpolation], antialias=True), v2.CenterCrop(size)]
    return chw(np.array(v2.Compose(steps)(Image.fromarray(image_HWC))))


@pytest.mark.parametrize("interpolation", MODES)
@pytest.mark.parametrize(
    "shape",
    [(348, 348), (480, 640), (640, 427), (224, 224), (100, 100), (31, 90), (30, 200), (901, 200), (700, 9), (1, 1)],
)
def test_plain_view_equals_torchvision_on_a_pillow_image(shape, interpolation):
    image = photo(*shape)
    for size, resize in ((224, 256), (96, 96), (96, 64)):
        view = plain_view(image, size=size, resize=resize, interpolation=interpolation)
        expected = torchvision_view(image, size, resize, interpolation)
        assert view.shape == (3, size, size) and view.dtype == torch.uint8 and view.permute(1, 2, 0).is_contiguous()
        # Both round to whole levels between the two passes; bicubic overshoots that are cut off add up to one more.
        assert largest_difference(view, expected) <= (1 if interpolation == "bilinear" else 2)
        # Strips go through Pillow with a box in float32, which turns more of the ties.
        is_strip = max(shape) > 4 * min(shape)
        assert (view.float() - expected.float()).abs().mean() < (0.2 if is_strip else 0.02)


def test_plain_view_of_photos_equals_torchvision(data_dir):
    for path in sorted((data_dir / "coco128").rglob("*.jpg"))[::16]:
        image = np.array(Image.open(path).convert("RGB"))
        view = plain_view(image, size=224, resize=256, interpolation="bilinear")
        expected = torchvision_view(image, 224, 256, "bilinear")
        assert largest_difference(view, expected) <= 1
        assert (view.float() - expected.float()).abs().mean() < 0.02


def test_plain_view_of_a_constant_line_is_constant_and_cheap():
    for shape in ((1, 5000, 3), (5000, 1, 3), (2, 3_000_000, 3)):
        view = plain_view(np.full(shape, 77, np.uint8), size=224, resize=256)
        assert (view == 77).all()


def test_plain_view_takes_arrays_that_torch_cannot_hold():
    image = photo(50, 70)
    expected = plain_view(image, size=32, resize=40)
    frozen = image.copy()
    frozen.flags.writeable = False
    assert torch.equal(plain_view(frozen, size=32, resize=40), expected)
    assert torch.equal(plain_view(image[:, ::-1].copy()[:, ::-1], size=32, resize=40), expected)


# ---- single transforms


def test_flips_against_numpy(image):
    pixels = image.numpy()
    np.testing.assert_array_equal(horizontal_flip(image).numpy(), pixels[:, :, ::-1])
    np.testing.assert_array_equal(vertical_flip(image).numpy(), pixels[:, ::-1])


def test_grayscale_is_the_luma(image):
    luma = (image.double() * torch.tensor([0.2989, 0.587, 0.114])[:, None, None]).sum(0)
    grey = grayscale(image)
    assert (grey[0] - luma).abs().max() <= 1.01 and torch.equal(grey[0], grey[1]) and torch.equal(grey[0], grey[2])


def test_sometimes_applies_as_often_as_asked():
    image, generator = torch.arange(12, dtype=torch.uint8).view(3, 2, 2), seeded()
    flipped = [not torch.equal(Sometimes(horizontal_flip, 0.3)(image, generator), image) for _ in range(3000)]
    assert abs(np.mean(flipped) - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 3000)
    assert torch.equal(Sometimes(horizontal_flip, 0.0)(image, generator), image)
    assert torch.equal(Sometimes(horizontal_flip, 1.0)(image, generator), image.flip(-1))


@pytest.mark.parametrize("interpolation", MODES)
def test_resized_crop_equals_torchvision_at_the_drawn_box(image, interpolation):
    crop = ResizedCrop(48, interpolation=interpolation)
    for seed in range(20):
        top, left, height, width = crop.draw(60, 80, seeded(seed))
        expected = F.resized_crop(image, top, left, height, width, [48, 48], MODES[interpolation], antialias=True)
        # Memory layouts take different kernels, which may round differently.
        assert largest_difference(crop(image, seeded(seed)), expected) <= 1


def test_resized_crop_draws_areas_and_ratios_evenly():
    crop = ResizedCrop(8, scale=(0.2, 0.4))
    generator = seeded()
    boxes = np.array([crop.draw(400, 400, generator) for _ in range(4000)])
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 400).all() and (left + width <= 400).all()
    share, ratio = height * width / 400**2, np.log(width / height)
    assert share.min() > 0.195 and share.max() < 0.405 and abs(share.mean() - 0.3) < 0.004
    assert abs(ratio).max() < math.log(4 / 3) + 0.02 and abs(ratio.mean()) < 0.015
    # The corner is uniform over what the box leaves.
    assert abs((top / np.maximum(1, 400 - height)).mean() - 0.5) < 0.025


@pytest.mark.parametrize(
    ("shape", "box"), [((1, 1), (0, 0, 1, 1)), ((3, 900), (0, 448, 3, 4)), ((900, 3), (448, 0, 4, 3))]
)
def test_resized_crop_of_extreme_shapes_is_centred(shape, box):
    assert ResizedCrop(8, scale=(0.5, 1.0)).draw(*shape, seeded()) == box


def test_random_crop_is_a_window_of_the_image(image):
    crop = RandomCrop(40)
    for seed in range(20):
        top, left = crop.draw(60, 80, seeded(seed))
        np.testing.assert_array_equal(crop(image, seeded(seed)), image.numpy()[:, top : top + 40, left : left + 40])
    drawn = {crop.draw(42, 41, seeded(seed)) for seed in range(200)}
    assert drawn == {(top, left) for top in range(3) for left in range(2)}


def test_random_crop_pads_what_is_too_small():
    cropped = RandomCrop(10, fill=(1, 2, 3))(torch.full((3, 4, 7), 99, dtype=torch.uint8), seeded())
    assert cropped.shape == (3, 10, 10)
    assert (cropped == 99).sum() == 3 * 4 * 7
    assert cropped[:, 0, 0].tolist() == [1, 2, 3]
    assert RandomCrop(10)(torch.zeros(3, 4, 70, dtype=torch.uint8), seeded()).shape == (3, 10, 10)


def test_affine_equals_torchvision_and_stays_in_range(image):
    affine = Affine(degrees=30, scale=(0.7, 1.3))
    for seed in range(10):
        angle, scale = affine.draw(seeded(seed))
        assert abs(angle) <= 30 and 0.7 <= scale <= 1.3
        expected = F.affine(
            image, angle, [0, 0], scale, [0, 0], interpolation=InterpolationMode.BILINEAR, fill=list(affine.fill)
        )
        assert torch.equal(affine(image, seeded(seed)), expected)
    assert torch.equal(Affine()(image, seeded()), image)


def test_affine_turns_clockwise_and_enlarges():
    image = torch.zeros(3, 9, 9, dtype=torch.uint8)
    image[:, 1, 4] = 255  # above the centre
    turned = F.affine(image, 90, [0, 0], 1.0, [0, 0])
    assert turned[0, 4, 7] == 255  # right of the centre: the meaning of draw's angle
    enlarged = Affine(scale=(3.0, 3.0))(torch.eye(9, dtype=torch.uint8).mul(255).expand(3, 9, 9), seeded())
    assert enlarged[0, 3:6, 3:6].min() > 0 and enlarged[0, 4, 4] == 255


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colour_changes_equal_torchvision(image, name):
    kernel = getattr(F, f"adjust_{name}")
    jitter = ColorJitter(**{name: 0.4})
    for seed in range(5):
        [(drawn, value)] = jitter.draw(seeded(seed))
        assert drawn == name
        assert largest_difference(jitter(image, seeded(seed)), kernel(image, value)) <= 1


def test_colour_changes_are_drawn_in_range_and_in_random_order():
    jitter = ColorJitter(brightness=0.3, contrast=2.0, saturation=0.2, hue=0.1)
    draws = [jitter.draw(seeded(seed)) for seed in range(300)]
    assert len({tuple(name for name, _ in draw) for draw in draws}) == 24
    ranges = {"brightness": (0.7, 1.3), "contrast": (0.0, 3.0), "saturation": (0.8, 1.2), "hue": (-0.1, 0.1)}
    for name, (low, high) in ranges.items():
        values = [value for draw in draws for key, value in draw if key == name]
        assert low <= min(values) < low + (high - low) / 20 and high - (high - low) / 20 < max(values) <= high
    assert ColorJitter().draw(seeded()) == []


def test_contrast_by_hand():
    image = torch.tensor([[[0, 200]]], dtype=torch.uint8).repeat(3, 1, 1)
    # the mean luma is (0 + 199) / 2: torchvision's weights sum to 0.9999 and it rounds down
    assert adjust_contrast(image, 0.0)[0].tolist() == [[99, 99]]
    assert adjust_contrast(image, 1.0)[0].tolist() == [[0, 200]]
    assert adjust_contrast(image, 3.0)[0].tolist() == [[0, 255]]


def test_blur_equals_torchvision_at_the_drawn_sigma(image):
    blur = GaussianBlur(sigma=(0.5, 3.0))
    for seed in range(5):
        sigma = blur.draw(seeded(seed))
        assert 0.5 <= sigma <= 3.0
        size = 2 * math.ceil(2 * sigma) + 1
        assert torch.equal(blur(image, seeded(seed)), F.gaussian_blur(image, [size, size], [sigma, sigma]))
    tiny = torch.full((3, 1, 2), 9, dtype=torch.uint8)
    assert torch.equal(blur(tiny, seeded()), tiny)


def test_erase_covers_exactly_the_drawn_rectangle(image):
    erase = Erase(area=(0.1, 0.3), fill=(9, 8, 7))
    for seed in range(50):
        top, left, height, width = erase.draw(60, 80, seeded(seed))
        expected = image.numpy().copy()
        expected[:, top : top + height, left : left + width] = np.array([9, 8, 7])[:, None, None]
        np.testing.assert_array_equal(erase(image, seeded(seed)), expected)
        assert height * width <= 0.33 * 60 * 80
    assert erase(torch.zeros(3, 1, 1, dtype=torch.uint8), seeded()).flatten().tolist() == [9, 8, 7]


# ---- presets


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 2), (97, 131), (348, 348)])
def test_every_preset_takes_every_shape(preset, shape):
    augment = build_augment(preset, size=64, interpolation="bicubic")
    image = photo(*shape)
    before = image.copy()
    for seed in range(10):
        view = augment(image, seeded(seed))
        assert view.shape == (3, 64, 64) and view.dtype == torch.uint8 and view.permute(1, 2, 0).is_contiguous()
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("preset", PRESETS)
def test_views_depend_on_the_generator_alone(preset):
    augment, image = build_augment(preset, size=64, interpolation="bicubic"), photo(120, 90)

    def views(_):
        return [augment(image, generator_for(str(i), 3, 1)) for i in range(24)]

    torch.manual_seed(0)
    alone = views(0)
    torch.manual_seed(1)
    assert all(map(torch.equal, views(0), alone))
    with ThreadPoolExecutor(3) as pool:
        for crowd in pool.map(views, range(3)):
            assert all(map(torch.equal, crowd, alone))
    assert not torch.equal(alone[0], alone[1])


@pytest.mark.parametrize(
    "transform",
    [
        ResizedCrop(224, interpolation="bicubic"),
        Affine(degrees=20, scale=(0.8, 1.2)),
        ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
        GaussianBlur(sigma=(1.0, 2.0)),
        Sometimes(grayscale, 1.0),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_pixels_do_not_depend_on_the_number_of_threads(transform):
    # Large enough that torch splits the work: above 32,768 values.
    image = chw(photo(400, 300))
    one = [transform(image, seeded(i)) for i in range(3)]
    torch.set_num_threads(2)
    assert all(map(torch.equal, [transform(image, seeded(i)) for i in range(3)], one))


def test_presets_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    for preset in PRESETS:
        build_augment(preset, size=32, interpolation="bilinear")(photo(40, 40), seeded())
    assert torch.equal(torch.get_rng_state(), state)


def test_stronger_presets_change_more():
    image = photo(60, 60)
    plain = plain_view(image, size=48, resize=48).float()

    def change(preset):
        augment = build_augment(preset, size=48, interpolation="bilinear")
        return np.mean([float((augment(image, seeded(i)).float() - plain).abs().mean()) for i in range(60)])

    assert change("light") < change("standard") < change("strong")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UnknownNameError, match="light, standard, strong"):
        build_augment("hard", size=32, interpolation="bilinear")
    with pytest.raises(UnknownNameError, match="bilinear, bicubic"):
        build_augment("light", size=32, interpolation="cubic")
    for shape in ((40, 40), (10, 400)):
        with pytest.raises(UnknownNameError, match="bilinear, bicubic"):
            plain_view(photo(*shape), size=32, resize=32, interpolation="cubic")


# ---- mixup and cutmix


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 8.0])
def test_lam_has_the_moments_of_beta(alpha):
    generator = seeded()
    lams = torch.tensor([sample_lam(alpha, generator) for _ in range(4000)], dtype=torch.float64)
    beta = torch.distributions.Beta(torch.tensor(alpha), torch.tensor(alpha))
    assert 0 <= lams.min() and lams.max() <= 1
    assert abs(lams.mean() - beta.mean) < 4 * beta.stddev / math.sqrt(4000)
    assert abs(lams.var() / beta.variance - 1) < 0.12


def test_lam_at_the_ends():
    assert sample_lam(0, seeded()) == 1.0
    assert {round(sample_lam(1e-6, seeded(i)), 6) for i in range(30)} == {0.0, 1.0}
    assert abs(sample_lam(1e9, seeded()) - 0.5) < 0.001
    with pytest.raises(OptionError, match="at least 0, got -0.1"):
        sample_lam(-0.1, seeded())


def batch(n=6, k=4, height=10, width=14):
    generator = seeded(5)
    x = torch.rand(n, 3, height, width, generator=generator)
    return x, torch.eye(k)[torch.arange(n) % k]


def drawn_partner(alpha, seed, n):
    """What mixup and cutmix draw first: the share and the permutation."""
    generator = seeded(seed)
    lam = sample_lam(alpha, generator)
    return lam, torch.randperm(n, generator=generator)


def test_mixup_pair_by_hand():
    mixed = mixup_pair(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]), 0.25)
    assert mixed.tolist() == [0.75, 1.0]


def test_mixup_against_a_slow_reference():
    x, y = batch()
    for seed in range(5):
        mixed_x, mixed_y, lam = mixup(x, y, 0.4, seeded(seed))
        expected_lam, partner = drawn_partner(0.4, seed, len(x))
        assert lam == expected_lam
        for i in range(len(x)):
            j = int(partner[i])
            np.testing.assert_allclose(mixed_x[i], lam * x[i].numpy() + (1 - lam) * x[j].numpy(), atol=1e-6)
            np.testing.assert_allclose(mixed_y[i], lam * y[i].numpy() + (1 - lam) * y[j].numpy(), atol=1e-6)
        torch.testing.assert_close(mixed_y.sum(1), torch.ones(len(x)))


def test_mixup_takes_features_and_leaves_its_input_alone():
    features, labels = torch.rand(8, 5, generator=seeded()), torch.eye(8)
    before = features.clone()
    mixed, _, _ = mixup(features, labels, 1.0, seeded(1))
    assert mixed.shape == (8, 5) and torch.equal(features, before)
    same, same_labels, lam = mixup(features, labels, 0.0, seeded(1))
    assert lam == 1.0 and torch.equal(same, features) and torch.equal(same_labels, labels)


def test_cutmix_labels_follow_the_pixels():
    x = torch.arange(6).float()[:, None, None, None].expand(6, 3, 10, 14).clone()
    y = torch.eye(6)
    shares = set()
    for seed in range(40):
        mixed, labels, lam = cutmix(x, y, 1.0, seeded(seed))
        _, partner = drawn_partner(1.0, seed, 6)
        for i in range(6):
            own = float((mixed[i, 0] == i).float().mean())
            assert own == pytest.approx(lam if partner[i] != i else 1.0)
            expected = lam * y[i] + (1 - lam) * y[partner[i]]
            torch.testing.assert_close(labels[i], expected)
        shares.add(round(lam * 140))
    assert len(shares) > 10


def test_cutmix_pastes_one_rectangle_in_place():
    a, b = torch.zeros(3, 11, 17), torch.arange(1.0, 188).view(1, 11, 17).expand(3, 11, 17)
    for seed in range(40):
        mixed, share = cutmix_pair(a, b, 0.6, seeded(seed))
        rows, columns = torch.nonzero(mixed[0], as_tuple=True)
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        assert len(rows) == (bottom - top) * (right - left)
        assert torch.equal(mixed[:, top:bottom, left:right], b[:, top:bottom, left:right])
        assert share == pytest.approx(1 - len(rows) / 187)
        # an uncut rectangle has floor(side * sqrt(0.4)) rows and columns
        assert bottom - top <= 6 and right - left <= 10
    assert (a == 0).all()


def test_cutmix_at_the_ends():
    a, b = torch.zeros(3, 4, 4), torch.ones(3, 4, 4)
    kept, share = cutmix_pair(a, b, 1.0, seeded())
    assert share == 1.0 and (kept == 0).all()
    shares = [cutmix_pair(a, b, 0.0, seeded(i))[1] for i in range(50)]
    assert min(shares) == 0.0 and max(shares) <= 0.75


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_mixing_is_seeded(mix):
    x, y = batch()
    first, again, other = (mix(x, y, 1.0, seeded(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


# ---- the picture


def test_the_grid_shows_every_augmentation_once():
    figure = augmentation_grid(photo(60, 90), seed=0)
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == len(set(titles)) == 18 + 6 * len(PRESETS)
    shown = " ".join(titles)
    for word in ("flip", "rotation", "scaling", "crop", "brightness", "contrast", "saturation", "hue", "grayscale"):
        assert word in shown
    for word in ("blur", "erasing", "mixup", "cutmix", *PRESETS):
        assert word in shown
    tiles = [axes.images[0].get_array() for axes in figure.axes]
    assert all(np.ptp(tile) > 50 for tile in tiles)
    assert all(not np.array_equal(tiles[0], tile) for tile in tiles[1:])


@pytest.mark.parametrize("shape", [(3, 8, 1), (3, 1, 8), (3, 500, 1)])
def test_pictures_one_pixel_wide_can_be_resized(shape):
    image = torch.arange(3, dtype=torch.uint8)[:, None, None].mul(80).expand(shape).contiguous()
    assert resize_image(image, 1, 1, "bilinear").flatten().tolist() == [0, 80, 160]
