"""Rows gathered from two and three processes: in order, and with the gradient of one process with the whole batch."""

import subprocess
import sys

import pytest
import torch

from cnnray.train.gather import gather_rows

PROGRAM = """
import sys, torch, torch.distributed as dist
from torch import nn
from cnnray.ops.metric_losses import Gathered, binary_loss, binary_pairs, contrastive_loss, triplet_loss
from cnnray.train.gather import gather_rows

rank, world, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))
head = nn.Linear(5, 1)
everything = [*net.parameters(), *head.parameters()]
faces, labels = torch.randn(11, 6), torch.tensor([3, 9, 3, 4, 9, 4, 3, 3, 9, 4, 9])
choice = torch.rand(11, 11)

def sums(kind, rows, whole, numbers):
    batch = Gathered(rows, whole, labels, numbers)
    if kind == "contrastive":
        return contrastive_loss(batch, 1.2)
    if kind == "binary":
        pairs = binary_pairs(batch)
        return binary_loss(head(pairs.differences_nD)[:, 0], pairs.targets_n, pairs.weights_n)
    return triplet_loss(batch, 0.4, kind, choice[numbers])[:2]

def embed(numbers):
    return nn.functional.normalize(net(faces[numbers]), dim=1)

def gradients(loss):
    found = torch.autograd.grad(loss, everything, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(everything, found)]

KINDS = ("contrastive", "binary", "random", "semihard", "hard")
DIVISIONS = {
    2: ["0::2 1::2", "mixed", "empty"],
    3: ["0::3 1::3 2::3", "mixed", "empty"],
}

def parts(name):
    if name == "mixed":
        order = torch.randperm(11, generator=torch.Generator().manual_seed(5))
        return list(order.split([2, 9] if world == 2 else [1, 4, 6]))
    if name == "empty":
        return [torch.arange(0), torch.arange(11)][::-1] + [torch.arange(0)] * (world - 2)
    return [torch.arange(11)[start::world] for start in range(world)]

oracles = {}
all_numbers = torch.arange(11)
for kind in KINDS:
    rows = embed(all_numbers)
    loss, weight = sums(kind, rows, gather_rows(rows, all_numbers, 11), all_numbers)
    oracles[kind] = (loss.detach(), weight.detach(), gradients(loss))
    assert loss > 0 and any(g.abs().max() > 1e-3 for g in oracles[kind][2])

dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
for division in DIVISIONS[world]:
    numbers = parts(division)[rank]
    with torch.inference_mode():
        close(gather_rows(embed(numbers), numbers, 11), embed(all_numbers))
    for kind in KINDS:
        rows = embed(numbers)
        whole = gather_rows(rows, numbers, 11)
        close(whole.detach(), embed(all_numbers).detach())
        loss, weight = sums(kind, rows, whole, numbers)
        figures = torch.stack([loss.detach(), weight.detach()])
        found = gradients(loss * world)
        for tensor in (figures, *found):
            dist.all_reduce(tensor)
        close(figures, torch.stack(oracles[kind][:2]))
        for ours, theirs in zip(found, oracles[kind][2]):
            close(ours / world, theirs)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_learn_as_one(tmp_path, world):
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    started = [
        subprocess.Popen([*command, str(rank), str(world), str(tmp_path / "store")], stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
    try:
        for process in started:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_one_process_puts_its_rows_in_order():
    rows = torch.arange(6.0).reshape(3, 2).requires_grad_()
    found = gather_rows(rows, torch.tensor([2, 0, 1]), 3)
    assert found.tolist() == [[2, 3], [4, 5], [0, 1]]
    (found * torch.tensor([[1.0], [10.0], [100.0]])).sum().backward()
    assert rows.grad[:, 0].tolist() == [100, 1, 10]
