"""Losses of embeddings against slow versions in numpy, pytorch_metric_learning and cases that a person can check."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnray.errors import UnknownNameError
from cnnray.ops.metric_losses import (
    MINING,
    Gathered,
    binary_loss,
    binary_pairs,
    contrastive_loss,
    count_pairs,
    distances,
    triplet_loss,
)

MARGIN = 0.8
LOSSES = ["contrastive", "binary", *MINING]
VARIANTS = [(kind, True) for kind in LOSSES] + [(kind, False) for kind in MINING]  # squared says nothing to the others
SCALES = torch.tensor([0.7, -0.3, 0.2, -0.9, 0.1])  # of the logistic unit


def sample(sizes=(4, 2, 3, 1, 2), seed=1):
    """Embeddings [B, 5] on the unit sphere, labels in any order and random numbers [B, B]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(sizes)) * 7 + 3, torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    emb = F.normalize(torch.randn(len(labels), 5, generator=generator), dim=1)
    return emb, labels, torch.rand(len(labels), len(labels), generator=generator)


def part(kind, emb, labels, choice, numbers, margin=MARGIN, squared=True):
    """(loss, weight) of one worker's anchors."""
    batch = Gathered(emb[numbers], emb, labels, numbers)
    if kind == "contrastive":
        return contrastive_loss(batch, margin)
    if kind == "binary":
        pairs = binary_pairs(batch)
        return binary_loss(pairs.differences_nD @ SCALES[: emb.shape[1]] + 0.1, pairs.targets_n, pairs.weights_n)
    return triplet_loss(batch, margin, kind, choice[numbers], squared)[:2]


def whole(kind, emb, labels, choice, **options):
    return part(kind, emb, labels, choice, torch.arange(len(emb)), **options)


def mean_and_gradient(kind, emb, labels, choice, world=1, **options):
    """Of all workers' sums together, the workers' anchors being every world-th example."""
    emb = emb.clone().requires_grad_()
    parts = [part(kind, emb, labels, choice, torch.arange(len(emb))[rank::world], **options) for rank in range(world)]
    mean = sum(loss for loss, _ in parts) / sum(weight for _, weight in parts)
    return mean.item(), torch.autograd.grad(mean, emb)[0]


def slow(kind, emb, labels, choice, margin=MARGIN, squared=True):
    """The mean by loops over pairs and triplets."""

    def away(i, j):
        return ((emb[i] - emb[j]) ** 2).sum() ** (1 if squared else 0.5)

    every = range(len(emb))
    same = {i: [j for j in every if labels[j] == labels[i] and j != i] for i in every}
    different = {i: [j for j in every if labels[j] != labels[i]] for i in every}
    if kind in MINING:
        losses = []
        for i in every:
            for p in same[i]:
                if kind == "random":
                    n = max(different[i], key=lambda j: choice[i, j])
                elif kind == "semihard":
                    farther = [j for j in different[i] if away(i, j) > away(i, p)]
                    n = (
                        min(farther, key=lambda j: away(i, j))
                        if farther
                        else max(different[i], key=lambda j: away(i, j))
                    )
                else:
                    n = min(different[i], key=lambda j: away(i, j))
                if kind != "hard" or p == max(same[i], key=lambda j: away(i, j)):
                    losses.append(max(0.0, away(i, p) + margin - away(i, n)))
        return sum(losses) / sum(loss > 0 for loss in losses)
    means = []
    for target, others in ((1, same), (0, different)):
        losses = []
        for i in every:
            for j in others[i]:
                d = math.sqrt(((emb[i] - emb[j]) ** 2).sum())
                logit = (np.abs(emb[i] - emb[j]) * SCALES.double().numpy()).sum() + 0.1
                probability = 1 / (1 + math.exp(-logit))
                if kind == "binary":
                    losses.append(-math.log(probability if target else 1 - probability))
                else:
                    losses.append(d**2 / 2 if target else max(0.0, margin - d) ** 2 / 2)
        means.append(np.mean(losses))
    return np.mean(means)


def slow_gradient(kind, emb, labels, choice, step=1e-6, **options):
    gradient = np.zeros_like(emb)
    for at in np.ndindex(*emb.shape):
        shift = np.zeros_like(emb)
        shift[at] = step
        above, below = (slow(kind, emb + s, labels, choice, **options) for s in (shift, -shift))
        gradient[at] = (above - below) / (2 * step)
    return gradient


@pytest.mark.parametrize(("kind", "squared"), VARIANTS)
def test_value_and_gradient_are_those_of_the_slow_version(kind, squared):
    emb, labels, choice = sample((3, 2, 2, 1))
    mean, gradient = mean_and_gradient(kind, emb, labels, choice, squared=squared)
    exact = (emb.double().numpy(), labels.numpy(), choice.numpy())
    assert mean == pytest.approx(slow(kind, *exact, squared=squared), rel=1e-5)  # float32 against float64
    np.testing.assert_allclose(gradient, slow_gradient(kind, *exact, squared=squared), rtol=1e-4, atol=1e-6)
    assert float(gradient.abs().max()) > 0.01


