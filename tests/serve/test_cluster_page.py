"""Commands of docs/cluster.md and the README for a cluster, word for word, on a head node and a bucket of this machine.

Only the addresses and the folder /shared are others here, and there is no GPU.
"""

import json
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from ray.util import get_node_ip_address

from cnnray.serve.ports import free_port
from tests.buckets import BUCKET, s3_server, store
from tests.classifiers import save_classifier
from tests.heads import BIN, head_node
from tests.pages import DOCS
from tests.painters import draw_photo
from tests.ray.test_features import make_photos

ROOT = DOCS.parent
PAGE, README = DOCS / "cluster.md", ROOT / "README.md"
TINY = ["--backbone", "residual:size=32,width=0.25", "--weights", "none", "--epochs", "1"]


@dataclass(frozen=True)
class Person:
    """Someone in a shell, who has the cluster's token.

    Attributes:
        folder: where they are.
        env: their variables.
        here: what stands in place of a part of a page.
    """

    folder: Path
    env: dict[str, str]
    here: dict[str, str]

    def run(self, line, *more, cwd=None, **variables):
        """What a line of a page with more words prints."""
        words = [*shlex.split(self.put_here(line), comments=True), *more]
        env, place = self.env | variables, cwd or self.folder
        done = subprocess.run(
            [BIN / words[0], *words[1:]], cwd=place, env=env, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def put_here(self, text):
        for there, here in self.here.items():
            text = text.replace(there, here)
        return text


@pytest.fixture(scope="module")
def person(tmp_path_factory):
    folder, gcs, port = tmp_path_factory.mktemp("person"), free_port(), str(free_port())
    photos = make_photos(folder / "photos", 24)
    with s3_server() as bucket, pytest.MonkeyPatch.context() as shell:
        store(bucket).put(str(photos), f"{BUCKET}/photos", recursive=True)
        for name in bucket.keys() - os.environ.keys():
            shell.setenv(name, bucket[name])  # the cluster's machines may read and write it
        with head_node(cpus=6, port=gcs) as env:
            here = {
                "http://127.0.0.1:8265": env["RAY_API_SERVER_ADDRESS"],
                "HOST:6379": f"{get_node_ip_address()}:{gcs}",
                "/shared/": f"{folder}/shared/",
                "0.0.0.0": "127.0.0.1",
                "  port: 8000\n": f"  port: {port}\n",
                "    host: 127.0.0.1\n": f"    host: 127.0.0.1\n    port: {port}\n",
                " --gpu": "",
            }
            own = {"CNNRAY_PORT": port, "CNNRAY_URL": f"http://127.0.0.1:{port}", "CNNRAY_COMPILE": "false"}
            yield Person(folder, env | own, here)


def line(start, page=PAGE):
    """The only one of the page that begins so."""
    (found,) = re.findall(rf"^{re.escape(start)}.*$", page.read_text(), flags=re.M)
    return found


def test_a_job_builds_features_in_a_bucket(person):
    command = line("cnnray features build s3:")
    assert command == line("cnnray features build s3:", README)
    assert json.loads(person.run(command, "--json"))["features"] == 24
    person.run("cnnray features verify s3://bucket/runs/features")


def test_a_network_is_trained_by_joining_and_by_a_recipe(person):
    joined = json.loads(person.run(line("cnnray train finetune"), *TINY, "--json"))
    person.run(line("ray job submit").replace("finetuned", "submitted"), *TINY, cwd=ROOT)
    for run in ("finetuned", "submitted"):
        person.run(f"cnnray evaluate classify s3://bucket/runs/{run}/checkpoint {person.folder}/photos --out {run}")
    assert joined["config"]["workers"] == "2:8"


def make_key(person, keys):
    made = person.run(f"cnnray serve keys create shop --scope infer --keys {keys}", "--json")
    return {"CNNRAY_API_KEY": json.loads(made)["key"]}


def test_a_service_is_described_and_deployed_and_another_takes_its_place(person):
    Image.fromarray(draw_photo(seed=3)).save(person.folder / "PHOTO.png")
    for place in ("classifier", "cnnray/classifier"):
        save_classifier(str(person.folder / "shared" / place / "checkpoint"))
    key = make_key(person, "/shared/keys")
    person.run(line("cnnray serve build"))
    person.run(line("cnnray serve deploy"))
    (answer,) = json.loads(person.run("cnnray query classify PHOTO.png", "--json", **key))["answers"]
    assert answer["label"]
    key = make_key(person, "/shared/cnnray/keys")
    (person.folder / "cluster").mkdir()
    (person.folder / "cluster" / "serve.yaml").write_text(person.put_here((ROOT / "cluster/serve.yaml").read_text()))
    person.run(line("cnnray serve deploy", README))
    person.run("cnnray query stylize PHOTO.png --style stained_glass --out painted", **key)
    assert len(list((person.folder / "painted").iterdir())) == 1
