"""The painter: its size, its styles, large pictures in bands, no checkerboard."""

import pytest
import torch
import torch.nn.functional as F

from cnnray.errors import OptionError
from cnnray.nn.transform_net import STRIDE, StyledConv, TransformNet, style_parameters


def pictures(count=2, height=72, width=100, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def one_hot(*styles, count=3):
    return F.one_hot(torch.tensor(styles), count).float()


@pytest.fixture
def net():
    """Of three styles that differ."""
    torch.manual_seed(0)
    net = TransformNet(3, width=8, blocks=2).eval()
    with torch.no_grad():
        for parameter in style_parameters(net):
            parameter += 0.3 * torch.randn_like(parameter)
    return net


def plain_styled_conv(layer, x, weights):
    """Each picture and channel by itself, with torch's own instance norm."""
    if layer.grow > 1:
        x = x.repeat_interleave(layer.grow, 2).repeat_interleave(layer.grow, 3)
    x = F.conv2d(F.pad(x, (layer.pad,) * 4, mode="reflect"), layer.conv.weight, stride=layer.stride)
    normal = F.instance_norm(x)
    rows = []
    for picture, share in zip(normal, weights, strict=True):
        scale = sum(s * part for s, part in zip(share, layer.scale_SC, strict=True))
        shift = sum(s * part for s, part in zip(share, layer.shift_SC, strict=True))
        rows.append(picture * scale[:, None, None] + shift[:, None, None])
    out = torch.stack(rows)
    return out.clamp(min=0) if layer.relu else out


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"grow": 2}, {"relu": False}], ids=str)
@pytest.mark.parametrize("grad", [True, False])
def test_a_layer_is_resize_reflect_convolve_normalise_and_style(options, grad):
    torch.manual_seed(1)
    layer = StyledConv(4, 6, 5, 2, **options)
    torch.nn.init.normal_(layer.scale_SC), torch.nn.init.normal_(layer.shift_SC)
    x, weights = torch.randn(3, 4, 20, 24), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.3, 0.7]])
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(layer(x, weights), plain_styled_conv(layer, x, weights), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("height, width", [(64, 64), (70, 101), (16, 300), (301, 17)])
def test_a_painting_has_the_size_of_its_photo(net, height, width):
    with torch.no_grad():
        painted = net(pictures(1, height, width), one_hot(0))
    assert painted.shape == (1, 3, height, width) and 0 <= painted.min() < painted.max() <= 1


def test_in_bands_it_is_the_same_picture(net):
    large = pictures(2, 402, 90)
    with torch.no_grad():
        whole, bands = (net(large, one_hot(0, 2), bands) for bands in (False, True))
    torch.testing.assert_close(whole, bands, atol=1e-5, rtol=0)


def test_a_picture_does_not_depend_on_others_of_its_batch(net):
    photos = pictures(3)
    with torch.no_grad():
        together = net(photos, one_hot(0, 1, 2))
        for at in range(3):
            alone = net(photos[at : at + 1], one_hot(at))
            torch.testing.assert_close(together[at : at + 1], alone, atol=1e-5, rtol=0)
        assert (together[0] - net(photos[:1], one_hot(1))[0]).abs().mean() > 0.01


def test_a_blend_lies_between_its_styles(net):
    photo = pictures(1)
    with torch.no_grad():
        first, second = net(photo, one_hot(0)), net(photo, one_hot(1))
        halves = net(photo, torch.tensor([[0.5, 0.5, 0.0]]))
    apart = (first - second).square().mean()
    assert max((halves - first).square().mean(), (halves - second).square().mean()) < apart


def test_training_and_evaluation_agree_and_every_part_learns(net):
    photo = pictures(1)
    with torch.no_grad():
        quiet = net(photo, one_hot(1))
    painted = net(photo, one_hot(1))
    torch.testing.assert_close(painted, quiet, atol=1e-5, rtol=0)
    painted.square().mean().backward()
    for name, parameter in net.named_parameters():
        grad = parameter.grad[1] if name.endswith("_SC") else parameter.grad
        assert grad.abs().sum() > 0, name
        if name.endswith("_SC"):
            assert parameter.grad[0].abs().sum() == 0, "a style that is not painted does not learn"


def test_the_default_is_below_two_megabytes():
    net = TransformNet(4)
    assert sum(4 * parameter.numel() for parameter in net.parameters()) < 2e6
    styled = sum(parameter[0].numel() for parameter in style_parameters(net))
    assert styled < 2000


def test_untrained_it_shows_no_checkerboard():
    """Where strides do not divide kernels, a flat picture comes out with a pattern of the period of the stride."""
    torch.manual_seed(0)
    net = TransformNet(1).eval()
    photo = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for _ in range(3):
            photo = F.avg_pool2d(F.pad(photo, (2,) * 4, mode="reflect"), 5, 1)
        painted = net(photo, torch.ones(1, 1))[0].mean(0)
    inner = painted[16:-16, 16:-16]
    phases = torch.stack([inner[y::STRIDE, x::STRIDE].mean() for y in range(STRIDE) for x in range(STRIDE)])
    assert phases.std() < 0.1 * inner.std()  # chance alone gives 0.04


def test_a_network_of_nothing_is_refused():
    for wrong in ((0, 16, 5), (1, 0, 5), (1, 16, 0)):
        with pytest.raises(OptionError, match="at least one style, channel and block"):
            TransformNet(*wrong)
