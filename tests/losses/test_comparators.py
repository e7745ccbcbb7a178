"""The papers' comparators against their formulas, one number at a time, and what sets each of them apart.

Shape suffixes: H heads, B pairs, C clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from deepclust.losses import BatchLook, LogProbs, Loss, Probs, make_loss
from deepclust.runtime.errors import InputError

B, C = 6, 4
Rows = list[list[float]]


def softmax(logits):
    largest = max(logits)
    exponentials = [math.exp(value - largest) for value in logits]
    return [value / sum(exponentials) for value in exponentials]


def entropy_of_mean(rows: Rows) -> float:
    means = [sum(row[c] for row in rows) / len(rows) for c in range(len(rows[0]))]
    return -sum(mean * math.log(mean) for mean in means)


def column(rows: Rows, c: int) -> list[float]:
    return [row[c] for row in rows]


def cosine(first: list[float], second: list[float]) -> float:
    lengths = math.sqrt(sum(a * a for a in first)) * math.sqrt(sum(b * b for b in second))
    return sum(a * b for a, b in zip(first, second)) / lengths


def consistency(x: Rows, n: Rows) -> float:
    return -sum(math.log(sum(p * q for p, q in zip(*pair))) for pair in zip(x, n)) / len(x)


def confusion(x: Rows, n: Rows) -> float:
    """PICA: cross-entropy of each cluster's cosines with all clusters."""
    total = 0.0
    for c in range(len(x[0])):
        shares = softmax([cosine(column(x, c), column(n, d)) for d in range(len(x[0]))])
        total -= math.log(shares[c])
    return total / len(x[0])


def paper_scan(student, _):
    x, n = ([softmax(row) for row in view] for view in student)
    return consistency(x, n) - 5 * entropy_of_mean(x)


def paper_iic(student, _):
    x, n = ([softmax(row) for row in view] for view in student)
    pairs = list(zip(x, n))
    joint = [[sum(p[c] * q[d] + q[c] * p[d] for p, q in pairs) / (2 * len(x)) for d in range(C)] for c in range(C)]
    total = 0.0
    for c in range(C):
        for d in range(C):
            total += joint[c][d] * math.log(joint[c][d] / (sum(joint[c]) * sum(column(joint, d))))
    return -total


def paper_pica(student, _):
    x, n = ([softmax(row) for row in view] for view in student)
    return confusion(x, n) + 2 * (math.log(C) - entropy_of_mean(x))


def paper_icon(student, _, alpha_learned=0.6):
    """Of the pairs: - log N q̃(j|i), with q over the samples of the batch."""
    x, n = ([softmax(row) for row in view] for view in student)
    sizes = [sum(column(x, c)) for c in range(C)]
    total = 0.0
    for p, other in zip(x, n):
        q = sum(p[c] * other[c] / sizes[c] for c in range(C))
        total -= math.log(len(x) * ((1 - alpha_learned) * q + alpha_learned / len(x)))
    return total / len(x)


def paper_turtle(student, teacher):
    """The outer loss: cross-entropy of the labels with the classifier, and how even the labels are."""
    labels, classified = ([softmax(row) for row in view[0]] for view in (student, teacher))
    cross_entropy = -sum(p * math.log(q) for pair in zip(labels, classified) for p, q in zip(*pair))
    return cross_entropy / len(labels) - 10 * entropy_of_mean(labels)


def paper_nnm(student, _):
    x, n = ([softmax(row) for row in view] for view in student)
    return consistency(x, n) + confusion(x, n) - 5 * entropy_of_mean(x)


