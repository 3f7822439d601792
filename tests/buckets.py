"""A real S3 server on loopback, with one bucket."""

import contextlib
import os
import socket
import subprocess
import sys
import time

from cnnray.serve.ports import free_port
from tests.killing import kill_all

BUCKET = "bucket"


@contextlib.contextmanager
def s3_server(closed=False):
    """The environment in which programs find the server and its bucket; `closed` to the keys in that environment."""
    port = free_port()
    env = os.environ | {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "only-for-this-test",
        "AWS_SECRET_ACCESS_KEY": "only-for-this-test",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    ours = {"INITIAL_NO_AUTH_ACTION_COUNT": "0"} if closed else {}
    server = subprocess.Popen(words, env=env | ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            assert server.poll() is None and time.monotonic() < deadline, "the S3 server did not start"
            time.sleep(0.1)
        if not closed:
            store(env).mkdir(BUCKET)
        yield env
    finally:
        kill_all(server)


def store(env):
    """The server's files."""
    from s3fs import S3FileSystem

    return S3FileSystem(
        key=env["AWS_ACCESS_KEY_ID"],
        secret=env["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=env["AWS_ENDPOINT_URL"],
        client_kwargs={"region_name": env["AWS_DEFAULT_REGION"]},
        skip_instance_cache=True,
        use_listings_cache=False,
    )
