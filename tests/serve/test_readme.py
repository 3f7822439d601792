"""The README's commands on a folder of one's own photos, word for word, in a shell."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from cnnray.serve.ports import free_port

README = (Path(__file__).parents[2] / "README.md").read_text()


def commands():
    section = README.split("## Your own photos")[1]
    block = re.search(r"^```\n(.*?)^```", section, flags=re.M | re.S)[1]
    return [shlex.split(line, comments=True) for line in block.splitlines() if line.startswith("cnnray ")]


@pytest.fixture
def shell(tmp_path):
    """Runs words as a user's shell does after `source .venv/bin/activate`, in a folder with PHOTOS and PHOTO.jpg."""
    for label, pixels in zip(("temple", "flower"), load_sample_images().images, strict=True):
        for number in range(15):
            place = tmp_path / "PHOTOS" / label / f"{number}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            left, top = 20 * number, 10 * number
            Image.fromarray(pixels).crop((left, top, left + 300, top + 240)).save(place)
    Image.fromarray(pixels).crop((310, 130, 560, 400)).save(tmp_path / "PHOTO.jpg")
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # the commands' own defaults, but a port that is free here and no minute of compiling
    env |= {"CNNRAY_PORT": str(port), "CNNRAY_URL": f"http://127.0.0.1:{port}", "CNNRAY_COMPILE": "false"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    return {"cwd": tmp_path, "env": env, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def test_four_commands_lead_from_own_photos_to_an_answer(shell):
    build, train, serve, query = commands()
    for words in (build, train):
        done = subprocess.run(words, **shell)
        assert done.returncode == 0, done.stderr
    service = subprocess.Popen(serve, **shell)
    try:
        line = next(line for line in service.stderr if line.startswith("ready") or "cnnray:" in line)
        assert line.startswith("ready at"), line
        answer = subprocess.run([*query, "--json"], **shell)
    finally:
        service.send_signal(signal.SIGINT)
        service.communicate(timeout=60)
    assert service.returncode == 0
    assert answer.returncode == 0, answer.stderr
    (found,) = json.loads(answer.stdout)["answers"]
    assert found["image"] == "PHOTO.jpg" and found["label"] == "flower" and found["probability"] > 0.5
