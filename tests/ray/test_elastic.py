"""`--workers MIN:MAX`: training takes what there is, and on a cluster that loses a node goes on with what is left."""

from tests.nodes import run_program

PROGRAM = """
import functools, logging, sys, threading, time
import torch
logging.basicConfig(format="%(message)s")
logging.getLogger("cnnray").setLevel(logging.INFO)
torch.set_num_threads(1)
from cnnray.config import ClassifyConfig
from cnnray.train.head import build_parts
from cnnray.train.launch import launch
from cnnray.train.loop import Worker, run
from cnnray.train.state import load_history, load_state
from tests.feature_tables import make_table
from tests.nodes import start_nodes
from tests.ray.test_train_classify import write_run

folder = sys.argv[1]
cluster, (second,) = start_nodes(2)

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
    done = run_program(PROGRAM, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "lost a node after" in done.stdout
    assert "training: 1 to 2 workers with 1 CPU each" in done.stderr


# Four workers of 0.75 CPUs take all of the three: none is left for the tasks that decode their images.
CROWDED = """
import logging, sys
from pathlib import Path
import ray
logging.basicConfig(format="%(message)s")
logging.getLogger("cnnray").setLevel(logging.INFO)
from tests.ray.test_train_finetune import SMALL, trained, write_stripes
ray.init(address="local", num_cpus=3, include_dashboard=False, object_store_memory=150 * 2**20, log_to_driver=False)
folder = Path(sys.argv[1])
trained(write_stripes(folder / "stripes", 8), folder / "run", workers="2:4", batch_size=8, epochs=1)
"""


def test_workers_that_take_every_core_get_their_images(tmp_path):
    done = run_program(CROWDED, tmp_path, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "training: 2 to 4 workers with 0.75 CPU each" in done.stderr
