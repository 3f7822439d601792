"""The training loop of every task, in one straight line. It knows no Ray: `launch` runs it inside Ray Train's workers.

A task gives `build` (the model) and `step` (one batch's sums); data gives the batches of an epoch. Every worker takes
its share of each *global* batch, and the gradient is that of (sum of losses) / (sum of weights) over all workers: N
workers at a batch of B together follow the same curve as one worker at B, up to the order of float additions.

Nothing random outlives a step: seeds come from (seed, epoch, step), so a run that is killed after any number of epochs
and started again ends with the same bits.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cnnray.errors import DataError, StorageError
from cnnray.ops.seeds import seed_for
from cnnray.train.state import History, State, Tensors, load_state, save_state

REPORT_EVERY_S = 5.0  # Ray Train's controller takes a report every 2 s; a faster sender would wait for it


class Step(NamedTuple):
    """Sums over one worker's part of a batch.

    Attributes:
        loss: scalar, sum of weight * loss over the examples; carries the gradient.
        weight: scalar, sum of the weights.
        score: scalar, sum over the examples of the task's score (1 for a right class, an overlap ...).
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

    def step(self, model: nn.Module, batch: Any) -> Step:
        """Run the model on a batch of `Data`, in training or evaluation as the model's mode says."""


class Data(Protocol):
    """Where batches come from. A batch is a tuple of tensors that the task understands.

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


class Options(Protocol):
    """The options that the loop reads; every task's config has them."""

    @property
    def seed(self) -> int:
        """Of initialisation and dropout."""

    @property
    def epochs(self) -> int:
        """At most."""

    @property
    def lr(self) -> float:
        """Peak learning rate."""

    @property
    def warmup(self) -> int:
        """Epochs of linear rise to `lr`."""

    @property
    def weight_decay(self) -> float:
        """AdamW's."""

    @property
    def patience(self) -> int:
        """Epochs without a lower validation loss before the run stops; 0 never stops early."""


