"""Sliding windows, and one pass that says the same."""

import pytest
import torch
from torch import nn

from cnnray.errors import OptionError
from cnnray.nn.windows import FILLED, WINDOW, WindowDetector, WindowNet, fully_convolutional, total_stride
from cnnray.ops.windows import cut_windows, plan_windows, pyramid, window_boxes


def net(classes=4):
    torch.manual_seed(0)
    made = WindowNet(classes)
    with torch.no_grad():
        made.train()(torch.rand(64, 3, WINDOW, WINDOW))  # statistics that are not 0 and 1
    return made.eval()


@pytest.mark.parametrize("height, width", [(32, 32), (64, 48), (61, 95)])
def test_one_pass_says_what_the_windows_say(height, width):
    classifier, image = net(), torch.rand(3, height, width)
    stride = total_stride(classifier)
    corners = plan_windows(height, width, WINDOW, stride)
    with torch.no_grad():
        windows = classifier(cut_windows(image, corners, WINDOW))
        whole = fully_convolutional(classifier, WINDOW)(image[None])[0]
    assert whole.shape == (4, (height - WINDOW) // stride + 1, (width - WINDOW) // stride + 1)
    torch.testing.assert_close(whole.flatten(1).T, windows, atol=1e-4, rtol=1e-4)


def test_the_lectures_network():
    """14 x 14 x 3, 5x5 convolution to 16, a maximum over 2x2, 400 and 400 units, 4 classes: a 2 x 2 map on 16 x 16."""
    torch.manual_seed(0)
    lecture = nn.Sequential(
        nn.Conv2d(3, 16, 5), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 400),
        nn.ReLU(), nn.Linear(400, 4),
    )  # fmt: skip
    turned = fully_convolutional(lecture, 14)
    assert [tuple(layer.weight.shape) for layer in turned if isinstance(layer, nn.Conv2d)] == [
        (16, 3, 5, 5), (400, 16, 5, 5), (400, 400, 1, 1), (4, 400, 1, 1)
    ]  # fmt: skip
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        found = turned(image)
        assert found.shape == (1, 4, 2, 2) and total_stride(lecture) == 2
        for row in range(2):
            for column in range(2):
                window = image[..., 2 * row : 2 * row + 14, 2 * column : 2 * column + 14]
                torch.testing.assert_close(found[..., row, column], lecture(window), atol=1e-5, rtol=1e-4)
        assert turned(torch.rand(1, 3, 28, 28)).shape == (1, 4, 8, 8)


def test_a_global_average_becomes_one_over_the_window():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    image = torch.rand(1, 3, 21, 25)
    with torch.no_grad():
        found = fully_convolutional(network, 9)(image)
        corners = plan_windows(21, 25, 9, total_stride(network))
        torch.testing.assert_close(found[0].flatten(1).T, network(cut_windows(image[0], corners, 9)))


@pytest.mark.parametrize(
    "network, message",
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3)), "ends in linear layers"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), "begins with convolutions"),
        (nn.Sequential(nn.Conv2d(3, 8, 9), nn.Linear(1, 2)), "expected Flatten before"),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 2)),
            "a global average",
        ),
    ],
)
def test_what_cannot_be_turned_is_told(network, message):
    with pytest.raises(OptionError, match=message):
        fully_convolutional(network, 9)


def test_windows_and_their_boxes():
    assert plan_windows(10, 12, 8, 2).tolist() == [[0, 0], [0, 2], [0, 4], [2, 0], [2, 2], [2, 4]]
    assert plan_windows(7, 12, 8, 2).shape == (0, 2)
    assert cut_windows(torch.zeros(3, 7, 12), plan_windows(7, 12, 8, 2), 8).shape == (0, 3, 8, 8)
    assert window_boxes(torch.tensor([[2, 4]]), 8, 0.5).tolist() == [[8, 4, 24, 20]]
    with pytest.raises(OptionError, match="at least 1 px, got 8 and 0"):
        plan_windows(10, 10, 8, 0)


def test_the_pyramid_ends_where_no_window_fits():
    levels = list(pyramid(torch.zeros(3, 64, 100, dtype=torch.uint8), 30, 0.5))
    assert [(scale, tuple(image.shape)) for scale, image in levels] == [(1, (3, 64, 100)), (0.5, (3, 32, 50))]
    assert not list(pyramid(torch.zeros(3, 20, 100, dtype=torch.uint8), 30))
    with pytest.raises(OptionError, match="between 0 and 1, got 1"):
        next(pyramid(torch.zeros(3, 64, 64, dtype=torch.uint8), 30, 1))


def test_a_detector_of_windows_says_the_same_in_one_pass_and_one_by_one():
    detector = WindowDetector(3).eval()
    detector.classifier.load_state_dict(net(4).state_dict())
    image = torch.randint(0, 255, (1, 3, 61, 95), dtype=torch.uint8)
    with torch.no_grad():
        (fast,) = detector(image)
        detector.one_by_one = True
        (slow,) = detector(image)
    assert len(fast.boxes_A4) == len(slow.boxes_A4) == 8 * 16 + 3 * 9  # at 61 x 95 and at 43 x 67 px
    torch.testing.assert_close(fast.scores_AK, slow.scores_AK, atol=1e-4, rtol=1e-4)
    assert torch.equal(fast.boxes_A4, slow.boxes_A4)
    margin = WINDOW * (1 - FILLED) / 2
    assert fast.boxes_A4[1].tolist() == pytest.approx([4 + margin, margin, 36 - margin, 32 - margin])
    assert fast.scores_AK.shape[1] == 3 and (fast.scores_AK.sum(1) <= 1).all()  # the background is the rest


def test_it_is_turned_where_it_lies():
    """A network on another device than the CPU; this one only knows shapes."""
    turned = fully_convolutional(net().to("meta"), WINDOW)
    assert turned(torch.zeros(1, 3, 64, 48, device="meta")).shape == (1, 4, 9, 5)


def test_a_picture_too_small_for_a_window_holds_nothing():
    (found,) = WindowDetector(3).eval()(torch.zeros(1, 3, 31, 200, dtype=torch.uint8))
    assert found.scores_AK.shape == (0, 3) and found.boxes_A4.shape == (0, 4)