def paper_self_classifier(student, _, row_temperature=0.1, column_temperature=0.05):
    """From logits at the paper's temperatures; what comes in is over τ_row already."""

    def loss(view, other):
        logits, others = (np.asarray(rows) * row_temperature for rows in (view, other))
        p = [softmax(row / row_temperature) for row in logits]
        columns = [softmax(others[:, c] / column_temperature) for c in range(C)]
        total = 0.0
        for i in range(len(p)):
            all_of_i = sum(columns[d][i] for d in range(C))
            for c in range(C):
                predicted = (len(p) / C) * p[i][c] / sum(column(p, c))
                total -= columns[c][i] / all_of_i * math.log(predicted)
        return total / len(p)

    return (loss(*student) + loss(*student[::-1])) / 2


def paper_dec(student, teacher):
    q, old = ([softmax(row) for row in view] for view in (student[0], teacher[0]))
    frequency = [sum(column(old, c)) for c in range(C)]
    total = 0.0
    for now, then in zip(q, old):
        sharpened = [then[c] ** 2 / frequency[c] for c in range(C)]
        for c in range(C):
            target = sharpened[c] / sum(sharpened)
            total += target * math.log(target / now[c])
    return total / len(q)


def paper_sela(student, teacher):
    """The published iteration on the whole table, 1/C of it in each column and 1/N in each row."""
    table = np.array([softmax(row) for row in teacher[0]]).T ** 25
    r = np.full(C, 1 / C)
    for _ in range(50):
        c = 1 / (B * (r @ table))
        r = 1 / (C * (table @ c))
    x, n = ([softmax(row) for row in view] for view in student)
    total = 0.0
    for of_student, of_teacher in ((n, teacher[0]), (x, teacher[1])):
        for row, labeling in zip(of_student, of_teacher):
            total -= math.log(row[int(np.argmax(r * np.array(softmax(labeling)) ** 25))])
    return total / (2 * B)


def paper_pmi(student, teacher, own_weights=False):
    (x, n), (teacher_x, teacher_n) = ([[softmax(row) for row in view] for view in both] for both in (student, teacher))
    marginal = [0.9 / C + 0.1 * sum(column(teacher_x + teacher_n, c)) / (2 * B) for c in range(C)]
    total = 0.0
    for i in range(B):
        weight = sum(teacher_x[i][c] * teacher_n[i][c] for c in range(C)) if own_weights else 1.0
        for q_s, q_t in ((x[i], teacher_n[i]), (n[i], teacher_x[i])):
            total -= weight * math.log(sum(q_s[c] * q_t[c] / marginal[c] for c in range(C)))
    return total / (2 * B)


def paper_wmi(student, teacher):
    return paper_pmi(student, teacher, own_weights=True)


def paper_self_label(student, _, threshold=0.4):
    """Each cluster that some sample is sure of counts alike."""
    rows = [softmax(row) for row in student[0]]
    sure = [(row, row.index(max(row))) for row in rows if max(row) > threshold]
    weights = [len(sure) / sum(other == label for _, other in sure) for _, label in sure]
    return -sum(weight * math.log(row[label]) for weight, (row, label) in zip(weights, sure)) / sum(weights)


PAPERS: dict[str, Callable[..., float]] = {
    "scan_original": paper_scan,
    "self_label": paper_self_label,
    "iic": paper_iic,
    "pica": paper_pica,
    "nnm": paper_nnm,
    "icon": paper_icon,
    "turtle": paper_turtle,
    "self_classifier": paper_self_classifier,
    "dec": paper_dec,
    "sela": paper_sela,
    "pmi": paper_pmi,
    "wmi": paper_wmi,
}


def as_input(loss: Loss, logits) -> LogProbs:
    views = [torch.tensor(np.asarray(view)[None], dtype=torch.float64) for view in logits]
    return LogProbs(*(view if loss.reads_log_odds else torch.log_softmax(view, dim=2) for view in views))


