"""torchvision's networks: the same outputs at every cut, and the preprocessing of their weights."""

import pytest
import torch
from torch import nn
from torchvision import models

from cnnray.nn.backbones import BACKBONES, Backbone, build_backbone
from cnnray.nn.torchvision_nets import TORCHVISION

SMALL = ["squeezenet1_0", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "resnet18"]
SMALL += ["googlenet", "inception_v3", "efficientnet_b0"]


def images(size, count=2, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def torchvision_oracle(name, seed=0):
    """torchvision's own network, as its published weights configure it, but with random ones."""
    torch.manual_seed(seed)
    options = (
        {"aux_logits": False, "init_weights": False, "transform_input": True}
        if "ception" in name or name == "googlenet"
        else {}
    )
    return models.get_model(name, weights=None, **options).eval()


def every_split_is_the_whole(backbone, x, taps, expected):
    assert not torch.equal(expected[0], expected[1])
    for tap in taps:
        lower, upper = backbone.split(tap)
        torch.testing.assert_close(upper(lower(x)), expected, rtol=0, atol=0)


@torch.inference_mode()
@pytest.mark.parametrize("name", SMALL)
def test_both_parts_of_a_split_are_exactly_the_published_network(name):
    x = images(75 if name == "inception_v3" else 64)
    oracle = torchvision_oracle(name)
    torch.manual_seed(0)
    backbone = build_backbone(name, "none")
    every_split_is_the_whole(backbone, x, backbone.taps, oracle(x))


@torch.inference_mode()
@pytest.mark.parametrize("name", ["resnet50", "vgg16"])
def test_splits_of_large_networks_are_exact_at_the_first_middle_and_last_tap(name):
    oracle = torchvision_oracle(name)
    backbone = Backbone(BACKBONES[name], oracle)
    x = images(33)
    taps = backbone.taps
    every_split_is_the_whole(backbone, x, (taps[0], taps[len(taps) // 2], taps[-2], taps[-1]), oracle(x))


def layers_run(module, network, size):
    """Names of the layers of `network` in the order in which a pass through `module` runs them, and their outputs."""
    run = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out, name=name: run.append((name, tuple(out.shape))))
        for name, layer in network.named_modules()
        if not list(layer.children()) and not isinstance(layer, nn.AdaptiveAvgPool2d)  # which some call as a function
    ]
    output = module(torch.empty(1, 3, size, size, device="meta"))
    for hook in hooks:
        hook.remove()
    return run, tuple(output.shape)


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_stages_run_every_layer_once_and_in_order(name):
    """Costs no memory, so it holds the largest networks too, at their own input size."""
    spec = BACKBONES[name]
    with torch.device("meta"):
        network = spec.build().eval()
    stages = spec.stages(network)
    assert tuple(stages) == spec.taps
    expected = layers_run(network, network, spec.input_size)
    assert layers_run(nn.Sequential(*stages.values()), network, spec.input_size) == expected
    assert expected[1] == (1, 1000) and len(expected[0]) > 20


@pytest.mark.parametrize("name", TORCHVISION)
def test_preprocessing_is_that_of_the_published_weights(name):
    spec, view = BACKBONES[name], models.get_model_weights(name).DEFAULT.transforms()
    assert [spec.input_size] == view.crop_size and [spec.resize] == view.resize_size
    assert spec.interpolation == view.interpolation.value in ("bilinear", "bicubic")
    assert list(spec.mean) == view.mean and list(spec.std) == view.std


def test_upper_does_not_write_into_stored_activations():
    """Fine-tuning trains the upper part on activations that are read again in the next epoch."""
    for name in ("mobilenet_v3_small", "squeezenet1_1", "resnet18"):
        backbone = build_backbone(name, "none").train()
        for tap in backbone.taps[:-1]:
            lower, upper = backbone.split(tap)
            with torch.no_grad():
                stored = lower(images(64))
                before = stored.clone()
                upper(stored)
            assert torch.equal(stored, before), (name, tap)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_published_files_with_auxiliary_classifiers_fit(name, tmp_path):
    network = models.get_model(name, weights=None, init_weights=False, aux_logits=True, transform_input=True).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    x = images(75)
    assert torch.equal(build_backbone(name, str(tmp_path / "w.pth"))(x), network(x))
