"""`cnnray demo` as a user runs it."""

import json
import os
import subprocess
import sys

import pytest

from cnnray.demo import run_demo
from cnnray.demo.digits import write_digits
from cnnray.errors import OptionError, RunFolderError


@pytest.mark.timeout(700)
def test_the_demo_goes_from_photos_to_answers_over_http(tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # few scenes: that the detector learns is for the benchmark to show, here that all steps fit together
    command = [sys.executable, "-m", "cnnray", "demo", "--out", "demo", "--scenes", "24", "--json"]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=650)
    assert run.returncode == 0, run.stderr[-3000:]
    summary = json.loads(run.stdout)
    assert summary == json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary["images"] == 1797 and summary["served_requests"] == 60
    assert summary["val_accuracy"] > 0.95 and summary["served_accuracy"] > 0.9
    assert summary["scenes"] == 24 and 0 <= summary["detect_map50"] <= 1
    assert set(summary["seconds"]) == {"photos", "features", "classify", "detect", "measure", "people", "serve", "all"}
    assert (tmp_path / "demo" / "report.html").read_text().count("<img") == 18 + 1 + 7 + 8 + 5
    assert summary["copies_recognised"] == summary["copies"] == 6 and summary["people_enrolled"] == 31
    paintings = {path.stem for path in (tmp_path / "demo" / "paintings").iterdir()} - {"cat"}
    assert len(paintings) == summary["paintings"] == 4 and "stained_glass" in paintings
    taken = summary["strangers_taken_for_somebody"]
    assert taken <= 4 < summary["strangers_with_the_usual_threshold"] < summary["strangers"] == 70
    assert "cnnray features build PHOTOS" in run.stderr
    assert "Traceback" not in run.stderr and "WARNING" not in run.stderr


def test_digits_become_class_folders(tmp_path):
    assert write_digits(tmp_path) == 1797
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(digit) for digit in range(10)]
    assert len(list(tmp_path.glob("*/*.png"))) == 1797


def test_too_few_scenes_are_refused(tmp_path):
    with pytest.raises(OptionError, match="at least 20 scenes to learn from, got 3"):
        run_demo(str(tmp_path / "demo"), scenes=3)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunFolderError, match="holds other things"):
        run_demo(str(tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "precious"
