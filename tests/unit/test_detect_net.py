"""The YOLO: what its cells say, its loss, and that it learns."""

import pytest
import torch

from cnnray.errors import OptionError
from cnnray.nn.backbones import BACKBONES
from cnnray.nn.detect import STRIDES, build_detect_net, detection_loss
from cnnray.nn.fold import fold_batch_norms
from cnnray.ops.assign import CROWD, PADDING
from cnnray.ops.detections import pick, picture_precision
from tests.detectors import ARCH, draw_shapes

BOXES = torch.tensor([[[5.0, 5, 40, 40]], [[20, 10, 60, 30]]])


def build(backbone=ARCH["backbone"], width=16, classes=2):
    torch.manual_seed(0)
    return build_detect_net({"backbone": backbone, "width": width}, classes)


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "resnet18", "mobilenet_v3_small", "googlenet", "vgg16"])
@pytest.mark.parametrize("height, width", [(64, 96), (32, 32), (160, 64)])
def test_every_cell_answers(backbone, height, width):
    net = build(backbone)
    with torch.no_grad():
        answers = net(torch.randint(0, 255, (2, 3, height, width), dtype=torch.uint8))
    count = sum((height // stride) * (width // stride) for stride in STRIDES)
    assert answers.logits_NAK.shape == (2, count, 2) and answers.boxes_NA4.shape == (2, count, 4)
    assert answers.centres_A2.shape == (count, 2) and answers.logits_NAK.dtype == torch.float32
    assert (answers.boxes_NA4[..., 2:] > answers.boxes_NA4[..., :2]).all()
    inside = (answers.centres_A2 > 0) & (answers.centres_A2 < torch.tensor([width, height]))
    assert inside.all() and answers.logits_NAK.sigmoid().mean() < 0.1


def test_every_backbone_of_whole_strides_carries_a_detector():
    known = {name for name in BACKBONES if name not in ("squeezenet1_0", "squeezenet1_1", "inception_v3")}
    for name in known - {"resnet152", "vgg19", *(f"efficientnet_b{n}" for n in range(1, 8))}:
        assert set(STRIDES) <= set(build(name).encoder.strides), name
    with pytest.raises(OptionError, match="maps of strides 8, 16, 32 for a detector, but squeezenet1_0 has 0, 0"):
        build("squeezenet1_0")


def test_numbers_out_of_range_are_refused():
    with pytest.raises(OptionError, match="at least 1 class and a width of at least 1, got 0 and 16"):
        build(classes=0)


def test_every_parameter_learns():
    net = build().train()
    of_each_grid = torch.tensor([[[8.0, 8, 28, 28], [30, 30, 70, 70], [4, 4, 92, 92]]] * 2)
    losses = detection_loss(net(torch.rand(2, 3, 96, 96)), of_each_grid, torch.tensor([[0, 1, 1]] * 2))
    losses.total.backward()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_the_loss_is_finite_whatever_there_is(count):
    net = build().train()
    corners = torch.rand(2, count, 2, 2, generator=torch.Generator().manual_seed(0)) * 64
    boxes = torch.cat([corners.amin(2), corners.amax(2)], dim=-1)
    labels = torch.zeros(2, count, dtype=torch.int64)
    losses = detection_loss(net(torch.rand(2, 3, 64, 64)), boxes, labels)
    (losses.total / losses.weight).backward()
    assert torch.isfinite(losses.total) and losses.weight >= 2
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_boxes_without_a_size_leave_the_loss_a_number():
    """A network that has not settled may say so; the proportions of such a box are 0 / 0."""
    net = build().train()
    with torch.no_grad():
        for head in net.heads:
            head.sides[2].bias.fill_(-200.0)
    losses = detection_loss(net(torch.rand(2, 3, 64, 64)), BOXES, torch.tensor([[0], [1]]))
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_padding_changes_nothing_and_a_crowd_costs_nothing():
    net, images = build(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        answers = net(images)
        plain = detection_loss(answers, BOXES, torch.tensor([[0], [1]]))
        padded = torch.cat([BOXES, torch.zeros(2, 3, 4)], dim=1)
        more = detection_loss(answers, padded, torch.tensor([[0] + [PADDING] * 3, [1] + [PADDING] * 3]))
        torch.testing.assert_close(more.total, plain.total)
        whole = torch.tensor([[[0.0, 0, 64, 64]]] * 2)
        crowd = detection_loss(answers, whole, torch.full((2, 1), CROWD))
        assert crowd.total == 0


def test_workers_sums_add_up_to_the_whole_batch():
    net, images, labels = build(), torch.rand(2, 3, 64, 64), torch.tensor([[0], [1]])
    with torch.no_grad():
        whole = detection_loss(net(images), BOXES, labels)
        parts = [detection_loss(net(images[[n]]), BOXES[[n]], labels[[n]]) for n in range(2)]
    torch.testing.assert_close(parts[0].total + parts[1].total, whole.total)
    torch.testing.assert_close(parts[0].weight + parts[1].weight, whole.weight)


def test_folded_it_says_the_same():
    net, images = build("efficientnet_lite0"), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = net(images)
        fold_batch_norms(net)
        after = net(images)
    torch.testing.assert_close(after.logits_NAK, before.logits_NAK, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(after.boxes_NA4, before.boxes_NA4, atol=1e-2, rtol=1e-3)


def test_two_pictures_are_learned_by_heart():
    net = build().train()
    drawn = [draw_shapes(seed) for seed in (1, 4)]  # two objects each
    images = torch.stack([torch.from_numpy(picture).permute(2, 0, 1) for picture, _ in drawn])
    boxes = torch.tensor([[box for box, _ in found] for _, found in drawn], dtype=torch.float32)
    labels = torch.tensor([[label for _, label in found] for _, found in drawn])
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(120):
        losses = detection_loss(net(images), boxes, labels)
        optimizer.zero_grad()
        (losses.total / losses.weight).backward()
        optimizer.step()
    with torch.no_grad():
        found = [pick(c, 0.3, 0.5) for c in net.candidates(net(images), 96)]  # statistics of these two pictures
    assert [picture_precision(*row) for row in zip(found, boxes, labels, strict=True)] == [1, 1]
