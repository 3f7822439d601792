"""The U-Net: its size by the paper, any encoder, any picture, and that it learns."""

import pytest
import torch

from cnnray.errors import OptionError, UnknownNameError
from cnnray.nn.backbones import BACKBONES
from cnnray.nn.segment import LEAST, build_segmenter, grow
from cnnray.ops.costs import count_costs

# one of each family; the larger ones are built of the same parts
ENCODERS = ("efficientnet_lite0", "squeezenet1_0", "mobilenet_v3_small", "resnet18", "googlenet", "inception_v3",
            "efficientnet_b0", "mobilenet_v1", "inception:width=0.25")  # fmt: skip


def build(encoder, width=4, depth=2, classes=3):
    torch.manual_seed(0)
    return build_segmenter({"encoder": encoder, "width": width, "depth": depth}, classes)


def test_the_papers_network_has_the_papers_size():
    """Ronneberger et al.: 64 channels, four halvings; 3x3 and 2x2 weights by hand, and a norm for each convolution."""
    net = build("plain", width=64, depth=4, classes=2)
    channels = [64, 128, 256, 512, 1024]
    pairs = [(3, 64), *zip(channels, channels[1:], strict=False)]
    double = sum(9 * (a * b + b * b) + 4 * b for a, b in pairs)
    up = sum(4 * 2 * c * c + c + 9 * (2 * c * c + c * c) + 4 * c for c in channels[:-1])
    assert count_costs(net, 3, 64, 64).params == double + up + 64 * 2 + 2
    assert 31.0e6 < double + up < 31.1e6


@pytest.mark.parametrize("encoder", ("plain", *ENCODERS))
@pytest.mark.parametrize("size", [(LEAST, LEAST), (101, 150), (1, 37)])
def test_every_picture_gets_a_map_of_its_size(encoder, size):
    net = build(encoder)
    with torch.no_grad():
        logits = net(torch.randint(0, 255, (2, 3, *size), dtype=torch.uint8))
    assert logits.shape == (2, 3, *size) and logits.dtype == torch.float32 and torch.isfinite(logits).all()


def test_every_backbone_has_bridges_at_several_sizes():
    for name in BACKBONES:
        if name.startswith("efficientnet_b") or name in ("resnet152", "vgg19"):
            continue  # the same stages as their smaller sisters, and slow to build
        encoder = build(name).encoder
        assert len(encoder.channels) >= 4 and encoder.channels[0] == 3, name


def test_bytes_and_fractions_are_the_same_picture():
    net, image = build("plain"), torch.randint(0, 255, (1, 3, 33, 40), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(net(image), net(image / 255))


def test_a_picture_does_not_see_its_neighbours():
    net, images = build("efficientnet_lite0"), torch.rand(3, 3, 64, 80)
    with torch.no_grad():
        torch.testing.assert_close(net(images)[1:2], net(images[1:2]), rtol=1e-4, atol=1e-4)


def test_borders_are_mirrored_up_to_a_multiple():
    x = torch.arange(100.0).reshape(1, 1, 1, 100).expand(1, 1, 100, 100)
    grown = grow(x, 16)
    assert grown.shape == (1, 1, 112, 112)
    assert torch.equal(grown[0, 0, 0, 100:], torch.arange(98.0, 86.0, -1))
    assert grow(torch.zeros(1, 1, 96, 128), 32).shape == (1, 1, 96, 128)
    assert grow(torch.ones(1, 1, 2, 2), 32).shape == (1, 1, 96, 96)


@pytest.mark.parametrize("encoder", ["plain", "efficientnet_lite0"])
def test_every_parameter_learns_and_two_pictures_are_learned_by_heart(encoder):
    net = build(encoder, width=8, classes=2).train()
    images = torch.rand(2, 3, 64, 64)
    truth = (images.mean(1) > 0.5).long()
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(net(images), truth)
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            assert all(p.grad is not None for p in net.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] < 1.5 and losses[-1] < 0.35


def test_wrong_architectures_are_refused():
    with pytest.raises(OptionError, match="a depth of 1 to 6, got 2, 8, 9"):
        build_segmenter({"encoder": "plain", "width": 8, "depth": 9}, 2)
    with pytest.raises(OptionError, match="at least 2 classes"):
        build_segmenter({"encoder": "plain", "width": 8, "depth": 3}, 1)
    with pytest.raises(UnknownNameError, match="unknown backbone 'u'"):
        build_segmenter({"encoder": "u", "width": 8, "depth": 3}, 2)
