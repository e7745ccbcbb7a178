"""What multi-head training usually looks like: the yardstick of the speed benchmarks, not used by the package.

A ModuleList of heads run one after another, a Dataset with a `__getitem__` per sample that draws its neighbor, the
loss head by head in probability space, float32, one optimizer step per batch. Written plainly, not slowed down on
purpose.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, Dataset


class NeighborPairs(Dataset):
    def __init__(self, features: Tensor, neighbors: np.ndarray) -> None:
        self.features, self.neighbors = features, neighbors

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.features[index], self.features[int(np.random.choice(self.neighbors[index]))]


class Head(nn.Module):
    def __init__(self, in_dim: int, n_clusters: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_dim, 512), nn.GELU(), nn.Linear(512, 256))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last = weight_norm(nn.Linear(256, n_clusters, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.normalize(self.layers(x), dim=-1))


class ReferenceTrainer:
    """TEMI over a ModuleList of heads."""

    def __init__(
        self, in_dim: int, n_clusters: int, n_heads: int, learning_rate: float = 1e-4, device: str = "cpu"
    ) -> None:
        self.student = nn.ModuleList([Head(in_dim, n_clusters) for _ in range(n_heads)]).to(device)
        self.teacher = nn.ModuleList([Head(in_dim, n_clusters) for _ in range(n_heads)]).to(device)
        self.teacher.load_state_dict(self.student.state_dict())
        self.marginal = torch.full((n_heads, n_clusters), 1 / n_clusters, device=device)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=learning_rate, weight_decay=1e-4)

    def step(self, x: Tensor, y: Tensor, beta: float = 0.6, temperature: float = 0.1) -> Tensor:
        student = [[torch.softmax(head(v) / temperature, dim=-1) for v in (x, y)] for head in self.student]
        with torch.no_grad():
            teacher = [[torch.softmax(head(v) / temperature, dim=-1) for v in (x, y)] for head in self.teacher]
            weight = torch.stack([(tx * ty).sum(-1) for tx, ty in teacher]).mean(0)
        losses = []
        for index, ((sx, sy), (tx, ty)) in enumerate(zip(student, teacher)):
            marginal = 0.9 * self.marginal[index] + 0.1 * torch.cat([tx, ty]).mean(0)
            self.marginal[index] = marginal
            one = -(weight * torch.log(((sx * ty) ** beta / marginal).sum(-1))).mean()
            two = -(weight * torch.log(((sy * tx) ** beta / marginal).sum(-1))).mean()
            losses.append((one + two) / 2)
        loss = torch.stack(losses).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), self.student.parameters()):
                slow.mul_(0.996).add_(fast, alpha=0.004)
        return loss.detach()


def loader(features: Tensor, neighbors: np.ndarray, batch_size: int) -> DataLoader:
    return DataLoader(NeighborPairs(features, neighbors), batch_size=batch_size, shuffle=True, drop_last=True)
