"""The batched heads are H plain networks of the papers, each from a draw of its own.

Shape suffixes: H heads, B samples, D feature dimensions, E embedding dimensions, C clusters.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from deepclust.runtime.errors import InputError
from deepclust.training.heads import HEADS, LinearHeads, MLPHeads, make_heads, make_teacher, update_teacher

H, B, D, F, E, C = 3, 7, 6, 10, 5, 4
every_kind = pytest.mark.parametrize("kind", HEADS)
kinds_of_directions = pytest.mark.parametrize("kind", ["mlp", "linear"])


def heads_of(kind: str, seed: int = 0, n_heads: int = H):
    return make_heads(kind, D, C, n_heads, hidden_dim=F, embedding_dim=E, seed=seed)


def disturbed(heads, seed: int = 0):
    """Every parameter away from its initial value, so that biases and gains take part."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return heads


class PlainHead(nn.Module):
    """One head of TEMI out of torch's own layers."""

    def __init__(self, heads: MLPHeads, head: int) -> None:
        super().__init__()
        self.hidden, self.embedding = nn.Linear(D, F), nn.Linear(F, E)
        self.last = weight_norm(nn.Linear(E, C, bias=False))
        with torch.no_grad():
            self.hidden.weight.copy_(heads.hidden_weight[head])
            self.hidden.bias.copy_(heads.hidden_bias[head])
            self.embedding.weight.copy_(heads.embedding_weight[head])
            self.embedding.bias.copy_(heads.embedding_bias[head])
            self.last.parametrizations.weight.original0.copy_(heads.gain[head][:, None])
            self.last.parametrizations.weight.original1.copy_(heads.prototypes[head])

    def forward(self, features_BD):
        hidden = functional.gelu(self.hidden(features_BD))
        return self.last(functional.normalize(self.embedding(hidden), dim=1))


@pytest.fixture
def features_BD() -> torch.Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(5))


def test_mlp_heads_equal_plain_networks_with_the_same_weights(features_BD):
    heads = disturbed(heads_of("mlp"))
    plain = [PlainHead(heads, head) for head in range(H)]
    logits_HBC = heads(features_BD)
    assert logits_HBC.shape == (H, B, C)
    np.testing.assert_allclose(
        logits_HBC.detach(), torch.stack([one(features_BD) for one in plain]).detach(), atol=1e-5, rtol=1e-5
    )
    logits_HBC.square().sum().backward()
    for head, one in enumerate(plain):
        one(features_BD).square().sum().backward()
        for batched, alone in (
            (heads.hidden_weight, one.hidden.weight),
            (heads.hidden_bias, one.hidden.bias),
            (heads.embedding_weight, one.embedding.weight),
            (heads.embedding_bias, one.embedding.bias),
            (heads.gain, one.last.parametrizations.weight.original0),
            (heads.prototypes, one.last.parametrizations.weight.original1),
        ):
            expected = alone.grad.view_as(batched[head])
            np.testing.assert_allclose(batched.grad[head], expected, atol=1e-4, rtol=1e-4)


def test_linear_heads_are_matrix_products(features_BD):
    heads = disturbed(heads_of("linear"))
    expected = torch.stack([features_BD @ heads.prototypes[head].T for head in range(H)])
    np.testing.assert_allclose(heads(features_BD).detach(), expected.detach(), atol=1e-5)
    assert [name for name, _ in heads.named_parameters()] == ["prototypes"]


def test_student_t_heads_are_students_t_around_centers(features_BD):
    """DEC's equation 1, one number at a time."""
    heads = disturbed(heads_of("student_t"))
    probs_HBC = torch.softmax(heads(features_BD), dim=2)
    for head in range(H):
        code_BD = features_BD @ heads.encoder[head].detach().T
        for row, found_C in zip(code_BD, probs_HBC[head]):
            kernel = [1 / (1 + float((row - center).square().sum())) for center in heads.prototypes[head].detach()]
            np.testing.assert_allclose(found_C.detach(), np.array(kernel) / sum(kernel), atol=1e-6)


def test_student_t_heads_start_with_the_features_themselves(features_BD):
    heads = heads_of("student_t")
    centers_HCD = 3 * torch.randn(H, C, D, generator=torch.Generator().manual_seed(1))
    heads.set_prototypes(centers_HCD)
    expected = -torch.log1p(torch.cdist(features_BD.expand(H, -1, -1), centers_HCD).square())
    np.testing.assert_allclose(heads(features_BD).detach(), expected, atol=1e-4)


@kinds_of_directions
def test_logits_compare_embeddings_with_prototypes(kind, features_BD):
    heads = heads_of(kind)
    directions_HCE = heads.prototypes if kind == "linear" else functional.normalize(heads.prototypes, dim=2)
    expected = heads.embed(features_BD) @ directions_HCE.transpose(1, 2)
    np.testing.assert_allclose(heads(features_BD).detach(), expected.detach(), atol=1e-6)


@every_kind
def test_equal_seeds_give_equal_heads_and_other_seeds_others(kind):
    torch.manual_seed(1)
    one = heads_of(kind, seed=3)
    torch.manual_seed(2)  # the global generator has no say
    same, other = heads_of(kind, seed=3), heads_of(kind, seed=4)
    for first, second in zip(one.parameters(), same.parameters()):
        assert torch.equal(first, second)
    assert not torch.equal(one.prototypes, other.prototypes)


