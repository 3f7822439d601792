"""Command lines as users write them, in this process."""

import dataclasses
import json
import re
import shlex

import pytest

from cnnray import cli
from cnnray.cli.app import app


def run_command(words, capsys, code=0):
    """Run a command that ends with an exit code: its JSON, None where there is none, and what people see."""
    words = [*map(str, words), "--json"]
    if not code:
        cli.main(words)
    else:
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == code
    captured = capsys.readouterr()
    return json.loads(captured.out) if captured.out else None, captured.err


def option_words(config):
    """What the command line needs for these settings."""
    usual = type(config)()
    pairs = ((field.name, getattr(config, field.name)) for field in dataclasses.fields(config))
    changed = [(name, value) for name, value in pairs if value != getattr(usual, name)]
    return [word for name, value in changed for word in (f"--{name.replace('_', '-')}", str(value))]


def commands_in_blocks(text):
    """Words after `cnnray` of the commands in a Markdown page's blocks of code."""
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, flags=re.M | re.S)
    return _commands(line for block in blocks for line in block.splitlines())


def commands_in_text(text):
    """The same of the commands between backticks; one that is only named has nothing behind its name."""
    return _commands(" ".join(code.split()) for code in code_in_text(text))


def code_in_text(text):
    """What stands between backticks outside the blocks."""
    return re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def parse_command(words):
    """Raise what the command line does where it does not take these words."""
    app.parse_args(words, exit_on_error=False, print_error=False)


def is_only_named(words):
    """Whether these words are a command's name, or a group's, and nothing more."""
    return not app.parse_commands(words)[2]


def _commands(lines):
    """Without variables before them, comments, dots for more, and placeholders of the command itself."""
    found = (re.fullmatch(r"(?:[A-Z_]+=\S+ )*cnnray (.+)", line) for line in lines)
    shown = [shlex.split(match[1].replace("...", ""), comments=True) for match in found if match]
    return [words for words in shown if words[:1] not in (["COMMAND"], ["VERB"])]
