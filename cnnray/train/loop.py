"""The training loop of every task, in one straight line. It knows no Ray: `launch` runs it inside Ray Train's workers.

A task gives the model, which of its layers learn when, and one batch's sums; data gives the batches of an epoch. Every
worker takes its share of each *global* batch, and the gradient is that of (sum of losses) / (sum of weights) over all
workers, whose batch norms share their statistics: N workers at a batch of B together follow the same curve as one
worker at B, up to the order of float additions.

Nothing random outlives a step: seeds come from (seed, epoch, step), so a run that is killed after any number of epochs
and started again ends with the same bits.
"""

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cnnray.config import TrainConfig
from cnnray.errors import DataError, StorageError
from cnnray.nn.device import native_precision
from cnnray.ops.seeds import seed_for
from cnnray.train.optim import (
    Group,
    build_optimizer,
    learning_rate,
    optimizer_tensors,
    restore_optimizer,
    set_learning_rate,
    set_trainable,
    start_average,
    to_host,
    update_average,
)
from cnnray.train.state import History, State, Tensors, load_state, save_state
from cnnray.train.sync_norm import synchronise_norms

REPORT_EVERY_S = 5.0  # Ray Train's controller takes a report every 2 s; a faster sender would wait for it
LOSSES_KEPT = 100  # per epoch, in the history
CHECK_EVERY = {"cuda": 25}  # steps between looks at the loss, else 1: a look waits for the device
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class DivergedError(DataError):
    """The loss is no longer a finite number; the state of the last whole epoch is kept."""


class Step(NamedTuple):
    """Sums over one worker's part of a batch.

    Attributes:
        loss: scalar, sum of weight * loss over the examples; carries the gradient.
        weight: scalar, sum of the weights.
        score: scalar, sum over the examples of the task's score (1 for a right class, an overlap ...); NaN in training
            where it would take too long: the history then has no "train_score".
        num_examples: in the part.
    """

    loss: Tensor
    weight: Tensor
    score: Tensor
    num_examples: int


class Task(Protocol):
    """What a task gives to the loop."""

    def build(self) -> nn.Module:
        """The model before training, the same on every worker (torch's generator is seeded before the call)."""

    def groups(self, model: nn.Module) -> Sequence[Group]:
        """Which layers learn, from which epoch on and how fast; what is in no group stays as it is."""

    def step(self, model: nn.Module, batch: Any) -> Step:
        """Run the model on a batch of `Data`, in training or evaluation as the model's mode says."""


class Data(Protocol):
    """Where batches come from. A batch is a tuple of tensors that the task understands, examples along axis 0.

    Attributes:
        num_steps: global batches in an epoch; `train_batches` yields exactly so many on every worker, since
            workers wait for each other at each.
    """

    @property
    def num_steps(self) -> int:
        """Global batches in an epoch."""

    def train_batches(self, epoch: int, rank: int, world: int) -> Iterable[tuple[Tensor, ...]]:
        """Worker `rank`'s part, global_batch[rank::world], of every global batch of the epoch; seeded."""

    def val_batches(self, rank: int, world: int) -> Iterable[tuple[Tensor, ...]]:
        """Worker `rank`'s part of the validation set; parts are disjoint and together the whole."""

    def batch_ids(self, epoch: int, step: int) -> Sequence[str]:
        """What is in a global batch, for messages."""


