"""Every command in the README is one that the command line takes."""

from pathlib import Path

import pytest

from tests.commands import commands_in_blocks, commands_in_text, parse_command

README = (Path(__file__).parents[2] / "README.md").read_text()
COMMANDS = commands_in_blocks(README) + commands_in_text(README)


def test_the_readme_shows_the_main_commands():
    verbs = {tuple(words[:2]) for words in COMMANDS}
    assert {("features", "build"), ("train", "classify"), ("serve", "up"), ("query", "classify")} <= verbs


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_command_line_takes_it(words):
    needs_out = words[:2] == ["features", "build"] and "--out" not in words
    parse_command([*words, *(["--out", "run"] if needs_out else [])])
