"""A service as a user starts it."""

import os
import signal
import socket
import subprocess
import sys
import time


class Service:
    """`cnnray serve up` in a process and a folder of its own, so that it can be ended and started again.

    Args:
        folder: that it runs in, where FOLDER/log has what it says.
        words: options of the command.
    """

    def __init__(self, folder, *words):
        self.folder, self.words, self.process = folder, words, None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"

    def start(self):
        """Return once it is ready."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        command = [sys.executable, "-m", "cnnray", "serve", "up"]
        log = self.folder / "log"
        with log.open("w") as file:
            port = self.url.rpartition(":")[2]
            self.process = subprocess.Popen(
                [*command, "--port", port, *self.words], cwd=self.folder, env=env, stdout=file, stderr=file
            )
        deadline = time.monotonic() + 120
        while "ready at" not in log.read_text():
            assert self.process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        return self

    def stop(self):
        """End it as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 0, (self.folder / "log").read_text()
