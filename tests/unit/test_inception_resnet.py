"""FaceNet's network: facenet-pytorch's numbers and names, and the ways to its weights."""

import urllib.request

import pytest
import torch
from torch import nn
from torch.hub import HASH_REGEX

from cnnray.errors import CheckpointError, UnknownNameError
from cnnray.nn.inception_resnet import (
    NUM_FEATURES,
    PUBLISHED,
    SIZE,
    InceptionResNetV1,
    adapt_published,
    load_inception_resnet,
)

SMALLEST = 75  # px


def faces(size, count=2, seed=0):
    """Images of 5 x 5 patches: unlike those of noise, which all look alike after some layers."""
    height, width = size if isinstance(size, tuple) else (size, size)
    patches = torch.randint(0, 256, (count, 3, 5, 5), generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(patches.to(torch.uint8), size=(height, width))


def normalised(images):
    """As facenet-pytorch's `fixed_image_standardization`, which its callers have to apply."""
    return (images.float() - 127.5) / 128


@pytest.fixture(scope="module")
def oracle():
    """facenet-pytorch's network with random weights, statistics of its batch norms included, and 8,631 classes."""
    facenet_pytorch = pytest.importorskip("facenet_pytorch")
    torch.manual_seed(0)
    network = facenet_pytorch.InceptionResnetV1(pretrained=None, classify=True, num_classes=8631)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)  # keeps the images' differences up to the embeddings
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
            nn.init.normal_(layer.running_mean, std=0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    network.classify = False
    return network.eval()


@pytest.fixture(scope="module")
def network(oracle):
    """Ours with the oracle's weights."""
    ours = InceptionResNetV1()
    ours.load_state_dict(adapt_published(oracle.state_dict()))
    return ours.eval()


@torch.inference_mode()
@pytest.mark.parametrize("size", [SIZE, SMALLEST, (96, 131)])
def test_embeddings_are_those_of_facenet_pytorch(size, oracle, network):
    expected = oracle(normalised(faces(size)))
    found = network(faces(size))
    assert found.shape == (2, NUM_FEATURES) and found.dtype == torch.float32
    assert (expected[0] - expected[1]).norm() > 0.05  # they depend on the image
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2), rtol=0, atol=1e-6)


def test_training_mode_is_that_of_facenet_pytorch(oracle):
    """Momentum and epsilon of the batch norms, and the dropout, show in the statistics and in the embeddings."""
    ours, theirs = InceptionResNetV1(), type(oracle)(pretrained=None)
    theirs.load_state_dict(adapt_published(oracle.state_dict()))
    ours.load_state_dict(theirs.state_dict())
    outputs = []
    for net, images in ((ours.train(), faces(96, 3)), (theirs.train(), normalised(faces(96, 3)))):
        torch.manual_seed(5)
        outputs.append(net(images))
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-5)


def test_names_and_shapes_are_those_of_facenet_pytorch_without_the_classifier(oracle):
    with torch.device("meta"):
        ours = {name: tensor.shape for name, tensor in InceptionResNetV1().state_dict().items()}
    theirs = {name: tensor.shape for name, tensor in oracle.state_dict().items()}
    assert theirs.keys() - ours.keys() == {"logits.weight", "logits.bias"}
    assert ours == {name: theirs[name] for name in ours}


@torch.inference_mode()
def test_uint8_and_float_images_agree_and_results_are_float32_under_autocast(network):
    images = faces(SMALLEST)
    expected = network(images)
    assert torch.equal(network(images.float()), expected)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = network(images)
    assert coarse.dtype == expected.dtype == torch.float32
    assert (coarse * expected).sum(1).min() > 0.999  # cosine; bfloat16 has 8 significant bits
    torch.testing.assert_close(coarse.norm(dim=1), torch.ones(2), rtol=0, atol=1e-6)


def test_gradients_reach_every_weight_in_training_mode():
    torch.manual_seed(0)
    net = InceptionResNetV1().train()
    embedded = net(faces(96))
    (embedded[0] - embedded[1]).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.conv2d_1a.conv.weight.grad.abs().sum() > 0


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published_like(oracle, tmp_path_factory):
    """A file with the classifier, as the published ones have it."""
    path = tmp_path_factory.mktemp("weights") / "published.pt"
    torch.save(oracle.state_dict(), path)
    return path


def no_network(*args, **kwargs):
    raise AssertionError("a file in the cache must not be downloaded")


@torch.inference_mode()
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_are_taken_from_torchs_cache(name, published_like, network, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    file = PUBLISHED[name].rpartition("/")[2]
    assert HASH_REGEX.search(file) is None and file.endswith(f"-{name}.pt")  # else the download would be refused
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / file).symlink_to(published_like)
    loaded = load_inception_resnet(name)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded(faces(SMALLEST)), network(faces(SMALLEST)))


@torch.inference_mode()
def test_files_in_the_older_format_of_torch_and_without_counters_load(oracle, network, tmp_path):
    state = {name: t for name, t in oracle.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    loaded = load_inception_resnet(str(tmp_path / "old.pt"))
    assert torch.equal(loaded(faces(SMALLEST)), network(faces(SMALLEST)))


def test_no_weights_are_random_ones_of_torchs_generator():
    torch.manual_seed(0)
    first = load_inception_resnet("none")
    torch.manual_seed(0)
    expected = InceptionResNetV1()
    assert not first.training and not any(p.requires_grad for p in first.parameters())
    assert torch.equal(first.last_linear.weight, expected.last_linear.weight)


def test_damaged_foreign_and_absent_files_are_refused(published_like, tmp_path):
    damaged, foreign = tmp_path / "damaged.pt", tmp_path / "foreign.pt"
    damaged.write_bytes(published_like.read_bytes()[:100_000])
    torch.save({"conv1.weight": torch.zeros(1)}, foreign)
    for path, message in (
        (damaged, "cannot read weights from"),
        (foreign, "do not fit: missing conv2d_1a.*unexpected conv1.weight"),
        (tmp_path / "absent.pt", "no file of weights at"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_inception_resnet(str(path))


@pytest.mark.parametrize("name", ["vggface3", ""])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(UnknownNameError, match="unknown weights .*vggface2, casia-webface, none, path"):
        load_inception_resnet(name)
