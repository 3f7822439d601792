"""A PostgreSQL server for tests: a data folder and a port of its own, ended with the tests."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from cnnray.serve.ports import free_port


def binaries():
    """The newest PostgreSQL of Debian's package, whose programs are not on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else Path(shutil.which("initdb") or "/nowhere/initdb").parent


class Server:
    """PostgreSQL, which refuses to run as root: then as the package's user `postgres`."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if not os.getuid() else []
        if self._as_user:
            shutil.chown(self.folder, "postgres")
        self.data = self.folder / "data"
        self._run(binaries() / "initdb", "-D", self.data, "-U", "cnnray", "--auth=trust", "--no-sync", "-E", "UTF8")
        self.port = free_port()
        self.process = None
        self.start()

    def url(self, name="postgres"):
        return f"postgresql://cnnray@127.0.0.1:{self.port}/{name}"

    def start(self):
        options = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self.folder}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command = [*self._as_user, binaries() / "postgres", "-D", self.data, *words]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, cwd="/")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            ready = subprocess.run(
                [binaries() / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "cnnray"], check=False
            )
            if not ready.returncode:
                return
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self):
        """At once: connections are cut, as when a machine fails; what was committed is there at the next start."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)

    def create(self, name):
        """A new database; its URL."""
        self._run(binaries() / "createdb", "-h", "127.0.0.1", "-p", self.port, "-U", "cnnray", name)
        return self.url(name)

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, *words):
        done = subprocess.run([*self._as_user, *map(str, words)], capture_output=True, text=True, cwd="/", check=False)
        assert not done.returncode, done.stderr
