"""Real weights on real photos."""

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torchvision import models

from cnnray.nn.backbones import BACKBONES, build_backbone, build_extractor

# Folders of the shop whose kind is a class of ImageNet, and that class's name.
KINDS = {"Granny-Smith": "Granny Smith", "Banana": "banana", "Lemon": "lemon", "Pineapple": "pineapple",
         "Pomegranate": "pomegranate", "Orange": "orange"}  # fmt: skip


def photo(path, spec):
    """uint8 [3, size, size], resized and cropped as the network was trained."""
    image = Image.open(path).convert("RGB")
    scale = spec.resize / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling[spec.interpolation.upper()])
    left, top = ((side - spec.input_size) // 2 for side in image.size)
    crop = image.crop((left, top, left + spec.input_size, top + spec.input_size))
    return torch.from_numpy(np.array(crop)).permute(2, 0, 1)


@pytest.fixture(scope="module")
def groceries(data_dir):
    """Four photos of each kind, and the index of their class in ImageNet."""
    names = models.ResNet50_Weights.DEFAULT.meta["categories"]
    found = [
        (path, names.index(label))
        for kind, label in KINDS.items()
        for path in sorted((data_dir / "grocery" / "train" / kind).glob("*.jpg"))[:4]
    ]
    assert len(found) == 4 * len(KINDS)
    return found


def top5_accuracy(backbone, groceries):
    classify = build_extractor(backbone, "logits")
    with torch.inference_mode():
        logits = classify(torch.stack([photo(path, backbone.spec) for path, _ in groceries]))
    hits = [target in row for (_, target), row in zip(groceries, logits.topk(5).indices.tolist(), strict=True)]
    return sum(hits) / len(hits)


def test_lite0_knows_groceries(groceries):
    assert top5_accuracy(build_backbone("efficientnet_lite0"), groceries) >= 0.75


def test_squeezenet_from_a_file_knows_groceries(groceries, data_dir):
    backbone = build_backbone("squeezenet1_0", str(data_dir / "weights" / "squeezenet1_0.pth"))
    assert top5_accuracy(backbone, groceries) >= 0.6
    oracle = models.squeezenet1_0()
    oracle.load_state_dict(torch.load(data_dir / "weights" / "squeezenet1_0.pth", weights_only=True))
    x = photo(groceries[0][0], backbone.spec)[None] / 255
    with torch.inference_mode():
        assert torch.equal(backbone(x), oracle.eval()(x))


def test_random_weights_know_nothing(groceries):
    torch.manual_seed(0)
    assert top5_accuracy(build_backbone("squeezenet1_0", "none"), groceries) <= 0.2


def test_lite0_gives_what_its_publisher_gives_on_photos(groceries):
    spec = BACKBONES["efficientnet_lite0"]
    oracle = EfficientNet.from_name("efficientnet-lite0").eval()
    oracle.load_state_dict(torch.load(spec.fetch(), weights_only=True))
    x = torch.stack([photo(path, spec) for path, _ in groceries[::4]])
    with torch.inference_mode():
        ours = build_extractor(build_backbone("efficientnet_lite0"), "logits")(x)
        torch.testing.assert_close(ours, oracle((x.float() - 127) / 128), rtol=0, atol=1e-5)
