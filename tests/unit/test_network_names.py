"""One name says which network at which scale: read, written, refused, and built from."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnnray.config import BackboneConfig, FeaturesConfig, FinetuneConfig, network_name, parse_network, to_toml
from cnnray.data.recipe import build_recipe
from cnnray.errors import CheckpointError, OptionError, UnknownNameError
from cnnray.nn.backbones import BACKBONES, SMALLEST, build_backbone, build_extractor, find_spec
from cnnray.nn.classics import CLASSICS
from cnnray.ops.costs import output_shape


def refused(kind, message, call, *args, **kwargs):
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    assert message in str(caught.value), caught.value


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("residual", "residual"),
        ("residual:width=0.50,depth=2.0", "residual:depth=2,width=0.5"),
        ("residual:width=1,phi=0,size=0", "residual"),
        ("residual:size=224", "residual"),  # its own
        ("efficientnet_b1:size=224", "efficientnet_b1:size=224"),
        ("efficientnet:phi=1.0", "efficientnet:phi=1"),
        ("efficientnet:width=1e-2", "efficientnet:width=0.01"),
        ("mobilenet_v1:width=.5,size=160", "mobilenet_v1:size=160,width=0.5"),
    ],
)
def test_equal_networks_have_equal_names(written, name):
    assert find_spec(written).name == find_spec(name).name == name


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "depth": st.floats(0, 8, exclude_min=True),
            "width": st.floats(0, 8, exclude_min=True),
            "size": st.integers(32, 1024),
        },
    )
)
def test_a_name_is_read_as_it_was_written(scale):
    name = network_name("residual", scale)
    plain, found = parse_network(name)
    assert plain == "residual" and network_name(plain, found) == name
    assert found == {key: value for key, value in scale.items() if value != 1.0}


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("residual:heads=2", UnknownNameError, "unknown scale of backbone residual 'heads'; known: depth, phi, size"),
        ("residual:", UnknownNameError, "unknown scale of backbone residual ''"),
        ("residual:width", OptionError, "expected a number as width in backbone 'residual:width', got ''"),
        ("residual:width=wide", OptionError, "got 'wide'"),
        ("residual:size=64.5", OptionError, "expected a whole number of px as size"),
        ("residual:width=2,width=2", OptionError, "expected width once"),
        ("residual:width=0", OptionError, "width must be above 0 and at most 8, got 0.0"),
        ("residual:depth=-1", OptionError, "depth must be above 0 and at most 8, got -1.0"),
        ("residual:depth=nan", OptionError, "depth must be above 0 and at most 8, got nan"),
        ("residual:width=inf", OptionError, "width must be above 0"),
        ("residual:size=31", OptionError, "size must be from 32 to 1024 px, or 0 for the network's own, got 31"),
        ("residual:phi=11", OptionError, "phi must be from -6 to 10"),
        ("residual:phi=1,width=2", OptionError, "phi sets depth, width and size; expected phi alone, got width"),
        ("residual:phi=1,size=64,depth=2", OptionError, "got depth and size beside it"),
        ("resnet9000:width=2", UnknownNameError, "unknown backbone 'resnet9000'; known: efficientnet_lite0"),
        ("resnet50:width=2", OptionError, "only size can be changed; networks with depth, width and phi: mobilenet_v1"),
        ("efficientnet_lite0:phi=1", OptionError, "efficientnet_lite0 has published weights of one depth and width"),
        ("inception_v3:size=64", OptionError, "expected a size of at least 75 px for inception_v3, got 64"),
    ],
)
def test_wrong_names_say_what_is_allowed(name, kind, message):
    refused(kind, message, find_spec, name)


# --- options -------------------------------------------------------------------------------------------------------


def test_options_and_name_say_the_same():
    assert BackboneConfig().network == "efficientnet_lite0"
    assert BackboneConfig(backbone="residual", width=0.5, depth=2).network == "residual:depth=2,width=0.5"
    assert FeaturesConfig(backbone="residual:width=0.5", depth=2.0).network == "residual:depth=2,width=0.5"
    assert FinetuneConfig(backbone="efficientnet", phi=1).network == "efficientnet:phi=1"
    assert FeaturesConfig(backbone="residual:width=0.5", width=0.5, size=96).network == "residual:size=96,width=0.5"


def test_options_are_checked_where_they_are_given():
    refused(OptionError, "expected one width, but backbone is 'residual:width=2' and width is 3",
            FeaturesConfig, backbone="residual:width=2", width=3)  # fmt: skip
    refused(OptionError, "width must be above 0 and at most 8, got nan", FeaturesConfig, width=float("nan"))
    refused(OptionError, "size must be from 32", FinetuneConfig, size=16)
    refused(OptionError, "expected phi alone, got width", FeaturesConfig, backbone="efficientnet:phi=1", width=2)
    refused(OptionError, "max_bad is a fraction", FeaturesConfig, max_bad=2)  # the other parts' checks still run
    refused(OptionError, "workers must be at least 0", FeaturesConfig, workers=-1)


def test_options_are_written_as_they_were_given():
    import tomllib

    config = FeaturesConfig(backbone="residual", width=0.5, size=64)
    assert FeaturesConfig(**tomllib.loads(to_toml(config))) == config
    assert {"width", "depth", "size", "phi"} <= dataclasses.asdict(config).keys() and "network" not in to_toml(config)


# --- what is built -------------------------------------------------------------------------------------------------


def test_the_resize_goes_with_the_size():
    expected = {
        "efficientnet_lite0:size=192": (192, 219),
        "mobilenet_v1:size=160": (160, 183),
        "efficientnet:phi=1": (256, 293),
        "resnet50:size=448": (448, 464),  # torchvision's second weights: 232 for 224
    }
    specs = [find_spec(name) for name in expected]
    assert {spec.name: (spec.input_size, spec.resize) for spec in specs} == expected


@pytest.mark.parametrize("name", BACKBONES)
def test_every_network_takes_its_smallest_images(name):
    spec = find_spec(f"{name}:size={SMALLEST.get(name, 32)}")
    with torch.device("meta"):
        network = spec.build()
    assert spec.resize >= spec.input_size
    assert output_shape(network, 3, spec.input_size, spec.input_size) == (1000,)


def test_the_ends_of_the_dial_can_be_built():
    for name in CLASSICS:
        for phi in (-6, 10):
            spec = find_spec(f"{name}:phi={phi}")
            with torch.device("meta"):
                assert tuple(spec.stages(spec.build())) == spec.taps
            assert 32 <= spec.input_size <= 1024


def test_a_scaled_backbone_is_built_again_from_its_name_and_weights():
    torch.manual_seed(0)
    backbone = build_backbone("residual:width=0.25,depth=0.5,size=64", "none")
    assert backbone.name == "residual:depth=0.5,size=64,width=0.25"
    other = build_extractor(build_backbone(backbone.name, "none"))
    extractor = build_extractor(backbone)
    other.load_state_dict(extractor.state_dict())
    x = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(other(x), extractor(x))
    assert extractor.num_features == 128


def test_a_recipe_names_the_network_in_one_way():
    torch.manual_seed(0)
    written = (
        FeaturesConfig(backbone="mobilenet_v1:width=0.25,size=64", weights="none"),
        FeaturesConfig(backbone="mobilenet_v1", width=0.25, size=64, weights="none"),
    )
    backbone = build_backbone(written[0].network, "none")
    first, second = (build_recipe(config, backbone, "float32") for config in written)
    assert first == second and first.backbone == "mobilenet_v1:size=64,width=0.25"
    assert (first.maker.size, first.maker.resize) == (64, 73)
    assert first.tap == "block13"


# --- weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CLASSICS, "residual:width=0.5", "efficientnet:phi=1"])
def test_there_are_no_default_weights_of_own_networks(name):
    refused(
        OptionError,
        f"{name} has no published weights; use --weights none to train from scratch or --weights PATH",
        build_backbone,
        name,
    )


def test_own_weights_are_loaded_from_a_file_of_the_same_network(tmp_path):
    torch.manual_seed(0)
    backbone, path = build_backbone("inception:width=0.25", "none"), str(tmp_path / "w.pth")
    torch.save(backbone.body.state_dict(), path)
    assert build_backbone("inception:width=0.25", path).weights_sha256 == backbone.weights_sha256
    assert build_backbone("inception:size=64,width=0.25", path).weights_sha256 == backbone.weights_sha256
    refused(CheckpointError, "wrong shape stem.0.0.weight", build_backbone, "inception:width=0.5", path)
    refused(CheckpointError, "missing", build_backbone, "inception:depth=2,width=0.25", path)


def test_other_sizes_keep_the_published_weights():
    lite = build_backbone("efficientnet_lite0")
    assert build_backbone("efficientnet_lite0:size=192").weights_sha256 == lite.weights_sha256
