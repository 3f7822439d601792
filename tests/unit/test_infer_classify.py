"""The classifier from its checkpoint, against preprocessing and network written out by hand."""

import io
import math
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from cnnray.errors import CheckpointError, ImageError, OptionError
from cnnray.infer.classify import Classification, Classifier
from cnnray.nn.backbones import build_backbone, build_extractor
from cnnray.nn.checkpoint import Card, save_checkpoint
from cnnray.nn.device import choose_device, gpu_batches, num_cores, pad_batch
from cnnray.nn.heads import build_head
from cnnray.ops.augment import plain_view
from cnnray.ops.decode import decode
from tests.threads import watch

CLASSES = ["apple", "pear", "plum", "quince"]
SIZE, RESIZE = 64, 72


@pytest.fixture(scope="module")
def parts():
    """Backbone, head with random weights, and card."""
    torch.manual_seed(3)
    backbone = build_backbone("efficientnet_lite0")
    extractor = build_extractor(backbone, "", "avg")
    head = build_head("linear", extractor.num_features, len(CLASSES)).eval()
    torch.nn.init.normal_(head.body[-1].weight, std=0.05)
    head.set_standardisation(torch.rand(extractor.num_features), torch.rand(extractor.num_features) + 0.5)
    card = Card(
        task="classify",
        arch={
            "backbone": backbone.name, "tap": "", "pool": "avg", "backbone_sha256": backbone.weights_sha256,
            "head": "linear", "hidden": 512, "num_features": extractor.num_features,
        },
        classes=CLASSES,
        input={
            "size": SIZE, "resize": RESIZE, "interpolation": "bicubic",
            "mean": list(backbone.spec.mean), "std": list(backbone.spec.std),
        },
        metrics={"accuracy": 0.25},
    )  # fmt: skip
    return backbone, extractor, head, card


def save(uri, extractor, head, card):
    tensors = {f"backbone.{name}": t for name, t in extractor.state_dict().items()}
    tensors |= {f"head.{name}": t for name, t in head.state_dict().items()}
    save_checkpoint(str(uri), tensors, card)
    return str(uri)


@pytest.fixture(scope="module")
def checkpoint(parts, tmp_path_factory):
    return save(tmp_path_factory.mktemp("classifier"), *parts[1:])


@pytest.fixture(scope="module")
def classifier(checkpoint):
    return Classifier.load(checkpoint, device="cpu", precision="float32", threads=2)


@pytest.fixture(scope="module")
def photos():
    """Nine smooth random pictures of different sizes, encoded as PNG."""
    draw = np.random.default_rng(0)
    encoded = []
    for number in range(9):
        coarse = Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((80 + 20 * number, 200 - 10 * number), Image.Resampling.BICUBIC).save(file, "PNG")
        encoded.append(file.getvalue())
    return encoded


def slow_probabilities(parts, data):
    """One image, step by step, from the network's own stages and numbers: no extractor, head class or batch."""
    backbone, _, head, _ = parts
    view = plain_view(decode(data), size=SIZE, resize=RESIZE, interpolation="bicubic")
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (backbone.spec.mean, backbone.spec.std))
    x = ((view.double() / 255 - mean) / std).float()[None]
    with torch.no_grad():
        for name in backbone.taps[:-1]:
            x = backbone.body.get_submodule(name)(x)
        features = x.mean((2, 3))[0].double()
        linear = head.body[-1]
        logits = linear.weight.double() @ ((features - head.mean) / head.std) + linear.bias
    exponentials = [math.exp(value - float(logits.max())) for value in logits.tolist()]
    return [value / sum(exponentials) for value in exponentials]


def test_answers_equal_the_slow_reference(parts, classifier, photos):
    # float32 in another order of summation through 50 layers: 1e-5 of a probability
    for data, answer in zip(photos, classifier.predict(photos, top_k=4), strict=True):
        expected = slow_probabilities(parts, data)
        assert dict(answer.top) == pytest.approx(dict(zip(CLASSES, expected, strict=True)), abs=1e-5)
        best = int(np.argmax(expected))
        assert (answer.label, answer.probability) == (CLASSES[best], answer.top[0][1])
        assert [p for _, p in answer.top] == sorted((p for _, p in answer.top), reverse=True)
    assert len({answer.probability for answer in classifier.predict(photos)}) == len(photos)


def test_arrays_give_what_their_files_give(classifier, photos):
    arrays = [decode(data) for data in photos]
    assert classifier.predict(arrays) == classifier.predict(photos)