def looked(loss: Loss, both: LogProbs) -> BatchLook:
    """Of one head, in the order in which training looks."""
    seen = Probs(*both) if loss.reads_log_odds else both.exp()
    look = loss.look(seen)
    mean_VHC = loss.next_mean(loss.first_mean(1, C).double(), look.mean_VHC)
    for _ in range(loss.n_looks - 1):
        mean_VHC = loss.next_mean(mean_VHC, loss.look_again(seen, mean_VHC).mean_VHC)
    return BatchLook(mean_VHC, look.weights_B)


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("sharpness", [0.5, 2.0])
def test_value_and_gradient_are_the_papers(name, sharpness, numerical_gradient):
    options = {"threshold": 0.4} if name == "self_label" else {}  # of which some samples are sure, and some not
    loss, paper = make_loss(name, **options), PAPERS[name]
    logits = np.random.default_rng(6).normal(scale=sharpness, size=(2, 2, B, C))
    student = as_input(loss, logits[0])
    teacher = as_input(loss, logits[1]) if loss.uses_teacher else student
    batch = looked(loss, teacher if loss.looks_at_teacher else student)
    loss_H, gradients = loss.gradient(student, teacher, batch)
    assert float(loss_H[0]) == pytest.approx(paper(logits[0].tolist(), logits[1].tolist()), abs=1e-9)
    expected = numerical_gradient(lambda at: paper(at.tolist(), logits[1].tolist()), logits[0])
    for found, by_differences in zip(gradients, expected):
        np.testing.assert_allclose(found[0], by_differences, atol=1e-8)


def test_icon_may_leave_the_learned_distribution_as_it_is(numerical_gradient):
    loss = make_loss("icon", alpha_learned=0)
    logits = np.random.default_rng(8).normal(scale=2, size=(2, B, C))
    student = as_input(loss, logits)
    loss_H, gradients = loss.gradient(student, student, looked(loss, student))
    assert float(loss_H[0]) == pytest.approx(paper_icon(logits.tolist(), None, 0), abs=1e-9)
    expected = numerical_gradient(lambda at: paper_icon(at.tolist(), None, 0), logits)
    np.testing.assert_allclose(torch.cat(gradients), expected, atol=1e-8)


def test_icon_over_all_pairs_is_the_divergence_that_it_stands_for():
    """KL(p̃ ‖ q) over all N samples, and the same from pairs drawn from p̃, each as often as it is probable."""
    n_samples, alpha, k = 5, 0.6, 2
    rng = np.random.default_rng(9)
    probs = np.exp(rng.normal(size=(n_samples, C)))
    probs /= probs.sum(axis=1, keepdims=True)
    neighbors = np.stack([rng.choice(np.delete(np.arange(n_samples), i), k, replace=False) for i in range(n_samples)])
    target = np.full((n_samples, n_samples), alpha / n_samples)
    np.add.at(target, (np.arange(n_samples)[:, None], neighbors), (1 - alpha) / k)
    learned = (probs / probs.sum(axis=0)) @ probs.T
    np.testing.assert_allclose(learned.sum(axis=1), 1)
    divergence = (target * np.log(target / learned)).sum(axis=1).mean()

    first, second = np.indices(target.shape).reshape(2, -1).repeat(np.rint(target.ravel() * 100).astype(int), axis=1)
    loss = make_loss("icon", alpha_learned=0)
    student = as_input(loss, np.log(probs)[np.stack([first, second])])
    found_H, _ = loss.gradient(student, student, looked(loss, student))
    entropy = -(target * np.log(n_samples * target)).sum(axis=1).mean()
    assert float(found_H[0]) - entropy == pytest.approx(divergence, abs=1e-9)


@pytest.mark.parametrize("entropy_weight", [0.0, 1.0, 1.5])
def test_iic_weighs_the_marginals(entropy_weight):
    loss = make_loss("iic", entropy_weight=entropy_weight)
    student = as_input(loss, np.random.default_rng(7).normal(size=(2, B, C)))
    x, n = student.exp()
    joint = (x[0].T @ n[0] + n[0].T @ x[0]).numpy() / (2 * B)
    marginal = joint.sum(axis=1)
    expected = -(joint * np.log(joint)).sum() + 2 * entropy_weight * (marginal * np.log(marginal)).sum()
    found_H, _ = loss.gradient(student, student, looked(loss, student))
    assert float(found_H[0]) == pytest.approx(expected, abs=1e-12)


