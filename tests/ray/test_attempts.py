"""An image at which the worker's process ends, for real, in a pipeline that must end all the same."""

import os
import signal
import time

import pyarrow as pa
import pytest

from cnnray.config import SourceConfig
from cnnray.data import units
from cnnray.data.feature_store import iter_parts, read_quarantine, take_stock
from cnnray.data.pipelines import work_off
from cnnray.data.runs import RunFolder
from cnnray.data.units import load_index, plan_units, rounds

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Fragile:
    """Stores the ids of a unit, and dies where an image says so."""

    def __init__(self, outputs, threads):
        self.outputs = outputs

    def __call__(self, unit):
        if b"poison" in unit["bytes"].to_pylist():
            time.sleep(0.5)  # until others have begun, too
            os.kill(os.getpid(), signal.SIGKILL)
        if b"slow" in unit["bytes"].to_pylist():
            time.sleep(3)
        self.outputs.store("done", unit.select(["id"]))
        return pa.table({"images": [unit.num_rows]})


@pytest.mark.parametrize("unit_rows", [units.UNIT_ROWS, 16])
def test_one_image_that_kills_the_worker_costs_that_image_and_nothing_else(tmp_path, monkeypatch, unit_rows):
    """With three units two are worked on at a time, and one of the other is begun whenever the worker is killed."""
    monkeypatch.setattr(units, "UNIT_ROWS", unit_rows)
    for number in range(40):
        place = tmp_path / "src" / f"{number:02d}.jpg"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes({13: b"poison", 20: b"slow"}.get(number, b"harmless"))
    config = SourceConfig()
    run = RunFolder.open(str(tmp_path / "run"), config, "features")
    index = load_index(run, str(tmp_path / "src"), config)
    for todo in rounds(run.uri, index, "done"):
        for _ in work_off("fragile", plan_units(todo, index), Fragile, run, {}, config):
            pass
    done = sorted(name for part in iter_parts(run.uri, folder="done") for name in part["id"].to_pylist())
    (bad,) = read_quarantine(run.uri).to_pylist()
    assert bad["code"] == "crash" and bad["id"].endswith("13.jpg")
    assert sorted([*done, bad["id"]]) == index["id"].to_pylist() == sorted(take_stock(run.uri, "done").to_pylist())
