"""What a job costs before it works: from `ray job submit` to its first line, on a head node of this machine.

    python benchmarks/job_overhead.py [--rounds 5]      about three minutes

The job imports what every recipe of jobs/ imports and says what time it is. Two ways, in turn: `ray job submit
--working-dir .`, which uploads this folder, and `cnnray ... --address http://...`, which uploads nothing. Last line,
one JSON object:

    submit_s, submit_max_s     `ray job submit` to the first line, median and most (target 15)
    address_s, address_max_s   the same of a command with --address, until it has said that there are no images
    ended_s                    `ray job submit` until it has returned, median
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.heads import BIN, head_node  # noqa: E402

NOTHING = "import time, cnnray.cli; print('begun', time.time(), flush=True)"


def submitted(env):
    """Seconds until the first line and until the end."""
    command = [BIN / "ray", "job", "submit", "--working-dir", ".", "--entrypoint-num-cpus=0.1", "--"]
    began = time.time()
    done = subprocess.run(
        [*command, sys.executable, "-c", NOTHING], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    ended = time.time() - began
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("begun ")]
    return float(line.split()[1]) - began, ended


def addressed(env):
    """Seconds until a command without images has said so: it had begun on the cluster."""
    began = time.time()
    words = ["features", "build", "/nowhere", "--out", "/nowhere/run", "--address", env["RAY_API_SERVER_ADDRESS"]]
    done = subprocess.run([BIN / "cnnray", *words], env=env, capture_output=True, text=True)
    assert done.returncode and "/nowhere" in done.stderr + done.stdout, done
    return time.time() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with head_node() as env:
        submitted(env)  # the first starts Ray's agents of jobs
        times = [(submitted(env), addressed(env)) for _ in range(rounds)]
    first = [submit[0] for submit, _ in times]
    other = [address for _, address in times]
    print(
        json.dumps(
            {
                "submit_s": round(statistics.median(first), 2), "submit_max_s": round(max(first), 2),
                "ended_s": round(statistics.median(submit[1] for submit, _ in times), 2),
                "address_s": round(statistics.median(other), 2), "address_max_s": round(max(other), 2),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
