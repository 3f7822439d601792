"""Actors sized to a cluster, and a watch over the nodes that they were sized to."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray._private.state import state as ray_state
from ray.data._internal.execution.execution_callback import ExecutionCallback

from cnnray.data.deaths import Deaths
from cnnray.errors import OptionError

# Readers wait for files, so they hold a fraction of a core. The rest of a node is the actors'.
READER_CPUS = 0.25
KEPT_FREE_CPUS = 0.5
MANY = 100
WATCH_SECONDS = 2.0
_GROUP_LABEL = "ray.io/node-group"


@dataclass(frozen=True)
class ActorPlan:
    """How many actors, and what each holds.

    Attributes:
        count: actors.
        cpus: logical CPUs that one reserves.
        gpus: GPUs that one reserves, 0 or 1.
        threads: cores that one computes on.
        counted_on: ids of the nodes that lived when this was planned.
    """

    count: int
    cpus: float
    gpus: int
    threads: int
    counted_on: frozenset[str] = frozenset()


def plan_actors(nodes: Sequence[dict[str, float]], workers: int, gpu: bool) -> ActorPlan:
    """Divide a cluster among actors.

    Args:
        nodes: resources of each node, as Ray names them ("CPU", "GPU").
        workers: actors wanted; 0 is one per GPU, or one per node that has CPUs.
        gpu: whether each holds a GPU.

    Raises:
        OptionError: more is wanted than the cluster has.
    """
    usable = [node for node in nodes if node.get("GPU" if gpu else "CPU", 0) >= 1]
    gpus = int(sum(node.get("GPU", 0) for node in usable))
    if gpu and not gpus:
        raise OptionError("expected a GPU in the Ray cluster for --gpu, but it has none")
    if not usable:
        raise OptionError("expected a node with at least 1 CPU in the Ray cluster, but it has none")
    count = workers or (gpus if gpu else len(usable))
    if gpu and count > gpus:
        raise OptionError(f"expected at most {gpus} workers, one per GPU of the cluster; got {count}")
    cores = min(node.get("CPU", 1) for node in usable)
    per_node = math.ceil(count / len(usable))
    if per_node > cores:
        raise OptionError(f"expected at most {int(cores) * len(usable)} workers, one per core; got {count}")
    cpus = max(0.25, (cores - KEPT_FREE_CPUS) / per_node)
    return ActorPlan(count, math.floor(cpus * 4) / 4, int(gpu), max(1, round(cores / per_node)))


def plan_on_cluster(workers: int, gpu: bool, most_new: int) -> ActorPlan:
    """Divide the connected cluster among actors: the nodes that live, and up to `most_new` that it can start.

    Args and raises as `plan_actors`.
    """
    living = living_nodes()
    groups = getattr(ray_state.get_cluster_config(), "node_group_configs", ())  # none of a cluster that does not grow
    nodes = [dict(node["Resources"]) for node in living] + startable(living, groups, gpu)[:most_new]
    return replace(plan_actors(nodes, workers, gpu), counted_on=frozenset(node["NodeID"] for node in living))


def living_nodes() -> list[dict[str, Any]]:
    """The nodes of the connected cluster that live, as Ray lists them."""
    return [node for node in ray.nodes() if node["Alive"]]


def startable(living: Sequence[dict[str, Any]], groups: Sequence[Any], gpu: bool) -> list[dict[str, float]]:
    """Resources of the nodes that a cluster can still start; for work on CPUs those without GPU, if there are any.

    Args:
        living: nodes, as Ray lists them.
        groups: types of nodes, as Ray's autoscaler reports them: name, resources, and how many there can be (below 0:
            any number, of which a hundred are counted).
        gpu: whether the work is for GPUs.
    """
    usable = [group for group in groups if group.resources.get("GPU" if gpu else "CPU", 0) >= 1]
    cheap = [group for group in usable if gpu or not group.resources.get("GPU", 0)] or usable
    found = []
    for group in cheap:
        running = sum(node.get("Labels", {}).get(_GROUP_LABEL) == group.name for node in living)
        room = (group.max_count if group.max_count >= 0 else MANY) - running
        found += [{name: float(value) for name, value in group.resources.items()} for _ in range(room)]
    return found


def fits(plan: ActorPlan, nodes: Sequence[dict[str, float]]) -> bool:
    """Whether all actors of a plan have a place on these nodes, with room for a reader beside them on each.

    Args:
        nodes: resources of each node, as in `plan_actors`.
    """
    places = 0
    for node in nodes:
        by_cpu = int((node.get("CPU", 0) - READER_CPUS) / plan.cpus)
        places += max(0, min(by_cpu, int(node.get("GPU", 0))) if plan.gpus else by_cpu)
    return places >= plan.count


class NodesLost(Exception):
    """Nodes that a plan counted on are gone, and those left have no room for all of its actors."""


def watch(plan: ActorPlan, done: Callable[[], int]) -> type[ExecutionCallback]:
    """What Ray Data calls while it executes, to raise an error instead of waiting for ever.

    Ray starts the actors of a lost node again on what is left of the cluster. Where they take the room of the readers
    nothing comes to any actor; where one finds no room, the work that it had waits for it: NodesLost. And it starts
    workers again on a node where none can live, as on a full disk: NodeError.

    Args:
        done: how many units of work are done.
    """

    class Watch(ExecutionCallback):
        def __init__(self) -> None:
            self._next = time.monotonic()
            self._deaths = Deaths()

        def on_execution_step(self, executor: Any) -> None:
            if time.monotonic() < self._next:
                return
            self._next = time.monotonic() + WATCH_SECONDS
            living = living_nodes()
            lost = plan.counted_on - {node["NodeID"] for node in living}
            if lost and not fits(plan, [node["Resources"] for node in living]):
                raise NodesLost(f"{len(lost)} of {len(plan.counted_on)} nodes were lost")
            self._deaths.check(done())

    return Watch
