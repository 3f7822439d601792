"""`visualize filters` for real: an atlas of some hundred photos against all activations sorted, killed, resumed."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cnnray import files
from cnnray.config import AtlasConfig
from cnnray.data.atlas import visualize_filters
from cnnray.data.atlas_report import cell_size
from cnnray.data.atlas_stage import load_network, view
from cnnray.data.feature_store import read_quarantine
from cnnray.data.runs import read_manifest
from cnnray.errors import DataError, QuarantineError, RunFolderError
from cnnray.nn.deconv import Deconv
from tests.killing import actors, kill_all, kill_next_actor, start_command, wait_for_parts

pytestmark = pytest.mark.usefixtures("ray_cluster")

LAYERS = ("stem", "fire3.squeeze", "fire4.expand1x1")
COUNT, BAD = 500, ("0100.png", "0333.png")


@pytest.fixture(scope="module")
def config(data_dir):
    weights = str(data_dir / "weights" / "squeezenet1_0.pth")
    return AtlasConfig(backbone="squeezenet1_0", weights=weights, size=64, layers=LAYERS, filters=6)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """500 small files, two of which are bad."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        blocks = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((80, 64), Image.Resampling.BICUBIC).save(folder / f"{number:04}.png")
    for name in BAD:
        (folder / name).write_bytes((folder / name).read_bytes()[:200])
    return folder


@pytest.fixture(scope="module")
def atlas(photos, config, tmp_path_factory, ray_cluster):
    """A run by one actor, in units of 256 images, and its manifest; more of them are bad than it is told to bear."""
    out = tmp_path_factory.mktemp("one") / "run"
    with pytest.raises(QuarantineError, match=r"2 of 500 images \(0.4%\)"):
        visualize_filters(str(photos), str(out), replace(config, workers=1, max_bad=0.001))
    return out, read_manifest(str(out))


def test_the_strongest_are_those_of_all_activations_sorted(photos, config, atlas):
    backbone = load_network(config)
    deconv = Deconv(backbone)
    paths = sorted(path for path in photos.iterdir() if path.name not in BAD)
    images = torch.stack([view(path.read_bytes(), backbone.spec) for path in paths])
    rows = pq.read_table(atlas[0] / "strongest.parquet").to_pylist()
    assert {row["path"] for row in rows} <= {str(path) for path in paths}
    for layer in LAYERS:
        groups = [range(at, at + 4) for at in range(0, len(images) - 4, 4)] + [range(len(images) - 4, len(images))]
        maps = torch.empty(len(images), *deconv.activations(images[:4], layer).shape[1:])
        for group in groups:  # the job computes in fours as well: in larger batches sums have another order
            maps[group.start : group.stop] = deconv.activations(images[group.start : group.stop], layer)
        values = maps.amax((2, 3)).numpy()
        for number in range(maps.shape[1]):
            expected = []
            for at in sorted(range(len(images)), key=lambda at: (-values[at, number], at))[:9]:
                place = divmod(int(maps[at, number].argmax()), maps.shape[3])
                if values[at, number] > 0:
                    expected.append((len(expected), paths[at].name, float(values[at, number]), *place))
            found = [
                tuple(row[name] for name in ("rank", "id", "value", "row", "column"))
                for row in rows
                if (row["layer"], row["filter"]) == (layer, number)
            ]
            assert found == expected


def test_a_bad_file_is_counted_and_the_folder_is_tidy(atlas):
    out, manifest = atlas
    assert (manifest["images"], manifest["predictions"], manifest["quarantined"]) == (COUNT, COUNT - 2, 2)
    assert sorted(read_quarantine(str(out))["id"].to_pylist()) == list(BAD)
    assert manifest["rule"] == "deconv" and [layer["name"] for layer in manifest["layers"]] == list(LAYERS)
    assert manifest["layers"][1] == {
        "name": "fire3.squeeze", "kind": "convolution 1 x 1 over 128 channels",
        "filters": 16, "dead": 0, "drawn": 6, "stride": 4, "field": 19,
    }  # fmt: skip
    high, wide = cell_size()
    for layer in LAYERS:
        with Image.open(out / "layers" / f"{layer}.png") as picture:
            assert picture.size == (4 * wide, 2 * high)
    assert (out / "index.html").read_text().count('class="cell"') == 3 * 6
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"layers", "predictions", "quarantine"}
    assert len(list((out / "predictions").iterdir())) == 2


def test_actors_and_units_change_nothing_to_the_pixel(photos, config, atlas, tmp_path, monkeypatch):
    monkeypatch.setattr("cnnray.data.units.UNIT_ROWS", 37)
    manifest = visualize_filters(str(photos), str(tmp_path / "two"), replace(config, workers=2))
    assert manifest["content_sha256"] == atlas[1]["content_sha256"]
    for layer in LAYERS:
        one, two = (folder / "layers" / f"{layer}.png" for folder in (atlas[0], tmp_path / "two"))
        assert one.read_bytes() == two.read_bytes()
    with pytest.raises(RunFolderError, match="is finished"):
        visualize_filters(str(photos), str(tmp_path / "two"), config)


def start_atlas(photos, out, config):
    words = ["visualize", "filters", photos, "--out", out, "--backbone", config.backbone, "--weights", config.weights]
    words += ["--size", config.size, "--filters", config.filters]
    words += [word for layer in LAYERS for word in ("--layers", layer)]
    return start_command(*words)


def test_a_killed_command_and_a_killed_actor_lose_nothing(photos, config, atlas, tmp_path):
    out = tmp_path / "run"
    driver = start_atlas(photos, out, config)
    wait_for_parts(out / "predictions", 1, driver)
    kill_all(driver)
    assert not files.exists(str(out / "manifest.json"))
    with ThreadPoolExecutor() as pool:
        killed = pool.submit(kill_next_actor, "DrawStage", seen=actors("DrawStage"))
        manifest = visualize_filters(str(photos), str(out), config)
        assert killed.result()
    assert manifest["content_sha256"] == atlas[1]["content_sha256"]


def test_bad_images_alone_are_an_error_that_says_so(config, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"{number}.png").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="all 3 are bad: 3 not_an_image"):
        visualize_filters(str(tmp_path / "photos"), str(tmp_path / "run"), config)