# ---- pytorch_metric_learning ---------------------------------------------------------------------------------------


@pytest.fixture
def pml():
    return pytest.importorskip("pytorch_metric_learning")


def lp(power):
    from pytorch_metric_learning.distances import LpDistance

    return LpDistance(normalize_embeddings=False, power=power)


def test_batch_hard_is_that_of_pytorch_metric_learning(pml):
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import BatchHardMiner

    for power in (1, 2):
        emb, labels, choice = sample()
        theirs = emb.clone().requires_grad_()
        # their default reducer is the mean over the triplets with a loss, as ours; an anchor alone makes no triplet
        loss = TripletMarginLoss(MARGIN, distance=lp(power))(
            theirs, labels, BatchHardMiner(distance=lp(power))(emb, labels)
        )
        loss.backward()
        mean, gradient = mean_and_gradient("hard", emb, labels, choice, squared=power == 2)
        assert mean == pytest.approx(loss.item(), rel=1e-5)
        torch.testing.assert_close(gradient, theirs.grad, rtol=1e-4, atol=1e-5)


def test_random_is_theirs_with_the_same_triplets(pml):
    from pytorch_metric_learning.losses import TripletMarginLoss

    emb, labels, choice = sample()
    same = labels[:, None] == labels
    anchors, positives = (same & ~torch.eye(len(labels), dtype=torch.bool)).nonzero(as_tuple=True)
    negatives = choice.masked_fill(same, -1).argmax(1)[anchors]
    theirs = emb.clone().requires_grad_()
    loss = TripletMarginLoss(MARGIN, distance=lp(2))(theirs, labels, (anchors, positives, negatives))
    loss.backward()
    mean, gradient = mean_and_gradient("random", emb, labels, choice)
    assert mean == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(gradient, theirs.grad, rtol=1e-4, atol=1e-5)


def test_semihard_is_the_hardest_of_their_semihard_triplets(pml):
    """They take every semi-hard negative of a pair and none if there is none; we the hardest, or the farthest."""
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import TripletMarginMiner

    emb, labels, choice = sample()
    squares = distances(emb, emb).square()
    every = TripletMarginMiner(margin=MARGIN, type_of_triplets="semihard", distance=lp(2))(emb, labels)
    hardest = {}
    for a, p, n in zip(*(t.tolist() for t in every), strict=True):
        best = hardest.get((a, p))
        hardest[a, p] = n if best is None or squares[a, n] < squares[a, best] else best
    fallback = {}
    for a, p in (labels[:, None] == labels).nonzero().tolist():
        others = (labels != labels[a]).nonzero().flatten()
        if a != p and float(squares[a, others].max()) <= float(squares[a, p]):
            fallback[a, p] = int(others[squares[a, others].argmax()])
    assert hardest and not hardest.keys() & fallback.keys()
    triplets = [(a, p, n) for (a, p), n in (hardest | fallback).items()]
    loss = TripletMarginLoss(MARGIN, distance=lp(2))(emb, labels, tuple(torch.tensor(triplets).T))
    assert mean_and_gradient("semihard", emb, labels, choice)[0] == pytest.approx(loss.item(), rel=1e-5)


def test_contrastive_is_made_of_their_terms(pml):
    """They neither square nor halve, and leave pairs without a loss out of the means; ours are over all pairs."""
    from pytorch_metric_learning.losses import ContrastiveLoss
    from pytorch_metric_learning.reducers import DoNothingReducer

    emb, labels, choice = sample()
    theirs = emb.clone().requires_grad_()
    terms = ContrastiveLoss(0, MARGIN, distance=lp(1), reducer=DoNothingReducer())(theirs, labels)
    loss = sum(terms[f"{kind}_loss"]["losses"].square().mean() / 2 for kind in ("pos", "neg")) / 2
    loss.backward()
    mean, gradient = mean_and_gradient("contrastive", emb, labels, choice)
    assert mean == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(gradient, theirs.grad, rtol=1e-4, atol=1e-6)


