"""Heads shared out over ranks: checkpoints hold all of them, whoever reads them. test_distributed.py trains so."""

from __future__ import annotations

import pytest
import torch

from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import Ranks
from deepclust.training.head_share import HeadShare
from deepclust.training.heads import make_heads

N_HEADS = 3


def checkpoint() -> dict:
    heads = make_heads("mlp", 6, 5, N_HEADS, hidden_dim=8, embedding_dim=4)
    weights = {f"student.{name}": value.clone() for name, value in heads.state_dict().items()}
    moments = {"step": torch.tensor(7.0), "exp_avg": torch.randn(N_HEADS, 8, 6)}
    others = {
        "mean_VHC": torch.randn(2, N_HEADS, 5),
        "last_loss_H": torch.randn(N_HEADS),
        "transform.mean": torch.randn(6),
    }
    return {"state_dict": {**weights, **others}, "optimizer_states": [{"state": {0: moments}}]}


def test_ranks_cut_their_heads_out_of_a_checkpoint_and_nothing_else():
    torch.manual_seed(0)
    whole, parts = checkpoint(), []
    for rank in range(2):
        torch.manual_seed(0)
        parts.append(checkpoint())
        share = HeadShare(N_HEADS, Ranks(rank, 2))
        share.in_checkpoint(parts[-1], share.cut)
    for name, value in whole["state_dict"].items():
        both = [part["state_dict"][name] for part in parts]
        if name in ("last_loss_H", "transform.mean"):
            assert torch.equal(both[0], value)
        else:
            assert torch.equal(torch.cat(both, dim=1 if name == "mean_VHC" else 0), value)
    states = [content["optimizer_states"][0]["state"][0] for content in (*parts, whole)]
    assert torch.equal(torch.cat([states[0]["exp_avg"], states[1]["exp_avg"]]), states[2]["exp_avg"])
    assert states[1]["step"] == 7


def test_more_processes_than_heads_cannot_share_them():
    with pytest.raises(InputError, match=r"over 3 processes with n_heads=2: .* set trainer\.shard=batch"):
        HeadShare(2, Ranks(0, 3))
