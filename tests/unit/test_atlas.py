"""The passes of an atlas of filters as plain classes, what it shows, and what it refuses."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from cnnray import files
from cnnray.config import AtlasConfig
from cnnray.data.atlas import visualize_filters
from cnnray.data.atlas_draw import DRAWN, TILE, TILES, DrawStage, read_tiles
from cnnray.data.atlas_page import write_atlas
from cnnray.data.atlas_plan import choose_filters, choose_layers, gather, plan_drawings, strongest_table
from cnnray.data.atlas_report import cell_size, describe_layers, layer_picture
from cnnray.data.atlas_stage import STATES, StrongestStage, load_network, view
from cnnray.data.feature_store import Outputs, iter_parts, read_quarantine
from cnnray.data.fetch import read_unit
from cnnray.data.predict import PREDICTIONS
from cnnray.data.units import plan_units
from cnnray.errors import OptionError, StorageError, UnknownNameError
from cnnray.infer.visualize import TopNine, reconstruct
from cnnray.nn.backbones import build_backbone
from cnnray.nn.deconv import Deconv
from cnnray.ops.show import signed_picture
from cnnray.ops.strongest import Strongest, merge_states, state_columns, with_columns

LAYERS = ["stem", "stage2.1.layers.1"]
CONFIG = AtlasConfig(size=64)
SIZES = [(80, 60), (64, 64), (50, 200), (1, 1), (300, 240)]  # width and height


@pytest.fixture(scope="module")
def backbone():
    return load_network(CONFIG)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Forty photos of several sizes and two files that are none."""
    folder, rows = tmp_path_factory.mktemp("photos"), []
    for number in range(42):
        rng = np.random.default_rng(number)
        blocks = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        path = folder / f"{number:02}.png"
        blocks.resize(SIZES[number % len(SIZES)], Image.Resampling.BICUBIC).save(path)
        if number in (7, 20):
            path.write_bytes(b"rubbish")
        rows.append({"id": path.name, "path": str(path), "label": None, "split": "train"})
    schema = pa.schema({name: pa.string() for name in ("id", "path", "label", "split")})
    return pa.Table.from_pylist(rows, schema)


def units(table, size):
    whole = plan_units(table, table)
    assert len(whole) == 1
    return [read_unit(whole[0].slice(at, size)) for at in range(0, table.num_rows, size)]


def pass_by(index, out, size, threads=1):
    stage = StrongestStage(CONFIG, LAYERS, Outputs(str(out)), threads=threads, gpu=False)
    counts = [stage(unit).to_pylist()[0] for unit in units(index, size)]
    return {name: sum(count[name] for count in counts) for name in counts[0]}


def columns(state):
    return {name: values.tolist() for name, values in state_columns(state).items()}


# --- the first pass -----------------------------------------------------------------------------------------------


def test_units_and_threads_change_nothing_and_late_units_store_little(backbone, index, tmp_path):
    num_filters = {name: len(state.values_FK) for name, state in TopNine(backbone, LAYERS).state.items()}
    good = [row for row in index.to_pylist() if row["id"] not in ("07.png", "20.png")]
    alone = TopNine(backbone, LAYERS, device="cpu")
    images = torch.stack([view(Path(row["path"]).read_bytes(), backbone.spec) for row in good])
    alone.update([row["id"] for row in good], images)
    for name, size, threads in (("one", 42, 1), ("tens", 10, 2), ("threes", 3, 1)):
        counts = pass_by(index, tmp_path / name, size, threads)
        assert counts == {"images": 42, "quarantined": 2}
        assert columns(gather(str(tmp_path / name), num_filters)) == columns(alone.state)
        assert read_quarantine(str(tmp_path / name))["code"].to_pylist() == ["not_an_image"] * 2
        seen = pa.concat_tables(iter_parts(str(tmp_path / name), folder=PREDICTIONS))
        assert sorted(seen["id"].to_pylist()) == [row["id"] for row in good]
    stored = pa.concat_tables(iter_parts(str(tmp_path / "threes"), folder=STATES))
    # 40 photos in units of three: each whole state would have up to 3 rows a filter, in all 40
    assert stored.num_rows < 0.7 * 40 * sum(num_filters.values())


