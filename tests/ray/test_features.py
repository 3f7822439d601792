"""`features build` for real: small photo folders through Ray Data, killed, resumed, grown, damaged."""

import io
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from cnnray import files
from cnnray.config import FeaturesConfig
from cnnray.data.feature_stage import FeatureStage
from cnnray.data.feature_store import INDEX, Outputs, iter_parts, load_features, read_parquet, read_quarantine
from cnnray.data.features import build_features, verify_features
from cnnray.data.fetch import read_unit
from cnnray.data.recipe import build_recipe
from cnnray.data.runs import read_manifest
from cnnray.data.units import plan_units
from cnnray.errors import DataError, QuarantineError, RunFolderError, UnknownNameError
from cnnray.infer.embed import Embedder
from cnnray.nn.backbones import build_backbone, build_extractor
from tests.killing import actors, kill_all, kill_next_actor, start_command, wait_for_parts

pytestmark = pytest.mark.usefixtures("ray_cluster")
FAST = {"compile": False}


def photo(number):
    """A small picture of its own for every number."""
    rng = np.random.default_rng(number)
    blocks = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(blocks).resize((96, 72), Image.Resampling.BICUBIC).save(sink, "JPEG", quality=90)
    return sink.getvalue()


def make_photos(root, count=24, classes=("cat", "dog")):
    for number in range(count):
        place = root / classes[number % len(classes)] / f"{number:03d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(photo(number))
    return root


def test_stored_view_v_is_the_online_augmentation_of_view_v_value_for_value(tmp_path):
    src = make_photos(tmp_path / "src", 8)
    config = FeaturesConfig(views=3, mixup_alpha=0.4, seed=7, dtype="float32", **FAST)
    build_features(str(src), str(tmp_path / "run"), config)
    table = load_features(str(tmp_path / "run"))
    backbone = build_backbone("efficientnet_lite0", "default")
    embedder = Embedder(build_extractor(backbone, "", "avg"), 224, compile=False)
    maker = build_recipe(config, backbone, "float32").maker
    index = read_parquet(str(tmp_path / "run" / INDEX))
    rows = {r["id"]: r for u in plan_units(index, index, views=3, mixup=True, seed=7) for r in u.to_pylist()}
    assert len(table.ids) == 8 * 4
    mixed = 0
    for item in sorted(rows):
        partners = [Path(path).read_bytes() for path in rows[item]["partner_paths"]]
        views, lams = maker.views(Path(rows[item]["path"]).read_bytes(), item, partners)
        mine = table.ids == item
        assert list(table.views[mine]) == [0, 1, 2, 3]
        np.testing.assert_array_equal(table.features[mine], embedder.embed(views))
        np.testing.assert_array_equal(table.lams[mine], np.array(lams, np.float32))
        mixed += sum(lam < 1 for lam in lams)
    assert mixed > 8


def test_the_content_does_not_depend_on_batches_workers_or_units(tmp_path, monkeypatch):
    src = make_photos(tmp_path / "src", 20)
    config = {"views": 1, "reuse": "none", **FAST}
    one = build_features(str(src), str(tmp_path / "one"), FeaturesConfig(**config))
    monkeypatch.setattr("cnnray.data.units.UNIT_ROWS", 3)
    two = build_features(str(src), str(tmp_path / "two"), FeaturesConfig(**config, workers=2, batch_size=7))
    assert one["content_sha256"] == two["content_sha256"]
    page = (tmp_path / "one" / "report.html").read_text()
    assert page.count("<img") == 3 * 2 and "What the network was shown" in page
    assert two["parts"] > one["parts"] == 1


