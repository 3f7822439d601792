"""What reaches a cluster's machines: the image by its Dockerfile, and what a submitted job uploads."""

import json
import os
import re
import zipfile

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from tests.unit.test_cluster_files import CLUSTER, ROOT


def instructions():
    text = re.sub(r"^#.*\n", "", (CLUSTER / "Dockerfile").read_text(), flags=re.M)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line]


def test_the_image_keeps_the_rules_of_its_linter():
    found = instructions()
    kinds = [kind for kind, _ in found]
    assert found[0][0] == "FROM" and re.fullmatch(r"python:3\.11-[a-z-]+", found[0][1])
    assert "ADD" not in kinds and [words for kind, words in found if kind == "USER"] == ["${USER_ID}:${USER_ID}"]
    assert ("ARG", "USER_ID=1000") in found and kinds[-2:] == ["USER", "CMD"]
    assert json.loads(found[-1][1]) == ["cnnray", "--help"]
    assert all(words.startswith("/") for kind, words in found if kind == "WORKDIR")
    for words in (words for kind, words in found if kind == "RUN"):
        for part in re.findall(r"pip install [^;&]*", words):
            assert "--no-cache-dir" in part and re.search(r"-c \S*constraints\.txt", part), part
        if "apt-get install" in words:
            assert "--no-install-recommends" in words and "rm -rf /var/lib/apt/lists/*" in words
        assert "sudo" not in words and "http" not in words and "|" not in words.replace("||", "")


def test_the_image_gets_what_is_there_and_what_the_context_lets_through():
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [word for kind, words in instructions() if kind == "COPY" for word in words.split()[:-1] if word[0] != "-"]
    assert {"cnnray", "jobs", "constraints.txt", "pyproject.toml"} <= set(copied)
    for word in copied:
        assert (ROOT / word).exists() and word.split("/")[0] in let_through, word
    needed = {"rsync", "openssh-client", "wget", "g++"}  # for `ray up`, KubeRay's probes, torch.compile
    assert needed <= set(next(words for kind, words in instructions() if "apt-get" in words).split())


@pytest.mark.parametrize("with_gitignore", [True, False])
def test_a_job_uploads_the_program_and_little_else(tmp_path, with_gitignore):
    package = tmp_path / "package.zip"
    excludes = get_runtime_env_default_excludes()
    create_package(str(ROOT), package, include_gitignore=with_gitignore, excludes=excludes)
    assert os.path.getsize(package) < 5_000_000
    names = set(zipfile.ZipFile(package).namelist())
    sources = [*ROOT.glob("cnnray/**/*.py"), *ROOT.glob("cnnray/paintings/*"), *ROOT.glob("jobs/*.py")]
    assert {str(path.relative_to(ROOT)) for path in sources} <= names
    others = "tests docs benchmarks runs build .git .venv .ci .hypothesis .mypy_cache .pytest_cache .ruff_cache".split()
    assert not [name for name in names if name.split("/")[0] in others or "__pycache__" in name or "egg-info" in name]
