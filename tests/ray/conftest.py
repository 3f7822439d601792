"""One small local Ray cluster for this folder of tests, in a temporary folder of its own."""

import logging
import os
import tempfile

import pytest


@pytest.fixture(scope="package")
def ray_cluster(tmp_path_factory):
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    import ray

    # a short path: Ray puts sockets into it, and the length of their paths is limited
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))  # workers', too: see tests.published
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=150 * 1024**2,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _temp_dir=folder,
        )
        yield
        ray.shutdown()
