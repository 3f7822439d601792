"""Folded networks compute what they computed before, and lose less in bfloat16 than autocast alone."""

import pytest
import torch
from torch import nn

from cnnray.nn.backbones import BACKBONES, build_backbone, build_extractor
from cnnray.nn.fold import InFloat32, Shift, fold_batch_norms

PLAIN = ["efficientnet_lite0", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "resnet18", "resnet50"]
SIZE = {"inception_v3": 75}


def lively(network, seed=0):
    """Batch norms with scales, shifts and statistics that matter."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.weight, 0.7, 1.3), (module.bias, -0.3, 0.3)):
                nn.init.uniform_(tensor, low, high, generator=generator)
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


@torch.inference_mode()
@pytest.mark.parametrize("shifts", [True, False])
@pytest.mark.parametrize("name", [*PLAIN, "googlenet", "inception_v3", "efficientnet_b0"])
def test_a_folded_network_computes_the_same_and_no_batch_norm_is_left(name, shifts):
    torch.manual_seed(0)
    size = SIZE.get(name, 64)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    lower, _ = lively(build_backbone(name, "none")).split()
    expected = lower(x)
    fold_batch_norms(lower, shifts)
    assert not [m for m in lower.modules() if isinstance(m, nn.BatchNorm2d)]
    torch.testing.assert_close(lower(x), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@torch.inference_mode()
def test_a_batch_norm_that_does_not_follow_a_convolution_stays():
    network = lively(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)))
    x = torch.randn(1, 3, 5, 5)
    expected = network(x)
    fold_batch_norms(network)
    assert isinstance(network[2], nn.BatchNorm2d)
    torch.testing.assert_close(network(x), expected, rtol=0, atol=0)


def test_a_copy_is_changed_and_the_extractor_is_not():
    backbone = build_backbone("efficientnet_lite0")
    extractor = build_extractor(backbone)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    ready = extractor.ready_for_bfloat16()
    assert [name for name, stage in ready.lower.named_children() if isinstance(stage, InFloat32)] == ["stem", "stage1"]
    assert any(isinstance(module, Shift) for module in ready.modules())
    assert not any(isinstance(module, Shift | InFloat32) for module in extractor.modules())
    for name, tensor in backbone.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


@torch.inference_mode()
def test_bfloat16_features_are_closer_to_float32_than_plain_autocast_gives():
    extractor = build_extractor(build_backbone("efficientnet_lite0"))
    ready = extractor.ready_for_bfloat16()
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (8, 3, 7, 7), generator=generator).float()  # blobs, as photos have, not noise
    images = nn.functional.interpolate(coarse, (224, 224), mode="bicubic").clamp(0, 255).to(torch.uint8)
    exact = extractor(images)
    with torch.autocast("cpu", torch.bfloat16):
        plain, better = extractor(images), ready(images)
    lost = [1 - nn.functional.cosine_similarity(got.double(), exact.double()) for got in (plain, better)]
    assert lost[1].max() < 0.002
    assert lost[1].mean() < lost[0].mean() / 2
    assert BACKBONES["efficientnet_lite0"].float32_stages == ("stem", "stage1")
