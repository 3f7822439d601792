"""Clusters of several nodes on this machine, for programs of their own: one process has one Ray."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run_program(program, *words, timeout=540):
    """Run Python code with these words as its arguments; it can import the tests."""
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, words)]
    env = os.environ | {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout)


def start_nodes(count):
    """A cluster of nodes with a CPU each, which this process then has joined; and its nodes but for the head."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    others = [cluster.add_node(**node) for _ in range(count - 1)]
    cluster.connect()
    return cluster, others
