from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score, mutual_info_score

from deepclust.cuts.exploration import agreement_of_cuts
from deepclust.cuts.tree import ClusterTree, information_tree, pair_information_of, pair_joint
from deepclust.runtime.errors import InputError


def some_joint(n_leaves: int, seed: int = 0) -> np.ndarray:
    joint_CC = np.random.default_rng(seed).random((n_leaves, n_leaves)) ** 4
    joint_CC[joint_CC < 0.1] = 0  # as of clusters that never meet
    joint_CC += joint_CC.T + np.eye(n_leaves)
    return joint_CC / joint_CC.sum()


def merged(joint_CC: np.ndarray, groups_C: np.ndarray) -> np.ndarray:
    member_CG = np.eye(groups_C.max() + 1)[groups_C]
    return member_CG.T @ joint_CC @ member_CG


def test_every_merge_is_the_one_that_loses_least_by_trying_all():
    joint_CC = some_joint(11)
    tree = information_tree(joint_CC)
    for left in range(11, 2, -1):
        now = merged(joint_CC, tree.groups(left))
        best = max(
            pair_information_of(merged(now, np.where(np.arange(left) == b, a, np.arange(left) - (np.arange(left) > b))))
            for b in range(left)
            for a in range(b)
        )
        assert pair_information_of(now) - best == pytest.approx(tree.lost[11 - left], abs=1e-12)
        assert tree.information[left - 1] == pytest.approx(pair_information_of(now))


def test_cuts_are_nested_and_complete_also_with_empty_clusters():
    joint_CC = np.zeros((9, 9))
    joint_CC[:7, :7] = some_joint(7)  # two leaves have no samples
    tree = information_tree(joint_CC)
    for count in range(1, 10):
        groups_C = tree.groups(count)
        assert sorted(set(groups_C)) == list(range(count))
        if count > 1:
            coarser = tree.groups(count - 1)
            assert len(set(zip(groups_C, coarser))) == count
    assert set(tree.groups(7)[:7]) == set(range(7))
    with pytest.raises(InputError, match="a tree of 9 clusters is cut into 1 to 9"):
        tree.groups(10)
    with pytest.raises(InputError, match=r"n_clusters is 2\.5"):
        tree.groups(2.5)
    again = ClusterTree.from_dict(tree.as_dict())
    np.testing.assert_array_equal(again.groups(4), tree.groups(4))


def test_the_joint_of_hard_clusters_counts_pairs_both_ways(monkeypatch):
    monkeypatch.setattr("deepclust.cuts.tree.BLOCK_ROWS", 7)
    generator = np.random.default_rng(0)
    labels, ids = generator.integers(0, 4, 30), generator.integers(0, 30, (30, 3))
    probs = sparse.csr_matrix(np.eye(4)[labels])
    expected = pair_information_of(pair_joint(ids, probs))
    one, other = np.repeat(labels, 3), labels[ids].ravel()
    assert expected == pytest.approx(mutual_info_score(np.append(one, other), np.append(other, one)))
    half = np.arange(30) < 11
    np.testing.assert_allclose(
        11 * pair_joint(ids[half], probs, half) + 19 * pair_joint(ids[~half], probs, ~half), 30 * pair_joint(ids, probs)
    )


def test_agreement_of_cuts_is_the_adjusted_rand_index_of_their_samples():
    generator = np.random.default_rng(1)
    one_tree, other_tree = information_tree(some_joint(8, 1)), information_tree(some_joint(8, 2))
    one = generator.integers(0, 8, 500)
    other = np.where(generator.random(500) < 0.7, one, generator.integers(0, 8, 500))
    both = sparse.coo_array((np.ones(500), (one, other)), shape=(8, 8)).tocsr()
    for count in (2, 5, 8):
        expected = adjusted_rand_score(one_tree.groups(count)[one], other_tree.groups(count)[other])
        assert agreement_of_cuts(both, one_tree, other_tree, count) == pytest.approx(expected)
