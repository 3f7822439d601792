"""Photos, runs and checkpoints in a bucket of a real S3 server on loopback, by the command line."""

import json
import subprocess
import time

import pytest

from tests.buckets import BUCKET, s3_server, store
from tests.heads import BIN
from tests.killing import kill_all
from tests.ray.test_features import make_photos

PHOTOS, RUN = f"s3://{BUCKET}/photos", f"s3://{BUCKET}/run"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """The environment of a server whose bucket has 60 photos, and the same photos on this machine's disk."""
    here = make_photos(tmp_path_factory.mktemp("photos") / "photos", 60)
    with s3_server() as env:
        store(env).put(str(here), f"{BUCKET}/photos", recursive=True)
        yield env, here


def command(env, *words):
    return subprocess.run([BIN / "cnnray", *map(str, words)], env=env, capture_output=True, text=True, timeout=500)


def test_features_and_head_in_a_bucket_are_those_on_a_disk(bucket, tmp_path):
    env, here = bucket
    split, contents = ["--split", "train=0.7,val=0.3", "--no-compile", "--json"], []
    for source, out in ((PHOTOS, RUN), (here, tmp_path / "run")):
        done = command(env, "features", "build", source, "--out", out, *split)
        assert done.returncode == 0, done.stderr
        contents.append(json.loads(done.stdout)["content_sha256"])
    assert contents[0] == contents[1]
    assert command(env, "features", "verify", RUN).returncode == 0
    done = command(env, "train", "classify", RUN, "--out", f"s3://{BUCKET}/head", "--epochs", "3")
    assert done.returncode == 0, done.stderr
    done = command(env, "predict", "classify", f"s3://{BUCKET}/head/checkpoint", PHOTOS, "--out", f"s3://{BUCKET}/told")
    assert done.returncode == 0, done.stderr


def test_a_killed_command_goes_on_in_the_bucket(bucket, tmp_path):
    env, _ = bucket
    store(env).put(str(make_photos(tmp_path / "many", 700)), f"{BUCKET}/many", recursive=True)  # three units of work
    words = ["features", "build", f"s3://{BUCKET}/many", "--out", f"s3://{BUCKET}/killed", "--no-compile"]
    words += ["--workers", "1"]
    first = subprocess.Popen([BIN / "cnnray", *words], env=env, stderr=subprocess.DEVNULL)
    while not store(env).glob(f"{BUCKET}/killed/features/*"):
        assert first.poll() is None, "the command ended before it could be killed"
        time.sleep(0.05)
    kill_all(first)
    assert not store(env).exists(f"{BUCKET}/killed/manifest.json")
    done = command(env, *words)
    assert done.returncode == 0, done.stderr
    assert "700 features of 700 images" in done.stderr


def test_what_is_wrong_with_a_bucket_is_told(bucket, tmp_path):
    env, here = bucket
    build = ["features", "build", here, "--no-compile", "--out"]
    absent = command(env, *build, "s3://nowhere/run")
    assert absent.returncode == 4 and "cannot write s3://nowhere/run" in absent.stderr
    assert "The specified bucket does not exist" in absent.stderr
    nobody = {name: value for name, value in env.items() if not name.startswith("AWS_")}
    nobody |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    refused = command(nobody, *build, RUN)
    assert refused.returncode == 4 and "Unable to locate credentials" in refused.stderr
    gone = command(env | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}, *build, RUN)
    assert gone.returncode == 4 and 'Could not connect to the endpoint URL: "http://127.0.0.1:1' in gone.stderr
    for done in (absent, refused, gone):
        assert done.stderr.count("\n") == 1, done.stderr


def test_a_bucket_without_permission_is_told(bucket, tmp_path):
    _, here = bucket
    with s3_server(closed=True) as env:
        for words in ([here, "--out", RUN], [PHOTOS, "--out", tmp_path / "run"]):
            done = command(env, "features", "build", *words, "--no-compile")
            assert done.returncode == 4 and "not allowed to access s3://bucket/" in done.stderr, done.stderr
            assert done.stderr.count("\n") == 1, done.stderr
