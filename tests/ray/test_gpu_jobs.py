"""Jobs with --gpu, as far as a machine without one can show: Ray counts GPUs that it is told of, and gives them out."""

import json

from tests.nodes import run_program

PROGRAM = """
import json, sys
from pathlib import Path
import pyarrow as pa
import ray
from cnnray.config import SourceConfig
from cnnray.data.feature_store import iter_parts
from cnnray.data.pipelines import work_off
from cnnray.data.runs import RunFolder
from cnnray.data.units import load_index, plan_units, rounds

class Holder:
    def __init__(self, outputs, threads):
        self.outputs = outputs
    def __call__(self, unit):
        held = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        self.outputs.store("done", unit.select(["id"]).append_column("gpu", pa.array([held] * unit.num_rows)))
        return pa.table({"images": [unit.num_rows]})

folder = Path(sys.argv[1])
for number in range(300):
    place = folder / "src" / f"{number:03d}.jpg"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(b"harmless %03d" % number)
ray.init(address="local", num_cpus=4, num_gpus=2, object_store_memory=150 * 2**20, include_dashboard=False)
config = SourceConfig(gpu=True)
run = RunFolder.open(str(folder / "run"), config, "features")
index = load_index(run, str(folder / "src"), config)
rows = [row for todo in rounds(run.uri, index, "done")
        for row in work_off("held", plan_units(todo, index), Holder, run, {}, config)]
done = pa.concat_tables(list(iter_parts(run.uri, folder="done")))
print(json.dumps({
    "units": [row["images"] for row in rows],
    "ids": sorted(done["id"].to_pylist()),
    "asked": sorted(index["id"].to_pylist()),
    "gpus": sorted({gpu for held in done["gpu"].to_pylist() for gpu in held}),
}))
"""


def test_workers_of_a_job_on_gpus_hold_one_each_and_get_whole_units(tmp_path):
    done = run_program(PROGRAM, tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["ids"] == told["asked"] and len(told["ids"]) == 300
    assert sorted(told["units"]) == [44, 256]
    assert told["gpus"] and set(told["gpus"]) <= {"0", "1"}
