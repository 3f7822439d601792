"""Run folders: created, resumed, refused; files that are whole or absent."""

import os
import resource
import subprocess
import sys

import pytest

from cnnray import files
from cnnray.config import FeaturesConfig, to_toml
from cnnray.data.runs import RunFolder, read_manifest
from cnnray.errors import RunFolderError, StorageError


def test_a_new_run_is_created_and_the_same_command_resumes_it(tmp_path):
    uri = str(tmp_path / "run")
    assert not RunFolder.open(uri, FeaturesConfig(), "features", source="src").resumed
    assert RunFolder.open(uri, FeaturesConfig(), "features", source="src").resumed


@pytest.mark.parametrize(
    "change", [{"config": FeaturesConfig(seed=1)}, {"source": "other"}, {"kind": "predictions"}], ids=str
)
def test_other_settings_are_refused_and_named(tmp_path, change):
    asked = {"config": FeaturesConfig(), "kind": "features", "source": "src"}
    RunFolder.open(str(tmp_path), **asked)
    with pytest.raises(RunFolderError, match="was started with"):
        RunFolder.open(str(tmp_path), **asked | change)


def test_settings_that_change_no_content_may_differ_on_resume(tmp_path):
    RunFolder.open(str(tmp_path), FeaturesConfig(), "features")
    assert RunFolder.open(str(tmp_path), FeaturesConfig(workers=3, compile=False, max_bad=0.5), "features").resumed


def test_a_finished_run_is_refused(tmp_path):
    run = RunFolder.open(str(tmp_path), FeaturesConfig(), "features")
    run.finish({"images": 3})
    assert read_manifest(str(tmp_path))["images"] == 3
    with pytest.raises(RunFolderError, match="finished"):
        RunFolder.open(str(tmp_path), FeaturesConfig(), "features")


def test_a_folder_with_other_things_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunFolderError, match="thesis.txt"):
        RunFolder.open(str(tmp_path), FeaturesConfig(), "features")
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_an_unfinished_run_has_no_manifest(tmp_path):
    RunFolder.open(str(tmp_path), FeaturesConfig(), "features")
    with pytest.raises(RunFolderError, match="not finished"):
        read_manifest(str(tmp_path))
    with pytest.raises(RunFolderError, match="no run folder"):
        read_manifest(str(tmp_path / "nowhere"))


def test_toml_of_a_config_reads_back():
    import tomllib

    config = FeaturesConfig(weights='a "quoted" \\ path', views=3, mixup_alpha=0.5)
    assert FeaturesConfig(**tomllib.loads(to_toml(config))) == config


def test_a_write_replaces_the_file_and_leaves_nothing_beside_it(tmp_path):
    uri = str(tmp_path / "a" / "file")
    files.write_bytes(uri, b"one")
    files.write_bytes(uri, b"two")
    assert files.read_bytes(uri) == b"two"
    assert os.listdir(tmp_path / "a") == ["file"]


def test_the_same_calls_work_on_an_object_store():
    uri = "memory://bucket/run/file"
    files.write_bytes(uri, b"content")
    assert files.exists(uri)
    assert files.read_bytes(uri) == b"content"
    assert files.list_files("memory://bucket/run") == ["memory://bucket/run/file"]
    files.remove("memory://bucket/run")
    assert not files.exists(uri)


FULL = """
import resource, sys
from cnnray import files
from cnnray.errors import StorageError
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    files.write_bytes(sys.argv[1], b"x" * 5000)
except StorageError as error:
    print("StorageError:", error)
"""


def test_a_write_that_cannot_complete_leaves_the_old_content(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000
    run = subprocess.run([sys.executable, "-c", FULL, str(target)], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("StorageError:")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_missing_file_is_told_apart_from_a_storage_fault(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.read_bytes(str(tmp_path / "absent"))
    with pytest.raises(StorageError, match="cannot access"):
        files.read_bytes(str(tmp_path))
