"""Costs: by hand, against PyTorch's own counter, and against what torchvision publishes."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from cnnray.nn.backbones import BACKBONES
from cnnray.nn.torchvision_nets import TORCHVISION
from cnnray.ops.costs import count_costs, layer_costs, output_shape


def test_one_convolution_by_hand():
    costs = count_costs(nn.Conv2d(3, 8, 3, stride=2, padding=1), 3, 10, 10)
    assert costs.params == 8 * 3 * 3 * 3 + 8
    assert costs.macs == 5 * 5 * 8 * (3 * 3 * 3)
    assert costs.size_bytes == costs.params * 4


def test_a_bottleneck_saves_nine_tenths_of_an_inception_layer():
    """5x5 convolution of 28x28x192 to 32 channels: 120 M; through 16 channels by 1x1 first: 12.4 M."""
    plain = nn.Conv2d(192, 32, 5, padding=2)
    reduce, convolve = nn.Conv2d(192, 16, 1), nn.Conv2d(16, 32, 5, padding=2)
    assert count_costs(plain, 192, 28, 28).macs == 28 * 28 * 32 * 5 * 5 * 192 == 120_422_400
    assert count_costs(nn.Sequential(reduce, convolve), 192, 28, 28).macs == 2_408_448 + 10_035_200 == 12_443_648


def test_groups_batch_norm_and_shared_layers_by_hand():
    depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8))
    costs = count_costs(depthwise, 8, 5, 5)
    assert costs.macs == 3 * 3 * 8 * 9
    assert costs.params == 8 * 9 + 16
    assert costs.size_bytes == 4 * (8 * 9 + 32) + 8  # the statistics are stored too, and a 64-bit counter
    shared = nn.Linear(4, 4)
    assert count_costs(nn.Sequential(shared, shared), 4).macs == 2 * 16  # computed twice,
    assert count_costs(nn.Sequential(shared, shared), 4).params == 20  # stored once


def test_the_module_is_left_as_it_was():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4).eval())
    before = {k: v.clone() for k, v in module.state_dict().items()}
    assert count_costs(module, 3, 8, 8) == count_costs(module, 3, 8, 8)
    assert module.training and not module[1].training and not module[0]._forward_hooks
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize("name", TORCHVISION)
def test_costs_are_those_that_torchvision_publishes(name):
    spec = BACKBONES[name]
    published = models.get_model_weights(name).DEFAULT
    with torch.device("meta"):
        network = spec.build().eval()
    costs = count_costs(network, 3, spec.input_size, spec.input_size)
    auxiliary = 3_326_696 if name == "inception_v3" else 0  # its published count has the auxiliary classifier
    assert costs.params + auxiliary == published.meta["num_params"]
    assert costs.macs / 1e9 == pytest.approx(published.meta["_ops"], abs=6e-4)  # published with three decimals
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, spec.input_size, spec.input_size, device="meta"))
    assert costs.macs * 2 == counter.get_total_flops()


def test_costs_of_the_default_network_are_those_of_its_publishers_code():
    """4.7 M parameters, 385 M multiply-accumulates."""
    with torch.device("meta"):
        network = BACKBONES["efficientnet_lite0"].build()
    costs = count_costs(network, 3, 224, 224)
    assert (costs.params, costs.macs) == (4_652_008, 385_187_552)
    published = EfficientNet.from_name("efficientnet-lite0").eval()
    assert costs.params == sum(p.numel() for p in published.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        published(torch.zeros(1, 3, 224, 224))
    assert costs.macs * 2 == counter.get_total_flops()


def test_the_shape_of_an_output_is_known_without_computing_it():
    layer = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8))
    assert output_shape(layer, 3, 9, 11) == (8, 4, 5)
    assert layer.training and layer[0].weight.device.type == "cpu"


def test_a_transposed_convolution_costs_what_the_convolution_back_would():
    up, down = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(8, 16, 2, stride=2)
    assert count_costs(up, 16, 7, 9).macs == count_costs(down, 8, 14, 18).macs == 7 * 9 * 16 * 8 * 4


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "mobilenet_v3_small", "vgg16"])
def test_layers_add_up_to_the_network(name):
    spec = BACKBONES[name]
    with torch.device("meta"):
        network = spec.build()
    rows, whole = layer_costs(network, 3, 224, 224), count_costs(network, 3, 224, 224)
    assert sum(row.params for row in rows) == whole.params
    assert sum(row.macs for row in rows) == whole.macs
    assert sum(row.weight_bytes for row in rows) == whole.size_bytes
    assert rows[0].kind.endswith("Conv2d") and rows[0].output[1:] == ((224, 224) if name == "vgg16" else (112, 112))
    assert rows[0].activation_bytes == 4 * rows[0].output[0] * rows[0].output[1] * rows[0].output[2]


def test_a_layer_that_computes_twice_is_stored_once():
    shared = nn.Linear(4, 4)
    first, second = layer_costs(nn.Sequential(shared, nn.Sequential(shared)), 4)
    assert (first.params, first.macs, first.weight_bytes) == (20, 16, 80)
    assert (second.params, second.macs, second.weight_bytes) == (0, 16, 0)


@pytest.mark.parametrize(("name", "mebibytes"), [("vgg16", 528), ("resnet152", 230), ("mobilenet_v2", 13.6)])
def test_weights_take_what_the_textbook_says(name, mebibytes):
    with torch.device("meta"):
        network = BACKBONES[name].build()
    assert count_costs(network, 3, 224, 224).size_bytes / 2**20 == pytest.approx(mebibytes, rel=0.01)


def test_several_threads_may_ask_of_one_network():
    net = nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)) for _ in range(8)))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with ThreadPoolExecutor(8) as pool:
        shapes = set(pool.map(lambda side: output_shape(net, 4, side, 9), [5] * 400))
    assert shapes == {(4, 5, 9)} and net.training
    for name, tensor in net.state_dict().items():
        assert tensor.device.type == "cpu" and torch.equal(tensor, before[name]), name