def test_bad_images_stay_in_their_places_and_spoil_no_other(classifier, photos):
    good = classifier.predict(photos[:4])
    mixed = classifier.predict([b"", photos[0], photos[1], b"text", photos[2], photos[3][:200], photos[3]])
    assert [getattr(r, "code", "ok") for r in mixed] == ["empty", "ok", "ok", "not_an_image", "ok", "truncated", "ok"]
    for result, expected in zip([mixed[1], mixed[2], mixed[4], mixed[6]], good, strict=True):
        assert (result.label, result.probability) == (expected.label, pytest.approx(expected.probability, abs=1e-5))
    only_bad = classifier.predict([b"", b"x"])
    assert len(only_bad) == 2 and all(isinstance(result, ImageError) for result in only_bad)
    assert classifier.predict([]) == []


def test_the_size_and_order_of_a_batch_do_not_matter(classifier, photos):
    alone = [classifier.predict([data])[0] for data in photos]
    for together, singles in (
        (classifier.predict(photos), alone),
        (classifier.predict(photos[::-1]), alone[::-1]),
        (classifier.predict(photos * 5), alone * 5),
    ):
        for one, other in zip(together, singles, strict=True):
            assert one.label == other.label
            # kernels may sum in another order at another batch size
            assert one.probability == pytest.approx(other.probability, abs=1e-5)
    assert classifier.predict(photos) == classifier.predict(photos)


@pytest.mark.parametrize(("most", "sizes"), [(1, {1}), (5, {1, 2, 3}), (32, {1, 2, 3, 4})])
def test_warmed_up_each_thread_has_seen_each_number_of_images(classifier, photos, monkeypatch, most, sizes):
    before, calls = classifier.predict(photos), watch(monkeypatch, classifier, "_forward")
    classifier.warm_up(most)
    seen = {(thread, len(images)) for thread, (images,) in calls}
    assert len(calls) == len(seen) == 2 * len(sizes) and {size for _, size in seen} == sizes
    calls.clear()
    assert classifier.predict((photos * 4)[:most])[0].label == before[0].label
    assert {(thread, len(images)) for thread, (images,) in calls} <= seen  # nothing comes that was not there


def test_top_k(classifier, photos):
    (full,) = classifier.predict(photos[:1], top_k=100)
    assert len(full.top) == len(CLASSES) and sum(p for _, p in full.top) == pytest.approx(1, abs=1e-6)
    for top_k in (1, 2):
        assert classifier.predict(photos[:1], top_k=top_k)[0].top == full.top[:top_k]
    with pytest.raises(OptionError, match="top_k must be at least 1, got 0"):
        classifier.predict(photos[:1], top_k=0)


def test_equal_probabilities_keep_the_order_of_the_classes(parts, tmp_path):
    _, extractor, _, card = parts
    head = build_head("linear", extractor.num_features, len(CLASSES))  # starts at zero: all classes alike
    classifier = Classifier(extractor, head, card, device="cpu", threads=1)
    (answer,) = classifier.predict([np.zeros((10, 10, 3), np.uint8)])
    assert answer == Classification("apple", 0.25, tuple((name, 0.25) for name in CLASSES))


@pytest.mark.parametrize(
    "shape, dtype", [((5, 5), "uint8"), ((5, 5, 4), "uint8"), ((5, 5, 3), "float32"), ((0, 5, 3), "uint8")]
)
def test_arrays_that_are_no_images_are_refused(classifier, shape, dtype):
    with pytest.raises(OptionError, match="expected uint8 images"):
        classifier.predict([np.zeros(shape, dtype)])


def test_description(classifier, parts):
    described = classifier.describe()
    digest = classifier.card.weights_sha256
    assert described == {
        "name": f"efficientnet_lite0@{digest[:12]}",
        "task": "classify",
        "classes": 4,
        "input_size": SIZE,
        "weights_sha256": digest,
        "backbone": "efficientnet_lite0",
        "metrics": {"accuracy": 0.25},
    }
    assert classifier.classes == tuple(CLASSES)


def test_bfloat16_is_near_float32(checkpoint, classifier, photos):
    half = Classifier.load(checkpoint, device="cpu", precision="bfloat16", threads=2)
    for one, other in zip(half.predict(photos, top_k=4), classifier.predict(photos, top_k=4), strict=True):
        assert dict(one.top) == pytest.approx(dict(other.top), abs=0.05)  # 8 bits of mantissa


