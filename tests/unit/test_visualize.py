"""The strongest images of each filter against a search of all, reconstructions, and explanations of a classifier."""

import io
import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from cnnray.errors import CheckpointError, ImageError, OptionError, UnknownNameError
from cnnray.infer.classify import Classifier, load_parts
from cnnray.infer.explain import Explainer
from cnnray.infer.visualize import TopNine, reconstruct
from cnnray.nn.backbones import build_backbone, build_extractor
from cnnray.nn.checkpoint import Card
from cnnray.nn.deconv import Deconv
from cnnray.nn.gradcam import grad_cam
from cnnray.nn.heads import build_head
from cnnray.nn.receptive import receptive_field
from cnnray.ops.augment import plain_view
from cnnray.ops.decode import decode
from cnnray.ops.strongest import Strongest, merge_states, state_columns, state_from_columns
from tests.classifiers import CLASSES, save_classifier

LAYERS = ["fire2.expand3x3", "fire3.squeeze", "fire4.expand1x1"]


@pytest.fixture(scope="module")
def squeezenet(data_dir):
    return build_backbone("squeezenet1_0", str(data_dir / "weights" / "squeezenet1_0.pth"))


def smooth(count, seed=0, side=64):
    """Random pictures uint8 [count, 3, side, side] with edges and colours of some px."""
    coarse = torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return (fine * 255).to(torch.uint8)


# --- the strongest images -----------------------------------------------------------------------------------------


def brute_force(entries, num_filters, k):
    """Entries (filter, value, id, row, column): the k strongest of each filter by hand, each id once."""
    best = []
    for filter in range(num_filters):
        mine = {}
        for _, value, id, *place in sorted((e for e in entries if e[0] == filter and e[1] > 0), key=lambda e: e[1:]):
            if id not in mine or value > mine[id][0]:
                mine[id] = (value, *place)
        order = sorted(mine, key=lambda id: (-mine[id][0], id))[:k]
        best.append([(id, *mine[id]) for id in order])
    return best


def as_lists(layer):
    return [
        [(str(id), float(value), *map(int, place)) for id, value, place in zip(*row, strict=True) if value > 0]
        for row in zip(layer.ids_FK, layer.values_FK, layer.places_FK2, strict=True)
    ]


def test_top_nine_equals_a_search_of_all(squeezenet):
    images, ids = smooth(30), [f"photo-{number:02}" for number in range(30)]
    top = TopNine(squeezenet, LAYERS, device="cpu")
    for start in range(0, 30, 7):
        top.update(ids[start : start + 7], images[start : start + 7])
    deconv = Deconv(squeezenet)
    for layer in LAYERS:
        maps = torch.cat([deconv.activations(images[start : start + 4], layer) for start in range(0, 28, 4)])
        maps = torch.cat([maps, deconv.activations(images[26:], layer)[2:]])  # in fours, as in top
        entries = []
        for number, filter in itertools.product(range(30), range(maps.shape[1])):
            row, column = divmod(int(maps[number, filter].argmax()), maps.shape[3])
            entries.append((filter, float(maps[number, filter, row, column]), ids[number], row, column))
        assert as_lists(top.state[layer]) == brute_force(entries, maps.shape[1], 9)
    assert top.num_filters == {"fire2.expand3x3": 64, "fire3.squeeze": 16, "fire4.expand1x1": 128}


def test_the_order_of_the_images_and_their_repetition_do_not_matter(squeezenet):
    images, ids = smooth(12), [f"{number}" for number in range(12)]
    results = []
    for step, order in ((1, range(12)), (5, reversed(range(12))), (12, [*range(6), *range(3, 12), *range(12)])):
        top, order = TopNine(squeezenet, LAYERS[:2], k=4, device="cpu"), list(order)
        for start in range(0, len(order), step):
            part = order[start : start + step]
            top.update([ids[number] for number in part], images[part])
        results.append({name: as_lists(layer) for name, layer in top.state.items()})
    assert results[0] == results[1] == results[2]
    assert all(len(row) <= 4 for layer in results[0].values() for row in layer)


