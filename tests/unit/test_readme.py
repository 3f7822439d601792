"""Every command in the README is one that the command line takes."""

import re
import shlex
from pathlib import Path

import pytest

from cnnray.cli import app

README = (Path(__file__).parents[2] / "README.md").read_text()


def commands():
    """Lines of code blocks and code in the text that begin with `cnnray`, without comments and trailing dots."""
    blocks = re.findall(r"^```\n(.*?)^```", README, flags=re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`(cnnray [^`]+)`", README)
    found = [shlex.split(line.replace("...", ""), comments=True) for line in lines if line.startswith("cnnray ")]
    return [words[1:] for words in found if words[1:2] != ["COMMAND"]]


def test_the_readme_shows_the_main_commands():
    verbs = {tuple(words[:2]) for words in commands()}
    assert {("features", "build"), ("train", "classify"), ("serve", "up"), ("query", "classify")} <= verbs


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_command_line_takes_it(words):
    needs_out = words[:2] == ["features", "build"] and "--out" not in words
    app.parse_args([*words, *(["--out", "run"] if needs_out else [])], exit_on_error=False, print_error=False)