# ---- parts of a batch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("kind", LOSSES)
def test_parts_add_up_to_the_whole(kind, world):
    emb, labels, choice = sample()
    mean, gradient = mean_and_gradient(kind, emb, labels, choice)
    parts_mean, parts_gradient = mean_and_gradient(kind, emb, labels, choice, world)
    assert parts_mean == pytest.approx(mean, rel=1e-6)  # the order of additions
    torch.testing.assert_close(parts_gradient, gradient, rtol=1e-5, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=8), st.integers(1, 9), st.sampled_from(LOSSES), st.integers(0, 9)
)
def test_any_labels_and_any_division(names, world, kind, seed):
    """Also workers without an anchor, labels that occur once and batches that teach nothing."""
    emb, _, choice = sample((len(names),), seed)
    labels = torch.tensor(names)
    emb.requires_grad_()
    parts = [part(kind, emb, labels, choice, torch.arange(len(emb))[rank::world]) for rank in range(world)]
    loss, weight = (torch.stack(numbers).sum() for numbers in zip(*parts, strict=True))
    torch.testing.assert_close([loss, weight], list(whole(kind, emb, labels, choice)), rtol=1e-5, atol=1e-6)
    loss.backward()
    assert torch.isfinite(emb.grad).all()
    assert (float(weight) > 0) == (1 < len(set(names)) < len(names))


@pytest.mark.parametrize("kind", LOSSES)
def test_the_order_of_a_batch_is_nothing(kind):
    emb, labels, choice = sample()
    mean, gradient = mean_and_gradient(kind, emb, labels, choice)
    order = torch.randperm(len(emb), generator=torch.Generator().manual_seed(5))
    shuffled = mean_and_gradient(kind, emb[order], labels[order], choice[order][:, order])
    assert shuffled[0] == pytest.approx(mean, rel=1e-6)
    torch.testing.assert_close(shuffled[1], gradient[order], rtol=1e-5, atol=1e-7)


def test_balanced_weights_are_one_batch():
    """Half for pairs of one label, half for others, and none for an example with itself."""
    emb, labels, choice = sample()
    assert float(whole("contrastive", emb, labels, choice)[1]) == pytest.approx(1)
    pairs = binary_pairs(Gathered(emb, emb, labels, torch.arange(len(emb))))
    assert float(pairs.weights_n[pairs.targets_n == 1].sum()) == pytest.approx(0.5)
    assert float(pairs.weights_n.view(len(emb), -1).diagonal().max()) == 0
    assert pairs.differences_nD.shape == (len(emb) ** 2, 5)
    torch.testing.assert_close(pairs.differences_nD[3 * len(emb) + 7], (emb[3] - emb[7]).abs())


# ---- two people, two pictures of each, on a line -------------------------------------------------------------------

LINE = torch.tensor([[0.0], [1.0], [3.0], [5.0]])
PEOPLE = torch.tensor([0, 0, 1, 1])
ONES = torch.ones(4, 4)


def test_distances_on_a_line():
    assert distances(LINE[:2], LINE).tolist() == [[0, 1, 3, 5], [1, 0, 2, 4]]
    assert [int(n) for n in count_pairs(PEOPLE)] == [4, 8]


def test_contrastive_on_a_line():
    # positives 1, 2: (1 + 4) / 2 / 2 = 1.25; negatives 3, 5, 2, 4 with margin 3: only 2 is too near, 1 / 2 / 4 = 0.125
    loss, weight = whole("contrastive", LINE, PEOPLE, ONES, margin=3.0)
    assert float(loss) == (1.25 + 0.125) / 2 and float(weight) == 1
    _, gradient = mean_and_gradient("contrastive", LINE, PEOPLE, ONES, margin=3.0)
    # of d = 1: 1 / 4; of d = 2: 2 / 4; of the negative d = 2: -1 / 8; of d = 3, at the margin: none
    assert gradient.flatten().tolist() == [-0.25, 0.25 + 0.125, -0.5 - 0.125, 0.5]


@pytest.mark.parametrize("mining", ["hard", "semihard"])
def test_triplets_on_a_line(mining):
    # nearest negatives of 0, 1, 3, 5: at 3, 2, 2, 4; positives at 1, 1, 2, 2. Margin 2 leaves 0, 1, 2, 0 of them.
    sums = triplet_loss(Gathered(LINE, LINE, PEOPLE, torch.arange(4)), 2.0, mining, ONES, False)
    if mining == "hard":
        assert float(sums.loss) == 3 and int(sums.num_active) == 2
        gradient = mean_and_gradient(mining, LINE, PEOPLE, ONES, margin=2.0, squared=False)[1]
        # 1's pair 0 <- 1 and 1 -> 3; 3's pair 3 <- 5 and 3 -> 1; none from the anchors exactly at the margin
        assert gradient.flatten().tolist() == pytest.approx([-0.5, 0.5 + 1, -0.5 - 1, 0.5])
    else:
        # 3's negative must be farther than 2, which leaves 0 at 3: 2 + 2 - 3 = 1
        assert float(sums.loss) == 2 and int(sums.num_active) == 2
    assert float(sums.weight) == pytest.approx(2)


def test_squared_triplets_on_a_line():
    # squares of nearest negatives 9, 4, 4, 16; of positives 1, 1, 4, 4; margin 3: 0, 0 (at the margin), 3, 0
    sums = triplet_loss(Gathered(LINE, LINE, PEOPLE, torch.arange(4)), 3.0, "hard", ONES)
    assert float(sums.loss) == 3 and int(sums.num_active) == 1