def random_part(draw, num_filters=5, count=12, k=3):
    """Few different values and ids, so that ties and repeated ids are common."""
    entries = [
        (draw.integers(num_filters), float(draw.integers(-1, 5)), str(draw.integers(9)), *draw.integers(0, 3, 2))
        for _ in range(count)
    ]
    part = Strongest.none(num_filters, k)
    for filter, value, id, row, column in entries:
        one = Strongest(
            np.array([[value]], np.float32), np.array([[id]]), np.array([[[row, column]]], np.int32)
        )  # fmt: skip
        part = part.with_candidates(np.array([filter]), one)
    return part, entries


@pytest.mark.parametrize("seed", range(20))
def test_merging_is_exact_and_in_any_order(seed):
    draw = np.random.default_rng(seed)
    parts, entries = zip(*(random_part(draw) for _ in range(3)), strict=True)
    # of one id with one value the first place counts, in reading order
    expected = brute_force([e for part in entries for e in sorted(part, key=lambda e: (e[1], e[3:]))], 5, 3)
    a, b, c = parts
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b), a.merge(a).merge(c).merge(b)):
        found = as_lists(merged)
        assert [[entry[:2] for entry in row] for row in found] == [[entry[:2] for entry in row] for row in expected]
        assert found == as_lists(a.merge(b).merge(c))


def test_ties_by_hand():
    def part(*entries):
        values, ids = zip(*entries, strict=True)
        found = Strongest(np.array([values], np.float32), np.array([ids]), np.zeros((1, len(ids), 2), np.int32))
        return Strongest.none(1, 2).with_candidates(np.array([0]), found)

    a, b = part((1.0, "b"), (2.0, "z")), part((1.0, "a"), (0.0, "0"), (np.nan, "1"), (-1.0, "2"))
    assert a.merge(b).ids_FK.tolist() == [["z", "a"]]
    assert b.ids_FK.tolist() == [["a", ""]] and b.values_FK.tolist() == [[1.0, -np.inf]]
    longer = part((3.0, "a-longer-name"))
    assert longer.merge(a).ids_FK.tolist() == a.merge(longer).ids_FK.tolist() == [["a-longer-name", "z"]]
    with pytest.raises(OptionError, match=r"\[1, 2\] and \[1, 3\]"):
        a.merge(Strongest.none(1, 3))
    with pytest.raises(OptionError, match="at least 1 image"):
        Strongest.none(1, 0)


def test_a_state_travels_as_a_table(squeezenet):
    images = smooth(10)
    halves = []
    for part in (slice(0, 5), slice(5, 10)):
        top = TopNine(squeezenet, LAYERS, k=6, device="cpu")
        top.update([f"photo-{number}" for number in range(10)][part], images[part])
        halves.append(top)
    table = pa.table(state_columns(halves[0].state))
    assert table.num_rows > 100 and table["rank"].to_numpy().max() == 4  # five images
    shuffled = table.take(np.random.default_rng(0).permutation(table.num_rows))
    columns = {name: shuffled[name].to_numpy() for name in shuffled.column_names}
    back = state_from_columns(columns, halves[0].num_filters, 6)
    for name in LAYERS:
        assert as_lists(back[name]) == as_lists(halves[0].state[name])
    merged = merge_states(back, halves[1].state)
    assert all(as_lists(merged[n]) == as_lists(halves[1].state[n].merge(halves[0].state[n])) for n in LAYERS)
    assert list(merge_states({"a": back[LAYERS[0]]}, {"b": back[LAYERS[1]]})) == ["a", "b"]
    none = TopNine(squeezenet, LAYERS, device="cpu")
    assert not len(state_columns(none.state)["id"])
    assert as_lists(state_from_columns(state_columns(none.state), none.num_filters, 9)[LAYERS[0]]) == [[]] * 64


