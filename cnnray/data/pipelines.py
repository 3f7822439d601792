"""Ray around the plain stages: actors sized to the cluster, work units in, counts out, our errors unwrapped."""

import logging
import math
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray._private.state import state as ray_state

from cnnray.config import SourceConfig
from cnnray.data.attempts import Cautious, forget_attempts
from cnnray.data.feature_store import Outputs
from cnnray.data.fetch import read_unit
from cnnray.data.progress import JobProgress
from cnnray.data.runs import RunFolder
from cnnray.errors import CnnrayError, OptionError

# Readers wait for files, so they hold a fraction of a core. The rest of a node is the actors'.
READER_CPUS = 0.25
KEPT_FREE_CPUS = 0.5
UNITS_PER_NODE = 8  # of work, for which a node is started that does not run: less is done before it is there
MANY = 100
_GROUP_LABEL = "ray.io/node-group"
FAULT = "fault"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ActorPlan:
    """How many actors, and what each holds.

    Attributes:
        count: actors.
        cpus: logical CPUs that one reserves.
        gpus: GPUs that one reserves, 0 or 1.
        threads: cores that one computes on.
    """

    count: int
    cpus: float
    gpus: int
    threads: int


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


def cluster_nodes(gpu: bool, most_new: int) -> list[dict[str, float]]:
    """Resources of the living nodes of the connected cluster, and of up to `most_new` that it can start."""
    living = [node for node in ray.nodes() if node["Alive"]]
    groups = getattr(ray_state.get_cluster_config(), "node_group_configs", ())  # none of a cluster that does not grow
    return [dict(node["Resources"]) for node in living] + startable(living, groups, gpu)[:most_new]


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


def work_off(
    title: str, units: Sequence[pa.Table], stage: type, run: RunFolder, arguments: dict[str, Any], config: SourceConfig
) -> Iterator[dict[str, Any]]:
    """Send units of images through `stage` on the whole cluster, showing progress; see `run_units`.

    Args:
        title: of the progress.
        units: from `plan_units`.
        stage: a class that takes `arguments`, `outputs` and `threads`, the cores that it may use.
        run: where the stage stores.
        config: says how many actors, and whether on GPUs.
    """
    forget_attempts(run.uri)
    plan = plan_actors(
        cluster_nodes(config.gpu, config.workers or len(units) // UNITS_PER_NODE or 1), config.workers, config.gpu
    )
    _announce(title, units, plan)
    with JobProgress(title, sum(unit.num_rows for unit in units)) as progress:
        arguments = arguments | {"outputs": Outputs(run.uri, run.token), "threads": plan.threads}
        for row in run_units(units, read_unit, stage, arguments, plan):
            yield row
            progress.advance(row["images"])
    forget_attempts(run.uri)


def _announce(title: str, units: Sequence[pa.Table], plan: ActorPlan) -> None:
    """What a job will take, before it takes it."""
    if plan.count > 1:
        each = f"{plan.cpus:g} CPUs" + (f" and {plan.gpus} GPU" if plan.gpus else "")
        images = sum(unit.num_rows for unit in units)
        logger.info(f"{title}: {images:,} images, {plan.count} workers with {each} each (--workers changes that)")


def run_units(
    units: Sequence[pa.Table], read: Any, stage: type, arguments: dict[str, Any], plan: ActorPlan
) -> Iterator[dict[str, Any]]:
    """Send work units through `read` (tasks) and `stage` (actors that load their model once).

    A unit travels as one block and is one call of the stage, so a unit that is tried again after a crash is the same
    unit. Two calls run at once in an actor: no core waits at the end of a unit.

    Yields:
        the row that the stage returns for each unit, as it comes.

    Raises:
        CnnrayError: what the stage raised, in its constructor or in a call.
    """
    quiet_ray_data()
    pool = ray.data.ActorPoolStrategy(
        size=plan.count, max_concurrent_calls_per_actor=2, enable_true_multi_threading=True
    )
    dataset = ray.data.from_arrow(list(units)).map_batches(
        read, batch_size=None, batch_format="pyarrow", num_cpus=READER_CPUS
    )
    dataset = dataset.map_batches(
        _guarded(stage),
        batch_size=None,
        batch_format="pyarrow",
        compute=pool,
        num_cpus=plan.cpus,
        num_gpus=plan.gpus,
        fn_constructor_kwargs=arguments,
    )
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in pa.table(block).to_pylist():
            if row.get(FAULT):
                raise pickle.loads(row[FAULT])
            yield row


def _guarded(stage: type) -> type:
    """`stage` as Ray gets it: our errors come back as values, since Ray drops the cause of what a stage raises."""

    class Guarded:
        def __init__(self, **arguments: Any) -> None:
            self._fault: CnnrayError | None = None
            try:
                self._stage = Cautious(stage(**arguments), arguments["outputs"])
            except CnnrayError as error:
                self._fault = error

        def __call__(self, unit: pa.Table) -> pa.Table:
            try:
                if self._fault:
                    raise self._fault
                return self._stage(unit)
            except CnnrayError as error:
                return pa.table({FAULT: [pickle.dumps(error)]})

    Guarded.__name__ = Guarded.__qualname__ = stage.__name__  # what Ray calls the actor's process
    return Guarded


def quiet_ray_data() -> None:
    """Ray Data's own bars, plans and tracebacks off: cnnray shows one bar, and an error reaches the caller anyway."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.verbose_progress = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
