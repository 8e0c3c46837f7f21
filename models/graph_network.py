"""The equivariant graph network of ECNF: a velocity of each atom, on the full graph as dense tensors.

Shapes: B samples, N atoms, C channels, L layers. Positions are normalised; `pairs` (B or 1, N, N) is 1 for two
different real atoms, else 0. Source: EGNN (arXiv 2102.09844), TBG (arXiv 2406.14426), prose (arXiv 2508.18175).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

REACH = 15.0  # of all layers together: the largest coefficient of a pair's direction
SMALL = 1e-8  # under the root, so that the distance of an atom to itself has a slope


class EdgeWeights(NamedTuple):
    """The first matrix of the edges' network, (C, 2C + 2), by what it multiplies: h_i, h_j, d_ij, d⁰_ij."""

    own: Tensor
    other: Tensor
    distance: Tensor
    first_distance: Tensor


class GraphLayer(nn.Module):
    """Messages along all pairs; they move the atoms, and change what is known of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.edge_mlp = nn.Sequential(nn.Linear(2 * c + 2, c), nn.SiLU(), nn.Linear(c, c), nn.SiLU())
        self.node_mlp = nn.Sequential(nn.Linear(2 * c, c), nn.SiLU(), nn.Linear(c, c))
        self.coord_mlp = nn.Sequential(nn.Linear(c, c), nn.SiLU(), nn.Linear(c, 1, bias=False))
        self.att_mlp = nn.Sequential(nn.Linear(c, 1))
        nn.init.xavier_uniform_(linear(self.coord_mlp, 2).weight, gain=1e-3)  # atoms hardly move at first

    def edge_weights(self) -> EdgeWeights:
        """Parts of the first matrix; each is multiplied once a node, or once a pair, not all of them once a pair."""
        weight = linear(self.edge_mlp, 0).weight
        c = len(weight)
        return EdgeWeights(weight[:, :c], weight[:, c : 2 * c], weight[:, 2 * c], weight[:, 2 * c + 1])

    def first_activation(self, h: Tensor, d: Tensor, d0: Tensor) -> Tensor:
        """Linear([h_i, h_j, d_ij, d⁰_ij]), shape (B, N, N, C)."""
        w = self.edge_weights()
        own, other = F.linear(h, w.own, linear(self.edge_mlp, 0).bias), F.linear(h, w.other)
        lengths = d[..., None] * w.distance + d0[..., None] * w.first_distance
        return lengths + own[:, :, None] + other[:, None]

    def forward(
        self, x: Tensor, h: Tensor, d0: Tensor, pairs: Tensor, step: float, last: bool
    ) -> tuple[Tensor, Tensor]:
        """Positions and features after the layer; of the last one nothing reads the features."""
        away = x[:, :, None] - x[:, None]
        d = away.square().sum(-1)
        e = self.edge_mlp[1:](self.first_activation(h, d, d0))
        e = e * torch.sigmoid(self.att_mlp(e)) * pairs[..., None]
        pull = torch.tanh(self.coord_mlp(e)[..., 0]) * pairs / ((d + SMALL).sqrt() + 1)
        moved = x + step * (away * pull[..., None]).sum(2)
        return moved, h if last else h + self.node_mlp(torch.cat([h, e.sum(2).to(h)], -1))


class GraphNetwork(nn.Module):
    """v(t, x) of every atom: rotates with x, does not see translations, and has no mean.

    `features`: of an atom, without the time, which is the last one. `embedding_out` and the last `node_mlp` are in the
    public weights and do not act.
    """

    def __init__(self, features: int, channels: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(features + 1, channels)
        self.embedding_out = nn.Linear(channels, features + 1)
        self.layers = nn.ModuleList(GraphLayer(channels) for _ in range(layers))
        self.step = REACH / layers
        for idle in (self.embedding_out, self.layers[-1].node_mlp):
            idle.requires_grad_(False)

    def embed(self, features: Tensor) -> Tensor:
        """The part of the first h that does not change with time. Shape: (P, N, F) → (P, N, C)."""
        return F.linear(features, self.embedding.weight[:, :-1], self.embedding.bias)

    def first(self, t: Tensor, embedded: Tensor) -> Tensor:
        """The first h, (B, N, C), at times t (B,)."""
        return embedded + t[:, None, None] * self.embedding.weight[:, -1]

    def forward(self, t: Tensor, x: Tensor, embedded: Tensor, mask: Tensor, *, recompute: bool = False) -> Tensor:
        """Velocities (B, N, 3) at times t (B,) and positions x (B, N, 3); mask (P, N) of real atoms.

        `recompute`: keep no activations of layers for the backward pass.
        """
        pairs, h, y = pairs_of(mask, x.dtype), self.first(t, embedded), x
        d0 = (x[:, :, None] - x[:, None]).square().sum(-1)
        for k, layer in enumerate(self.layers):
            arguments = (y, h, d0, pairs, self.step, k == len(self.layers) - 1)
            y, h = checkpoint(layer, *arguments, use_reentrant=False) if recompute else layer(*arguments)
        return without_mean(y - x, mask)


def linear(parts: nn.Sequential, index: int) -> nn.Linear:
    """A linear map among `parts`."""
    found = parts[index]
    assert isinstance(found, nn.Linear)
    return found


def pairs_of(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """1 for two different real atoms, else 0. Shape: mask (P, N) → (P, N, N)."""
    n = mask.shape[1]
    return (mask[:, :, None] & mask[:, None] & ~torch.eye(n, dtype=torch.bool, device=mask.device)).to(dtype)


def without_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Vectors of real atoms less their mean; zero elsewhere. Shape: x (B, N, 3), mask (P, N)."""
    real = mask[..., None].to(x.dtype)
    mean = (x * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
    return (x - mean) * real