def test_what_top_nine_refuses(squeezenet):
    with pytest.raises(UnknownNameError, match="unknown conv layer of squeezenet1_0 'x'; known: stem, fire2.squeeze"):
        TopNine(squeezenet, ["x"])
    with pytest.raises(OptionError, match="at least one layer"):
        TopNine(squeezenet, [])
    top = TopNine(squeezenet, LAYERS[:1], device="cpu")
    for ids in (["a"], ["a", ""], ["a", "b", "c"]):
        with pytest.raises(OptionError, match="an id for each of 2 images"):
            top.update(ids, smooth(2))


# --- reconstructions ----------------------------------------------------------------------------------------------


def test_a_reconstruction_is_the_projection_cut_out(squeezenet):
    images, layer = smooth(3), "fire3.expand3x3"
    deconv = Deconv(squeezenet)
    filters = deconv.activations(images, layer).amax((2, 3)).argsort(descending=True)[torch.arange(3), torch.arange(3)]
    projected = deconv.project(images, layer, filters)
    found = reconstruct(deconv, images, layer, filters)
    assert len({one.patch_HWC.shape for one in found}) == 1
    for number, one in enumerate(found):
        place = tuple(projected.places_N2[number].tolist())
        top, left, bottom, right = receptive_field(squeezenet, layer, (64, 64), place)
        y, x = top - one.box[0], left - one.box[1]
        inside = slice(y, y + bottom - top), slice(x, x + right - left)
        assert np.array_equal(one.patch_HWC[inside], images[number].permute(1, 2, 0).numpy()[top:bottom, left:right])
        signal = projected.signal_NCHW[number].permute(1, 2, 0).numpy()
        assert np.array_equal(one.signal_HWC[inside], signal[top:bottom, left:right])
        assert np.abs(one.signal_HWC).sum() == pytest.approx(np.abs(signal).sum(), rel=1e-5) and signal.any()
        assert one.value == pytest.approx(float(projected.values_N[number]))
    corner = reconstruct(deconv, images[:1], layer, filters[:1], torch.tensor([[0, 0]]))[0]
    assert corner.patch_HWC.shape == found[0].patch_HWC.shape and corner.box[0] < 0
    assert (corner.patch_HWC[: -corner.box[0]] == 128).all() and not corner.signal_HWC[: -corner.box[0]].any()


def test_the_part_that_fires_is_what_the_reconstruction_shows(squeezenet):
    """The signal is no noise: moving the photo a little along it makes the unit fire more than moving it at random.

    Most units, not all: the signal is not the gradient.
    """
    images, layer = smooth(20) / 255, "fire3.expand3x3"
    deconv = Deconv(squeezenet)
    filters = deconv.activations(images, layer).amax((2, 3)).argsort(descending=True)[:, 3]
    found = deconv.project(images, layer, filters)
    n, (rows, columns) = torch.arange(20), found.places_N2.T
    step = 0.02 * found.signal_NCHW / found.signal_NCHW.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-9)
    noise = 0.02 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).mul(found.signal_NCHW != 0)

    def fires(x):
        return deconv.activations(x, layer)[n, filters, rows, columns]

    by_signal, by_noise = (fires(images + change) - fires(images) for change in (step, noise))
    assert (by_signal > by_noise.clamp(min=0)).sum() >= 18 and by_signal.median() > 2 * by_noise.median()


# --- explanations -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_classifier(str(tmp_path_factory.mktemp("classifier")))