def test_iic_is_lowest_where_sure_and_even_clusters_agree():
    loss = make_loss("iic")
    labels = torch.arange(8) % C
    agreeing = torch.log_softmax(50.0 * torch.nn.functional.one_hot(labels, C).double(), dim=1)[None]
    found_H, _ = loss.gradient(*[LogProbs(agreeing, agreeing)] * 2, looked(loss, LogProbs(agreeing, agreeing)))
    assert float(found_H[0]) == pytest.approx(-math.log(C), abs=1e-9)


def test_selas_labels_are_even_where_the_network_prefers_one_cluster():
    """One cluster is the most probable of all samples; the labels share the samples out all the same."""
    loss = make_loss("sela")
    logits = 0.2 * torch.randn(1, 400, C, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[..., 2] += 1.0
    log_probs = torch.log_softmax(logits, dim=2)
    assert (log_probs.argmax(dim=2) == 2).double().mean() > 0.95
    batch = looked(loss, LogProbs(log_probs, log_probs))
    labels = (25 * log_probs + batch.mean_VHC[0][:, None]).argmax(dim=2)
    sizes = torch.bincount(labels.flatten(), minlength=C)
    assert sizes.min() > 80
    even = torch.softmax(25 * log_probs + batch.mean_VHC[0][:, None], dim=2).mean(dim=1)
    np.testing.assert_allclose(even, 1 / C, atol=1e-6)


def test_self_classifier_prefers_even_clusters_to_one():
    """Both put every pair together; only the one whose clusters are equal has a low loss."""
    loss = make_loss("self_classifier")

    def loss_of(labels: torch.Tensor) -> float:
        log_odds = 10.0 * torch.nn.functional.one_hot(labels, C).double()[None]
        both = LogProbs(log_odds, log_odds)
        return float(loss.gradient(both, both, looked(loss, both))[0][0])

    assert loss_of(torch.arange(8) % C) < loss_of(torch.zeros(8, dtype=torch.long)) - 1


def test_wmi_of_one_head_is_temi_and_weighs_heads_apart():
    generator = torch.Generator().manual_seed(3)
    student, teacher = (
        LogProbs(*torch.randn(2, 2, B, C, generator=generator, dtype=torch.float64).log_softmax(dim=3))
        for _ in range(2)
    )
    temi, wmi = make_loss("temi", beta=0.7), make_loss("wmi", beta=0.7)

    def both(loss: Loss, heads: slice):
        views = [LogProbs(*(view[heads] for view in log_probs)) for log_probs in (student, teacher)]
        look = loss.look(views[1].exp())
        mean_VHC = loss.next_mean(loss.first_mean(views[0].anchors.shape[0], C).double(), look.mean_VHC)
        return loss.gradient(*views, BatchLook(mean_VHC, look.weights_B))

    for head in (0, 1):
        alone = slice(head, head + 1)
        torch.testing.assert_close(both(wmi, alone), both(temi, alone))
        torch.testing.assert_close(both(wmi, slice(0, 2))[0][alone], both(temi, alone)[0])
    assert not torch.allclose(both(wmi, slice(0, 2))[0], both(temi, slice(0, 2))[0])


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        *((name, "entropy_weight", -1) for name in ("scan_original", "iic", "pica", "nnm")),
        ("self_classifier", "sharpness", 0),
        ("sela", "sharpness", 0),
        ("sela", "rounds", 0),
        ("sela", "rounds", 2.5),
        ("self_label", "threshold", 1),
        ("pmi", "beta", 0.5),
        ("icon", "alpha", 1),
        ("icon", "walk", -1),
        ("turtle", "inner_steps", 0),
    ],
)
def test_settings_out_of_range_are_refused(name, setting, value):
    with pytest.raises(InputError, match=f"{setting} is {value}"):
        make_loss(name, **{setting: value})
