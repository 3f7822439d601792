"""Work units: every row once, partners by id and not by order, fewer rows where files are large; actor plans."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from cnnray.data import units
from cnnray.data.actors import fits, plan_actors, startable
from cnnray.data.deaths import Deaths
from cnnray.data.units import LARGE_UNIT_ROWS, UNIT_ROWS, plan_units, unit_rows
from cnnray.errors import NodeError, OptionError


def index(count, path="/nowhere/{}"):
    ids = [f"i{n:04d}" for n in range(count)]
    splits = ["train" if n % 4 else "val" for n in range(count)]
    return pa.table({"id": ids, "path": [path.format(i) for i in ids], "label": ids, "split": splits})


def test_every_row_is_in_one_unit():
    units = plan_units(index(1000), index(1000))
    assert [len(unit) for unit in units] == [256, 256, 256, 232]
    assert [i for unit in units for i in unit["id"].to_pylist()] == index(1000)["id"].to_pylist()


def test_partners_are_training_images_and_do_not_depend_on_what_is_left_to_do():
    table = index(100)
    whole = {r["id"]: r for unit in plan_units(table, table, views=3, mixup=True, seed=1) for r in unit.to_pylist()}
    rest = {
        r["id"]: r
        for unit in plan_units(table.slice(40, 20), table, views=3, mixup=True, seed=1)
        for r in unit.to_pylist()
    }
    assert len(rest) == 20 and all(whole[item] == row for item, row in rest.items())
    train = set(table.filter(pa.compute.equal(table["split"], "train"))["path"].to_pylist())
    for row in whole.values():
        assert len(row["partner_paths"]) == (3 if row["split"] == "train" else 0)
        assert set(row["partner_paths"]) <= train
        assert row["partner_labels"] == [path.removeprefix("/nowhere/") for path in row["partner_paths"]]
    assert len({tuple(row["partner_paths"]) for row in whole.values()}) > 50


def test_without_mixup_views_have_no_partner():
    rows = plan_units(index(4), index(4), views=2)[0].to_pylist()
    assert [row["partner_paths"] for row in rows] == [[], [None, None], [None, None], [None, None]]


def test_large_files_come_in_small_units_and_millions_in_large_ones(tmp_path, monkeypatch):
    for item in index(40)["id"].to_pylist():
        with open(tmp_path / item, "wb") as file:
            file.truncate(2 * 1024**2)  # sparse: takes no disk
    assert unit_rows(index(40, f"{tmp_path}/{{}}")) == 32
    assert unit_rows(index(40)) == UNIT_ROWS
    monkeypatch.setattr(units, "MILLIONS", 40)
    assert unit_rows(index(39)) == UNIT_ROWS and unit_rows(index(40)) == LARGE_UNIT_ROWS
    assert unit_rows(index(40, f"{tmp_path}/{{}}")) == 32


@pytest.mark.parametrize(
    ("nodes", "workers", "gpu", "expected"),
    [
        ([{"CPU": 2}], 0, False, (1, 1.5, 0, 2)),
        ([{"CPU": 2}], 2, False, (2, 0.75, 0, 1)),
        ([{"CPU": 16}] * 3, 0, False, (3, 15.5, 0, 16)),
        ([{"CPU": 32, "GPU": 4}, {"CPU": 8}], 0, True, (4, 7.75, 1, 8)),
        ([{"CPU": 8}, {"CPU": 0}], 0, False, (1, 7.5, 0, 8)),
    ],
)
def test_a_cluster_is_divided_among_actors(nodes, workers, gpu, expected):
    plan = plan_actors(nodes, workers, gpu)
    assert (plan.count, plan.cpus, plan.gpus, plan.threads) == expected


@pytest.mark.parametrize(
    ("nodes", "workers", "gpu", "message"),
    [
        ([{"CPU": 2}], 0, True, "GPU"),
        ([{"CPU": 2}], 3, False, "at most 2 workers"),
        ([{"CPU": 8, "GPU": 1}], 2, True, "at most 1 workers"),
        ([{"CPU": 0}], 0, False, "none"),
    ],
)
def test_more_than_the_cluster_has_is_refused(nodes, workers, gpu, message):
    with pytest.raises(OptionError, match=message):
        plan_actors(nodes, workers, gpu)


def test_nodes_that_a_cluster_can_start_are_counted_without_gpus_for_work_on_cpus():
    def group(name, most, **resources):
        return SimpleNamespace(name=name, max_count=most, resources=resources)

    groups = [group("head", 0, CPU=0), group("cpu", 3, CPU=8), group("gpu", 2, CPU=8, GPU=1), group("odd", -1, TPU=4)]
    living = [{"Labels": {"ray.io/node-group": "cpu"}}, {"Labels": {"ray.io/node-group": "head"}}, {}]
    assert startable(living, groups, gpu=False) == [{"CPU": 8.0}] * 2
    assert startable(living, groups, gpu=True) == [{"CPU": 8.0, "GPU": 1.0}] * 2
    assert startable(living, groups[2:], gpu=False) == [{"CPU": 8.0, "GPU": 1.0}] * 2
    assert startable([], [group("cpu", -1, CPU=4)], gpu=False) == [{"CPU": 4.0}] * 100
    assert startable(living, (), gpu=False) == []


@pytest.mark.parametrize(
    ("left", "stays"),
    [
        ([{"CPU": 16}] * 3, True),
        ([{"CPU": 16}] * 2, False),
        ([{"CPU": 16}, {"CPU": 32}], True),
        ([{"CPU": 16}, {"CPU": 31}], False),  # the reader would have no place beside two actors
    ],
)
def test_a_plan_holds_while_its_actors_and_a_reader_have_a_place(left, stays):
    plan = plan_actors([{"CPU": 16}] * 3, 0, False)
    assert fits(plan, left) is stays


def test_a_plan_of_gpus_needs_them():
    nodes = [{"CPU": 32, "GPU": 4}, {"CPU": 32, "GPU": 4}]
    plan = plan_actors(nodes, 0, True)
    assert fits(plan, nodes)
    assert not fits(plan, [nodes[0], {"CPU": 64}])


def test_workers_that_end_one_after_the_other_on_a_node_are_told_with_it():
    now, ended = [0.0], {"10.0.0.1": {"a"}, "10.0.0.2": {f"before {at}" for at in range(50)}}
    deaths = Deaths(lambda: {node: set(workers) for node, workers in ended.items()}, lambda: now[0])

    def later(seconds, done, more=0):
        now[0] += seconds
        ended["10.0.0.2"] |= {f"{now[0]} {at}" for at in range(more)}
        deaths.check(done)

    later(1, 0)
    later(31, 0, 30)  # from here on they count
    later(10, 0, 19)
    later(10, 1, 19)  # work was done
    later(31, 1, 19)
    later(10, 1, 19)
    with pytest.raises(NodeError, match=r"nothing was done for 51 s, while 20 workers ended on the node 10\.0\.0\.2"):
        later(10, 1, 1)