def test_a_unit_that_is_done_again_changes_nothing(backbone, index, tmp_path):
    """As after a kill between the state and the rows that say that its images are done with."""
    num_filters = {name: len(state.values_FK) for name, state in TopNine(backbone, LAYERS).state.items()}
    pass_by(index, tmp_path / "once", 14)
    pass_by(index, tmp_path / "twice", 14)
    again = StrongestStage(CONFIG, LAYERS, Outputs(str(tmp_path / "twice")), threads=1, gpu=False)
    again(units(index, 9)[1])
    once, twice = (gather(str(tmp_path / name), num_filters) for name in ("once", "twice"))
    assert columns(once) == columns(twice)


def test_a_unit_of_bad_images_alone(index, tmp_path):
    bad = index.filter(pa.array([item in ("07.png", "20.png") for item in index["id"].to_pylist()]))
    assert pass_by(bad, tmp_path, 2) == {"images": 2, "quarantined": 2}
    assert not files.list_files(str(tmp_path / STATES))


def test_tables_of_parts_of_states_merge_as_states():
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(3):
        found = Strongest(
            rng.integers(-1, 6, (4, 8)).astype(np.float32),
            rng.choice(list("abcdefghij"), (4, 8)),
            np.zeros((4, 8, 2), np.int32),
        )
        parts.append({"x": Strongest.none(5, 3).with_candidates(np.arange(4), found)})
    tables = [pa.table(state_columns(part)) for part in parts]
    both = pa.concat_tables(tables[1:])
    both = both.take(rng.permutation(both.num_rows))
    merged = with_columns(parts[0], {name: both[name].to_numpy() for name in both.column_names})
    assert columns(merged) == columns(merge_states(parts[0], merge_states(parts[1], parts[2])))
    none = {name: both[name].to_numpy()[:0] for name in both.column_names}
    assert columns(with_columns(parts[0], none)) == columns(parts[0])


# --- the second pass ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(backbone, index, tmp_path_factory):
    """A run folder after both passes: its place, state, and table of the strongest."""
    out = tmp_path_factory.mktemp("run")
    pass_by(index, out, 20)
    state = gather(str(out), {name: len(one.values_FK) for name, one in TopNine(backbone, LAYERS).state.items()})
    strongest = strongest_table(state, index)
    plan = plan_drawings(strongest, {name: choose_filters(layer, 5) for name, layer in state.items()})
    stage = DrawStage(CONFIG, "guided", LAYERS, Outputs(str(out)), threads=2, gpu=False)
    for unit in units(plan, 7):
        stage(unit)
    return out, state, strongest


def test_tiles_are_reconstructions_of_the_strongest(backbone, index, drawn):
    out, state, strongest = drawn
    paths = dict(zip(index["id"].to_pylist(), index["path"].to_pylist(), strict=True))
    deconv = Deconv(backbone, "guided")
    for name, layer in state.items():
        filters = choose_filters(layer, 5)
        patches, signals = read_tiles(str(out), name, filters)
        expected = {(row["filter"], row["rank"]) for row in strongest.to_pylist() if row["layer"] == name}
        assert set(patches) == set(signals) == {key for key in expected if key[0] in filters}
        number = int(filters[2])
        for rank in (0, 8):
            item, place = layer.ids_FK[number, rank], torch.from_numpy(layer.places_FK2[number, rank]).long()
            image = view(Path(paths[item]).read_bytes(), backbone.spec)
            (one,) = reconstruct(deconv, image[None], name, torch.tensor([number]), place[None])
            assert one.value == pytest.approx(layer.values_FK[number, rank], rel=1e-4)
            assert np.abs(patches[number, rank] - resized(one.patch_HWC)).max() == 0
            # made larger before or after it becomes a picture, and alone in a batch of another size
            likeness = np.corrcoef(signals[number, rank].ravel(), resized(signed_picture(one.signal_HWC)).ravel())
            assert likeness[0, 1] > 0.95
    assert sorted(set(strongest["path"].to_pylist())) == sorted({paths[item] for item in strongest["id"].to_pylist()})


