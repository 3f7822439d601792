"""Runs the training loop inside Ray Train: N workers, gloo on CPUs, NCCL on GPUs, restarted where they die.

The run's own state file is the checkpoint that a restart goes on from, so nothing waits for Ray Train's controller,
which takes reports only every other second.
"""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.train
import torch
from ray._private.state import state as ray_state
from ray._raylet import PlacementGroupID
from ray.train.torch import TorchTrainer, get_device, prepare_model
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup
from torch import nn

from cnnray import files
from cnnray.cluster import connect
from cnnray.config import TrainConfig
from cnnray.data.stream import RayStream
from cnnray.errors import CnnrayError, OptionError, UserError
from cnnray.nn.device import num_cores
from cnnray.train.loop import Data, Task, Worker, run
from cnnray.train.state import History, State, load_history, load_state

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
MAX_STREAM_TASKS = 16  # per trainer
PROGRESS_EVERY_S = 2.0
# How often the controller looks at its workers: its default of 2 s is the shortest time a run can take to end. The
# watcher is one more process, which only tells Ray's own log of nodes that are going to be taken away.
QUICK = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
# After a node is lost the controller first asks for as many workers as before, and waits a minute for them by default.
ELASTIC = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30"}

_NOT_OURS = (PlacementGroupCleanerCallback, DatasetsCallback)

Make = Callable[[], tuple[Task, Data]]


class _Trainer(TorchTrainer):
    """Without two actors that cost every run time and do nothing for ours.

    One gives back places of a controller that died, which `_own_places` does. It asks the dashboard, and where there is
    none (on one machine) the end of every short run waits for it for 12 s. The other divides datasets that a trainer is
    given; ours have theirs from `make`.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # Ray's stubs know its older trainer
        return [callback for callback in callbacks if not isinstance(callback, _NOT_OURS)]


def launch(
    make: Make,
    config: TrainConfig,
    folder: str,
    fingerprint: str,
    *,
    cpus: float = 1.0,
    watch: Callable[[History], None] = lambda history: None,
) -> State:
    """Train with `config.workers` processes; returns the final state.

    Args:
        make: builds the task and its data inside each worker; must be picklable and give the same everywhere.
        folder: absolute path or URI, on storage that all workers reach, where the state is kept; a state that is
            there is gone on from.
        fingerprint: of all settings and data, see `load_state`.
        cpus: that each worker reserves, see `plan_stream`.
        watch: is shown the history whenever an epoch was added.

    Raises:
        OptionError: more workers than the cluster can ever give, or too little memory for what they hold.
        CnnrayError: what a worker raised, or that workers died more than MAX_FAILURES times.
    """
    connect()
    check_resources(config)
    low, high = config.worker_range
    if high > 1:
        count = f"{low} to {high}" if low < high else str(high)
        each = f"{cpus:g} CPU" + (" and a GPU" if config.gpu else "")
        logger.info(f"training: {count} workers with {each} each, and the tasks that make their batches")
    state_uri, ray_folder = files.join(folder, "last.state"), files.join(folder, "ray")
    files.remove(ray_folder)  # Ray Train's notes about an earlier attempt; ours are in the state
    # the controller gets this dictionary, too, and would import what `make` needs, seconds before the workers start
    args = ray.cloudpickle.dumps((make, config, state_uri, fingerprint))
    variables = QUICK if low == high else QUICK | ELASTIC
    with _environment(variables), _own_interrupts(), _own_places(), _progress(state_uri, config.epochs, watch):
        trainer: Any = _Trainer(
            _work,  # type: ignore[arg-type]  # Ray's annotation forgets the return value that its Result hands on
            train_loop_config={"args": args, "threads": _asked_threads()},
            scaling_config=ray.train.ScalingConfig(
                num_workers=low if low == high else (low, high),  # type: ignore[arg-type]  # (min, max) is elastic
                use_gpu=config.gpu,
                resources_per_worker={"CPU": cpus} | ({"GPU": 1} if config.gpu else {}),
            ),
            run_config=ray.train.RunConfig(
                name="train",
                storage_path=ray_folder,
                failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
            ),
        )
        try:
            error = trainer.fit().return_value
        except ray.train.TrainingFailedError as failure:
            raise _cause(failure) from failure
    if error is not None:
        raise error
    files.remove(ray_folder)
    state = load_state(state_uri, fingerprint)
    assert state is not None, "a finished run has a state"
    return state


def plan_stream(config: TrainConfig) -> tuple[float, RayStream]:
    """Divide the cluster's CPUs between trainers and the tasks that make their batches.

    Returns:
        CPUs that each trainer reserves, and the stream of each. Where there are not two more CPUs for each trainer both
        share them, and a trainer reserves less than one: the driver of a job may hold a part of the only one that is
        left. There, and where trainers come and go, these may take the last CPU: tasks that reserved a share would
        never get a place, and the trainers would wait for them for ever. Such tasks reserve none.
    """
    connect()
    low, workers = config.worker_range
    spare = ray.cluster_resources().get("CPU", 0) - workers
    if spare < 2 * workers:
        return 0.75, RayStream(cpus=0.0, tasks=1)
    return 1.0, RayStream(cpus=1.0 if low == workers else 0.0, tasks=min(MAX_STREAM_TASKS, int(spare // workers)))


def check_resources(config: TrainConfig) -> None:
    """Refuse more workers than the cluster has, or can grow to: Ray Train would wait for them for ever.

    Raises:
        OptionError: too few CPUs or GPUs.
    """
    kind, workers = "GPU" if config.gpu else "CPU", config.worker_range[0]
    limits = ray_state.get_max_resources_from_cluster_config() or {}  # of a cluster that scales itself
    most = max(ray.cluster_resources().get(kind, 0), limits.get(kind, 0))
    if most < workers:
        cure = "leave out --gpu or use fewer --workers" if config.gpu else "use fewer --workers"
        raise OptionError(f"{workers} training workers need {workers} {kind}s, but the cluster has {most:g}; {cure}")


def _work(config: dict[str, Any]) -> UserError | None:
    """One worker's program. A user's fault is returned, not raised: restarting workers would not mend it."""
    make, settings, state_uri, fingerprint = ray.cloudpickle.loads(config["args"])
    context = ray.train.get_context()
    device = get_device()
    assert isinstance(device, torch.device)
    if device.type == "cpu":  # Ray allows as many threads as CPUs are reserved; the cores are there all the same
        torch.set_num_threads(config["threads"] or max(1, num_cores() // context.get_local_world_size()))
    worker = Worker(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=device,
        prepare=_wrap,
        report=ray.train.report,
    )
    try:
        task, data = make()
        run(task, data, settings, state_uri, fingerprint, worker)
    except UserError as error:
        return error
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return OptionError(
            f"a training worker ran out of memory ({str(error).strip().splitlines()[0]}); a smaller --batch-size, "
            "--accumulate 2 or more, or --precision bfloat16 needs less; finished epochs are kept"
        )
    return None


def _asked_threads() -> int:
    """OMP_NUM_THREADS of whoever starts the training, 0 without; asked here, since Ray sets its own in workers."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() else 0


