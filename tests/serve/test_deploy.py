"""`cnnray serve deploy` to a head node of its own: new versions under load, and versions that do not come up."""

import subprocess
import sys
import threading
import time

import httpx
import pytest
import yaml

from cnnray.config import ServeConfig
from cnnray.ops.overlay import png
from cnnray.serve.deploy_file import describe
from cnnray.serve.ports import free_port
from tests.classifiers import save_classifier
from tests.heads import head_node
from tests.painters import draw_photo

LETTERS, FRUIT = ["a", "b", "c"], ["apple", "pear", "plum"]


@pytest.fixture(scope="module")
def head():
    with head_node(cpus=4) as env:
        yield env


def deploy(head, path, *words, **variables):
    command = [sys.executable, "-m", "cnnray", "--json", "serve", "deploy", path, "--dashboard"]
    command += [head["RAY_API_SERVER_ADDRESS"], *words]
    shell = {name: value for name, value in head.items() if name != "RAY_AUTH_MODE"}  # it has the token alone
    return subprocess.run(command, env=shell | variables, capture_output=True, text=True, timeout=500)


def write(path, config):
    path.write_text(yaml.safe_dump(describe(config)))
    return path


class Load(threading.Thread):
    """Asks again and again, without a second attempt for any; keeps what came."""

    def __init__(self, url):
        super().__init__()
        self.url, self.ended, self.answers = url, threading.Event(), []

    def run(self):
        photo, headers = png(draw_photo()), {"content-type": "image/png"}
        with httpx.Client(base_url=self.url, timeout=60) as http:
            while not self.ended.is_set():
                answer = http.post("/v1/classify", content=photo, headers=headers)
                label = answer.json()["label"] if answer.status_code == 200 else ""
                self.answers.append((answer.status_code, label))
                time.sleep(0.02)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.join()


def test_a_new_version_replaces_the_old_one_under_load_and_a_broken_one_does_not(head, tmp_path):
    checkpoint = save_classifier(str(tmp_path / "classifier"), classes=LETTERS)
    config = ServeConfig(classifier=checkpoint, port=free_port(), max_batch_size=4)
    path = write(tmp_path / "serve.yaml", config)
    first = deploy(head, path)
    assert first.returncode == 0, first.stderr
    with Load(f"http://127.0.0.1:{config.port}") as load:
        time.sleep(1)
        save_classifier(checkpoint, classes=FRUIT)  # new weights under the old name
        second = deploy(head, path)
        assert second.returncode == 0, second.stderr
        at = len(load.answers)
        time.sleep(3)
        (tmp_path / "classifier" / "card.json").write_text("{")
        broken = deploy(head, path, "--timeout-s", "60")
        assert broken.returncode == 5 and "the old one goes on" in broken.stderr, broken.stderr
    labels = [label for status, label in load.answers if status == 200]
    assert {status for status, _ in load.answers} <= {200, 503}
    assert labels[0] in LETTERS and labels[-1] in FRUIT and len(labels) > 50
    assert {label for _, label in load.answers[at + 1 :]} <= {*FRUIT, ""}


def test_what_cannot_be_deployed_is_said(head, tmp_path):
    config = ServeConfig(faces="dlib_resnet", port=free_port())
    path = write(tmp_path / "serve.yaml", config)
    nobody = deploy(head, path, RAY_AUTH_MODE="disabled")
    assert nobody.returncode == 2 and "token" in nobody.stderr.lower(), nobody.stderr
    content = yaml.safe_load(path.read_text())
    content["applications"][0]["deploymnets"] = []
    path.write_text(yaml.safe_dump(content))
    unknown = deploy(head, path)
    assert unknown.returncode == 2 and "unknown key applications.0.deploymnets in" in unknown.stderr
