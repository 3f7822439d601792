"""Nodes of a Ray cluster that only a network joins: each in a network namespace of its own, on this machine.

Needs Linux, root and iproute2's `ip`.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.nodes import ROOT

RAY = str(Path(sys.executable).parent / "ray")
PORT = 6379
# Nobody else is in this network. A node that is not heard for ten seconds is given up, instead of half a minute.
SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "10",
}
NODE = ("--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats", "--block")


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def works():
    """Whether this machine lets us make networks."""
    name = f"probe{os.getpid()}"
    try:
        ip("netns", "add", name)
        ip("netns", "del", name)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


class Network:
    """A switch and the hosts at it, numbered from 0, which is the head of a Ray cluster of one CPU each."""

    def __init__(self, hosts):
        self.prefix, self.hosts = f"cr{os.getpid()}", hosts
        self.switch = f"{self.prefix}s"
        self.address = f"{self.ip_of(0)}:{PORT}"

    def ip_of(self, host):
        return f"10.99.7.{host + 1}"

    def __enter__(self):
        ip("netns", "add", self.switch)
        ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", self.switch, "link", "set", "bridge", "up")
        for host in range(self.hosts):
            name, port = self.name(host), f"port{host}"
            ip("netns", "add", name)
            ip("-n", self.switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", self.switch, "link", "set", port, "master", "bridge", "up")
            ip("-n", name, "address", "add", f"{self.ip_of(host)}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                ip("-n", name, "link", "set", link, "up")
        self._started, self._process = [], {}
        self._folder = tempfile.mkdtemp(prefix="net-")  # short: Ray's sockets lie in it
        return self

    def __exit__(self, *_):
        for name in [*map(self.name, range(self.hosts)), self.switch]:
            found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
            for pid in map(int, found):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            ip("netns", "del", name)
        for process in self._started:
            process.wait(10)
        shutil.rmtree(self._folder)

    def name(self, host):
        return f"{self.prefix}h{host}"

    def start(self, host):
        """Start Ray on a host, and return when it runs."""
        place = ("--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={self._folder}")
        words = place if host == 0 else (f"--address={self.address}",)
        command = [RAY, "start", f"--node-ip-address={self.ip_of(host)}", *NODE, *words]
        own = f"mount -t tmpfs tmpfs {self._folder}" if host else ""  # as machines have disks of their own
        script = f"{own}\nexec {' '.join(command)}"
        env = os.environ | SETTINGS | {"PYTHONPATH": str(ROOT)}
        words = ["ip", "netns", "exec", self.name(host), "sh", "-c", script]
        for _ in range(3):  # on a busy machine Ray may not find itself in time, and ends
            if self._runs(host, words, env):
                return
        raise AssertionError((Path(self._folder) / f"host{host}.log").read_text())

    def _runs(self, host, words, env):
        told = Path(self._folder) / f"host{host}.log"
        with told.open("w") as log:
            process = self._process[host] = subprocess.Popen(words, env=env, stdout=log, stderr=log)
        self._started.append(process)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if "Ray runtime started" in told.read_text():
                return True
            time.sleep(0.1)
        return False

    def fill_disk(self, host):
        """That of a host other than the head, where Ray has its folder."""
        script = f"mount -o remount,size=1M {self._folder}; dd if=/dev/zero of={self._folder}/filling bs=4k"
        into = ["nsenter", "--mount", f"--target={self._process[host].pid}"]
        done = subprocess.run([*into, "sh", "-c", script], capture_output=True, text=True)
        assert "No space left" in done.stderr, done.stderr

    def run(self, program, *words, timeout=500):
        """Python code on the head."""
        command = ["ip", "netns", "exec", self.name(0), sys.executable, "-W", "ignore", "-c", program]
        env = os.environ | SETTINGS | {"RAY_ADDRESS": self.address}
        return subprocess.run(
            [*command, *map(str, words)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout
        )

    def link(self, host, state):
        """ "down" cuts a host off, "up" brings it back."""
        ip("-n", self.switch, "link", "set", f"port{host}", state)


def wait_for_nodes(count, timeout=120):
    """In a program that has joined the cluster: until so many live."""
    import ray

    deadline = time.monotonic() + timeout
    while sum(node["Alive"] for node in ray.nodes()) != count:
        assert time.monotonic() < deadline, ray.nodes()
        time.sleep(0.2)
