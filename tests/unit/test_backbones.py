"""Backbones: the published networks' outputs exactly, at every tap; extractors; weights from anywhere."""

import functools

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn
from torchvision import models

from cnnray.errors import CheckpointError, OptionError, UnknownNameError
from cnnray.nn.backbones import BACKBONES, build_backbone, build_extractor, find_spec
from cnnray.nn.blocks import SameConv2d, same_padding
from cnnray.nn.lite import rename_published


def images(size, count=2, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def lite0():
    return build_backbone("efficientnet_lite0")


@pytest.fixture(scope="module")
def published_lite0():
    oracle = EfficientNet.from_name("efficientnet-lite0").eval()
    oracle.load_state_dict(torch.load(BACKBONES["efficientnet_lite0"].fetch(), weights_only=True))
    return oracle


@torch.inference_mode()
def test_lite0_gives_what_its_publisher_gives(lite0, published_lite0):
    x = images(224, count=4)
    expected = published_lite0(x)
    torch.testing.assert_close(lite0(x), expected, rtol=0, atol=1e-5)
    lower, _ = lite0.split("head")
    torch.testing.assert_close(lower(x), published_lite0.extract_features(x), rtol=0, atol=1e-5)
    assert not torch.equal(expected[0], expected[1])


@torch.inference_mode()
def test_both_parts_of_a_split_are_exactly_the_whole(lite0):
    x = images(64)
    expected = lite0(x)
    assert not torch.equal(expected[0], expected[1])
    for tap in lite0.taps:
        lower, upper = lite0.split(tap)
        assert torch.equal(upper(lower(x)), expected)


@torch.inference_mode()
def test_lite0_in_channels_last_gives_the_same(lite0):
    x = images(96)
    torch.testing.assert_close(lite0(x.to(memory_format=torch.channels_last)), lite0(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", range(1, 13))
def test_same_padding_is_tensorflows(kernel, stride, size):
    """By definition: ceil(size / stride) outputs, and not one pixel more of padding than they need."""
    before, after = same_padding(size, kernel, stride)
    outputs = (size + before + after - kernel) // stride + 1
    assert outputs == -(-size // stride)
    assert after - before in (0, 1)
    assert before + after == 0 or (size + before + after - 1 - kernel) // stride + 1 < outputs
    convolution = SameConv2d(1, 1, kernel, stride)
    x = torch.randn(1, 1, size, size + 1)
    left, right = same_padding(size + 1, kernel, stride)
    padded = nn.functional.pad(x, (left, right, before, after))
    expected = nn.functional.conv2d(padded, convolution.weight, stride=stride)
    torch.testing.assert_close(convolution(x), expected, rtol=0, atol=1e-6)


def test_padding_by_hand():
    assert same_padding(224, 3, 2) == (0, 1)
    assert same_padding(56, 5, 2) == (1, 2)
    assert same_padding(225, 3, 2) == (1, 1)
    assert same_padding(14, 5, 1) == (2, 2)


# --- extractors ----------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_an_extractor_normalises_cuts_and_pools(lite0):
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    lower, _ = lite0.split("stage3")
    maps = lower((pixels.float() - 127) / 128)
    extract = build_extractor(lite0, "stage3", "none")
    torch.testing.assert_close(extract(pixels), maps, rtol=0, atol=1e-4)
    assert torch.equal(extract(pixels), extract(pixels.float() / 255))
    pooled = build_extractor(lite0, "stage3", "avg")
    torch.testing.assert_close(pooled(pixels), maps.mean((2, 3)), rtol=0, atol=1e-5)
    assert extract.num_features == pooled.num_features == 40 and maps.shape == (2, 40, 8, 8)


def test_the_default_tap_is_the_last_before_the_classifier(lite0):
    assert build_extractor(lite0).num_features == 1280
    assert {n: BACKBONES[n].default_tap for n in ("resnet50", "vgg16", "squeezenet1_0", "inception_v3")} == {
        "resnet50": "layer4",
        "vgg16": "fc7",
        "squeezenet1_0": "fire9",
        "inception_v3": "Mixed_7c",
    }


@torch.inference_mode()
def test_a_vector_stage_is_not_pooled():
    backbone = build_backbone("mobilenet_v3_small", "none")
    x = torch.rand(2, 3, 64, 64)
    vectors = build_extractor(backbone, "fc", "none")(x)
    assert vectors.shape == (2, 1024) and torch.equal(vectors, build_extractor(backbone, "fc", "avg")(x))


@torch.inference_mode()
def test_features_are_float32_under_autocast(lite0):
    extract = build_extractor(lite0)
    x = torch.rand(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        features = extract(x)
    assert features.dtype == torch.float32
    assert nn.functional.cosine_similarity(features, extract(x)).min() > 0.99


def test_an_extractors_state_rebuilds_it_without_the_published_weights(lite0):
    extract = build_extractor(lite0, "stage2")
    torch.manual_seed(1)
    other = build_extractor(build_backbone("efficientnet_lite0", "none"), "stage2")
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert not torch.equal(other(x), extract(x))
        other.load_state_dict(extract.state_dict())
        assert torch.equal(other(x), extract(x))
    assert not [name for name in extract.state_dict() if "stage3" in name or "logits" in name]


def test_building_an_extractor_leaves_the_mode_of_the_backbone(lite0):
    assert not any(part.training for part in lite0.modules())
    backbone = build_backbone("squeezenet1_1", "none").train()
    upper = backbone.split("fire3")[1]
    build_extractor(backbone, "fire3")
    assert all(part.training for part in upper.modules())


# --- names ---------------------------------------------------------------------------------------------------------


def test_unknown_names_list_the_known(lite0):
    with pytest.raises(UnknownNameError, match="unknown backbone 'lenet'; known: efficientnet_lite0, squeezenet1_0"):
        build_backbone("lenet")
    for call in (lite0.split, functools.partial(build_extractor, lite0), lite0.spec.check_tap):
        with pytest.raises(UnknownNameError, match="unknown tap of efficientnet_lite0 'layer4'; known: stem, stage1"):
            call("layer4")
    with pytest.raises(OptionError, match="pool must be one of avg, none; got 'max'"):
        build_extractor(lite0, "", "max")
    spec = find_spec("resnet18")
    assert spec.check_tap("") == "layer4" and spec.check_tap("stem") == "stem"


# --- weights -------------------------------------------------------------------------------------------------------


def test_weights_have_one_content_hash_wherever_they_come_from(lite0, tmp_path):
    assert lite0.weights_sha256 == build_backbone("efficientnet_lite0").weights_sha256
    state = torch.load(BACKBONES["efficientnet_lite0"].fetch(), weights_only=True)
    torch.save({"state_dict": dict(reversed(state.items()))}, tmp_path / "same.pth")
    assert build_backbone("efficientnet_lite0", str(tmp_path / "same.pth")).weights_sha256 == lite0.weights_sha256
    state["_fc.bias"][7] += 1
    torch.save(state, tmp_path / "other.pth")
    other = build_backbone("efficientnet_lite0", f"file://{tmp_path}/other.pth")
    assert other.weights_sha256 != lite0.weights_sha256


def test_random_weights_are_those_of_the_seed():
    def digest(seed):
        torch.manual_seed(seed)
        return build_backbone("squeezenet1_1", "none").weights_sha256

    assert digest(0) == digest(0) != digest(1)


def test_every_published_name_of_lite0_has_one_of_ours(lite0):
    state = torch.load(BACKBONES["efficientnet_lite0"].fetch(), weights_only=True)
    assert set(rename_published(state)) == set(lite0.body.state_dict())


def test_weights_of_another_network_or_number_of_classes_are_refused(tmp_path):
    path = str(tmp_path / "w.pth")
    torch.save(models.resnet18(num_classes=10).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"wrong shape fc.weight: expected \[1000, 512\], got \[10, 512\]"):
        build_backbone("resnet18", path)
    with pytest.raises(
        CheckpointError, match="w.pth in squeezenet1_1 do not fit: missing features.0.weight.*unexpected"
    ):
        build_backbone("squeezenet1_1", path)
    with pytest.raises(CheckpointError, match="missing stem.0.weight.*unexpected conv1.weight"):
        build_backbone("efficientnet_lite0", path)
