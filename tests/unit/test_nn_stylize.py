"""Activations at taps, and what is wanted of them."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cnnray.errors import OptionError, UnknownNameError
from cnnray.nn.backbones import Backbone, build_backbone, find_spec
from cnnray.nn.stylize import DEFAULT_TAPS, Perceiver, StyleTargets, find_taps, style_losses
from cnnray.ops.style import gram_matrix, relative_error, smoothed, total_variation

IMAGES = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def lite():
    return build_backbone("efficientnet_lite0")


@pytest.fixture(scope="module")
def random_vgg():
    """VGG16 with random kernels; its classifier, which is most of it, is small."""
    spec = find_spec("vgg16")
    with torch.device("meta"):
        network = spec.build()
        network.classifier = nn.Sequential(nn.Linear(512 * 7 * 7, 2), *(nn.Linear(2, 2) for _ in range(6)))
    network.to_empty(device="cpu")
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    return Backbone(spec, network).eval()


def normalised(images, backbone):
    return (images - torch.tensor(backbone.spec.mean).view(3, 1, 1)) / torch.tensor(backbone.spec.std).view(3, 1, 1)


def test_stages_are_those_of_the_backbone_by_hand(lite):
    maps = Perceiver(lite, ("stem", "stage3"))(IMAGES)
    x = normalised(IMAGES, lite)
    for name, stage in lite.body.named_children():
        x = stage(x)
        if name in maps:
            torch.testing.assert_close(maps[name], x, rtol=0, atol=0)
        if name == "stage3":
            break
    assert list(maps) == ["stem", "stage3"]
    assert maps["stem"].shape[2:] == (24, 32)


def test_a_magnified_tap_sees_a_larger_picture(lite):
    maps = Perceiver(lite, ("stem", "stem@2", "stem@0.5"))(IMAGES)
    larger = F.interpolate(IMAGES, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(maps["stem@2"], lite.body[0](normalised(larger, lite)), rtol=0, atol=0)
    assert [maps[tap].shape[2:] for tap in maps] == [(24, 32), (48, 64), (12, 16)]


def test_the_same_place_may_have_several_names(lite):
    maps = Perceiver(lite, ("stem", "stem@1", "stem@2", "stem@2.0"))(IMAGES)
    assert maps["stem"] is maps["stem@1"] and maps["stem@2"] is maps["stem@2.0"]


def test_inner_taps_are_before_and_after_the_relu_of_vgg(random_vgg):
    maps = Perceiver(random_vgg, ("block1.0", "block1.1", "block2.1", "block1"))(IMAGES[:1])
    conv = random_vgg.body[0][0](normalised(IMAGES[:1], random_vgg))
    torch.testing.assert_close(maps["block1.0"], conv, rtol=0, atol=0)
    torch.testing.assert_close(maps["block1.1"], conv.relu(), rtol=0, atol=0)
    assert (maps["block1.0"] < 0).any()
    pooled = F.max_pool2d(random_vgg.body[0][2](conv.relu()).relu(), 2)
    torch.testing.assert_close(maps["block1"], pooled, rtol=0, atol=0)
    torch.testing.assert_close(maps["block2.1"], random_vgg.body[1][0](pooled).relu(), rtol=0, atol=0)
    assert not any(getattr(module, "inplace", False) for module in random_vgg.body.modules())


def test_it_is_frozen_and_stays_in_evaluation_mode(lite):
    perceiver = Perceiver(lite, ("stem",)).train()
    assert not any(module.training for module in perceiver.modules())
    assert not any(parameter.requires_grad for parameter in perceiver.parameters())
    images = IMAGES.clone().requires_grad_()
    perceiver(images)["stem"].sum().backward()
    assert images.grad.abs().sum() > 0


def test_smoothed_activations(lite):
    plain, smooth = (Perceiver(lite, ("stage2",), smooth=on)(IMAGES)["stage2"] for on in (False, True))
    torch.testing.assert_close(smooth, smoothed(plain))
    assert smooth.mean((1, 2, 3)).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_a_border_is_mirrored_and_left_out(lite):
    taps = ("stem@2", "stage1", "stage5")
    plain, bordered = Perceiver(lite, taps)(IMAGES), Perceiver(lite, taps, border=16)(IMAGES)
    assert {tap: maps.shape for tap, maps in bordered.items()} == {tap: maps.shape for tap, maps in plain.items()}
    mirrored = F.pad(IMAGES, (16, 16, 16, 16), mode="reflect")
    larger = Perceiver(lite, ("stage1", "stage5"))(mirrored)
    torch.testing.assert_close(bordered["stage1"], larger["stage1"][:, :, 8:-8, 8:-8])
    torch.testing.assert_close(bordered["stage5"], larger["stage5"][:, :, 1:-1, 1:-1])
    torch.testing.assert_close(bordered["stem@2"][:, :, 1:-1, 1:-1], plain["stem@2"][:, :, 1:-1, 1:-1])
    assert (bordered["stem@2"][:, :, -1] - plain["stem@2"][:, :, -1]).abs().max() > 0.1


def test_a_border_larger_than_the_picture_leaves_something(lite):
    maps = Perceiver(lite, ("stem", "stage5"), border=16)(IMAGES[:, :, :3, :1])
    assert maps["stem"].shape[2:] == (2, 1) and maps["stage5"].shape[2:] == (1, 1)


@pytest.mark.parametrize(
    ("tap", "error", "message"),
    [
        ("stage9", UnknownNameError, "unknown tap of efficientnet_lite0 'stage9'; known: stem, stage1"),
        ("logits", UnknownNameError, "known: stem"),
        ("stage1.nothing", UnknownNameError, "known: stage1."),
        ("stem@0", OptionError, "a magnification from 0.25 to 4"),
        ("stem@big", OptionError, "got 'stem@big'"),
        ("stem@nan", OptionError, "from 0.25 to 4"),
    ],
)
def test_wrong_taps_are_refused(lite, tap, error, message):
    with pytest.raises(error, match=message):
        Perceiver(lite, (tap,))


def test_too_small_pictures_are_refused_and_leave_no_hooks(random_vgg):
    perceiver = Perceiver(random_vgg, ("block5",))
    with pytest.raises(OptionError, match="a picture of 20 x 8 px is too small for the taps block5"):
        perceiver(torch.zeros(1, 3, 8, 20))
    assert not any(module._forward_hooks for module in random_vgg.body.modules())


def test_taps_of_vectors_are_refused():
    backbone = build_backbone("mobilenet_v3_small", "none")
    with pytest.raises(OptionError, match="expected taps with a map, but fc gives vectors of 1024 numbers"):
        Perceiver(backbone, ("fc",))(IMAGES)


def test_an_error_of_memory_is_not_called_too_small(lite, monkeypatch):
    def fail(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    perceiver = Perceiver(lite, ("stem",))
    monkeypatch.setattr(perceiver.body[0], "forward", fail)
    with pytest.raises(OptionError, match="not enough memory for a picture of 64 x 48 px"):
        perceiver(IMAGES)


@pytest.mark.parametrize("name", DEFAULT_TAPS)
def test_default_taps_are_there(name):
    spec = find_spec(name)
    with torch.device("meta"):
        stages = nn.Sequential(OrderedDict(spec.stages(spec.build())))
    for tap in (*DEFAULT_TAPS[name].style, *DEFAULT_TAPS[name].content):
        stages.get_submodule(tap.partition("@")[0])


def test_taps_that_are_asked_for_come_first(lite):
    default = DEFAULT_TAPS["efficientnet_lite0"]
    assert find_taps(lite) == default
    assert find_taps(lite, style=["stem"]) == (("stem",), default.content)
    assert find_taps(lite, content=["stage4"]) == (default.style, ("stage4",))
    other = build_backbone("mobilenet_v3_small", "none")
    with pytest.raises(
        OptionError, match="expected taps of mobilenet_v3_small for style and content; its stages: stem"
    ):
        find_taps(other, style=["stem"])
    assert find_taps(other, ["stem"], ["block1"]) == (("stem",), ("block1",))


def test_targets_are_blended_gram_matrices(lite):
    perceiver = Perceiver(lite, ("stem", "stage1"))
    styles = [IMAGES[:1], IMAGES[1:, :, :32, :40]]
    targets = StyleTargets.of(perceiver, ("stage1",), styles)
    grams = [gram_matrix(perceiver(style)["stage1"]) for style in styles]
    assert set(targets.grams) == {"stage1"} and targets.grams["stage1"].shape[0] == 2
    mixed = targets.blend(torch.tensor([[0.25, 0.75], [1, 0]]))["stage1"]
    torch.testing.assert_close(mixed[:1], 0.25 * grams[0] + 0.75 * grams[1])
    torch.testing.assert_close(mixed[1:], grams[0], rtol=0, atol=0)


def test_losses_are_means_over_the_taps(lite):
    perceiver = Perceiver(lite, ("stem", "stage1"))
    maps = perceiver(IMAGES)
    grams = {tap: torch.ones(1, maps[tap].shape[1], maps[tap].shape[1]) for tap in maps}
    content = {"stage1": maps["stage1"].flip(3)}
    found = style_losses(maps, grams, content, IMAGES)
    expected = sum(relative_error(gram_matrix(maps[tap]), grams[tap]) for tap in maps) / 2
    torch.testing.assert_close(found.style, expected)
    torch.testing.assert_close(found.content, relative_error(maps["stage1"], content["stage1"]))
    torch.testing.assert_close(found.variation, total_variation(IMAGES))


def test_a_mask_cuts_the_losses_out(lite):
    perceiver = Perceiver(lite, ("stage1",))
    maps = perceiver(IMAGES)
    mask = torch.zeros(2, 1, 48, 64)
    mask[..., :32] = 1
    left = {"stage1": gram_matrix(maps["stage1"][..., :16])}
    elsewhere = {"stage1": maps["stage1"] + torch.arange(32).ge(16) * 5}
    found = style_losses(maps, left, elsewhere, IMAGES, mask)
    assert found.style.tolist() == pytest.approx([0, 0], abs=1e-9) and found.content.tolist() == [0, 0]
    torch.testing.assert_close(found.variation, total_variation(IMAGES[..., :32]))
    plain = style_losses(maps, left, elsewhere, IMAGES)
    assert (plain.style > 1e-4).all() and (plain.content > 0.1).all()


def test_only_the_taps_that_are_wanted_are_looked_at():
    backbone = build_backbone("efficientnet_lite0")
    perceiver = Perceiver(backbone, ("stem@2", "stage1", "stage3"))
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    calls = []
    for name, stage in perceiver.body.named_children():
        stage.register_forward_hook(lambda *_, name=name: calls.append(name))
    whole = perceiver(image)
    assert calls == ["stem", "stem", "stage1", "stage2", "stage3"]
    calls.clear()
    found = perceiver(image, ("stage1",))
    assert calls == ["stem", "stage1"] and list(found) == ["stage1"]
    assert torch.equal(found["stage1"], whole["stage1"])
