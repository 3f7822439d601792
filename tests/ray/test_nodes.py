"""A job on three nodes, of which one is killed halfway, ends with the content of one on a single node."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

PROGRAM = """
import json, os, sys, threading, time
from pathlib import Path
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
import ray
from ray.cluster_utils import Cluster
from cnnray import files
from cnnray.config import FeaturesConfig
from cnnray.data.features import build_features
from tests.ray.test_features import make_photos

folder = Path(sys.argv[1])
node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args=node)
first, second = cluster.add_node(**node), cluster.add_node(**node)
cluster.connect()
photos = str(make_photos(folder / "photos", 400))
config = FeaturesConfig(compile=False, precision="float32", dtype="float32", views=1, reuse="none")
lost = []

def lose_a_node():
    while not (stored := files.list_files(str(folder / "three" / "features"), ".parquet")):
        time.sleep(0.02)
    cluster.remove_node(first, allow_graceful=False)
    lost.append(len(stored))

thread = threading.Thread(target=lose_a_node, daemon=True)
thread.start()
three = build_features(photos, str(folder / "three"), config)
thread.join(5)
parts = len(files.list_files(str(folder / "three" / "features"), ".parquet"))
cluster.remove_node(second, allow_graceful=True)
one = build_features(photos, str(folder / "one"), config)
runs = [{name: run[name] for name in ("features", "content_sha256")} for run in (three, one)]
print(json.dumps({"lost": lost, "parts": parts, "three": runs[0], "one": runs[1]}))
sys.stdout.flush()
"""


def test_features_on_nodes_of_which_one_is_lost_are_those_of_one_node(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    # the exit code says no more: Ray ends the driver of a cluster that has lost nodes with 1
    assert '{"lost"' in done.stdout, done.stderr[-3000:]
    told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"lost"')))
    assert told["lost"] and told["lost"][0] < told["parts"]
    assert told["three"]["features"] == 800
    assert told["three"] == told["one"]
