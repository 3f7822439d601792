"""Training on a cluster of several nodes that loses one: `--workers MIN:MAX` goes on with those that are left."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

PROGRAM = """
import functools, os, sys, threading, time
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
import torch
torch.set_num_threads(1)
from ray.cluster_utils import Cluster
from cnnray.config import ClassifyConfig
from cnnray.train.head import build_parts
from cnnray.train.launch import launch
from cnnray.train.loop import Worker, run
from cnnray.train.state import load_history, load_state
from tests.feature_tables import make_table
from tests.ray.test_train_classify import write_run

folder = sys.argv[1]
memory = 100 * 2**20
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": memory})
second = cluster.add_node(num_cpus=1, object_store_memory=memory)
cluster.connect()

table = make_table((60, 50, 40), dim=64, views=1, val_per_class=8)
features = write_run(f"{folder}/features", table)
config = ClassifyConfig(epochs=80, batch_size=4, patience=0, mixup_alpha=0.2, workers="1:2")
make = functools.partial(build_parts, features, config)
uri = f"{folder}/state/last.state"
lost = []

def lose_a_node():
    while len(load_history(uri)) < 5:
        time.sleep(0.02)
    cluster.remove_node(second, allow_graceful=False)
    lost.append(len(load_history(uri)))

thread = threading.Thread(target=lose_a_node, daemon=True)
thread.start()
state = launch(make, config, f"{folder}/state", "x")
thread.join(5)
assert lost and lost[0] < config.epochs, lost
assert [row["epoch"] for row in state.history] == list(range(config.epochs))
run(*make(), config, f"{folder}/whole", "x", Worker())
whole = load_state(f"{folder}/whole", "x")
for name, tensor in whole.model.items():
    torch.testing.assert_close(state.model[name], tensor, rtol=1e-2, atol=1e-2)
print("lost a node after", lost[0], "epochs")
"""


def test_a_node_that_is_lost_costs_an_epoch_at_most(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "lost a node after" in done.stdout
