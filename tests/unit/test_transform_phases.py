"""The painter in its fast form: the same function, of any size, in both precisions."""

import pytest
import torch

from cnnray.nn.transform_net import TransformNet, style_parameters
from cnnray.nn.transform_phases import PhasedNet


@pytest.fixture(scope="module", params=[(8, 1), (16, 3)], ids=str)
def net(request):
    torch.manual_seed(0)
    net = TransformNet(3, *request.param).eval()
    with torch.no_grad():
        for parameter in style_parameters(net):
            parameter += 0.3 * torch.randn_like(parameter)
    return net


@pytest.mark.parametrize(("count", "height", "width"), [(1, 16, 16), (2, 17, 31), (1, 64, 90), (3, 33, 128)])
@torch.no_grad()
def test_it_paints_what_the_network_paints(net, count, height, width):
    photos = torch.randint(256, (count, 3, height, width), dtype=torch.uint8)
    shares = torch.rand(count, 3).softmax(1)
    expected = net(photos, shares)
    found = PhasedNet(net, torch.float32)(photos, shares)
    assert found.shape == expected.shape and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    assert (PhasedNet(net, torch.float32)(photos / 255, shares) - expected).abs().max() < 2e-5


@torch.no_grad()
def test_bfloat16_is_no_further_off_than_autocast(net):
    photos, shares = torch.randint(256, (1, 3, 96, 128), dtype=torch.uint8), torch.tensor([[0.0, 1.0, 0.0]])
    expected = net(photos, shares)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = (net(photos, shares) - expected).abs()
    found = (PhasedNet(net, torch.bfloat16)(photos, shares) - expected).abs()
    assert found.mean() < 1.1 * autocast.mean() and found.max() < 1.5 * autocast.max()


@torch.no_grad()
def test_the_network_is_left_alone(net):
    photos, shares = torch.rand(1, 3, 32, 32), torch.tensor([[1.0, 0.0, 0.0]])
    before = net(photos, shares)
    PhasedNet(net, torch.bfloat16)(photos, shares)
    assert torch.equal(net(photos, shares), before)
