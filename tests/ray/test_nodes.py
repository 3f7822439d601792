"""A job on three nodes, of which one is killed halfway, ends with the content of one on a single node."""

import json

from tests.nodes import run_program

PROGRAM = """
import json, sys, threading, time
from pathlib import Path
from cnnray import files
from cnnray.config import FeaturesConfig
from cnnray.data.features import build_features
from tests.nodes import start_nodes
from tests.ray.test_features import make_photos

folder = Path(sys.argv[1])
cluster, (first, second) = start_nodes(3)
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
cluster.remove_node(second, allow_graceful=True)  # Ray may still count it when the next job is planned
one = build_features(photos, str(folder / "one"), config)
runs = [{name: run[name] for name in ("features", "content_sha256")} for run in (three, one)]
print(json.dumps({"lost": lost, "parts": parts, "three": runs[0], "one": runs[1]}))
sys.stdout.flush()
"""


def test_features_on_nodes_of_which_one_is_lost_are_those_of_one_node(tmp_path):
    done = run_program(PROGRAM, tmp_path)
    # the exit code says no more: Ray ends the driver of a cluster that has lost nodes with 1
    assert '{"lost"' in done.stdout, done.stderr[-3000:]
    told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"lost"')))
    assert told["lost"] and told["lost"][0] < told["parts"]
    assert told["three"]["features"] == 800
    assert told["three"] == told["one"]