def resized(pixels):
    return np.asarray(Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.BICUBIC), int)


def test_tiles_do_not_depend_on_units_or_threads(drawn, tmp_path):
    out, state, strongest = drawn
    shown = {name: choose_filters(layer, 5) for name, layer in state.items()}
    stage = DrawStage(CONFIG, "guided", LAYERS, Outputs(str(tmp_path)), threads=1, gpu=False)
    (unit,) = units(plan_drawings(strongest, shown), 100)
    assert stage(unit).to_pylist() == [{"images": unit.num_rows, "quarantined": 0}]
    for name in LAYERS:
        pairs = zip(read_tiles(str(out), name, shown[name]), read_tiles(str(tmp_path), name, shown[name]), strict=True)
        for one, other in pairs:
            assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_an_image_that_has_gone_or_changed_is_said(drawn, tmp_path):
    _, state, strongest = drawn
    stage = DrawStage(CONFIG, "guided", LAYERS, Outputs(str(tmp_path)), threads=1, gpu=False)
    plan = plan_drawings(strongest, {name: choose_filters(layer, 1) for name, layer in state.items()}).slice(0, 1)
    (tmp_path / "changed.png").write_bytes(b"rubbish")
    for name, message in (("gone.png", "missing"), ("changed.png", "was an image in the first pass")):
        moved = plan.set_column(1, "path", pa.array([str(tmp_path / name)]))
        with pytest.raises(StorageError, match=message):
            stage(read_unit(plan_units(moved, moved)[0]))
    assert not files.list_files(str(tmp_path / DRAWN)) and not files.list_folders(str(tmp_path / TILES))


# --- what is shown ------------------------------------------------------------------------------------------------


def test_a_layer_is_described(backbone, drawn):
    state = drawn[1]
    stem, deep = describe_layers(backbone, state, {name: choose_filters(layer, 5) for name, layer in state.items()})
    assert (stem.kind, stem.num_filters, stem.stride, stem.field) == (
        "convolution 3 x 3 over 3 channels, batch norm", 32, 2, 3,
    )  # fmt: skip
    assert deep.kind.startswith("depthwise convolution 3 x 3 over 144 channels")
    assert (deep.stride, deep.sees, deep.map_size) == (4, "19 x 19 px", (16, 16))
    assert len(deep.shown) == 5 and deep.num_drawn == int((state[deep.name].values_FK[deep.shown] > 0).sum())
    top = build_backbone("mobilenet_v3_small:size=64", "none")  # squeeze-and-excitation sees all at once
    name = choose_layers(top, [])[-1]
    (facts,) = describe_layers(top, {name: Strongest.none(4, 9)}, {name: np.arange(0)})
    assert (facts.sees, facts.field, facts.stride, facts.num_dead) == ("the whole image", 0, 32, 4)
    (facts,) = describe_layers(backbone, {"head": Strongest.none(4, 9)}, {"head": np.arange(0)})
    assert (facts.sees, facts.field, facts.stride) == ("the whole image", 851, 32)