def test_an_mlp_head_loads_too(parts, tmp_path, photos):
    _, extractor, _, card = parts
    head = build_head("mlp", extractor.num_features, len(CLASSES), hidden=8)
    arch = {**card.arch, "head": "mlp", "hidden": 8}
    uri = save(tmp_path, extractor, head, Card(task="classify", arch=arch, classes=CLASSES, input=card.input))
    (answer,) = Classifier.load(uri, threads=1).predict(photos[:1])
    assert isinstance(answer, Classification)


# --- checkpoints that cannot be used ------------------------------------------------------------------------------


def test_an_absent_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        Classifier.load(str(tmp_path / "nothing"))


@pytest.mark.parametrize("name", ["model.safetensors", "card.json"])
@pytest.mark.parametrize("damage", ["cut short", "one bit flipped", "gone"])
def test_a_damaged_checkpoint(checkpoint, tmp_path, name, damage):
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    content = bytearray((tmp_path / name).read_bytes())
    if damage == "cut short":
        content = content[: len(content) // 2]
    content[len(content) // 3] ^= 1
    (tmp_path / name).write_bytes(content)
    if damage == "gone":
        (tmp_path / name).unlink()
    with pytest.raises(CheckpointError):
        Classifier.load(str(tmp_path))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"task": "detect"}, "expected task 'classify'"),
        ({"classes": []}, "lacks classes"),
        ({"classes": ["a", "b"]}, "wrong shape"),
        ({"input": {"size": 64}}, "lacks resize, interpolation"),
        ({"arch": {"backbone": "efficientnet_lite0"}}, "lacks tap, pool, head, hidden, num_features"),
    ],
)
def test_a_card_that_does_not_fit(parts, tmp_path, change, message):
    _, extractor, head, card = parts
    fields = {"task": card.task, "arch": card.arch, "classes": card.classes, "input": card.input} | change
    with pytest.raises(CheckpointError, match=message):
        Classifier.load(save(tmp_path, extractor, head, Card(**fields)))


def test_a_backbone_or_tap_that_this_version_does_not_know(parts, tmp_path):
    _, extractor, head, card = parts
    for change, message in (({"backbone": "net9000"}, "unknown backbone 'net9000'"), ({"tap": "x"}, "unknown tap")):
        changed = Card(task="classify", arch=card.arch | change, classes=CLASSES, input=card.input)
        with pytest.raises(CheckpointError, match=f"another version of cnnray: {message}"):
            Classifier.load(save(tmp_path / next(iter(change)), extractor, head, changed))


def test_damaged_numbers_fail_the_self_test(parts, classifier):
    classifier.self_test()
    _, extractor, _, card = parts
    head = build_head("linear", extractor.num_features, len(CLASSES))
    head.body[-1].bias.data[1] = math.nan
    with pytest.raises(CheckpointError, match="failed its self-test"):
        Classifier(extractor, head, card, device="cpu", threads=1).self_test()


# --- device -------------------------------------------------------------------------------------------------------


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:x", "", "cpu:x"):
        with pytest.raises(OptionError, match="device must be auto, cpu, cuda"):
            choose_device(name)
    with pytest.raises(OptionError, match="expected a GPU for device 'cuda:99'"):
        choose_device("cuda:99")


@pytest.mark.parametrize(
    "quota, expected", [("max 100000", None), ("50000 100000", 1), ("100001 100000", 2), ("", None)]
)
def test_a_containers_quota_bounds_the_cores(tmp_path, quota, expected):
    cores = len(os.sched_getaffinity(0))
    (tmp_path / "cpu.max").write_text(quota)
    assert num_cores(tmp_path / "cpu.max") == min(cores, expected or cores)
    assert num_cores(tmp_path / "absent") == cores


def test_a_gpu_sees_few_numbers_of_images():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")  # neither is used
    assert [gpu_batches(most) for most in (1, 2, 3, 32, 33)] == [
        [1], [1, 2], [1, 2, 4], [1, 2, 4, 8, 16, 32], [1, 2, 4, 8, 16, 32, 64]
    ]  # fmt: skip
    for count in range(1, 40):
        images = torch.randint(0, 255, (count, 3, 2, 2), dtype=torch.uint8)
        padded = pad_batch(images, cuda)
        assert len(padded) in gpu_batches(count) and len(padded) < 2 * count
        assert torch.equal(padded[:count], images) and not padded[count:].any()
        assert pad_batch(images, cpu) is images