def _wrap(model: nn.Module) -> nn.Module:
    """Data parallelism; statistics are equal everywhere (`synchronise_norms`), so none are sent around."""
    wrapped: nn.Module = prepare_model(model, parallel_strategy_kwargs={"broadcast_buffers": False})
    return wrapped


def _is_out_of_memory(error: Exception) -> bool:
    """Of a GPU, or of this process where the system refuses memory instead of killing it."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "can't allocate memory" in str(error) or "not enough memory" in str(error)


def _cause(failure: ray.train.TrainingFailedError) -> CnnrayError:
    """The first of cnnray's own errors among what the workers raised, else one that says how training ended."""
    failures = list(getattr(failure, "worker_failures", {}).values())
    for error in failures:
        while error is not None:
            if isinstance(error, CnnrayError):
                return error
            error = getattr(error, "cause", None) or error.__cause__
    last = str(failures[0] if failures else failure).strip().splitlines()[-1:]
    return CnnrayError(
        f"training ended after {MAX_FAILURES + 1} failed attempts, the last with: {''.join(last) or 'no message'}; "
        "finished epochs are kept, the same command goes on from them"
    )


@contextlib.contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    """Ray Train copies its variables from the environment of whoever calls fit; a user's own values stay."""
    own = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            del os.environ[name]


@contextlib.contextmanager
def _own_interrupts() -> Iterator[None]:
    """Ray Train takes Ctrl-C over for the run and would keep it for the rest of the program."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def _own_places() -> Iterator[None]:
    """Give back what Ray Train has reserved: it forgets the place of a worker that dies while it starts.

    That place would be held until this program ends, and a later run in it could wait for ever.
    """
    before = _places()
    try:
        yield
    finally:
        for name in _places() - before:
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))


def _places() -> set[str]:
    """Placement groups of this program that still hold resources; their ids end in that of its job."""
    job = ray.get_runtime_context().get_job_id()
    table = placement_group_table().items()
    return {name for name, group in table if name.endswith(job) and group["state"] != "REMOVED"}


@contextlib.contextmanager
def _progress(state_uri: str, epochs: int, watch: Callable[[History], None]) -> Iterator[None]:
    """Log the newest epoch every few seconds, as read from the state, and show the history to `watch`."""
    over = threading.Event()
    thread = threading.Thread(target=_log_epochs, args=(state_uri, epochs, watch, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _log_epochs(state_uri: str, epochs: int, watch: Callable[[History], None], over: threading.Event) -> None:
    logged = -1
    while not over.wait(PROGRESS_EVERY_S):
        history = load_history(state_uri)
        if history and (row := history[-1])["epoch"] != logged:
            logged = row["epoch"]
            logger.info(
                "epoch %d of at most %d: train loss %.4f, validation loss %.4f, validation score %.4f",
                *(logged + 1, epochs, row["train_loss"], row["val_loss"], row["val_score"]),
            )
            watch(history)
