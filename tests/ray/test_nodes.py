"""A job on three nodes, of which one is killed halfway, ends with the content of one on a single node."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

PROGRAM = """
import os, sys, threading, time
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
photos = str(make_photos(folder / "photos", 800))
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
assert lost and lost[0] < parts, (lost, parts)
cluster.remove_node(second, allow_graceful=True)
one = build_features(photos, str(folder / "one"), config)
assert three["features"] == one["features"] == 1600
assert three["content_sha256"] == one["content_sha256"]
print("lost a node after", lost[0], "of", parts, "parts")
"""


def test_features_on_nodes_of_which_one_is_lost_are_those_of_one_node(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "lost a node after" in done.stdout