@dataclass(frozen=True)
class Worker:
    """One of `world` processes that train together; the default is one alone.

    Attributes:
        prepare: moves the model to the device and wraps it for data parallelism.
        report: tells the outside how training goes; called by all workers together.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model
    report: Callable[[dict[str, Any]], None] = lambda row: None


def run(task: Task, data: Data, options: Options, state_uri: str, fingerprint: str, worker: Worker) -> None:
    """Train until the epochs are over or validation no longer improves; the result is the state at `state_uri`.

    Args:
        state_uri: where the first worker keeps the state; a state that is there is gone on from.
        fingerprint: of all settings and data, see `load_state`.

    Raises:
        DataError: the loss is no longer finite.
        StorageError: the state cannot be written, or workers do not see the same one.
        CheckpointError, RunFolderError: the state at `state_uri` is damaged or of another run.
    """
    # ---- model, optimizer, state ---------------------------------------------------------------------------------
    torch.manual_seed(options.seed)
    inner = task.build()
    state = load_state(state_uri, fingerprint)
    if state:
        inner.load_state_dict(state.model)
    model = worker.prepare(inner)
    optimizer = build_optimizer(inner, options)
    if state:
        restore_optimizer(optimizer, state.optimizer)
    history: History = list(state.history) if state else []
    best: Tensors = state.best if state else {}
    check_agreement(len(history), worker)
    reported = time.monotonic()

    while not is_done(history, options):
        epoch, started = len(history), time.monotonic()

        # ---- one pass over the training data ---------------------------------------------------------------------
        model.train()
        train = torch.zeros(4, dtype=torch.float64, device=worker.device)
        for index, batch in enumerate(data.train_batches(epoch, worker.rank, worker.world)):
            at = epoch * data.num_steps + index
            torch.manual_seed(seed_for(f"step {at}", options.seed, worker.rank))  # of dropout
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(at, data.num_steps, options)
            step = task.step(model, to_device(batch, worker.device))
            weight = all_sum(step.weight.detach().clone(), worker)
            optimizer.zero_grad()
            (step.loss * (worker.world / weight)).backward()  # data parallelism averages gradients: times world
            optimizer.step()
            train += sums(step)

        # ---- validation ------------------------------------------------------------------------------------------
        model.eval()
        val = torch.zeros(4, dtype=torch.float64, device=worker.device)
        with torch.inference_mode():
            for batch in data.val_batches(worker.rank, worker.world):
                val += sums(task.step(inner, to_device(batch, worker.device)))

        # ---- one exchange tells every worker the same: the epoch's figures, and whether to report ----------------
        wants_report = worker.rank == 0 and time.monotonic() - reported > REPORT_EVERY_S
        totals = all_sum(torch.cat([train, val, train.new_tensor([float(wants_report)])]), worker).tolist()
        row = {
            "epoch": epoch,
            "lr": learning_rate((epoch + 1) * data.num_steps - 1, data.num_steps, options),
            "train_loss": totals[0] / totals[1],
            "train_score": totals[2] / totals[3],
            "val_loss": totals[4] / totals[5],
            "val_score": totals[6] / totals[7],
            "seconds": round(time.monotonic() - started, 4),
        }
        check_finite(row)
        history.append(row)

        # ---- state -----------------------------------------------------------------------------------------------
        if worker.rank == 0:
            weights = to_host(inner.state_dict())
            best = weights if best_epoch(history) == epoch else best
            save_state(state_uri, State(weights, best, optimizer_tensors(optimizer), history), fingerprint)
        if totals[8]:
            worker.report(row)
            reported = time.monotonic()

    worker.report(history[-1])


def is_done(history: History, options: Options) -> bool:
    """Whether all epochs are over, or the last `patience` of them brought no lower validation loss."""
    stale = len(history) - 1 - best_epoch(history) if history else 0
    return len(history) >= options.epochs or bool(options.patience and stale >= options.patience)


def best_epoch(history: History) -> int:
    """The epoch with the lowest validation loss, the first of equals."""
    return min(range(len(history)), key=lambda epoch: history[epoch]["val_loss"])


def learning_rate(step: int, num_steps: int, options: Options) -> float:
    """The rate of a step counted from the run's start: linear rise over `warmup` epochs, then a half cosine to 0.

    Loshchilov and Hutter, SGDR, 2017, equation 5, one period. Past the last epoch's end it is 0.
    """
    rise, total = min(options.warmup, options.epochs) * num_steps, options.epochs * num_steps
    if step < rise:
        return options.lr * (step + 1) / rise
    return options.lr * 0.5 * (1 + math.cos(math.pi * min((step - rise) / max(total - rise, 1), 1.0)))


def build_optimizer(model: nn.Module, options: Options) -> torch.optim.Optimizer:
    """AdamW that decays matrices and kernels only: biases and scales (one axis) have no size to keep small."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=options.lr)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """The optimizer's moments as flat named tensors on the CPU."""
    state = optimizer.state_dict()["state"]
    return to_host({f"{index}.{name}": t for index, named in state.items() for name, t in named.items()})


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put moments of `optimizer_tensors` back."""
    state: dict[int, Tensors] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def sums(step: Step) -> Tensor:
    """float64 [4]: loss, weight, score, count; kept on the device, so that a step does not wait for its result."""
    count = step.loss.new_tensor(float(step.num_examples))
    return torch.stack([step.loss.detach(), step.weight, step.score, count]).double()


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


def check_finite(row: dict[str, Any]) -> None:
    """Refuse an epoch whose losses are not numbers."""
    for name in ("train_loss", "val_loss"):
        if not math.isfinite(row[name]):
            raise DataError(
                f"expected a finite {name}, got {row[name]} in epoch {row['epoch']}; a lower --lr is the usual cure"
            )


def to_device(batch: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    """The batch on the worker's device."""
    return tuple(tensor.to(device, non_blocking=True) for tensor in batch)


def to_host(tensors: Tensors) -> Tensors:
    """Copies on the CPU, which later steps do not change."""
    return {name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}
