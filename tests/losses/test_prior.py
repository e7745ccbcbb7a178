"""A prior on cluster sizes: the divergence from it, its order, and what is refused.

Shape suffixes: H heads, B pairs, C clusters.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from deepclust.losses import BatchLook, LogProbs, make_loss
from deepclust.losses.prior import log_prior, prior_shares
from deepclust.runtime.errors import InputError

H, B, C = 2, 40, 4
losses_with_a_prior = pytest.mark.parametrize("name", ["temi", "pmi", "wmi", "scan", "tsp"])


def random_pairs(seed: int, sharpness: float = 3.0) -> LogProbs:
    generator = torch.Generator().manual_seed(seed)
    return LogProbs(*(sharpness * torch.randn(2, H, B, C, generator=generator, dtype=torch.float64)).log_softmax(dim=3))


def looked(loss, both: LogProbs) -> BatchLook:
    look = loss.look(both.exp())
    return look._replace(mean_VHC=loss.next_mean(loss.first_mean(H, C).double(), look.mean_VHC))


def sure_pairs(labels: list[int]) -> LogProbs:
    log_probs_1BC = (200.0 * torch.nn.functional.one_hot(torch.tensor(labels), C).double()).log_softmax(dim=1)[None]
    return LogProbs(log_probs_1BC, log_probs_1BC)


@losses_with_a_prior
def test_equal_shares_are_the_papers_formula_but_for_a_constant(name, tmp_path):
    np.savetxt(tmp_path / "equal.txt", np.full(C, 25.0))
    plain, equal = make_loss(name), make_loss(name, prior=str(tmp_path / "equal.txt"))
    student, teacher = random_pairs(0), random_pairs(1)
    batch = looked(plain, teacher if plain.looks_at_teacher else student)
    (plain_H, expected), (_, found) = (loss.gradient(student, teacher, batch) for loss in (plain, equal))
    torch.testing.assert_close(found, expected)
    zero_H, _ = make_loss(name, prior="zipf(0)").gradient(student, teacher, batch)
    assert (zero_H > plain_H).all()


@pytest.mark.parametrize(("name", "weight"), [("temi", 1), ("scan", 5), ("tsp", 3)])
@pytest.mark.parametrize("counts", [[4, 3, 2, 1], [1, 3, 4, 2], [7, 1, 1, 1], [3, 3, 2, 2]])
def test_sure_pairs_that_agree_have_the_divergence_of_their_sizes(name, weight, counts):
    """Of all orders of the prior its lowest: clusters have no order."""
    labels = [c for c in range(C) for _ in range(counts[c])]
    prior = prior_shares("zipf(1)", C)
    sizes = np.array(counts) / sum(counts)
    lowest = min(float((sizes * np.log(sizes / order)).sum()) for order in itertools.permutations(prior))
    both = sure_pairs(labels)
    loss = make_loss(name, prior="zipf(1)", **({"marginal_momentum": 0.0} if name == "temi" else {}))
    mean_VHC = loss.look(both.exp()).mean_VHC
    loss_H, _ = loss.gradient(both, both, BatchLook(mean_VHC, torch.ones(len(labels), dtype=torch.float64)))
    assert float(loss_H[0]) == pytest.approx(weight * lowest, abs=1e-9)


@pytest.mark.parametrize(("name", "weight"), [("scan", 5.0), ("tsp", 3.0)])
def test_the_entropy_terms_gradient_is_that_of_the_divergence(name, weight, numerical_gradient):
    loss = make_loss(name, prior="zipf(1.5)")
    logits = np.random.default_rng(2).normal(scale=2, size=(2, 5, C))
    prior = prior_shares("zipf(1.5)", C)

    def plain(at: np.ndarray) -> float:
        x, n = np.exp(at) / np.exp(at).sum(axis=2, keepdims=True)
        divergences = []
        for view in (x, n) if name == "scan" else (x,):
            mean = view.mean(axis=0)
            divergences.append((mean * np.log(mean / prior[np.argsort(np.argsort(-mean))])).sum())
        teacher_x, teacher_n = (x_0, n_0) if name == "scan" else (x, n)
        agreement = [np.log((one * other).sum(axis=1)).mean() for one, other in ((x, teacher_n), (n, teacher_x))]
        return float(weight * np.mean(divergences) - np.mean(agreement))

    x_0, n_0 = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    student = LogProbs(*(torch.from_numpy(view)[None].log_softmax(dim=2) for view in logits))
    loss_H, gradients = loss.gradient(student, student, loss.look(student.exp()))
    assert float(loss_H[0]) == pytest.approx(plain(logits), abs=1e-9)
    np.testing.assert_allclose(torch.cat(gradients), numerical_gradient(plain, logits), atol=1e-7)


def test_temis_balance_is_the_exponent_of_the_marginal():
    student, teacher = random_pairs(3), random_pairs(4)
    loss = make_loss("temi", prior="zipf(1)", balance=0.4, marginal_momentum=0.0)
    batch = looked(loss, teacher)
    found_H, _ = loss.gradient(student, teacher, batch)
    ratio_HC = (batch.mean_VHC[0].log() - log_prior("zipf(1)", batch.mean_VHC[0])).exp() ** 0.4
    expected_H = torch.zeros(H, dtype=torch.float64)
    for one, other in ((student.anchors, teacher.neighbors), (student.neighbors, teacher.anchors)):
        information_HB = ((one + other).exp() ** 0.6 / ratio_HC[:, None]).sum(dim=2).log()
        expected_H -= (batch.weights_B * information_HB).mean(dim=1) / 2
    torch.testing.assert_close(found_H, expected_H)


def test_a_file_gives_the_same_prior_as_its_law_in_any_order(tmp_path):
    np.save(tmp_path / "sizes.npy", np.array([2, 12, 3, 6]))
    (tmp_path / "sizes.txt").write_text("3\n12\n2\n6\n")
    for name in ("sizes.npy", "sizes.txt"):
        np.testing.assert_allclose(prior_shares(str(tmp_path / name), C), np.array([12, 6, 3, 2]) / 23)
    assert prior_shares("zipf(2)", 3) == pytest.approx(np.array([36, 9, 4]) / 49)
    assert prior_shares("zipf(.5)", 2)[0] / prior_shares("zipf(.5)", 2)[1] == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "neither `uniform`, nor `zipf"),
        ("1\n2\n", "has 2 sizes, but n_clusters=4"),
        ("1\n2\n0\n4\n", "not above 0"),
        ("1\nmany\n", "cannot be read"),
    ],
)
def test_what_is_no_prior_is_refused(content, message, tmp_path):
    if content is not None:
        (tmp_path / "sizes.txt").write_text(content)
    with pytest.raises(InputError, match=message):
        make_loss("scan", prior=str(tmp_path / "sizes.txt")).check(C)