@every_kind
def test_each_head_is_a_draw_of_its_own(kind):
    for name, parameter in heads_of(kind).named_parameters():
        if not name.endswith(("bias", "gain", "encoder")):
            assert not torch.equal(parameter[0], parameter[1]), name
            assert abs(np.corrcoef(parameter[0].detach().flatten(), parameter[1].detach().flatten())[0, 1]) < 0.5


@kinds_of_directions
def test_weights_start_truncated_normal_with_the_papers_width(kind):
    heads = make_heads(kind, 200, 50, 4, hidden_dim=300, embedding_dim=100, seed=0)
    for name, parameter in heads.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all()
        elif name.endswith("gain"):
            assert (parameter == 1).all()
        else:
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.03)
            assert float(parameter.detach().mean()) == pytest.approx(0, abs=1e-3)


def test_the_published_widths_are_the_default():
    shapes = {name: tuple(value.shape) for name, value in make_heads("mlp", 64, 10, 2).named_parameters()}
    assert shapes == {
        "hidden_weight": (2, 512, 64),
        "hidden_bias": (2, 512),
        "embedding_weight": (2, 256, 512),
        "embedding_bias": (2, 256),
        "prototypes": (2, 10, 256),
        "gain": (2, 10),
    }


@every_kind
def test_the_teacher_starts_equal_and_follows_as_a_moving_average(kind):
    student = disturbed(heads_of(kind))
    teacher = make_teacher(student)
    started = [parameter.clone() for parameter in teacher.parameters()]
    for first, second in zip(student.parameters(), teacher.parameters()):
        assert torch.equal(first, second)
        assert not second.requires_grad
        assert first.requires_grad
    disturbed(student, seed=1)
    assert torch.equal(next(teacher.parameters()), started[0])  # a copy, not a view
    update_teacher(teacher, student, momentum=0.9)
    for before, now, target in zip(started, teacher.parameters(), student.parameters()):
        np.testing.assert_allclose(now, 0.9 * before + 0.1 * target.detach(), atol=1e-6)


@every_kind
def test_a_single_head_answers_as_it_did_among_the_others(kind, features_BD):
    heads = disturbed(heads_of(kind))
    for head in range(H):
        one = heads.single(head)
        assert (one.n_heads, one.n_clusters, one.in_dim) == (1, C, D)
        np.testing.assert_allclose(one(features_BD)[0].detach(), heads(features_BD)[head].detach(), atol=1e-6)
    with torch.no_grad():
        heads.single(0).prototypes.zero_()
    assert heads.prototypes[0].any()


def test_prototypes_of_a_linear_head_follow_tsps_formula():
    heads = heads_of("linear")
    centers_HCD = 5 * torch.randn(H, C, D, generator=torch.Generator().manual_seed(1))
    heads.set_prototypes(centers_HCD)
    for head in range(H):
        for c in range(C):
            center = centers_HCD[head, c]
            np.testing.assert_allclose(heads.prototypes[head, c].detach(), center / (center.norm() * D**0.5), atol=1e-6)


def test_prototypes_of_an_mlp_head_point_where_they_are_told(features_BD):
    heads = heads_of("mlp")
    directions_HCE = torch.randn(H, C, E, generator=torch.Generator().manual_seed(1))
    heads.set_prototypes(directions_HCE)
    unit = functional.normalize(directions_HCE, dim=2)
    expected = heads.embed(features_BD) @ unit.transpose(1, 2)
    np.testing.assert_allclose(heads(features_BD).detach(), expected.detach(), atol=1e-6)


def test_weight_decay_spares_biases_and_gains():
    assert heads_of("mlp").no_decay() == {"hidden_bias", "embedding_bias", "gain"}
    assert heads_of("mlp").no_decay(decay_gains=True) == {"hidden_bias", "embedding_bias"}
    assert heads_of("linear").no_decay() == set()


def test_an_unknown_head_is_refused():
    with pytest.raises(InputError, match="unknown head 'cnn': choose one of mlp, linear"):
        make_heads("cnn", D, C, H)


def test_linear_heads_default_to_one():
    assert LinearHeads(D, C).n_heads == 1


@pytest.mark.parametrize("n_clusters", [3, 40], ids=["fewer clusters than dimensions", "more"])
def test_the_hand_written_gradient_is_autograds(n_clusters):
    heads = MLPHeads(6, n_clusters, 2, hidden_dim=7, embedding_dim=5).double()
    features_BD = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    names, values = zip(*heads.named_parameters())
    values = [(value.detach() * 10).requires_grad_() for value in values]

    def logits(*weights):
        return torch.func.functional_call(heads, dict(zip(names, weights)), (features_BD,))

    assert torch.autograd.gradcheck(logits, values)


def test_an_embedding_of_length_zero_has_finite_logits_and_gradients():
    for n_clusters in (3, 40):
        heads = MLPHeads(6, n_clusters, 1, hidden_dim=7, embedding_dim=5)
        with torch.no_grad():
            heads.embedding_weight.zero_()
        logits = heads(torch.ones(2, 6))
        assert (logits == 0).all()
        logits.sum().backward()
        assert all(torch.isfinite(parameter.grad).all() for parameter in heads.parameters())