@pytest.fixture(scope="module")
def explainer(checkpoint):
    return Explainer.load(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def photo():
    """120 px high and 200 px wide, as a PNG."""
    pixels = smooth(1, seed=3, side=200)[0, :, :120].permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_an_explanation_says_what_the_classifier_says(checkpoint, explainer, photo):
    (answer,) = Classifier.load(checkpoint, device="cpu", precision="float32", threads=1).predict([photo])
    found = explainer.why(photo)
    assert found.label == answer.label and found.probability == pytest.approx(answer.probability, abs=1e-5)
    for label, probability in answer.top:
        assert explainer.why(photo, label).probability == pytest.approx(probability, abs=1e-5)


def test_the_heat_is_grad_cam_laid_over_the_photo(checkpoint, explainer, photo):
    found = explainer.why(photo, CLASSES[1])
    assert explainer.stage == "head"
    assert found.heat_HW.shape == (120, 200) and found.heat_HW.dtype == np.float32
    assert found.heat_HW.min() == 0 and 0.8 < found.heat_HW.max() <= 1
    top, left, bottom, right = found.seen  # 96 of 110 px of the shorter side
    assert (top, bottom) == pytest.approx((7 / 110 * 120, 103 / 110 * 120)) and right - left == pytest.approx(
        bottom - top, rel=0.01
    )
    assert not found.heat_HW[:, : int(left) - 1].any() and not found.heat_HW[: int(top) - 1].any()
    # by hand
    extractor, head, card = load_parts(checkpoint)
    view = plain_view(decode(photo), size=96, resize=110, interpolation=card.input["interpolation"])
    assert np.array_equal(found.view_HWC, view.permute(1, 2, 0).numpy())
    heat, _ = grad_cam(
        extractor.lower, lambda a: head(extractor.pooled(a)), extractor.normalised(view[None]), torch.tensor([1])
    )
    assert heat.shape == (1, 3, 3)
    row, column = divmod(int(heat.argmax()), 3)
    y, x = (top + (row + 0.5) / 3 * (bottom - top)), (left + (column + 0.5) / 3 * (right - left))
    assert found.heat_HW[int(y), int(x)] > 0.9


def test_a_given_stage(checkpoint, photo):
    explained = Explainer.load(checkpoint, stage="stage3", device="cpu").why(photo)
    assert explained.heat_HW.max() > 0 and explained.guided_HWC is not None
    with pytest.raises(
        UnknownNameError, match="unknown stage of efficientnet_lite0 with a map 'logits'; known: stem, stage1"
    ):
        Explainer.load(checkpoint, stage="logits")


def test_the_guided_picture_is_of_the_view(explainer, photo):
    found = explainer.why(photo)
    assert found.note == "" and found.guided_HWC.shape == (96, 96, 3) and found.guided_HWC.dtype == np.float32
    assert found.guided_HWC.min() < 0 < found.guided_HWC.max()
    others = [explainer.why(photo, label).guided_HWC for label in CLASSES]
    assert not np.array_equal(others[0], others[1])


def test_a_network_without_relu_has_heat_alone(photo):
    backbone = build_backbone("mobilenet_v3_small", "none")
    extractor = build_extractor(backbone, "fc", "avg")
    head = build_head("mlp", extractor.num_features, 2, 8)
    torch.manual_seed(1)
    torch.nn.init.normal_(head.body[-1].weight)
    card = Card(
        task="classify", arch={"backbone": "mobilenet_v3_small"}, classes=["a", "b"],
        input={"size": 96, "resize": 96, "interpolation": "bilinear"},
    )  # fmt: skip
    explainer = Explainer(extractor, head, card, device="cpu")
    assert explainer.stage == "head"  # the last with a map
    with pytest.raises(UnknownNameError, match="unknown stage of mobilenet_v3_small with a map 'fc'; known: stem, "):
        Explainer(extractor, head, card, stage="fc", device="cpu")
    found = explainer.why(photo, "b")
    assert found.heat_HW.shape == (120, 200) and found.guided_HWC is None
    assert found.note.startswith("no guided picture: mobilenet_v3_small has hardsigmoid, hardswish")


def test_what_an_explainer_refuses(explainer, photo, tmp_path):
    with pytest.raises(UnknownNameError, match="unknown class 'kiwi'; known: apple, pear, plum"):
        explainer.why(photo, "kiwi")
    with pytest.raises(ImageError):
        explainer.why(b"no image")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Explainer.load(str(tmp_path / "nothing"))
