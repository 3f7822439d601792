"""Worker processes that end one after the other on a node where none can live, as on a full disk."""

import time
from collections.abc import Callable
from typing import Any

from ray._private.state import state as ray_state
from ray.core.generated import common_pb2, gcs_pb2

from cnnray.errors import NodeError

QUIET_SECONDS, MOST_DEATHS = 30.0, 20
_BY_ITSELF = [common_pb2.WorkerExitType.Value(name) for name in ("SYSTEM_ERROR", "NODE_OUT_OF_MEMORY")]  # type: ignore[attr-defined]


def ended_workers() -> dict[str, set[str]]:
    """Ids of the worker processes of the connected cluster that ended by themselves, by the address of their node."""
    found: dict[str, set[str]] = {}
    for entry in ray_state._connect_and_get_accessor().get_worker_table():
        worker: Any = gcs_pb2.WorkerTableData.FromString(entry)  # type: ignore[attr-defined]
        if not worker.is_alive and worker.exit_type in _BY_ITSELF:
            address = worker.worker_address
            found.setdefault(address.ip_address, set()).add(address.worker_id.hex())
    return found


class Deaths:
    """Worker processes that end on one node, one after the other, while no work gets done.

    An image that kills its worker ends at most a handful of them; other workers go on meanwhile.

    Args:
        ended: ids of the workers that ended by themselves, by the address of their node.
        clock: seconds.
    """

    def __init__(
        self,
        ended: Callable[[], dict[str, set[str]]] = ended_workers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ended, self._clock = ended, clock
        self._done, self._since = -1, clock()
        self._before: dict[str, set[str]] | None = None

    def check(self, done: int) -> None:
        """Look again, where nothing was done for a while.

        Raises:
            NodeError: MOST_DEATHS on a node since.
        """
        if done != self._done:
            self._done, self._since, self._before = done, self._clock(), None
        quiet = self._clock() - self._since
        if quiet < QUIET_SECONDS:
            return
        ended = self._ended()
        if self._before is None:
            self._before = ended
        for node, workers in ended.items():
            count = len(workers - self._before.get(node, set()))
            if count >= MOST_DEATHS:
                raise _bad_node(f"nothing was done for {quiet:.0f} s, while {count}", node)


def worker_died() -> NodeError:
    """To raise where Ray gives up a task whose workers ended one after the other; names the node that most ended on."""
    ended = ended_workers()
    return _bad_node("one after the other,", max(ended, key=lambda node: len(ended[node]), default="unknown"))


def _bad_node(what: str, node: str) -> NodeError:
    return NodeError(
        f"{what} workers ended on the node {node}, as they do where a disk is full. Look there at the disks of Ray's "
        "folder (/tmp/ray), of /dev/shm and of the results, and at the memory; or take the node out (ray stop there). "
        "What is stored stays, and the same command goes on with it"
    )
