"""Command lines as users write them, in this process."""

import dataclasses
import json

import pytest

from cnnray import cli


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
