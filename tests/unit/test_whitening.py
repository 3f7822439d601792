"""Whitening within classes against a slow version in numpy."""

import numpy as np
import pytest
import torch

from cnnray.errors import DataError
from cnnray.ops.whitening import whiten_within

SHRINK = 0.1


def sample(sizes, features, seed=0, noise=None):
    """Standardised features [N, F] in classes of these sizes, mixed up, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)) * 3 + 5, sizes)
    middles = rng.normal(size=(len(sizes), features))
    noise = np.diag(rng.uniform(0.2, 2, features)) if noise is None else noise
    rows = np.repeat(middles, sizes, axis=0) + rng.normal(size=(len(labels), features)) @ noise
    order = rng.permutation(len(labels))
    rows = rows[order]
    rows = (rows - rows.mean(0)) / rows.std(0)
    return torch.from_numpy(rows).float(), torch.from_numpy(labels[order])


def slowly(features, labels, count):
    """Covariance within classes, example by example; its inverse root; then principal directions by SVD."""
    rows, labels = features.double().numpy(), labels.numpy()
    size = rows.shape[1]
    covariance = np.zeros((size, size))
    for row, label in zip(rows, labels, strict=True):
        away = row - rows[labels == label].mean(0)
        covariance += np.outer(away, away) / len(rows)
    root = np.linalg.inv(np.linalg.cholesky(covariance + SHRINK * np.eye(size)))  # root.T @ root is the inverse
    spread = rows @ root.T
    _, values, directions = np.linalg.svd(spread - spread.mean(0), full_matrices=False)
    return directions[:count] @ root, values[:count]


SIZES = (7, 2, 5, 9, 4, 3, 8, 2)


def test_the_projection_is_that_of_a_slow_version_up_to_sign():
    features, labels = sample(SIZES, 6)
    found = whiten_within(features, labels, 4).numpy()
    expected, values = slowly(features, labels, 4)
    assert found.shape == (4, 6) and np.all(np.diff(values) < -0.1)  # else directions could turn into each other
    signs = np.sign((found * expected).sum(1, keepdims=True))
    np.testing.assert_allclose(found * signs, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sizes", [(30,) * 10, (200, 3, 50, 2, 11)])
def test_what_differs_within_a_class_is_about_equal_in_all_directions(sizes):
    """Much noise, in few directions; so that what shrinking leaves is little beside it."""
    turned = np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))[0]
    features, labels = sample(sizes, 5, noise=np.diag([1, 2, 4, 8, 16]) @ turned)
    seen = features @ whiten_within(features, labels, 5).T
    within = torch.cat([seen[labels == label] - seen[labels == label].mean(0) for label in labels.unique()])
    before = torch.cat([features[labels == label] - features[labels == label].mean(0) for label in labels.unique()])
    values, raw = (torch.linalg.eigvalsh(rows.T @ rows / len(rows)) for rows in (within, before))
    # v / (v + 0.1) of variances v before
    torch.testing.assert_close(values, (raw / (raw + SHRINK)).sort().values, rtol=1e-3, atol=1e-4)
    assert values[-1] <= 1 and values[-1] / values[0] < raw[-1] / raw[0] / 2


def test_directions_come_by_how_much_whitened_features_vary_in_them():
    features, labels = sample((40, 20, 60), 6)
    spread = (features @ whiten_within(features, labels, 6).T).var(0)
    assert torch.all(spread.diff() <= 1e-5)


def test_what_tells_classes_apart_is_kept_and_noise_shrinks():
    """Classes differ in the first feature, what varies most within them is the second."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 10)
    rows = np.stack([np.repeat(rng.normal(size=20), 10) + rng.normal(size=200) * 0.05, rng.normal(size=200)], 1)
    rows = (rows - rows.mean(0)) / rows.std(0)
    projection = whiten_within(torch.from_numpy(rows).float(), torch.from_numpy(labels), 1)
    assert abs(projection[0, 0]) > 20 * abs(projection[0, 1])


def test_more_directions_than_there_are_are_zero():
    features, labels = sample(SIZES, 6)
    found = whiten_within(features, labels, 9)
    assert found.shape == (9, 6) and found.dtype == torch.float32
    torch.testing.assert_close(found[:6], whiten_within(features, labels, 6))
    assert torch.equal(found[6:], torch.zeros(3, 6))


def test_directions_in_which_no_examples_vary_are_zero():
    features, labels = sample((2, 2), 6)
    found = whiten_within(features, labels, 6)
    assert torch.all(found[:3].norm(dim=1) > 0.1) and torch.equal(found[3:], torch.zeros(3, 6))


def test_classes_of_one_example_are_no_evidence_but_one_of_two_is_enough():
    features, labels = sample((2, 1, 1, 1), 4)
    expected, _ = slowly(features, labels, 2)
    found = whiten_within(features, labels, 2).numpy()
    np.testing.assert_allclose(np.abs(found @ found.T), np.abs(expected @ expected.T), atol=1e-3)
    with pytest.raises(DataError, match="expected a class with two examples"):
        whiten_within(features, torch.arange(5), 2)


def test_the_inputs_stay_as_they_are():
    features, labels = sample(SIZES, 6)
    before = features.clone()
    assert torch.equal(whiten_within(features, labels, 3), whiten_within(features, labels, 3))
    assert torch.equal(features, before)
