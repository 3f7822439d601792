"""Our own classic networks: torchvision's and the papers' figures, any depth and width, and that they learn."""

import pytest
import torch
from torch import nn
from torchvision import models

from cnnray.nn.backbones import build_backbone, find_spec
from cnnray.nn.classics import CLASSICS, classic, inception, modules_at, residual
from cnnray.nn.zoo import cost_table
from cnnray.ops.costs import count_costs

SCALES = [(1.0, 1.0), (2.0, 0.5), (0.5, 0.25), (1.2, 1.1), (0.05, 0.05)]


def params(build, **scale):
    with torch.device("meta"):
        return sum(p.numel() for p in build(**scale).parameters())


# --- oracles -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_residual_is_resnet18():
    torch.manual_seed(0)
    oracle, mine = models.resnet18().eval(), residual().eval()
    mine.load_state_dict(dict(zip(mine.state_dict(), oracle.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 75, 64)
    torch.testing.assert_close(mine(x), oracle(x), rtol=0, atol=1e-5)  # sums in another order
    assert sum(p.numel() for p in mine.parameters()) == 11_689_512


def test_inception_has_the_parameters_of_googlenet():
    with torch.device("meta"):
        oracle = models.googlenet(aux_logits=False, init_weights=False)
    assert params(inception, large_kernel=3) == sum(p.numel() for p in oracle.parameters())


def test_inceptions_modules_cost_what_the_paper_prints():
    """The operations of table 1, in millions without decimals; not 5a, whose 54 does not fit its channels (51)."""
    paper = {"3a": 128, "3b": 304, "4a": 73, "4b": 88, "4c": 100, "4d": 119, "4e": 170, "5b": 71}
    rows = cost_table("inception")
    for module, macs in paper.items():
        mine = [row.macs for row in rows if row.name.startswith(f"inception{module}.")]
        assert sum(mine) / 1e6 == pytest.approx(macs, abs=1), module


@pytest.mark.parametrize(
    ("width", "size", "macs", "params"),
    [(1, 224, 569, 4.2), (0.75, 224, 325, 2.6), (0.5, 224, 149, 1.3), (0.25, 224, 41, 0.5),
     (1, 192, 418, 4.2), (1, 160, 290, 4.2), (1, 128, 186, 4.2), (0.5, 160, 76, 1.3)],
)  # fmt: skip
def test_mobilenets_tables_by_name(width, size, macs, params):
    """Tables 6, 7 and 8 of the paper, in millions."""
    whole = cost_table(f"mobilenet_v1:width={width},size={size}")[-1]
    assert whole.macs / 1e6 == pytest.approx(macs, rel=0.012)
    assert whole.params / 1e6 == pytest.approx(params, abs=0.06)


@pytest.mark.parametrize("name", CLASSICS)
def test_a_step_of_the_dial_doubles_the_computations(name):
    """On average over four steps within 5 %; one step of EfficientNet within 12 %.

    Depth comes in whole blocks: one step takes the others' stages from two blocks to three, at 2.5 times the costs.
    """
    macs = [cost_table(f"{name}:phi={phi}")[-1].macs for phi in range(5)]
    steps = [larger / smaller for smaller, larger in zip(macs, macs[1:], strict=False)]
    assert (macs[-1] / macs[0]) ** (1 / 4) == pytest.approx(2, rel=0.05)
    assert all(step == pytest.approx(2, rel=0.12 if name == "efficientnet" else 0.25) for step in steps), steps


# --- depth and width -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSICS)
@pytest.mark.parametrize(("depth", "width"), SCALES)
def test_stages_are_known_without_building(name, depth, width):
    spec = classic(name, depth, width)
    with torch.device("meta"):
        network = spec.build()
    assert tuple(spec.stages(network)) == spec.taps
    for size in (32, 33, 224):
        assert network.eval()(torch.empty(2, 3, size, size, device="meta")).shape == (2, 1000)


@pytest.mark.parametrize("name", CLASSICS)
def test_the_plain_network_is_the_one_at_depth_and_width_1(name):
    with torch.device("meta"):
        plain, scaled = CLASSICS[name].build(), classic(name, 1.0, 1.0).build()
        deeper, wider = classic(name, 2.0, 1.0).build(), classic(name, 1.0, 2.0).build()
    assert count_costs(plain, 3, 64, 64) == count_costs(scaled, 3, 64, 64)
    assert len([*deeper.modules()]) > 1.6 * len([*plain.modules()])
    ratio = count_costs(wider, 3, 224, 224).macs / count_costs(plain, 3, 224, 224).macs
    assert 3.5 < ratio < 4  # the stem's input stays


def test_modules_are_repeated_and_left_out_evenly():
    assert [repeats for _, repeats in modules_at(2.0).values()] == [2] * 9
    assert list(modules_at(0.5)) == ["inception3b", "inception4b", "inception4d", "inception4e", "inception5b"]
    assert list(modules_at(0.01)) == ["inception3b", "inception4e", "inception5b"]
    assert {name[-2:]: repeats for name, (_, repeats) in modules_at(1.2).items()} == {
        "3a": 1, "3b": 2, "4a": 1, "4b": 1, "4c": 1, "4d": 1, "4e": 2, "5a": 1, "5b": 2,
    }  # fmt: skip


# --- they compute and learn ----------------------------------------------------------------------------------------


@torch.inference_mode()
@pytest.mark.parametrize("name", CLASSICS)
def test_an_image_has_the_same_answer_alone_and_in_a_batch(name):
    torch.manual_seed(0)
    backbone = build_backbone(f"{name}:size=48,width=0.25", "none")
    images = torch.randn(5, 3, 48, 48)
    together = backbone(images)
    alone = torch.cat([backbone(image[None]) for image in images])
    rounding = 1e-4 * float(together.abs().max())  # other kernels for other shapes add up in another order
    torch.testing.assert_close(together, alone, rtol=0, atol=rounding)
    assert together.isfinite().all() and not torch.equal(together[0], together[1])
    for tap in backbone.taps:
        lower, upper = backbone.split(tap)
        assert torch.equal(upper(lower(images)), together), tap


@pytest.mark.parametrize("name", CLASSICS)
def test_it_learns_to_tell_stripes_that_lie_from_stripes_that_stand(name):
    torch.manual_seed(0)
    spec = find_spec(f"{name}:size=32,width=0.25")
    network = spec.build().train()
    lying = (torch.arange(32) // 4 % 2).float().mul(2).sub(1).expand(3, 32, 32)
    labels = torch.arange(16) % 2
    images = torch.stack([lying.mT if label else lying for label in labels]) + 0.3 * torch.randn(16, 3, 32, 32)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    losses = []
    while not losses or (losses[-1] > 0.2 and len(losses) < 60):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 2 and losses[-1] < 0.2, losses