def test_semihard_takes_the_farthest_negative_where_none_is_farther():
    points = torch.tensor([[0.0], [9.0], [1.0], [2.0]])
    sums = triplet_loss(Gathered(points[:1], points, PEOPLE, torch.tensor([0])), 1.0, "semihard", ONES[:1], False)
    assert float(sums.loss) == 9 + 1 - 2  # not 1, the nearest


def test_a_random_negative_is_the_one_of_the_largest_number():
    choice = torch.tensor([[0.99, 0.98, 0.2, 0.3]])
    for first, expected in ((0.2, 5), (0.4, 3)):
        choice[0, 2] = first
        sums = triplet_loss(Gathered(LINE[:1], LINE, PEOPLE, torch.tensor([0])), 9.0, "random", choice, False)
        assert float(sums.loss) == 1 + 9 - expected


def test_triplets_that_are_all_right_have_no_loss_and_no_nan():
    far = torch.tensor([[0.0], [0.1], [9.0], [9.1]])
    for mining in MINING:
        mean, gradient = mean_and_gradient(mining, far, PEOPLE, ONES)
        assert mean == 0 and float(gradient.abs().max()) == 0


def test_binary_loss_of_sure_answers():
    logits, targets = torch.tensor([200.0, -200.0, 200.0]), torch.tensor([1.0, 0.0, 0.0])
    loss, weight = binary_loss(logits, targets, torch.tensor([0.5, 0.25, 0.25]))
    assert float(loss) == 50 and float(weight) == 1


# ---- batches that are hard on arithmetic ---------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "squared"), VARIANTS)
def test_equal_embeddings_have_finite_gradients(kind, squared):
    """Copies of one picture, under one label and under two, and a network that says the same of all."""
    emb, labels, choice = sample()
    emb[(labels == labels[0]) | (labels == labels[1])] = emb[0].clone()
    for batch in (emb, torch.ones_like(emb)):
        mean, gradient = mean_and_gradient(kind, batch, labels, choice, squared=squared)
        assert math.isfinite(mean) and torch.isfinite(gradient).all()


def test_the_gradient_of_distance_0_is_0():
    points = torch.tensor([[1.0, 2.0], [1.0, 2.0], [4.0, 6.0]], requires_grad=True)
    away = distances(points[:1], points)
    assert away.tolist() == [[0, 0, 5]]
    gradient = torch.autograd.grad(away.sum(), points)[0]  # only of the last
    torch.testing.assert_close(gradient, torch.tensor([[-0.6, -0.8], [0.0, 0.0], [0.6, 0.8]]))


def test_near_points_keep_their_distance():
    """Products of matrices would make it 0 or 3e-4."""
    points = F.normalize(torch.ones(2, 128), dim=1)
    points[1, 0] += 1e-4
    assert float(distances(points[:1], points[1:])) == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [5, 5, 5, 5], [2]])
@pytest.mark.parametrize("kind", LOSSES)
def test_a_batch_without_positives_or_negatives_has_no_weight(kind, labels):
    emb, _, choice = sample((len(labels),))
    emb.requires_grad_()
    loss, weight = whole(kind, emb, torch.tensor(labels), choice)
    assert loss.item() == 0 and weight.item() == 0
    loss.backward()
    assert float(emb.grad.abs().max()) == 0


@pytest.mark.parametrize(("kind", "squared"), VARIANTS)
def test_a_network_that_diverged_is_seen(kind, squared):
    emb, labels, choice = sample()
    assert math.isnan(whole(kind, torch.full_like(emb, torch.nan), labels, choice, squared=squared)[0])


@pytest.mark.parametrize("kind", LOSSES)
def test_autocast_changes_nothing(kind):
    emb, labels, choice = sample()
    batch = Gathered(emb, emb, labels, torch.arange(len(emb)))
    if kind == "binary":
        pairs = binary_pairs(batch)
        logits = pairs.differences_nD.sum(1)
        with torch.autocast("cpu", torch.bfloat16):
            lower = binary_pairs(batch)
            inside = binary_loss(logits.bfloat16(), *lower[1:])
        assert torch.equal(lower.differences_nD, pairs.differences_nD)
        outside = binary_loss(logits.bfloat16().float(), *pairs[1:])
    else:
        outside = whole(kind, emb, labels, choice)
        with torch.autocast("cpu", torch.bfloat16):
            inside = whole(kind, emb, labels, choice)
    assert [float(x) for x in inside] == [float(x) for x in outside] and inside[0].dtype == torch.float32


def test_unknown_mining_names_the_known_ones():
    with pytest.raises(UnknownNameError, match="random, semihard, hard"):
        whole("easy", *sample())
