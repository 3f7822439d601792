"""Ray around the plain stages: actors sized to the cluster, work units in, counts out, our errors unwrapped."""

import functools
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data

from cnnray.config import SourceConfig
from cnnray.data.actors import READER_CPUS, ActorPlan, NodesLost, plan_on_cluster, watch
from cnnray.data.attempts import Cautious, forget_attempts
from cnnray.data.feature_store import Outputs
from cnnray.data.fetch import read_unit
from cnnray.data.progress import JobProgress
from cnnray.data.runs import RunFolder
from cnnray.errors import CnnrayError

UNITS_PER_NODE = 8  # of work, for which a node is started that does not run: less is done before it is there
FAULT = "fault"
UNIT = "unit"
PACKED = "packed"

logger = logging.getLogger(__name__)


def work_off(
    title: str, units: Sequence[pa.Table], stage: type, run: RunFolder, arguments: dict[str, Any], config: SourceConfig
) -> Iterator[dict[str, Any]]:
    """Send units of images through `stage` on the whole cluster, showing progress; see `run_units`.

    Where the cluster loses nodes that the workers need, what is left is planned anew for the nodes that are left.

    Args:
        title: of the progress.
        units: from `plan_units`.
        stage: a class that takes `arguments`, `outputs` and `threads`, the cores that it may use.
        run: where the stage stores.
        config: says how many actors, and whether on GPUs.
    """
    forget_attempts(run.uri)
    left = {unit["id"][0].as_py(): unit for unit in units}
    arguments = arguments | {"outputs": Outputs(run.uri, run.token)}
    workers = config.workers
    with JobProgress(title, sum(unit.num_rows for unit in units)) as progress:
        while left:
            todo = list(left.values())
            plan = _plan(title, todo, config, workers)
            try:
                for row in run_units(todo, read_unit, stage, arguments | {"threads": plan.threads}, plan):
                    left.pop(row.pop(UNIT), None)
                    yield row
                    progress.advance(row["images"])
                break
            except NodesLost as loss:
                # Notes of attempts are kept: an image that takes its node with it must come to its end.
                logger.warning(f"{title}: {loss}; going on with {len(left):,} of {len(units):,} units of work")
                workers = 0  # as many as there is room for: those asked for may be too many now
    forget_attempts(run.uri)


def _plan(title: str, units: Sequence[pa.Table], config: SourceConfig, workers: int) -> ActorPlan:
    """How the cluster is divided, told before it is taken."""
    plan = plan_on_cluster(workers, config.gpu, most_new=workers or len(units) // UNITS_PER_NODE or 1)
    if plan.count > 1:
        each = f"{plan.cpus:g} CPUs" + (f" and {plan.gpus} GPU" if plan.gpus else "")
        images = sum(unit.num_rows for unit in units)
        logger.info(f"{title}: {images:,} images, {plan.count} workers with {each} each (--workers changes that)")
    return plan


def run_units(
    units: Sequence[pa.Table],
    read: Callable[[pa.Table], pa.Table],
    stage: type,
    arguments: dict[str, Any],
    plan: ActorPlan,
) -> Iterator[dict[str, Any]]:
    """Send work units through `read` (tasks) and `stage` (actors that load their model once).

    A unit travels packed into one row and is one call of the stage, so a unit that is tried again after a crash is the
    same unit. (Ray Data would cut or join rows of images: on GPUs it insists on a batch size.) Two calls run at once in
    an actor: no core waits at the end of a unit.

    Yields:
        the rows that the stage returns for each unit, as they come, and in each as UNIT the id of the unit's first
        image.

    Raises:
        CnnrayError: what the stage raised, in its constructor or in a call.
        NodesLost: the plan does not fit what is left of the cluster.
        NodeError: workers cannot live on a node.
    """
    quiet_ray_data()
    pool = ray.data.ActorPoolStrategy(
        size=plan.count, max_concurrent_calls_per_actor=2, enable_true_multi_threading=True
    )
    dataset = ray.data.from_arrow(list(units)).map_batches(
        _packing(read), batch_size=None, batch_format="pyarrow", num_cpus=READER_CPUS
    )
    dataset = dataset.map_batches(
        _guarded(stage),
        batch_size=1,
        batch_format="pyarrow",
        compute=pool,
        num_cpus=plan.cpus,
        num_gpus=plan.gpus,
        fn_constructor_kwargs=arguments,
    )
    done = 0
    dataset.context.custom_execution_callback_classes = [watch(plan, lambda: done)]
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        done += 1
        for row in pa.table(block).to_pylist():
            if row.get(FAULT):
                raise pickle.loads(row[FAULT])
            yield row


def _packing(read: Callable[[pa.Table], pa.Table]) -> Callable[[pa.Table], pa.Table]:
    """`read` with its answer as one row of bytes."""

    @functools.wraps(read)  # Ray names the task by it
    def packing(unit: pa.Table) -> pa.Table:
        filled, sink = read(unit), pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, filled.schema) as stream:
            stream.write_table(filled)
        return pa.table({PACKED: pa.array([sink.getvalue().to_pybytes()], pa.large_binary())})

    return packing


def _guarded(stage: type) -> type:
    """`stage` as Ray gets it: our errors come back as values, since Ray drops the cause of what a stage raises."""

    class Guarded:
        def __init__(self, **arguments: Any) -> None:
            self._fault: CnnrayError | None = None
            try:
                self._stage = Cautious(stage(**arguments), arguments["outputs"])
            except CnnrayError as error:
                self._fault = error

        def __call__(self, packed: pa.Table) -> pa.Table:
            try:
                if self._fault:
                    raise self._fault
                unit = pa.ipc.open_stream(packed[PACKED][0].as_buffer()).read_all()
                rows = self._stage(unit)
                return rows.append_column(UNIT, pa.array(unit["id"].to_pylist()[:1] * rows.num_rows))
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