def test_bad_images_go_to_quarantine_by_code_and_the_rest_is_done(tmp_path):
    src = make_photos(tmp_path / "src", 20)
    (src / "cat" / "000.jpg").write_bytes(b"")
    (src / "cat" / "002.jpg").write_bytes(photo(2)[:300])
    (src / "dog" / "001.jpg").write_bytes(b"this is no image at all")
    with pytest.raises(QuarantineError, match=r"3 of 20 images \(15.0%\).*1 empty"):
        build_features(str(src), str(tmp_path / "run"), FeaturesConfig(**FAST))
    manifest = read_manifest(str(tmp_path / "run"))
    assert manifest["features"] == 17 and sum(manifest["quarantine_codes"].values()) == 3
    assert set(read_quarantine(str(tmp_path / "run"))["id"].to_pylist()) == {
        "cat/000.jpg",
        "cat/002.jpg",
        "dog/001.jpg",
    }
    allowed = build_features(str(src), str(tmp_path / "again"), FeaturesConfig(max_bad=0.2, **FAST))
    assert allowed["quarantined"] == 3


def test_missing_files_of_a_manifest_are_quarantined(tmp_path):
    make_photos(tmp_path, 4)
    (tmp_path / "m.csv").write_text("path,label\ncat/000.jpg,cat\ngone.jpg,dog\n")
    with pytest.raises(QuarantineError, match="1 missing"):
        build_features(str(tmp_path / "m.csv"), str(tmp_path / "run"), FeaturesConfig(**FAST))


def test_images_known_from_an_earlier_run_are_not_computed_again(tmp_path):
    src = make_photos(tmp_path / "src", 12)
    config = FeaturesConfig(views=1, **FAST)
    first = build_features(str(src), str(tmp_path / "runs" / "one"), config)
    make_photos(src, 16)
    (src / "cat" / "000.jpg").write_bytes(photo(999))
    second = build_features(str(src), str(tmp_path / "runs" / "two"), config)
    # 4 new images and 1 changed one, two rows each, are new; the other 11 are known
    assert (first["reused"], second["reused"], second["features"]) == (0, 22, 32)
    clean = build_features(str(src), str(tmp_path / "elsewhere" / "run"), config)
    assert clean["reused"] == 0 and clean["content_sha256"] == second["content_sha256"]
    other_seed = build_features(str(src), str(tmp_path / "runs" / "three"), FeaturesConfig(views=1, seed=1, **FAST))
    assert other_seed["reused"] == 0  # view 0 is known, but an image is taken whole or not at all


def test_a_finished_run_is_refused_and_unchanged(tmp_path):
    src = make_photos(tmp_path / "src", 4)
    build_features(str(src), str(tmp_path / "run"), FeaturesConfig(**FAST))
    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "run").rglob("*"))
    with pytest.raises(RunFolderError, match="finished"):
        build_features(str(src), str(tmp_path / "run"), FeaturesConfig(**FAST))
    assert sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "run").rglob("*")) == before


def test_verify_sees_a_flipped_bit_and_a_lost_part(tmp_path):
    src = make_photos(tmp_path / "src", 6)
    build_features(str(src), str(tmp_path / "run"), FeaturesConfig(**FAST))
    assert verify_features(str(tmp_path / "run"))["features"] == 6
    (part,) = (tmp_path / "run" / "features").iterdir()
    whole = part.read_bytes()
    part.write_bytes(whole[:2000] + bytes([whole[2000] ^ 4]) + whole[2001:])
    with pytest.raises(RunFolderError, match="damaged|changed"):
        verify_features(str(tmp_path / "run"))
    part.unlink()
    with pytest.raises(RunFolderError, match="6 of 6 feature rows are missing"):
        verify_features(str(tmp_path / "run"))


def test_mid_layer_maps_are_stored_with_their_shape(tmp_path):
    src = make_photos(tmp_path / "src", 3)
    backbone = build_backbone("efficientnet_lite0", "default")
    tap = backbone.taps[3]
    build_features(str(src), str(tmp_path / "run"), FeaturesConfig(tap=tap, pool="none", **FAST))
    table = load_features(str(tmp_path / "run"))
    plain = torch.stack(
        [
            build_recipe(FeaturesConfig(), backbone, "float32").maker.views(Path(path).read_bytes(), "", [])[0][0]
            for path in read_parquet(str(tmp_path / "run" / INDEX))["path"].to_pylist()
        ]
    )
    maps = Embedder(build_extractor(backbone, tap, "none"), 224, compile=False).embed(plain)
    np.testing.assert_array_equal(table.features, maps.astype(np.float16))
    assert table.features.ndim == 4


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(UnknownNameError, match="efficientnet_lite0"):
        build_features(str(tmp_path), str(tmp_path / "run"), FeaturesConfig(backbone="resnet9000"))
    with pytest.raises(UnknownNameError, match="'nowhere'; known: "):
        build_features(str(tmp_path), str(tmp_path / "run"), FeaturesConfig(tap="nowhere"))


