"""A service as a user starts it."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil

from cnnray.serve.ports import free_port
from tests.killing import kill_all


class Service:
    """`cnnray serve up` in a process and a folder of its own, so that it can be ended and started again.

    Args:
        folder: that it runs in, where FOLDER/log has what it says.
        words: options of the command.
    """

    def __init__(self, folder, *words):
        self.folder, self.words, self.process = folder, words, None
        self.url = f"http://127.0.0.1:{free_port()}"

    def start(self):
        """Return once it is ready."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        log = self.folder / "log"
        with log.open("w") as file:
            words = [sys.executable, "-m", "cnnray", "serve", "up", "--port", self.url.rpartition(":")[2], *self.words]
            self.process = subprocess.Popen(words, cwd=self.folder, env=env, stdout=file, stderr=file)
        deadline = time.monotonic() + 240
        while "ready at" not in log.read_text():
            assert self.process.poll() is None, log.read_text()
            if time.monotonic() > deadline:
                kill_all(self.process)
                raise AssertionError(f"not ready; it says: {log.read_text()}")
            time.sleep(0.1)
        return self

    def replicas(self, deployment):
        """Processes of a deployment, by number."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it ended just now
                words = " ".join(process.cmdline())
                if "ServeReplica" in words and f":{deployment}" in words:
                    found.append(process.pid)
        return found

    def stop(self):
        """End it as Ctrl-C does; should that fail, it takes no other test's cores."""
        self.process.send_signal(signal.SIGINT)
        try:
            assert self.process.wait(60) == 0, (self.folder / "log").read_text()
        finally:
            if self.process.poll() is None:
                kill_all(self.process)
