"""Scaled networks have the costs that their papers print."""

import pytest
import torch
from torchvision import models

from cnnray.nn.scaling import (
    CompoundScaling,
    efficientnet,
    mobilenet_v1,
    scale_channels,
    scale_depth,
    scale_resolution,
)
from cnnray.ops.costs import count_costs


def costs(build, size):
    with torch.device("meta"):
        return count_costs(build(), 3, size, size)


@pytest.mark.parametrize(
    ("width", "size", "macs", "params"),
    [  # tables 6, 7 and 8 of the paper, in millions
        (1.0, 224, 569, 4.2),
        (0.75, 224, 325, 2.6),
        (0.5, 224, 149, 1.3),
        (0.25, 224, 41, 0.5),
        (1.0, 192, 418, 4.2),
        (1.0, 160, 290, 4.2),
        (1.0, 128, 186, 4.2),
        (0.5, 160, 76, 1.3),
    ],
)
def test_mobilenet_v1_costs_what_the_paper_prints(width, size, macs, params):
    found = costs(lambda: mobilenet_v1(width=width), size)
    assert found.macs / 1e6 == pytest.approx(macs, rel=0.012)
    assert found.params / 1e6 == pytest.approx(params, abs=0.06)


def test_weights_of_mobilenets_take_2_to_17_megabytes():
    sizes = [
        costs(lambda width=width: mobilenet_v1(width=width), 224).size_bytes / 1e6 for width in (0.25, 0.5, 0.75, 1.0)
    ]
    assert sizes == pytest.approx([1.9, 5.4, 10.4, 17.0], abs=0.2)


@pytest.mark.parametrize(
    ("name", "depth", "width"),
    [("efficientnet_b0", 1.0, 1.0), ("efficientnet_b1", 1.1, 1.0), ("efficientnet_b2", 1.2, 1.1),
     ("efficientnet_b3", 1.4, 1.2), ("efficientnet_b4", 1.8, 1.4), ("efficientnet_b7", 3.1, 2.0)],
)  # fmt: skip
def test_a_scaled_efficientnet_has_the_parameters_that_are_published(name, depth, width):
    assert (
        costs(lambda: efficientnet(depth, width), 224).params
        == models.get_model_weights(name).DEFAULT.meta["num_params"]
    )


def test_the_papers_constants_double_the_computations_with_each_step():
    scaling = CompoundScaling()
    assert scaling.cost == pytest.approx(2, abs=0.1)
    assert scaling.at(0) == (1, 1, 1)
    assert scaling.at(1) == pytest.approx((1.2, 1.1, 1.15))
    for phi in range(4):
        smaller, larger = (_scaled_macs(scaling, step) for step in (phi, phi + 1))
        assert 1.6 < larger / smaller < 2.5


def _scaled_macs(scaling, phi):
    depth, width, resolution = scaling.at(phi)
    return costs(lambda: efficientnet(depth, width), scale_resolution(224, resolution)).macs


def test_channels_are_multiples_of_eight_and_lose_less_than_a_tenth():
    assert [scale_channels(c, 1.1) for c in (16, 24, 32, 40, 80, 112, 192, 320)] == [16, 24, 32, 48, 88, 120, 208, 352]
    for channels in range(8, 2000, 7):
        for width in (0.25, 0.5, 0.75, 1.4):
            scaled = scale_channels(channels, width)
            assert scaled % 8 == 0 and scaled >= 0.9 * channels * width


def test_depth_is_rounded_up_and_resolution_to_multiples_of_eight():
    assert [scale_depth(n, 1.1) for n in (1, 2, 3, 4)] == [2, 3, 4, 5]
    assert [scale_resolution(224, 1.15**phi) for phi in (0, 1, 2, 3)] == [224, 256, 296, 344]


@torch.inference_mode()
def test_they_compute_logits_of_images_of_any_size():
    torch.manual_seed(0)
    for net, size in ((mobilenet_v1(0.5, 0.25, 10), 128), (efficientnet(0.5, 0.5, 10), 96)):
        logits = net.eval()(torch.randn(2, 3, size, size))
        assert logits.shape == (2, 10) and logits.isfinite().all() and not torch.equal(logits[0], logits[1])