def test_only_bad_images_is_an_error_that_says_so(tmp_path):
    (tmp_path / "src" / "cat").mkdir(parents=True)
    (tmp_path / "src" / "cat" / "1.jpg").write_bytes(b"")
    with pytest.raises(RunFolderError, match="all 1 images were bad: 1 empty"):
        build_features(str(tmp_path / "src"), str(tmp_path / "run"), FeaturesConfig(**FAST))


def test_the_stage_says_which_column_is_missing(tmp_path):
    stage = FeatureStage(FeaturesConfig(**FAST), Outputs(str(tmp_path)), threads=1)
    with pytest.raises(DataError, match="missing: bytes, problem, partners"):
        stage(pa.table({"id": ["a"], "path": ["a"], "label": ["a"], "split": ["train"], "partner_labels": [[]]}))


def test_the_stage_alone_gives_what_the_pipeline_gives(tmp_path):
    src = make_photos(tmp_path / "src", 10)
    config = FeaturesConfig(views=1, reuse="none", **FAST)
    build_features(str(src), str(tmp_path / "run"), config)
    index = read_parquet(str(tmp_path / "run" / INDEX))
    (unit,) = plan_units(index, index, views=1)
    counts = FeatureStage(config, Outputs(str(tmp_path / "alone")), threads=2)(read_unit(unit)).to_pylist()[0]
    assert (counts["images"], counts["features"], counts["quarantined"]) == (10, 20, 0)
    (alone,), (piped,) = (list(iter_parts(str(tmp_path / name))) for name in ("alone", "run"))
    assert alone.equals(piped)


def test_killed_driver_and_killed_actor_lose_no_row_and_double_none(tmp_path):
    src = make_photos(tmp_path / "src", 300)
    clean = build_features(str(src), str(tmp_path / "clean" / "run"), FeaturesConfig(reuse="none", **FAST))
    out = tmp_path / "killed" / "run"
    driver = start_command("features", "build", src, "--out", out, "--no-compile", "--reuse", "none")
    wait_for_parts(out / "features", 1, driver)
    kill_all(driver)
    assert not files.exists(str(out / "manifest.json"))
    with ThreadPoolExecutor() as pool:
        killed = pool.submit(kill_next_actor, "FeatureStage", seen=actors("FeatureStage"))
        manifest = build_features(str(src), str(out), FeaturesConfig(reuse="none", **FAST))
        assert killed.result()
    assert manifest["content_sha256"] == clean["content_sha256"]
    assert 0 < manifest["resumed"] < 300


def test_a_full_disk_is_one_clear_line_and_what_is_stored_is_kept(tmp_path, small_disk):
    place, grow = small_disk
    src = make_photos(tmp_path / "src", 120)
    words = ["features", "build", src, "--out", place / "run", "--no-compile", "--reuse", "none"]
    command = [sys.executable, "-m", "cnnray", *map(str, words)]
    full = subprocess.run(command, capture_output=True, text=True)
    assert full.returncode == 4
    assert re.match(r"cnnray: no space left on \S+ while writing", full.stderr.splitlines()[-1])
    assert not (place / "run" / "manifest.json").exists()
    kept = {path: path.read_bytes() for path in (place / "run").rglob("*.parquet")}
    assert place / "run" / "index.parquet" in kept
    grow()
    build_features(str(src), str(place / "run"), FeaturesConfig(reuse="none", **FAST))
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert verify_features(str(place / "run"))["features"] == 120
