"""`--address http://HOST:8265`: the same command, not run here but as a job on the cluster whose dashboard that is.

The cluster runs the cnnray of its own image; nothing of this machine travels but options, CNNRAY_ variables, and the
file of --config.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from inspect import BoundArguments
from pathlib import Path
from typing import Any

from cnnray import __version__, files
from cnnray.cli.cluster_token import show_token
from cnnray.cli.console import say
from cnnray.errors import CnnrayError, OptionError, one_line

ASKED_BY = "CNNRAY_ASKED_BY"  # version of whoever submitted the job
_CONFIG = "config.toml"
_OF_THIS_MACHINE = {"CNNRAY_API_KEY", "CNNRAY_URL", "CNNRAY_CACHE", "CNNRAY_DATA", "CNNRAY_ADDRESS"}
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_POLL_SECONDS = 0.5
_CURES = {
    "No module named": "the python on the PATH of the cluster's head lacks cnnray, or what it needs",
    "python: not found": "the cluster's head has no program python on its PATH",
}


def is_job(bound: BoundArguments) -> bool:
    """Whether a command's `address` is that of a dashboard, which takes jobs, and not of a cluster to join."""
    return str(bound.arguments.get("address")).startswith(("http://", "https://"))


def check_version() -> None:
    """Refuse to work on a job that another version of cnnray has submitted.

    Raises:
        OptionError: its options may mean something else here.
    """
    asked = os.environ.get(ASKED_BY, __version__)
    if asked != __version__:
        raise OptionError(
            f"expected cnnray {asked}, which this job was submitted with, but the cluster has {__version__}; "
            f"install cnnray {__version__} where you submit, or update the cluster's image"
        )


def submit(words: Sequence[str], bound: BoundArguments, config_file: str | None, *, as_json: bool) -> Any:
    """Run a command line as a job and show what it prints; where it fails, end with its exit code.

    Args:
        words: of the command, without --json, --config and --address.
        bound: the same, parsed; its `address` is the URL of the dashboard. The cluster's token is that of
            RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.
        config_file: travels with the job.
        as_json: the job prints a JSON object.

    Returns:
        that object; None without.

    Raises:
        OptionError: a path of this machine, or no dashboard answers, or it refuses the token.
        CnnrayError: the job was stopped, or ended without an exit code.
    """
    if words[0] == "serve":
        raise OptionError("a job ends, a service stays: cnnray serve deploy brings it to a cluster by its dashboard")
    refuse_local_paths(bound)
    address = bound.arguments["address"]
    client = _connect(address)
    # an address of its own: that of this command may also stand in the file
    command = ["python", "-m", "cnnray", *words, "--address", "auto"]
    command += ["--config", _CONFIG] if config_file else []
    command += ["--json"] if as_json else []
    try:
        with _working_dir(config_file) as folder:
            job = client.submit_job(
                entrypoint=shlex.join(command),
                runtime_env={"env_vars": _variables()} | ({"working_dir": folder} if folder else {}),
            )
    except (OSError, RuntimeError) as error:
        raise CnnrayError(f"the cluster at {address} took no job: {one_line(error)}") from error
    goes_on = f"the job goes on; follow it: ray job logs --follow {job}   end it: ray job stop {job}"
    try:
        say(f"job {job} at {address}")
        lines = asyncio.run(_show(client, job, as_json=as_json))
        _wait_for_end(client, job)
        info = client.get_job_info(job)
    except KeyboardInterrupt:
        say(goes_on)
        raise
    except (OSError, RuntimeError) as error:
        broke = f"the connection to {address} broke: {one_line(error)}"
        raise CnnrayError(f"{broke}; if the cluster is there, {goes_on}") from error
    _check_end(info, lines)
    return next(filter(None, map(_json_object, reversed(lines))), None) if as_json else None


