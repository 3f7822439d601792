"""The way back to the pixels, against a DeconvNet written out layer by layer, and what a unit can see."""

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cnnray.errors import OptionError, UnknownNameError
from cnnray.nn.backbones import Backbone, build_backbone, build_extractor
from cnnray.nn.deconv import Deconv, strongest_places
from cnnray.nn.gradcam import grad_cam, guided_backprop, guided_grad_cam, stages_with_maps, winners
from cnnray.nn.layer_names import conv_layers
from cnnray.nn.receptive import receptive_field, receptive_fields
from cnnray.nn.rectify import Rectified, other_activations, suited_rule
from cnnray.nn.spec import BackboneSpec
from cnnray.nn.watch import normalised
from cnnray.ops.costs import without_weights

TOLERANCE = 1e-5  # of the greatest value: float32 sums in another order


def backbone_of(**stages):
    """A backbone of our own stages, with normalisation that does nothing."""
    spec = BackboneSpec(
        name="ours", input_size=32, resize=32, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3,
        taps=tuple(stages), build=lambda: nn.Sequential(), stages=lambda _: stages, adapt=dict, fetch=None, source="",
    )  # fmt: skip
    return Backbone(spec, nn.Sequential()).eval()


def assert_near(found, expected):
    assert expected.abs().max() > 0
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


def seed_of(maps_NCHW, filters, places):
    """Everything zero but the chosen units."""
    seed = torch.zeros_like(maps_NCHW)
    for number, (filter, (row, column)) in enumerate(zip(filters, places, strict=True)):
        seed[number, filter, row, column] = maps_NCHW[number, filter, row, column].clamp(min=0)
    return seed


# --- the oracle: forward with switches, backward with transposed filters --------------------------------------------


def explicit_deconvnet(layers, x, filters, places=None):
    """Zeiler and Fergus by hand, for a chain that ends in a convolution: (signal, places of the units).

    Nothing here uses autograd: pooling remembers its switches, and the way back unpools, rectifies and filters.
    """
    back, size = [], {}
    for layer in layers:
        size = x.shape
        if isinstance(layer, nn.Conv2d):
            back.append(transposed(layer, size))
            x = layer(x)
        elif isinstance(layer, nn.BatchNorm2d):
            scale = (layer.weight / (layer.running_var + layer.eps).sqrt())[:, None, None]
            back.append(lambda signal, scale=scale: signal * scale)
            x = x * scale + (layer.bias - layer.running_mean * scale[:, 0, 0])[:, None, None]
        elif isinstance(layer, nn.ReLU | nn.ReLU6):
            back.append(F.relu)
            x = x.clamp(0, 6 if isinstance(layer, nn.ReLU6) else None)
        else:
            x, switches = F.max_pool2d(
                x, layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode, return_indices=True
            )
            back.append(unpooling(layer, switches, size))
    if places is None:
        places = [divmod(int(x[i, f].argmax()), x.shape[3]) for i, f in enumerate(filters)]
    signal = seed_of(x, filters, places)
    for step in reversed(back):
        signal = step(signal)
    return signal, places


def transposed(conv, size):
    def step(signal):
        kernel, stride, padding, dilation = conv.kernel_size, conv.stride, conv.padding, conv.dilation
        missing = [
            size[2 + axis]
            - (
                (signal.shape[2 + axis] - 1) * stride[axis]
                - 2 * padding[axis]
                + dilation[axis] * (kernel[axis] - 1)
                + 1
            )
            for axis in (0, 1)
        ]
        return F.conv_transpose2d(signal, conv.weight, None, stride, padding, missing, conv.groups, dilation)

    return step


def unpooling(pool, switches, size):
    def step(signal):
        if pool.kernel_size == pool.stride:
            return F.max_unpool2d(signal, switches, pool.kernel_size, pool.stride, pool.padding, list(size))
        # windows overlap: what several send to one place adds up
        flat = torch.zeros(*size[:2], size[2] * size[3])
        return flat.scatter_add_(2, switches.flatten(2), signal.flatten(2)).reshape(size)

    return step


