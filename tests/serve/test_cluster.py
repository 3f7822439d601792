"""`connect` for real, in processes of their own, because one process has one Ray; and what `up` finds there."""

import json
import os
import subprocess
import sys

import pytest
import ray

from cnnray.config import ServeConfig
from cnnray.errors import OptionError
from cnnray.serve.app import up

JOIN = """
import json, sys
from cnnray.cluster import connect
connect(sys.argv[1] or None, cpus=65)
connect()  # does nothing the second time
import ray
print(json.dumps({"node": ray.get_runtime_context().get_node_id(), "resources": ray.cluster_resources()}))
"""
START = JOIN.replace("import ray\n", "import os, ray\nassert os.environ['RAY_USAGE_STATS_ENABLED'] == '0'\n")


def run(code, address):
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1, done.stdout  # Ray itself wrote nothing there
    return json.loads(done.stdout), done.stderr


def test_joins_the_cluster_at_an_address(cluster):
    seen, _ = run(JOIN, ray.get_runtime_context().gcs_address)
    assert seen["node"] == ray.get_runtime_context().get_node_id()
    assert seen["resources"]["CPU"] == ray.cluster_resources()["CPU"] < 65


def test_starts_a_quiet_cluster_of_its_own(cluster):
    seen, errors = run(START, "")
    assert seen["node"] != ray.get_runtime_context().get_node_id()
    assert seen["resources"]["object_store_memory"] <= 2 * 1024**3
    assert seen["resources"]["CPU"] >= 65  # shared, where the machine has fewer
    assert errors == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replicas": 9}, "9 replicas need 9 CPUs, but Ray has 6 on this machine"),
        ({"replicas": "7:9"}, "7 replicas need 7 CPUs, but"),
        ({"replicas_of": {"classifier": 8}}, "8 replicas need 8 CPUs, but"),
        ({"replicas": 99, "gpu": True}, "99 replicas need 99 GPUs, but Ray has 0 on this machine"),
        ({"replicas": 3, "gpu": True, "gpu_share": 0.25}, "3 replicas need 0.75 GPUs, but"),
    ],
)
def test_more_replicas_than_a_local_cluster_holds_are_refused(cluster, checkpoint, monkeypatch, options, message):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(OptionError, match=message):
        up(ServeConfig(classifier=checkpoint, port=0, **options))
