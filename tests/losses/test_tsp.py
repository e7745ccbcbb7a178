"""TSP against the paper's formulas, one number at a time (Zhou & Zhang 2022, eqs. 4 and 5).

Shape suffixes: H heads, B pairs, C clusters.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deepclust.losses import TSP, LogProbs, gaussian_neighbor_weights, make_loss, tsp_loss
from deepclust.runtime.errors import InputError

H, B, C = 2, 4, 5


def softmax(logits):
    largest = max(logits)
    exponentials = [math.exp(value - largest) for value in logits]
    return [value / sum(exponentials) for value in exponentials]


def paper_tsp(anchors, neighbors, entropy_weight):
    """Eq. 5 for each head: - mean_i log ⟨p(x_i), p(x_j)⟩ - λ H(mean_i p(x_i))."""
    losses = []
    for head in range(len(anchors)):
        n_pairs, n_clusters = len(anchors[head]), len(anchors[head][0])
        consistency = 0.0
        for pair in range(n_pairs):
            p, p_other = softmax(anchors[head][pair]), softmax(neighbors[head][pair])
            consistency -= math.log(sum(p[c] * p_other[c] for c in range(n_clusters)))
        entropy = 0.0
        for c in range(n_clusters):
            mean = sum(softmax(row)[c] for row in anchors[head]) / n_pairs
            entropy -= mean * math.log(mean)
        losses.append(consistency / n_pairs - entropy_weight * entropy)
    return losses


def paper_weights(squared_distances):
    """Eq. 4: exp(-d² / 2σ²) with σ half the distance of the third neighbor, normalized."""
    rows = []
    for row in squared_distances:
        sigma = 0.5 * math.sqrt(row[2])
        unnormalized = [math.exp(-d2 / (2 * sigma**2)) for d2 in row]
        rows.append([value / sum(unnormalized) for value in unnormalized])
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("entropy_weight", [0.0, 3.0])
def test_value_and_gradient_are_the_papers(entropy_weight, dtype, numerical_gradient):
    logits = np.random.default_rng(3).normal(scale=2, size=(2, H, B, C))
    log_probs = LogProbs(*(torch.log_softmax(torch.tensor(part, dtype=dtype), dim=2) for part in logits))
    mean_HC = log_probs.anchors.exp().mean(dim=1)
    loss_H, gradients = tsp_loss(*log_probs, mean_HC, entropy_weight=entropy_weight)
    np.testing.assert_allclose(loss_H, paper_tsp(*logits, entropy_weight), atol=1e-5)
    loss = TSP(entropy_weight=entropy_weight)
    same_H, _ = loss.gradient(log_probs, log_probs, loss.look(log_probs.exp()))
    np.testing.assert_allclose(same_H, loss_H, atol=1e-6)
    first = numerical_gradient(lambda at: sum(paper_tsp(at, logits[1], entropy_weight)), logits[0])
    second = numerical_gradient(lambda at: sum(paper_tsp(logits[0], at, entropy_weight)), logits[1])
    np.testing.assert_allclose(gradients.anchors, first, atol=1e-5)
    np.testing.assert_allclose(gradients.neighbors, second, atol=1e-5)


def test_neighbor_weights_are_the_papers():
    squared = np.sort(np.random.default_rng(4).uniform(0.1, 2, size=(6, 8)), axis=1)
    weights = gaussian_neighbor_weights(squared)
    np.testing.assert_allclose(weights, paper_weights(squared), atol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    assert weights.dtype == np.float32


def test_neighbor_weights_do_not_depend_on_the_unit_of_length():
    squared = np.sort(np.random.default_rng(5).uniform(0.1, 2, size=(4, 6)), axis=1)
    np.testing.assert_allclose(gaussian_neighbor_weights(squared * 100), gaussian_neighbor_weights(squared), atol=1e-6)


@pytest.mark.parametrize(
    ("squared", "expected"),
    [
        ([0.0, 0.0, 0.0, 1.0], [1 / 3, 1 / 3, 1 / 3, 0]),
        ([0.0, 0.0, 0.0, 0.0], [1 / 4] * 4),
        ([1e-30, 1e-30, 1e-30, 1e-30], [1 / 4] * 4),
        ([4.0], [1.0]),
        ([4.0, 4.0], [0.5, 0.5]),
    ],
    ids=["three duplicates", "only duplicates", "nearly duplicates", "K=1", "K=2"],
)
def test_neighbor_weights_of_unusual_rows(squared, expected):
    weights = gaussian_neighbor_weights(np.array([squared]))
    np.testing.assert_allclose(weights[0], expected, atol=1e-6)


def test_a_negative_entropy_weight_is_refused():
    with pytest.raises(InputError, match="entropy_weight is -2"):
        make_loss("tsp", entropy_weight=-2)
