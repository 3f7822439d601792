"""Jobs on nodes that only a network joins: one is cut off, and comes back; one has a full disk."""

import json
import threading
import time

import pytest

from tests.networks import Network, works

pytestmark = pytest.mark.skipif(not works(), reason="needs Linux, root and iproute2, to make networks")

# Build features of a folder into another on so many nodes, and tell what came out and who is left.
BUILD = """
import json, sys
import ray
from cnnray import cluster
from cnnray.config import FeaturesConfig
from cnnray.data.features import build_features
from cnnray.errors import CnnrayError
from tests.networks import wait_for_nodes

photos, out, nodes, left = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
cluster.connect()
wait_for_nodes(nodes)
config = FeaturesConfig(compile=False, precision="float32", dtype="float32", views=1, reuse="none")
try:
    made = build_features(photos, out, config)
    told = {name: made[name] for name in ("features", "content_sha256")}
except CnnrayError as error:
    told = {"error": str(error), "exit_code": error.exit_code}
wait_for_nodes(left)  # where the others were done before one was given up
told["alive"] = sorted(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"])
print("TOLD", json.dumps(told))
sys.stdout.flush()
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    from tests.ray.test_features import make_photos

    return make_photos(tmp_path_factory.mktemp("photos") / "photos", 400)


@pytest.fixture(scope="module")
def network():
    with Network(3) as network:
        for host in range(3):
            network.start(host)
        yield network


# Take the head's only CPU.
OCCUPY = """
import ray
from cnnray import cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

cluster.connect()

@ray.remote(num_cpus=1, lifetime="detached", name="idler")
class Idler:
    def here(self):
        return True

here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
assert ray.get(Idler.options(scheduling_strategy=here).remote().here.remote())
"""


def build(network, photos, out, nodes, left=0):
    done = network.run(BUILD, photos, out, nodes, left or nodes)
    lines = [line for line in done.stdout.splitlines() if line.startswith("TOLD ")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[0].removeprefix("TOLD "))


def when_stored(out, act):
    """Call `act` in a thread once a part of a run is stored."""

    def wait():
        while not list(out.glob("features/*.parquet")):
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_node_that_is_cut_off_costs_no_feature_and_comes_back(network, photos, tmp_path):
    expected = build(network, photos, tmp_path / "whole", 3)
    assert len(expected["alive"]) == 3 and expected["features"] == 800

    thread = when_stored(tmp_path / "cut", lambda: network.link(1, "down"))
    told = build(network, photos, tmp_path / "cut", 3, left=2)
    thread.join(30)
    assert told["content_sha256"] == expected["content_sha256"]
    assert network.ip_of(1) not in told["alive"] and len(told["alive"]) == 2

    network.link(1, "up")
    network.start(1)  # as a supervisor would: Ray's processes end when the cluster has given them up

    def for_a_moment():
        network.link(2, "down")
        time.sleep(2)
        network.link(2, "up")

    thread = when_stored(tmp_path / "again", for_a_moment)
    assert build(network, photos, tmp_path / "again", 3) == expected  # all three: nobody was given up
    thread.join(30)


def test_a_node_with_a_full_disk_is_named_where_the_work_waits_for_it(network, photos, tmp_path):
    network.fill_disk(2)
    network.link(1, "down")  # else it and the head do the work
    done = network.run(OCCUPY)
    assert done.returncode == 0, done.stderr[-3000:]
    told = build(network, photos, tmp_path / "run", 2)
    assert f"ended on the node {network.ip_of(2)}" in told["error"] and "where a disk is full" in told["error"]
    assert told["exit_code"] == 1
