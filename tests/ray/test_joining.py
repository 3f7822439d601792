"""A command that joins a cluster of another version of Ray is told so, and by which."""

from tests.nodes import run_program

PROGRAM = """
import json, subprocess, sys
import ray
from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
from ray._private.ray_constants import KV_NAMESPACE_CLUSTER

context = ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20)
kept = ray._private.worker.global_worker.gcs_client  # what the cluster says of itself to those who join
facts = json.loads(kept.internal_kv_get(CLUSTER_METADATA_KEY, KV_NAMESPACE_CLUSTER)) | {"ray_version": "2.50.0"}
kept.internal_kv_put(CLUSTER_METADATA_KEY, json.dumps(facts).encode(), True, KV_NAMESPACE_CLUSTER)
words = ["features", "build", "/nowhere", "--out", sys.argv[1], "--address", context.address_info["gcs_address"]]
done = subprocess.run([sys.executable, "-m", "cnnray", *words], capture_output=True, text=True)
print(done.returncode, done.stderr)
"""


def test_a_cluster_of_another_version_is_told_with_both(tmp_path):
    done = run_program(PROGRAM, tmp_path / "run", timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 cnnray: expected the versions of the Ray cluster at " in done.stdout
    assert "here, but it was started with Ray: 2.50.0 Python: " in done.stdout
    assert "install its versions here, or submit the command as a job" in done.stdout