def refuse_local_paths(bound: BoundArguments) -> None:
    """Relative paths would be looked for in the job's own folder on the head, which ends with it.

    Raises:
        OptionError: a relative path, as far as can be told from here; also the default of a record of galleries.
    """
    record = next((value for name, value in _values(_with_defaults(bound)) if name == "record"), "")
    if record and not files.is_absolute(record):
        raise OptionError(
            "expected --record or CNNRAY_RECORD, a database that the whole cluster reaches (postgresql://...) or an "
            f"absolute path; {record!r} would be a file in the job's folder, which goes with it"
        )
    for name, value in _values(bound.arguments):
        place = value.rpartition("=")[2]  # of --style NAME=PATH
        if name.endswith("_column") or files.is_absolute(value) or files.is_absolute(place):
            continue
        if name == "out" or "/" in place or Path(value).exists() or Path(place).exists():
            raise OptionError(
                f"expected an absolute path or a URI (s3://, gs://) as {name} that the whole cluster reaches; "
                f"got {value!r}"
            )


def _with_defaults(bound: BoundArguments) -> Mapping[str, Any]:
    """All arguments of a command that works on this machine's galleries; none where a service's are meant."""
    whole = bound.signature.bind_partial(*bound.args, **bound.kwargs)
    whole.apply_defaults()
    return {} if whole.arguments.get("url") else whole.arguments


def _values(arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """All strings among the values, those of configurations too, each with its option's name."""
    for name, value in arguments.items():
        if dataclasses.is_dataclass(value):
            yield from _values({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
        elif isinstance(value, tuple | list):
            yield from ((name, item) for item in value if isinstance(item, str))
        elif isinstance(value, str) and value:
            yield name, value


def _connect(address: str) -> Any:
    show_token()
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise OptionError(
            f"the cluster at {address} asks for its token and refuses what was sent; expected it in RAY_AUTH_TOKEN, or "
            "its file in RAY_AUTH_TOKEN_PATH"
        ) from error
    except (OSError, RuntimeError) as error:  # OSError: requests' errors are of it
        said = str(error).splitlines()[0].strip(".")
        raise OptionError(
            f"expected the dashboard of a Ray cluster at {address}, but none answers: {said} "
            "(from outside, first: ssh -N -L 8265:127.0.0.1:8265 HEAD)"
        ) from error


def _variables() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name.startswith("CNNRAY_")}
    return {name: value for name, value in own.items() if name not in _OF_THIS_MACHINE} | {ASKED_BY: __version__}


@contextlib.contextmanager
def _working_dir(config_file: str | None) -> Iterator[str]:
    """A folder with the file of --config alone; "" without one."""
    if config_file is None:
        yield ""
        return
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(config_file, Path(folder, _CONFIG))
        yield folder


async def _show(client: Any, job: str, *, as_json: bool) -> list[str]:
    """Show a job's lines as they come, but for JSON where it is asked for, until it ends; all lines."""
    lines, rest = [], ""
    async for part in client.tail_job_logs(job):
        *whole, rest = (rest + part).split("\n")
        for line in whole:
            lines.append(line)
            if not (as_json and _json_object(line)):
                say(line)
    return [*lines, rest] if rest else lines


def _wait_for_end(client: Any, job: str) -> None:
    while client.get_job_status(job) not in _ENDED:  # the last lines come before it
        time.sleep(_POLL_SECONDS)


def _check_end(info: Any, lines: Sequence[str]) -> None:
    job, status = info.submission_id, info.status
    if status == "STOPPED":
        raise CnnrayError(f"job {job} was stopped; the same command resumes")
    if status == "SUCCEEDED":
        return
    for sign, cure in _CURES.items():
        if any(sign in line for line in lines):
            raise CnnrayError(f"{cure}; cluster/Dockerfile makes an image that has all of it")
    if info.driver_exit_code is None:
        raise CnnrayError(f"job {job} did not run to its end: {info.message}")
    sys.exit(info.driver_exit_code)


def _json_object(line: str) -> dict[str, Any] | None:
    """The JSON object that is the whole line, if it is one."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
