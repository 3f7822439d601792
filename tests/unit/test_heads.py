"""Heads: shapes, standardisation, and the loss they begin with."""

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from cnnray.errors import OptionError, UnknownNameError
from cnnray.nn.heads import HEADS, build_head


@pytest.mark.parametrize("kind", HEADS)
def test_a_fresh_head_gives_every_class_the_same_probability(kind):
    head = build_head(kind, 5, 3, hidden=8).eval()
    logits = head(torch.randn(4, 5))
    assert logits.shape == (4, 3)
    loss = nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0]))
    assert loss.item() == pytest.approx(math.log(3))


def test_features_are_standardised_by_hand():
    head = build_head("linear", 2, 2)
    nn.init.eye_(head.body[-1].weight)
    head.set_standardisation(torch.tensor([1.0, 10.0]), torch.tensor([2.0, 0.0]))
    out = head(torch.tensor([[5.0, 10.5]], dtype=torch.float16))
    assert out.tolist() == [[2.0, 0.5]]  # (5-1)/2; a feature that never varied is centred only


def test_standardisation_travels_with_the_weights():
    head = build_head("mlp", 3, 2, hidden=4)
    head.set_standardisation(torch.arange(3.0), torch.arange(3.0) + 1)
    other = build_head("mlp", 3, 2, hidden=4)
    other.load_state_dict(head.state_dict())
    x = torch.randn(5, 3)
    assert torch.equal(other(x), head(x)) and torch.equal(other.mean, torch.arange(3.0))


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_learns_what_logistic_regression_learns(kind):
    torch.manual_seed(0)
    x = torch.randn(300, 4) * torch.tensor([1.0, 100.0, 0.01, 1.0]) + torch.tensor([0.0, 1000.0, 0.0, 5.0])
    y = ((x[:, 0] + (x[:, 1] - 1000) / 100 + x[:, 2] / 0.01) > 0).long()
    head = build_head(kind, 4, 2, hidden=16)
    head.set_standardisation(x.mean(0), x.std(0))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(x), y).backward()
        optimizer.step()
    accuracy = (head(x).argmax(1) == y).float().mean().item()
    oracle = LogisticRegression(max_iter=1000).fit((x - x.mean(0)) / x.std(0), y)
    assert accuracy >= oracle.score((x - x.mean(0)) / x.std(0), y) - 0.02


def test_dropout_acts_in_training_only():
    head = build_head("linear", 100, 2, dropout=0.5)
    nn.init.ones_(head.body[-1].weight)
    x = torch.ones(1, 100)
    assert head.eval()(x).tolist() == [[100.0, 100.0]]
    assert head.train()(x).tolist() != [[100.0, 100.0]]


def test_bad_options_are_refused():
    with pytest.raises(UnknownNameError, match="known: linear, mlp"):
        build_head("tree", 3, 2)
    for options in ({"num_features": 0}, {"num_classes": 0}, {"hidden": 0}, {"dropout": 1.0}, {"dropout": -0.1}):
        with pytest.raises(OptionError, match=next(iter(options))):
            build_head("mlp", **({"num_features": 3, "num_classes": 2} | options))
    head = build_head("linear", 3, 2)
    with pytest.raises(OptionError, match=r"shape \[3\], got \[2\]"):
        head.set_standardisation(torch.zeros(2), torch.ones(3))
    with pytest.raises(OptionError, match="finite std"):
        head.set_standardisation(torch.zeros(3), torch.full((3,), torch.nan))