def test_a_picture_has_a_cell_for_each_filter():
    red, blue = (np.full((TILE, TILE, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    filters = [3, 7, 11, 12, 40]
    patches = {(number, rank): red for number in filters for rank in range(9) if (number, rank) != (40, 8)}
    sheet = layer_picture(filters, patches, {key: blue for key in patches})
    high, wide = cell_size()
    assert sheet.shape == (2 * high, 4 * wide, 3)
    per_cell = [(row, column, 9 if row == 0 else 8 * (column == 0)) for row in range(2) for column in range(4)]
    for row, column, count in per_cell:
        cell = sheet[row * high : (row + 1) * high, column * wide : (column + 1) * wide]
        for colour in (red[0, 0], blue[0, 0]):
            assert (cell == colour).all(2).sum() == count * TILE * TILE
    assert (sheet[:20] < 100).all(2).any()  # the caption
    assert layer_picture([], {}, {}).shape == (1, 4 * wide, 3)


def test_the_page_shows_every_filter_once(backbone, drawn, tmp_path):
    _, state, strongest = drawn
    dead = {**state, "stem": Strongest.none(32, 9)}
    facts = describe_layers(backbone, dead, {name: choose_filters(layer, 5) for name, layer in dead.items()})
    counts, made_of = {"predictions": 1234, "quarantined": 2}, {"network": "n<et", "source": "/a&b", "rule": "guided"}
    write_atlas(str(tmp_path), facts, strongest, counts, made_of, chosen=True)
    page = (tmp_path / "index.html").read_text()
    assert "n&lt;et" in page and "/a&amp;b" in page and "1,234" in page
    assert "This network has no max pooling" in page and page.count('class="cell"') == 5
    assert "layers/stage2.1.layers.1.png" in page and "No filter of this layer fires" in page
    assert 'href="#stem"' in page and 'id="stem"' in page and "http" not in page
    write_atlas(str(tmp_path), facts, strongest, counts, made_of, chosen=False)
    assert "no max pooling" not in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("squeezenet1_1", ["stem", "fire4.expand3x3", "fire6.expand3x3", "fire9.expand3x3"]),
        ("efficientnet_lite0", ["stem", "stage3.1.layers.2", "stage5.2.layers.2", "head"]),
        ("resnet18", ["stem", "layer1.1.conv2", "layer3.1.conv2", "layer4.1.conv2"]),
        ("vgg16", ["block1.0", "block2.2", "block4.4", "block5.4"]),
    ],
)
def test_layers_are_chosen_along_the_network(name, expected):
    network = build_backbone(name, "none")
    assert choose_layers(network, []) == expected
    assert choose_layers(network, expected[::-1]) == expected
    with pytest.raises(UnknownNameError, match=f"unknown conv layer of {name} 'nowhere'; known: {expected[0]}, "):
        choose_layers(network, [expected[0], "nowhere"])


def test_filters_are_chosen_among_those_that_fire():
    layer = Strongest.none(10, 9)
    layer.values_FK[[1, 3, 4, 8, 9], 0] = 1
    assert choose_filters(layer, 0).tolist() == choose_filters(layer, 5).tolist() == [1, 3, 4, 8, 9]
    assert choose_filters(layer, 3).tolist() == [1, 4, 9]
    assert choose_filters(layer, 1).tolist() == [1]
    assert choose_filters(Strongest.none(10, 9), 3).tolist() == []


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"layers": ("stage99",)}, UnknownNameError, "'stage99'; known: stem, stage1.layers.0"),
        ({"backbone": "resnet9000"}, UnknownNameError, "efficientnet_lite0"),
        (
            {"backbone": "mobilenet_v3_small", "weights": "none", "rule": "deconv"},
            OptionError,
            "mobilenet_v3_small has hardsigmoid, hardswish: the rules deconv and guided are for networks",
        ),
    ],
)
def test_what_is_refused_before_a_folder_is_made(tmp_path, given, kind, message):
    with pytest.raises(kind, match=message):
        visualize_filters(str(tmp_path), str(tmp_path / "run"), AtlasConfig(**given))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rule": "magic"}, "rule must be one of"),
        ({"filters": -1}, "filters must be at least 0"),
        ({"size": 7}, "size must be from 32 to 1024"),
    ],
)
def test_options_are_checked(given, message):
    with pytest.raises(OptionError, match=message):
        AtlasConfig(**given)


def test_random_weights_are_the_same_in_every_process():
    config = AtlasConfig(weights="none")
    before = torch.random.get_rng_state()
    assert load_network(config).weights_sha256 == load_network(config).weights_sha256
    assert torch.equal(torch.random.get_rng_state(), before)
