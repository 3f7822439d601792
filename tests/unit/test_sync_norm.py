"""Batch norms over two processes against PyTorch's own over the whole batch."""

import subprocess
import sys

import pytest
import torch

from cnnray.train.optim import start_average
from cnnray.train.sync_norm import SharedBatchNorm, synchronise_norms

PROGRAM = """
import sys, torch, torch.distributed as dist
from torch import nn
from cnnray.train.sync_norm import synchronise_norms

rank, store = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
torch.manual_seed(0)
shape = {"1": (7, 5), "2": (7, 5, 3, 4), "2 in bfloat16": (7, 5, 8, 8)}[sys.argv[3]]
dtype, mean, off = (torch.float32, 100, 1e-4) if len(sys.argv[3]) == 1 else (torch.bfloat16, 4, 2e-2)
x, target = torch.randn(shape) * 3 + mean, torch.randn(shape)  # a mean far above the deviation
x = x.to(dtype).float()
last = torch.channels_last if len(shape) == 4 else torch.contiguous_format
make = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
oracle, ours = make(5, momentum=0.3), make(5, momentum=0.3)
for norm in (oracle, ours):
    nn.init.uniform_(norm.weight, 0.5, 2, generator=torch.Generator().manual_seed(1))
synchronise_norms(ours, 2)

whole = x.clone().requires_grad_()
(oracle(whole) * target).sum().backward()
part = x[rank::2].to(dtype).contiguous(memory_format=last).requires_grad_()  # 4 examples and 3
result = ours(part)
(result * target[rank::2]).sum().backward()
grads = [p.grad.clone() for p in ours.parameters()]
for grad in grads:
    dist.all_reduce(grad)
close = lambda a, b: torch.testing.assert_close(a.float(), b, rtol=off, atol=off)
assert result.dtype == part.grad.dtype == dtype
close(result, oracle(x)[rank::2])
close(part.grad, whole.grad[rank::2])
for grad, parameter in zip(grads, oracle.parameters()):
    close(grad, parameter.grad)
again = make(5, momentum=0.3)
again(x)
close(ours.running_mean, again.running_mean)
close(ours.running_var, again.running_var)
assert int(ours.num_batches_tracked) == 1
stored = (ours.running_mean, ours.running_var, ours.weight, ours.bias)
close(ours.eval()(part), nn.functional.batch_norm(part.float(), *stored))
"""


@pytest.mark.parametrize("axes", ["1", "2", "2 in bfloat16"])
def test_two_processes_normalise_as_one(tmp_path, axes):
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    started = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store"), axes], stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def test_one_worker_keeps_pytorchs_own_and_others_keep_their_tensors():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    tensors = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    synchronise_norms(model, 1)
    assert type(model[1]) is torch.nn.BatchNorm2d
    synchronise_norms(model, 2)
    assert type(model[1]) is SharedBatchNorm
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == tensors


def test_on_gpus_it_is_pytorchs_own_and_can_be_averaged(tmp_path):
    """Of a model that is nowhere, since it needs no GPU to be copied."""
    with torch.device("meta"):
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        synchronise_norms(model, 2)
        average = start_average(model, 0.9)
    finally:
        torch.distributed.destroy_process_group()
    assert type(model[1]) is type(average[1]) is torch.nn.SyncBatchNorm


UNEVEN = """
import datetime, sys, torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from cnnray.config import TrainConfig
from cnnray.train.loop import Step, Worker, run
from cnnray.train.optim import Group

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
patience = datetime.timedelta(seconds=20)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=patience)
x_ND, y_N = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 1])
seen = []

class Task:
    def build(self):
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    def groups(self, model):
        return [Group((model,))]
    def step(self, model, batch):
        x, y = batch
        seen.append(len(x))
        scores = model(x)
        loss = nn.functional.cross_entropy(scores, y, reduction="sum")
        return Step(loss, torch.tensor(float(len(x))), (scores.argmax(1) == y).float().sum(), len(x))

class Data:
    num_steps = 2
    def train_batches(self, epoch, rank, world):
        return [(x_ND[rank::world], y_N[rank::world])] * 2
    def val_batches(self, rank, world):
        return [(x_ND[rank::world], y_N[rank::world])]
    def batch_ids(self, epoch, step):
        return list("abcde")

config = TrainConfig(epochs=1, accumulate=3, ema=0.9, workers=2, batch_size=5, precision="float32")
run(Task(), Data(), config, f"{folder}/last.state", "x", Worker(rank, 2, prepare=DistributedDataParallel))
print(*seen)
"""


def test_uneven_parts_of_a_batch_are_taken_in_equally_many_passes(tmp_path):
    """Of 5 examples one worker has 3 and the other 2; each pass is an exchange, and the last would wait for ever."""
    command = [sys.executable, "-W", "ignore", "-c", UNEVEN]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    seen = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], seen
    assert [said.split() for said, _ in seen] == [["2", "1", "2", "1", "3"], ["1", "1", "1", "1", "2"]]