@dataclass(frozen=True)
class Worker:
    """One of `world` processes that train together; the default is one alone.

    Attributes:
        prepare: wraps a model that is on the device for data parallelism.
        report: tells the outside how training goes; called by all workers together.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model
    report: Callable[[dict[str, Any]], None] = lambda row: None


def run(task: Task, data: Data, config: TrainConfig, state_uri: str, fingerprint: str, worker: Worker) -> None:
    """Train until the epochs are over or validation no longer improves; the result is the state at `state_uri`.

    Args:
        state_uri: where the first worker keeps the state; a state that is there is gone on from.
        fingerprint: of all settings and data, see `load_state`.

    Raises:
        DivergedError: the loss is no longer finite.
        StorageError: the state cannot be written, or workers do not see the same one.
        CheckpointError, RunFolderError: the state at `state_uri` is damaged or of another run.
    """
    # ---- model, optimizer, state ---------------------------------------------------------------------------------
    torch.manual_seed(config.seed)
    inner = task.build()
    state = load_state(state_uri, fingerprint)
    if state:
        inner.load_state_dict(state.model)
    inner = inner.to(worker.device).to(memory_format=torch.channels_last)
    synchronise_norms(inner, worker.world)
    average = start_average(inner, config.ema)
    if state and average is not None:
        average.load_state_dict(state.average)
    groups = task.groups(inner)
    optimizer = build_optimizer(groups, config)
    precision = native_precision(worker.device) if config.precision == "auto" else config.precision
    # PyTorch's start of 2^16 is for the mean of a batch; here it is the sum that is scaled
    scaler = torch.amp.GradScaler(worker.device.type, 2.0**16 / config.batch_size, enabled=precision == "float16")
    if state:
        restore_optimizer(optimizer, scaler, state.optimizer)
    history: History = list(state.history) if state else []
    best: Tensors = state.best if state else {}
    check_agreement(len(history), worker)
    reported = time.monotonic()
    active: tuple[int, ...] = ()
    model = inner

    while not is_done(history, config):
        epoch, started = len(history), time.monotonic()

        # ---- what learns in this epoch ---------------------------------------------------------------------------
        if (now := set_trainable(inner, groups, epoch)) != active:
            del model
            gc.collect()  # the wrapper of the last epochs still hooks the parameters
            model, active = worker.prepare(inner), now

        # ---- one pass over the training data ---------------------------------------------------------------------
        train = torch.zeros(4, dtype=torch.float64, device=worker.device)
        losses = train.new_zeros(data.num_steps)
        for index, batch in enumerate(data.train_batches(epoch, worker.rank, worker.world)):
            at = epoch * data.num_steps + index
            torch.manual_seed(seed_for(f"step {at}", config.seed, worker.rank))  # of dropout
            set_learning_rate(optimizer, learning_rate(at, data.num_steps, config))
            total = torch.zeros_like(train)
            passes = num_passes(len(batch[0]), config.accumulate, worker)
            for piece, is_last in pieces(to_device(batch, worker.device), passes):
                with synchronised(model, is_last):
                    with torch.autocast(worker.device.type, DTYPES[precision], enabled=precision != "float32"):
                        step = task.step(model, piece)
                    scaler.scale(step.loss * worker.world).backward()  # data parallelism averages: times world
                total += sums(step)
            train += total
            total = all_sum(total.clone(), worker)
            losses[index] = total[0] / total[1]
            if (index + 1) % CHECK_EVERY.get(worker.device.type, 1) == 0 or index + 1 == data.num_steps:
                check_finite(losses[: index + 1], data, epoch)
            scaler.unscale_(optimizer)
            divide_gradients(optimizer, total[1])
            if config.clip:
                nn.utils.clip_grad_norm_([p for p in inner.parameters() if p.grad is not None], config.clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if average is not None:
                update_average(average, inner, config.ema, at)

        # ---- validation ------------------------------------------------------------------------------------------
        judged = inner if average is None else average
        val = torch.zeros(4, dtype=torch.float64, device=worker.device)
        judged.eval()
        with torch.inference_mode():
            for batch in data.val_batches(worker.rank, worker.world):
                with torch.autocast(worker.device.type, DTYPES[precision], enabled=precision != "float32"):
                    step = task.step(judged, to_device(batch, worker.device))
                val += sums(step)

        # ---- one exchange tells every worker the same: the epoch's figures, and whether to report ----------------
        wants_report = worker.rank == 0 and time.monotonic() - reported > REPORT_EVERY_S
        totals = all_sum(torch.cat([train, val, train.new_tensor([float(wants_report)])]), worker).tolist()
        row = {
            "epoch": epoch,
            "lr": learning_rate((epoch + 1) * data.num_steps - 1, data.num_steps, config),
            "train_loss": totals[0] / totals[1],
            "train_score": totals[2] / totals[3],
            "val_loss": totals[4] / totals[5],
            "val_score": totals[6] / totals[7],
            "seconds": round(time.monotonic() - started, 4),
            "step_losses": thinned(losses),
        }
        if math.isnan(row["train_score"]):
            del row["train_score"]
        if not math.isfinite(row["val_loss"]):
            raise DivergedError(f"expected a finite validation loss, got {row['val_loss']} in epoch {epoch + 1}")
        history.append(row)

        # ---- state -----------------------------------------------------------------------------------------------
        if worker.rank == 0:
            weights = to_host(inner.state_dict())
            averaged = {} if average is None else to_host(average.state_dict())
            best = (averaged or weights) if best_epoch(history, config.monitor) == epoch else best
            moments = optimizer_tensors(optimizer, scaler)
            save_state(state_uri, State(weights, best, moments, history, averaged), fingerprint)
        if totals[8]:
            worker.report(row)
            reported = time.monotonic()

    worker.report(history[-1])


def is_done(history: History, config: TrainConfig) -> bool:
    """Whether all epochs are over, or the last `patience` of them brought nothing better."""
    stale = len(history) - 1 - best_epoch(history, config.monitor) if history else 0
    return len(history) >= config.epochs or bool(config.patience and stale >= config.patience)


def best_epoch(history: History, monitor: str = "loss") -> int:
    """The epoch with the lowest validation "loss" or the highest "score"; the first of equals."""
    sign = 1 if monitor == "loss" else -1
    return min(range(len(history)), key=lambda epoch: sign * history[epoch][f"val_{monitor}"])


def num_passes(num_examples: int, wanted: int, worker: Worker) -> int:
    """In how many passes all workers take their parts of a batch: `wanted`, or as many as the smallest has examples.

    The same number for all, though parts differ by an example: batch norms exchange their statistics in every pass.
    """
    if wanted == 1:
        return 1
    least = torch.tensor(min(wanted, num_examples), device=worker.device)
    if worker.world > 1:
        dist.all_reduce(least, op=dist.ReduceOp.MIN)
    return max(1, int(least))


def pieces(batch: tuple[Tensor, ...], count: int) -> Iterator[tuple[tuple[Tensor, ...], bool]]:
    """A batch in `count` parts, at most one for each example; says of each whether it is the last."""
    parts = list(zip(*(tensor.tensor_split(count) for tensor in batch), strict=True))
    for number, part in enumerate(parts, start=1):
        yield part, number == count


def synchronised(model: nn.Module, now: bool) -> contextlib.AbstractContextManager[None]:
    """Whether gradients are exchanged in this backward pass, or kept until a later one."""
    if now or not isinstance(model, nn.parallel.DistributedDataParallel):
        return contextlib.nullcontext()
    waiting: contextlib.AbstractContextManager[None] = model.no_sync()
    return waiting


def divide_gradients(optimizer: torch.optim.Optimizer, weight: Tensor) -> None:
    """Gradients of a sum of losses become those of their weighted mean."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    torch._foreach_mul_(grads, weight.reciprocal().to(grads[0].dtype))


