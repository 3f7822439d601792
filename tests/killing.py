"""SIGKILL for what a test has started: drivers with their clusters, and actors."""

import contextlib
import os
import subprocess
import sys
import time

import psutil

from cnnray import files
from cnnray.errors import StorageError
from cnnray.train.state import load_history

_SMALL_UNITS = """
import sys
from cnnray import cli
from cnnray.data import units
units.UNIT_ROWS = 16
cli.main(sys.argv[1:])
"""


def start_command(*words):
    """`cnnray` with these words, in a cluster of its own, for it is going to be killed.

    Its units are small: of two, the second may be done before anyone sees the first, and nothing is left to go on with.
    """
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", _SMALL_UNITS, *map(str, words)]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE)


def kill_all(driver):
    """The driver and its Ray cluster at once, as when the machine goes down."""
    processes = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    driver.communicate()


def wait_for_parts(folder, count, driver):
    """Until `driver` has stored so many parts in a folder; those that are still being written do not count."""
    deadline = time.monotonic() + 120
    while len(files.list_files(str(folder), ".parquet")) < count:
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_epochs(uri, count, driver):
    """Until `driver` has stored a training state with so many epochs."""
    deadline = time.monotonic() + 150
    while True:
        assert driver.poll() is None, "it ended before it was killed"
        with contextlib.suppress(FileNotFoundError, StorageError):
            if len(load_history(uri)) >= count:
                return
        assert time.monotonic() < deadline, "no epoch in time"
        time.sleep(0.05)


def actors(stage):
    """Processes of this process's cluster that run the class of this name."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended while we looked
            if stage in " ".join(process.cmdline()):
                found.add(process)
    return found


def kill_next_actor(stage, seen):
    """SIGKILL to the first one that is not among `seen`; whether there was one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for process in actors(stage) - seen:
            process.kill()
            return True
        time.sleep(0.05)
    return False