def randomised(module):
    """Batch norms with scales of both signs and real statistics."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, low, high in (
                (part.weight, -1.5, 1.5), (part.bias, -0.5, 0.5), (part.running_mean, -0.3, 0.3),
                (part.running_var, 0.5, 2.0),
            ):  # fmt: skip
                nn.init.uniform_(tensor, low, high)
    return module.eval()


PLAIN = [
    nn.Conv2d(3, 8, 5, stride=2, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
    nn.Conv2d(8, 12, 3, padding=2, dilation=2, groups=4), nn.BatchNorm2d(12), nn.ReLU6(), nn.MaxPool2d(2),
    nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
    nn.Conv2d(12, 10, (3, 1), stride=(2, 1)),
]  # fmt: skip


@pytest.fixture(scope="module")
def chain():
    torch.manual_seed(0)
    for layer in PLAIN:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()  # made at import, from whatever the generator held then
    reused = randomised(nn.Sequential(*PLAIN))
    return backbone_of(stem=reused, logits=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1)))


@pytest.mark.parametrize("length", [1, 5, 9, 11])
@torch.no_grad()
def test_a_chain_equals_the_explicit_deconvnet(chain, length):
    x = torch.rand(4, 3, 37, 46, generator=torch.Generator().manual_seed(1)) - 0.3
    layer = [name for name in conv_layers(chain)][[1, 5, 9, 11].index(length)]
    filters = [3, 0, 7, 2]
    expected, places = explicit_deconvnet(PLAIN[:length], x, filters)
    found = Deconv(chain).project(x, layer, torch.tensor(filters))
    assert found.places_N2.tolist() == [list(place) for place in places]
    assert_near(found.signal_NCHW, expected)


@torch.no_grad()
def test_a_unit_at_a_given_place(chain):
    x = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(2)) - 0.3
    maps = nn.Sequential(*PLAIN[:5])(x)
    filters, places = [4, 6], []
    for number, filter in enumerate(filters):  # any unit that fires but is not the strongest
        order = maps[number, filter].flatten().argsort(descending=True)
        places.append(divmod(int(order[3]), maps.shape[3]))
    expected, _ = explicit_deconvnet(PLAIN[:5], x, filters, places)
    found = Deconv(chain).project(x, "stem.3", torch.tensor(filters), torch.tensor(places))
    assert found.values_N.tolist() == pytest.approx([float(maps[i, filters[i]][places[i]]) for i in range(2)])
    assert_near(found.signal_NCHW, expected)


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(3)
    return build_backbone("vgg16", "none")


@torch.no_grad()
def test_the_first_layers_of_vgg(vgg):
    torch.manual_seed(3)
    images = torch.randint(256, (2, 3, 48, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(v)[:, None, None] for v in (vgg.spec.mean, vgg.spec.std))
    chain = [*vgg.body.block1, *vgg.body.block2, *list(vgg.body.block3)[:3]]
    filters = [5, 200]
    expected, places = explicit_deconvnet(chain, (images / 255 - mean) / std, filters)
    found = Deconv(vgg).project(images, "block3.2", torch.tensor(filters))
    assert found.places_N2.tolist() == [list(place) for place in places]
    assert_near(found.signal_NCHW, expected)


@torch.no_grad()
def test_squeezenet_through_its_concatenations(data_dir):
    net = build_backbone("squeezenet1_0", str(data_dir / "weights" / "squeezenet1_0.pth"))
    x = torch.rand(2, 3, 80, 70, generator=torch.Generator().manual_seed(4))
    mean, std = (torch.tensor(v)[:, None, None] for v in (net.spec.mean, net.spec.std))
    conv, _, pool = net.body.stem
    fire2, fire3 = net.body.fire2[0], net.body.fire3[0]
    # forward
    start = (x - mean) / std
    first = conv(start)
    pooled, switches = F.max_pool2d(first.relu(), 3, 2, ceil_mode=True, return_indices=True)
    squeezed = fire2.squeeze(pooled)
    joined = torch.cat([fire2.expand1x1(squeezed.relu()), fire2.expand3x3(squeezed.relu())], 1)
    narrow = fire3.squeeze(joined.relu())
    last = fire3.expand3x3(narrow.relu())
    filters = [10, 33]
    places = [divmod(int(last[i, f].argmax()), last.shape[3]) for i, f in enumerate(filters)]
    # and back
    signal = F.relu(F.conv_transpose2d(seed_of(last, filters, places), fire3.expand3x3.weight, padding=1))
    signal = F.relu(F.conv_transpose2d(signal, fire3.squeeze.weight))
    one, three = signal.split(64, 1)
    signal = F.conv_transpose2d(one, fire2.expand1x1.weight) + F.conv_transpose2d(
        three, fire2.expand3x3.weight, padding=1
    )
    signal = F.conv_transpose2d(F.relu(signal), fire2.squeeze.weight)
    signal = F.relu(unpooling(pool, switches, first.shape)(signal))
    expected = transposed(conv, x.shape)(signal)
    found = Deconv(net).project(x, "fire3.expand3x3", torch.tensor(filters))
    assert found.places_N2.tolist() == [list(place) for place in places]
    assert_near(found.signal_NCHW, expected)


@torch.no_grad()
def test_a_residual_block_with_one_relu_in_place():
    torch.manual_seed(5)
    net = randomised(build_backbone("resnet18", "none"))
    x = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(v)[:, None, None] for v in (net.spec.mean, net.spec.std))
    conv, norm, _, pool = net.body.stem
    block = net.body.layer1[0]
    first = norm(conv((x - mean) / std))
    pooled, switches = F.max_pool2d(first.relu(), 3, 2, 1, return_indices=True)
    joined = block.bn2(block.conv2(block.bn1(block.conv1(pooled)).relu())) + pooled
    following = net.body.layer1[1]
    last = following.bn1(following.conv1(joined.relu()))
    filters = [7, 60]
    places = [divmod(int(last[i, f].argmax()), last.shape[3]) for i, f in enumerate(filters)]

    def back(signal, conv, norm, size):
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None]
        return transposed(conv, size)(signal * scale)

    signal = F.relu(back(seed_of(last, filters, places), following.conv1, following.bn1, joined.shape))
    branch = F.relu(back(signal, block.conv2, block.bn2, pooled.shape))
    signal = back(branch, block.conv1, block.bn1, pooled.shape) + signal
    signal = F.relu(unpooling(pool, switches, first.shape)(signal))
    expected = back(signal, conv, norm, x.shape)
    found = Deconv(net).project(x, "layer1.1.conv1", torch.tensor(filters))
    assert_near(found.signal_NCHW, expected)
    # the activation of conv2 is the branch alone, though the block adds its input in place
    branch_only = block.bn2(block.conv2(block.bn1(block.conv1(pooled)).relu()))
    assert_near(Deconv(net).activations(x, "layer1.0.conv2"), branch_only)


def test_the_gradient_rule_is_the_gradient(chain):
    x = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(6)).requires_grad_()
    maps = nn.Sequential(*PLAIN)(x)
    filters = torch.tensor([1, 2, 3])
    places = strongest_places(maps[torch.arange(3), filters].detach())
    units = maps[torch.arange(3), filters, places[:, 0], places[:, 1]]
    (gradient,) = torch.autograd.grad((units * units.detach().relu()).sum(), x)
    found = Deconv(chain, "gradient").project(x.detach(), "stem.10", filters)
    assert_near(found.signal_NCHW, gradient)
    for rule in ("deconv", "guided"):
        other = Deconv(chain, rule).project(x.detach(), "stem.10", filters).signal_NCHW
        assert (other - gradient).abs().max() > 0.1 * gradient.abs().max()


def test_guided_lets_pass_what_is_positive_on_both_ways():
    x = torch.tensor([-1.0, 2.0, 3.0, 7.0], requires_grad=True)
    signal = torch.tensor([1.0, -1.0, 2.0, 4.0])
    expected = {
        "deconv": ([1, 0, 2, 4], [1, 0, 2, 4]),
        "guided": ([0, 0, 2, 4], [0, 0, 2, 0]),
        "gradient": ([0, -1, 2, 4], [0, -1, 2, 0]),
    }
    for rule, results in expected.items():
        for act, result in zip((F.relu, F.relu6), results, strict=True):
            with Rectified(rule):
                y = act(x)
            assert y.tolist() == act(x).tolist()
            assert torch.autograd.grad(y, x, signal)[0].tolist() == result


@pytest.mark.parametrize(
    "act",
    [
        torch.relu, torch.Tensor.relu, F.relu, nn.ReLU(), nn.ReLU(inplace=True), torch.relu_, torch.Tensor.relu_,
        F.relu6, nn.ReLU6(inplace=True), lambda x: F.hardtanh(x, 0, 6), lambda x: F.hardtanh_(x, min_val=0, max_val=6),
    ],
)  # fmt: skip
def test_every_way_to_write_a_rectifier_is_met(act):
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    with Rectified("deconv"):
        y = act(x * 1)
    assert torch.autograd.grad(y, x, torch.tensor([5.0, -5.0]))[0].tolist() == [5, 0]


# --- many networks ------------------------------------------------------------------------------------------------


NETWORKS = (
    "squeezenet1_0", "squeezenet1_1", "vgg16", "vgg19", "resnet18", "resnet50", "mobilenet_v2", "efficientnet_lite0",
    "googlenet", "mobilenet_v1", "residual", "inception",
)  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_of_a_network_is_reached(name):
    torch.manual_seed(7)
    net = build_backbone(name, "none")
    deconv = Deconv(net)
    convs = [part for part in net.modules() if isinstance(part, nn.Conv2d)]
    assert [layer.conv for layer in deconv.layers.values()] == convs
    fields = receptive_fields(net, (64, 64), deconv.layers)
    x = torch.rand(1, 3, 64, 64)
    names = list(deconv.layers)
    for layer in (names[0], names[len(names) // 2], names[-1]):
        activation = deconv.activations(x, layer)
        assert activation.shape[1] == deconv.layers[layer].num_filters
        filter = int(activation.amax((0, 2, 3)).argmax())
        found = deconv.project(x, layer, torch.tensor([filter]))
        assert float(found.values_N) == pytest.approx(float(activation[0, filter].max()))
        inside = torch.zeros(64, 64, dtype=torch.bool)
        top, left, bottom, right = fields[layer].box(tuple(found.places_N2[0].tolist()))
        inside[top:bottom, left:right] = True
        assert found.signal_NCHW[0][:, inside].abs().max() > 0
        assert not found.signal_NCHW[0][:, ~inside].any()


def test_names_for_people(vgg):
    names = {name: list(conv_layers(build_backbone(name, "none"))) for name in ("squeezenet1_1", "resnet18")}
    assert names["squeezenet1_1"][:4] == ["stem", "fire2.squeeze", "fire2.expand1x1", "fire2.expand3x3"]
    assert "fire4.expand3x3" in names["squeezenet1_1"] and "logits" in names["squeezenet1_1"]
    assert names["resnet18"][:3] == ["stem", "layer1.0.conv1", "layer1.0.conv2"]
    assert "layer2.0.downsample" in names["resnet18"]
    assert list(conv_layers(vgg))[:3] == ["block1.0", "block1.2", "block2.0"]
    lite = list(conv_layers(build_backbone("efficientnet_lite0", "none")))
    assert lite[:4] == ["stem", "stage1.layers.0", "stage1.layers.1", "stage2.0.layers.0"]


def test_an_activation_is_behind_its_batch_norm():
    torch.manual_seed(8)
    net = randomised(build_backbone("efficientnet_lite0", "none"))
    x = torch.rand(1, 3, 64, 64)
    mean, std = net.spec.mean[0], net.spec.std[0]
    with torch.no_grad():
        conv, norm, _ = net.body.stage1[0].layers[0]
        expected = norm(conv(net.body.stem((x - mean) / std)))
    assert_near(Deconv(net).activations(x, "stage1.layers.0"), expected)


def test_images_are_normalised_as_for_features():
    net = build_backbone("squeezenet1_1", "none")
    for images in (torch.randint(256, (2, 3, 9, 8), dtype=torch.uint8), torch.rand(2, 3, 9, 8)):
        assert torch.equal(normalised(images, net), build_extractor(net).normalised(images))


def test_images_of_an_inference_mode_and_of_bytes(chain):
    images = torch.randint(256, (2, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(9))
    deconv = Deconv(chain)
    filters = deconv.activations(images / 255, "stem.3").amax((2, 3)).argmax(1)  # those that fire
    expected = deconv.project(images / 255, "stem.3", filters)
    with torch.inference_mode():
        found = deconv.project(images.clone(), "stem.3", filters)
    assert torch.equal(found.signal_NCHW, expected.signal_NCHW) and expected.signal_NCHW.any()


def test_the_network_is_left_alone():
    net = build_backbone("resnet18", "none")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        logits = net(x)
    Deconv(net).project(x, "layer2.0.conv1", torch.tensor([0]))
    receptive_field(net, "layer2.0.conv1", (64, 64), (0, 0))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None and parameter.device.type == "cpu" for parameter in net.parameters())
    assert not any(part._forward_hooks or part._backward_hooks for part in net.modules())
    with torch.no_grad():
        assert torch.equal(net(x), logits)


def test_threads_do_not_see_each_other(chain):
    images = torch.rand(6, 3, 40, 40)
    filters = torch.arange(6)
    work = [(layer, rule) for layer in ("stem.3", "stem.7", "stem.10") for rule in ("deconv", "gradient")]
    alone = [Deconv(chain, rule).project(images, layer, filters).signal_NCHW for layer, rule in work]
    together = [[] for _ in work]

    def run(number):
        layer, rule = work[number]
        for _ in range(10):
            together[number].append(Deconv(chain, rule).project(images, layer, filters).signal_NCHW)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, found in zip(alone, together, strict=True):
        assert len(found) == 10 and all(torch.equal(one, expected) for one in found)


def test_a_unit_that_does_not_fire_projects_to_nothing(chain):
    x = torch.rand(1, 3, 40, 40)
    maps = Deconv(chain).activations(x, "stem.3")
    filter, row, column = (int(i) for i in (maps[0] == maps.min()).nonzero()[0])
    found = Deconv(chain).project(x, "stem.3", torch.tensor([filter]), torch.tensor([[row, column]]))
    assert float(found.values_N) < 0 and not found.signal_NCHW.any()


def test_of_equal_units_the_first_counts():
    maps = torch.tensor([[[1.0, 3.0, 0.0], [3.0, 3.0, 0.0]], [[-1.0, -1.0, -1.0], [-1.0, -1.0, -1.0]]])
    assert strongest_places(maps).tolist() == [[0, 1], [0, 0]]


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, found", [("efficientnet_b0", "sigmoid, silu"), ("mobilenet_v3_small", "hardsigmoid, hardswish")]
)
def test_networks_with_other_activations(name, found):
    net = build_backbone(name, "none")
    for rule in ("deconv", "guided"):
        with pytest.raises(OptionError, match=f"^{name} has {found}: .* such as squeezenet1_1"):
            Deconv(net, rule)
    signal = Deconv(net, "gradient").project(torch.rand(1, 3, 64, 64), "stem", torch.tensor([0])).signal_NCHW
    assert signal.shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    "name, rule",
    [
        ("squeezenet1_1", "deconv"), ("resnet18", "deconv"), ("googlenet", "deconv"), ("mobilenet_v2", "guided"),
        ("efficientnet_lite0", "guided"), ("efficientnet_b0", "gradient"),
    ],
)  # fmt: skip
def test_the_rule_that_suits_a_network(name, rule):
    assert suited_rule(build_backbone(name, "none").body, 3, 64, 64) == rule


def test_without_switches_deconv_shows_the_same_for_every_image(chain):
    """What `suited_rule` is for."""
    torch.manual_seed(12)
    layers = nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3)
    strided = backbone_of(stem=nn.Sequential(*layers), logits=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1)))
    x = torch.rand(2, 3, 40, 40)
    for net, layer, rule, is_same in (
        (strided, "stem.4", "deconv", True), (strided, "stem.4", "guided", False), (chain, "stem.7", "deconv", False),
    ):  # fmt: skip
        filter = int(Deconv(net).activations(x, layer).amin(0)[:, 1, 1].argmax())
        found = Deconv(net, rule).project(x, layer, torch.full((2,), filter), torch.ones(2, 2, dtype=torch.int64))
        assert found.values_N.min() > 0
        one, other = found.signal_NCHW / found.values_N[:, None, None, None]
        assert one.any() and torch.allclose(one, other, atol=1e-6 * float(one.abs().max())) == is_same


def test_a_hardtanh_that_is_no_relu6_is_another_activation():
    assert other_activations(nn.Hardtanh(), 3, 8, 8) == ["hardtanh"]
    assert other_activations(nn.Hardtanh(0, 4), 3, 8, 8) == []


def test_names_rules_filters_and_places_that_are_not_there(chain):
    deconv, x = Deconv(chain), torch.rand(2, 3, 40, 40)
    with pytest.raises(UnknownNameError, match="unknown rule 'magic'; known: deconv, guided, gradient"):
        Deconv(chain, "magic")
    with pytest.raises(UnknownNameError, match="unknown conv layer of ours 'stem.1'; known: stem.0, stem.3, stem.7, "):
        deconv.activations(x, "stem.1")
    with pytest.raises(UnknownNameError, match="conv layer of ours"):
        receptive_field(chain, "nowhere", (40, 40), (0, 0))
    with pytest.raises(OptionError, match=r"stem.0 has filters 0 to 7, got \[0, 8\]"):
        deconv.project(x, "stem.0", torch.tensor([0, 8]))
    with pytest.raises(OptionError, match="one filter for each of 2 images"):
        deconv.project(x, "stem.0", torch.tensor([0]))
    with pytest.raises(OptionError, match=r"a map of \[19, 19\] here, got places \[\[0, 0\], \[0, 19\]\]"):
        deconv.project(x, "stem.0", torch.tensor([0, 1]), torch.tensor([[0, 0], [0, 19]]))
    with pytest.raises(OptionError, match=r"a map of \[19, 19\] here, got place \[19, 0\]"):
        receptive_field(chain, "stem.0", (40, 40), (19, 0))


# --- receptive fields ---------------------------------------------------------------------------------------------


def all_see_all(net):
    """The network with positive weights and with means for maxima: every pixel in reach gets a gradient."""
    net = net.double()
    for part in net.modules():
        for name, child in part.named_children():
            if isinstance(child, nn.MaxPool2d):
                pool = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(part, name, pool)
            elif isinstance(child, nn.BatchNorm2d | nn.ReLU | nn.ReLU6):
                setattr(part, name, nn.Identity())
            elif isinstance(child, nn.Conv2d):
                nn.init.constant_(child.weight, 1 / child.weight[0].numel())
                child.bias = None
    return net.requires_grad_(False)


def box_of_gradient(net, layer, height, width, place):
    x = torch.ones(1, 3, height, width, dtype=torch.float64, requires_grad=True)
    seen, target = [], conv_layers(net)[layer]
    handle = target.conv.register_forward_hook(lambda *call: seen.append(call[2]))
    net.split(target.stage)[0](x)
    handle.remove()
    (gradient,) = torch.autograd.grad(seen[0][0, :, place[0], place[1]].sum(), x)
    rows, columns = gradient[0].abs().sum(0).nonzero().T
    return int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1


@pytest.mark.parametrize(
    "name, layers",
    [
        ("squeezenet1_0", ["stem", "fire3.squeeze", "fire4.expand1x1", "fire4.expand3x3"]),
        ("resnet18", ["stem", "layer1.0.conv2", "layer2.0.downsample", "layer2.1.conv1"]),
        ("mobilenet_v2", ["block1.conv.0", "block4.conv.1"]),
        ("efficientnet_lite0", ["stem", "stage2.1.layers.1", "stage3.0.layers.1"]),
        ("googlenet", ["inception3a.branch3.1.conv", "inception3b.branch4.conv"]),
    ],
)
def test_a_receptive_field_is_where_the_gradient_is(name, layers):
    net = build_backbone(name, "none")
    height, width = 75, 98
    fields = receptive_fields(net, (height, width), layers)
    all_see_all(net)
    for layer in layers:
        rows, columns = (len(axis.starts) for axis in (fields[layer].rows, fields[layer].columns))
        for place in ((0, 0), (rows // 2, columns // 3), (rows - 1, columns - 1), (rows - 1, 0)):
            assert fields[layer].box(place) == box_of_gradient(net, layer, height, width, place), (layer, place)


def test_receptive_fields_with_dilation_and_oblong_kernels(chain):
    height, width = 61, 70
    layers = ["stem.3", "stem.7", "stem.10"]
    fields = receptive_fields(chain, (height, width), layers)
    net = all_see_all(copy.deepcopy(chain))
    for layer in layers:
        rows, columns = (len(axis.starts) for axis in (fields[layer].rows, fields[layer].columns))
        for place in ((0, 0), (rows // 2, columns // 2), (rows - 1, columns - 1)):
            assert fields[layer].box(place) == box_of_gradient(net, layer, height, width, place), (layer, place)


def test_receptive_fields_by_hand(vgg):
    # 3x3 convolutions: one adds 1 px on each side; behind a 2x2 pooling 2 px for each
    assert receptive_field(vgg, "block1.0", (32, 32), (5, 6)) == (4, 5, 7, 8)
    assert receptive_field(vgg, "block1.2", (32, 32), (5, 6)) == (3, 4, 8, 9)
    assert receptive_field(vgg, "block1.2", (32, 32), (0, 31)) == (0, 29, 3, 32)
    assert receptive_field(vgg, "block2.0", (32, 32), (5, 6)) == (6, 8, 16, 18)


def test_windows_have_one_size_at_the_borders(vgg):
    field = receptive_fields(vgg, (32, 32), ["block2.0"])["block2.0"]
    assert field.window((5, 6)) == field.box((5, 6)) == (6, 8, 16, 18)
    assert field.window((0, 15)) == (-4, 26, 6, 36)
    assert field.box((0, 15)) == (0, 26, 6, 32)


def test_weights_are_not_copied():
    net = build_backbone("squeezenet1_1", "none")
    hollow = without_weights(net)
    assert all(tensor.is_meta for tensor in (*hollow.parameters(), *hollow.buffers()))
    assert hollow(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 1000)


# --- Grad-CAM -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cam_net():
    """Convolutions, the mean over places, a linear layer: for this design Zhou et al. (2015) have a map without
    gradients, the maps' sum with the linear layer's weights."""
    torch.manual_seed(9)
    below = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(inplace=True),
    )
    above = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(16, 5))
    return below, above


def test_grad_cam_is_cam_where_that_is_defined(cam_net):
    below, above = cam_net
    x = torch.rand(3, 3, 20, 26)
    with torch.no_grad():
        maps = below(x)
        cams_NKHW = torch.einsum("kc,nchw->nkhw", above[2].weight, maps)
        logits = above(maps)
    # of each image the class for and against which most speaks
    classes = torch.minimum(cams_NKHW.amax((2, 3)), -cams_NKHW.amin((2, 3))).argmax(1)
    cam = cams_NKHW[torch.arange(3), classes]
    assert (cam.amin((1, 2)) < 0).all()
    cam = cam.relu()
    heat, found_logits = grad_cam(below, above, x, classes)
    places = maps.shape[2] * maps.shape[3]
    assert cam.amax((1, 2)).min() > 0
    assert torch.allclose(heat * places, cam, atol=1e-5) and torch.allclose(found_logits, logits, atol=1e-6)


def test_grad_cam_where_places_differ(cam_net):
    """Behind a linear layer over all places the gradients are its weights; equations 1 and 2 by hand."""
    below, _ = cam_net
    torch.manual_seed(10)
    above = nn.Sequential(nn.Flatten(1), nn.Linear(16 * 8 * 11, 5))
    x, classes = torch.rand(2, 3, 20, 26), torch.tensor([3, 0])
    with torch.no_grad():
        alpha_NC = above[1].weight[classes].reshape(2, 16, 8, 11).mean((2, 3))
        expected = torch.einsum("nc,nchw->nhw", alpha_NC, below(x)).relu()
    assert_near(grad_cam(below, above, x, classes)[0], expected)


def test_grad_cam_of_the_winner_and_of_the_first_of_equals(cam_net):
    below, above = cam_net
    x = torch.rand(2, 3, 20, 20)
    best = above(below(x)).argmax(1)
    assert torch.equal(grad_cam(below, above, x)[0], grad_cam(below, above, x, best)[0])
    assert not torch.equal(grad_cam(below, above, x)[0], grad_cam(below, above, x, (best + 1) % 5)[0])
    assert winners(torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 1.0]])).tolist() == [1, 0]


def test_grad_cam_above_that_writes_in_place(cam_net):
    below, above = cam_net
    x = torch.rand(1, 3, 20, 20)
    expected, _ = grad_cam(below, lambda a: above(a * 2), x)
    assert expected.any() and torch.equal(grad_cam(below, lambda a: above(a.mul_(2)), x)[0], expected)
    with torch.inference_mode():
        assert torch.equal(grad_cam(below, lambda a: above(a.mul_(2)), x.clone())[0], expected)


@torch.no_grad()
def test_guided_backprop_by_hand(cam_net):
    below, above = cam_net
    x = torch.rand(2, 3, 20, 26)
    classes = torch.tensor([1, 3])
    first = below[0](x)
    pooled, switches = F.max_pool2d(first.relu(), 2, return_indices=True)
    last = below[3](pooled)
    signal = above[2].weight[classes][:, :, None, None].expand_as(last) / (last.shape[2] * last.shape[3])
    signal = F.conv_transpose2d(signal.relu() * (last > 0), below[3].weight)
    signal = F.max_unpool2d(signal, switches, 2, output_size=first.shape[2:])
    expected = F.conv_transpose2d(signal.relu() * (first > 0), below[0].weight, padding=1)
    found = guided_backprop(nn.Sequential(below, above), x, classes)
    assert_near(found, expected)
    heat = torch.rand(2, 10, 13)
    large = F.interpolate(heat[:, None], (20, 26), mode="bilinear")
    assert_near(guided_grad_cam(found, heat), expected * large)


def test_stages_with_maps(vgg):
    assert stages_with_maps(vgg.body, 3, 224, 224) == ["block1", "block2", "block3", "block4", "block5"]
    assert stages_with_maps(build_backbone("mobilenet_v3_small", "none").body, 3, 224, 224)[-1] == "head"
    resnet = build_backbone("resnet18", "none").body
    assert [stages_with_maps(resnet, 3, size, size)[-1] for size in (64, 32)] == ["layer4", "layer3"]
    with pytest.raises(OptionError, match="map larger than 1x1 for images of \\[4, 4\\] px"):
        stages_with_maps(nn.Sequential(nn.AdaptiveAvgPool2d(1)), 3, 4, 4)
