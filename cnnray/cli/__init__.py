"""`cnnray VERB NOUN`: parses, calls one function, prints.

Options come from flags, then CNNRAY_* environment variables, then the TOML file of --config; they are declared in
`cnnray.config`. Answers go to stdout (one JSON object with --json), everything else to stderr. Exit codes: 0 done;
2 wrong input or options; 3 done, but too many bad inputs; 4 storage; 5 service; 130 interrupted.
"""

import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclopts import CycloptsError
from cyclopts.config import Env, Toml

from cnnray.cli import (  # noqa: F401 (most add their commands)
    data,
    evaluate,
    faces,
    features,
    galleries,
    jobs,
    keys,
    models,
    people,
    predict,
    query,
    query_faces,
    serve,
    stylize,
    stylize_jobs,
    train,
    visualize,
)
from cnnray.cli.app import app
from cnnray.cli.console import say
from cnnray.errors import CnnrayError, OptionError, one_line


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: run a command line, end with its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(stream=sys.stderr, format="%(message)s")  # warnings of all, progress of our own
    logging.getLogger("cnnray").setLevel(logging.INFO)
    # One line per warning: file and line of our own code are no help to a user.
    warnings.showwarning = lambda message, *rest: say(f"warning: {message}")
    stdout = sys.stdout
    try:
        as_json, arguments = _take_flag(arguments, "--json")
        config_file, arguments = _take_value(arguments, "--config")
        with contextlib.ExitStack() as redirected:
            # Ray writes some of its messages to stdout, which belongs to --json (and to --help, before Ray is there)
            if arguments and not {"--help", "-h", "--version"} & set(arguments):
                redirected.enter_context(contextlib.redirect_stdout(sys.stderr))
            jobs.check_version()
            answer = _call(arguments, config_file, as_json)
            if as_json and answer is not None:
                print(json.dumps(answer), file=stdout, flush=True)
            if argv is None:
                redirected.pop_all()  # as long as the program lives: Ray may have something to say after the answer
    except CnnrayError as error:
        say(f"cnnray: {one_line(error)}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("interrupted; the same command resumes")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        sys.exit(1)


def _call(arguments: list[str], config_file: str | None, as_json: bool) -> Any:
    app.config = [Env("CNNRAY_", command=False)]
    if config_file is not None:
        if not Path(config_file).is_file():
            raise OptionError(f"expected a TOML file for --config, but there is none at {config_file}")
        app.config = [*app.config, Toml(config_file, use_commands_as_keys=False)]
    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise OptionError(f"{error} (see --help)") from error
    if jobs.is_job(bound):
        _, words = _take_value(arguments, "--address")
        return jobs.submit(words, bound, config_file, as_json=as_json)
    return command(*bound.args, **bound.kwargs)


def _take_flag(arguments: list[str], flag: str) -> tuple[bool, list[str]]:
    return flag in arguments, [argument for argument in arguments if argument != flag]


def _take_value(arguments: list[str], flag: str) -> tuple[str | None, list[str]]:
    """Take "--flag VALUE" or "--flag=VALUE" out of the arguments."""
    for at, argument in enumerate(arguments):
        if argument == flag:
            if at + 1 == len(arguments):
                raise OptionError(f"expected a value after {flag}")
            return arguments[at + 1], arguments[:at] + arguments[at + 2 :]
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}="), arguments[:at] + arguments[at + 1 :]
    return None, arguments
