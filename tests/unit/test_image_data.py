"""Images as training data: batches made of views, mixed, divided among workers."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from cnnray.config import FinetuneConfig
from cnnray.data.stream import stream_here
from cnnray.errors import DataError, StorageError
from cnnray.nn.backbones import find_spec
from cnnray.ops.augment import plain_view
from cnnray.ops.decode import decode
from cnnray.train.image_data import build_image_data

SPEC = find_spec("efficientnet_lite0:size=64")
CONFIG = FinetuneConfig(batch_size=6, label_smoothing=0.0, class_weights="none", workers=1)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Three classes x 8 photos of one colour each, two of each for validation."""
    folder = tmp_path_factory.mktemp("photos")
    rows = []
    for label, name in enumerate("abc"):
        for number in range(8):
            path = folder / f"{name}{number}.png"
            pixels = np.random.default_rng([label, number]).integers(0, 256, (70, 90, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
            rows.append({"id": path.name, "path": str(path), "label": name, "split": "val" if number > 5 else "train"})
    return pa.Table.from_pylist(rows)


def build(index, **changes):
    return build_image_data(index, SPEC, FinetuneConfig(**(vars(CONFIG) | changes)), stream_here)


def test_a_batch_holds_the_views_that_the_feature_pipeline_stores(index):
    data = build(index, views=2)
    paths = dict(zip(index["id"].to_pylist(), index["path"].to_pylist(), strict=True))
    plans = list(data.planner.epoch(1))
    for step, (images, targets, weights) in enumerate(data.train_batches(1, 0, 1)):
        assert images.dtype == torch.uint8 and images.shape[1:] == (3, 64, 64)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(weights, torch.ones(len(images)))
        for at, name in enumerate(data.batch_ids(1, step)):
            pixels = decode(Path(paths[name]).read_bytes())
            expected, _ = data.maker.views.view(pixels, name, int(plans[step].views[at]))
            assert torch.equal(images[at], expected)
            assert targets[at].argmax() == "abc".index(name[0])


def test_fresh_views_differ_between_epochs_and_repeat_with_the_seed(index):
    data = build(index)
    first = [next(iter(data.train_batches(epoch, 0, 1)))[0] for epoch in (0, 1, 0)]
    assert torch.equal(first[0], first[2]) and not torch.equal(first[0], first[1])


@pytest.mark.parametrize("mix", [{}, {"mixup_alpha": 0.4}, {"cutmix_alpha": 1.0}], ids=str)
def test_the_workers_parts_together_are_the_batch_of_one_worker(index, mix):
    data = build(index, label_smoothing=0.1, class_weights="balanced", **mix)
    parts = [list(data.train_batches(0, rank, 2)) for rank in (0, 1)]
    for step, whole in enumerate(data.train_batches(0, 0, 1)):
        for rank in (0, 1):
            for ours, all_of_it in zip(parts[rank][step], whole, strict=True):
                assert torch.equal(ours, all_of_it[rank::2])


def test_mixed_labels_are_the_shares_of_the_pixels(index):
    plain, cut = build(index, views=1), build(index, views=1, cutmix_alpha=1.0)
    seen = 0
    for epoch in range(4):
        for step, (images, targets, _) in enumerate(cut.train_batches(epoch, 0, 1)):
            plan = list(cut.planner.epoch(epoch))[step]
            for at in range(len(images)):
                own = plain.maker._view(*of(plain, plan.items[at]), int(plan.views[at]))
                other = plain.maker._view(*of(plain, plan.partners[at]), int(plan.partner_views[at]))
                is_own, is_other = (images[at] == own).all(0), (images[at] == other).all(0)
                assert (is_own | is_other).all()
                labels = [int(cut.division.labels[cut.division.train[i]]) for i in (plan.items[at], plan.partners[at])]
                if plan.items[at] != plan.partners[at] and labels[0] != labels[1]:
                    share = 1 - float((is_other & ~is_own).float().mean())
                    # pixels that both share, such as filled corners, count as its own
                    assert float(targets[at, labels[0]]) == pytest.approx(share, abs=0.03)
                    seen += 1
            torch.testing.assert_close(targets.sum(1), torch.ones(len(images)))
    assert seen > 20


def of(data, item):
    row = data.division.train[item]
    return data.ids[row], data.paths[row]


def test_mixup_is_the_mean_of_two_views(index):
    data, plain = build(index, views=1, mixup_alpha=0.5), build(index, views=1)
    images, targets, _ = next(iter(data.train_batches(0, 0, 1)))
    plan = next(data.planner.epoch(0))
    own, other = (
        plain.maker._view(*of(plain, numbers[0]), int(views[0])).float()
        for numbers, views in ((plan.items, plan.views), (plan.partners, plan.partner_views))
    )
    torch.testing.assert_close(images[0].float(), (plan.lam * own + (1 - plan.lam) * other).round())
    assert 0 < plan.lam < 1 and float(targets[0].max()) <= 1


def test_validation_is_plain_and_unsmoothed(index):
    data = build(index, label_smoothing=0.2, mixup_alpha=1.0, cutmix_alpha=1.0)
    images, targets, _ = (torch.cat(column) for column in zip(*data.val_batches(0, 1), strict=True))
    assert sorted(targets.unique().tolist()) == [0, 1] and len(images) == 6
    pixels = decode(Path(data.paths[data.division.val[0]]).read_bytes())
    view = plain_view(pixels, size=64, resize=SPEC.resize, interpolation=SPEC.interpolation)
    assert torch.equal(images[0], view)
    assert sum(len(batch[0]) for rank in range(4) for batch in data.val_batches(rank, 4)) == 6


def test_a_label_only_in_validation_is_refused(index):
    stray = index.slice(0, 1).set_column(2, "label", [["d"]]).set_column(3, "split", [["val"]])
    stray = stray.set_column(0, "id", [["d.png"]])
    with pytest.raises(DataError, match="validation labels among the 3 classes of the training images, got 'd'"):
        build(pa.concat_tables([index, stray]))


def test_an_image_that_goes_bad_while_training_is_named(tmp_path, index):
    bad = tmp_path / "bad.jpg"
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    bad.write_bytes(buffer.getvalue()[:200])
    paths = [str(bad), *index["path"].to_pylist()[1:]]
    with pytest.raises(DataError, match="bad.jpg, which was good when the run began"):
        list(build(index.set_column(1, "path", [paths])).train_batches(0, 0, 1))
    bad.unlink()
    with pytest.raises(StorageError, match="bad.jpg, which was there when the run began: missing"):
        list(build(index.set_column(1, "path", [paths])).train_batches(0, 0, 1))