def sums(step: Step) -> Tensor:
    """float64 [4]: loss, weight, score, count; kept on the device, so that a step does not wait for its result."""
    count = step.loss.new_tensor(float(step.num_examples))
    return torch.stack([t.detach().double() for t in (step.loss, step.weight, step.score, count)])


def all_sum(tensor: Tensor, worker: Worker) -> Tensor:
    """The sum over all workers, in place; each gets the same bits."""
    if worker.world > 1:
        dist.all_reduce(tensor)
    return tensor


def check_agreement(epoch: int, worker: Worker) -> None:
    """All workers must have read the same state: one that sees older files would train something else, in silence."""
    spread = torch.tensor([epoch, -epoch], dtype=torch.float64, device=worker.device)
    if worker.world > 1:
        dist.all_reduce(spread, op=dist.ReduceOp.MAX)
    newest, oldest = spread[0].item(), -spread[1].item()
    if newest != oldest:
        raise StorageError(
            f"workers read training states of different epochs ({oldest:g} and {newest:g}); "
            "expected --out on storage that all nodes share"
        )


def check_finite(losses: Tensor, data: Data, epoch: int) -> None:
    """Refuse to go on after a loss that is no number, and say where it came from.

    Raises:
        DivergedError: names step and batch.
    """
    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        step = int(bad[0])
        ids = data.batch_ids(epoch, step)
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        kept = f"the state after epoch {epoch} is kept" if epoch else "no epoch was finished"
        raise DivergedError(
            f"expected a finite loss, got {losses[step].item()} in step {step + 1} of epoch {epoch + 1}, whose batch "
            f"is {shown}; {kept}; a lower --lr or --clip 1 is the usual cure"
        )


def thinned(losses: Tensor) -> list[float]:
    """The losses of an epoch's steps as at most LOSSES_KEPT means of neighbours."""
    parts = losses.tensor_split(min(LOSSES_KEPT, len(losses)))
    return [float(f"{part.mean().item():.6g}") for part in parts]


def to_device(batch: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    """The batch on the worker's device."""
    return tuple(tensor.to(device, non_blocking=True) for tensor in batch)
