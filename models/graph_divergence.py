"""The exact divergence of the graph network, by forward mode along all coordinates at once and the layers' structure.

Automatic forward mode would carry every direction through all matrices of every pair. Here what moves an atom is one
number a pair, so its slope by the pair's first activation, one backward pass of the pair, meets all directions as a
single product; so does the gate's logit, and the part of a message that comes from distances. What is left is one
matrix product a pair and direction, in all layers but the first (no features have changed) and the last (none will be
read).

Shapes: B samples, N atoms, C channels, K directions; `pairs` as in `graph_network`. Tangents of x are (B, N, 3, K), of
h (B, N, K, C), of a number of pairs (B, N, N, K).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .graph_network import SMALL, GraphLayer, GraphNetwork, linear, pairs_of, without_mean

IN_CACHE = 2**18  # numbers between two products of a sample, 1 MB


@torch.no_grad()
def velocity_and_divergence(
    network: GraphNetwork, t: Tensor, x: Tensor, embedded: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Velocity (B, N, 3), and its divergence (B,): the trace of ∂v/∂x, by 3N coordinates.

    Translations change nothing, so ∂v/∂x summed over atoms is zero: the directions of atom 0, which is always a real
    one, follow from the others.
    """
    batch, n, _ = x.shape
    pairs, h, y = pairs_of(mask, x.dtype), network.first(t, embedded).expand(batch, -1, -1), x
    start = torch.eye(3 * n, dtype=x.dtype, device=x.device)[:, 3:].view(1, n, 3, -1).expand(batch, -1, -1, -1)
    tangent_x, tangent_h = start, None
    away = x[:, :, None] - x[:, None]
    d0, tangent_d0 = away.square().sum(-1), _of_squares(away, start)
    for k, layer in enumerate(network.layers):
        assert isinstance(layer, GraphLayer)
        last = k == len(network.layers) - 1
        y, h, tangent_x, tangent_h = _layer(
            layer, y, h, d0, pairs, network.step, tangent_x, tangent_h, tangent_d0, last=last
        )
    slope = (tangent_x - start).flatten(1, 2)  # (B, 3N, K)
    trace = slope[:, 3:].diagonal(dim1=1, dim2=2).sum(1)
    trace = trace - slope[:, :3].view(batch, 3, n - 1, 3).diagonal(dim1=1, dim2=3).sum((1, 2))
    return without_mean(y - x, mask), trace


class _Edges(NamedTuple):
    """Messages e and pulls φ of all pairs, and their slopes by the pair's first activation a, (B, N, N, C).

    ∂e/∂a = diag(`gain`) W diag(`slope`) + `carried` ⊗ `opened`, W the second matrix; ∂φ/∂a = `pull_slope`.
    """

    message: Tensor
    pull: Tensor
    pull_slope: Tensor
    slope: Tensor
    gain: Tensor
    carried: Tensor
    opened: Tensor


def _edges(layer: GraphLayer, a: Tensor, pairs: Tensor) -> _Edges:
    second, wanted = linear(layer.edge_mlp, 2), linear(layer.att_mlp, 0)
    inner, outer = linear(layer.coord_mlp, 0), linear(layer.coord_mlp, 2).weight[0]
    hidden, slope = _silu(a)
    s, slope_s = _silu(second(hidden))
    gate = torch.sigmoid(wanted(s)) * pairs[..., None]
    carried = s * (gate * (1 - gate))  # by the gate's logit; zero where there is no pair, as the gate is
    hidden, slope_pull = _silu(inner(s * gate))
    pull = torch.tanh(hidden @ outer) * pairs
    back = (slope_pull * outer) @ inner.weight * (pairs - pull.square())[..., None]
    back = back * gate + (back * carried).sum(-1, keepdim=True) * wanted.weight[0]
    both = torch.stack([back * slope_s, wanted.weight[0] * slope_s]) @ second.weight * slope
    return _Edges(s * gate, pull, both[0], slope, gate * slope_s, carried, both[1])


def _layer(
    layer: GraphLayer, x: Tensor, h: Tensor, d0: Tensor, pairs: Tensor, step: float,
    tangent_x: Tensor, tangent_h: Tensor | None, tangent_d0: Tensor, *, last: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """`GraphLayer.forward`, with the tangents of both results; the first layer gets none of h, the last makes none."""
    w = layer.edge_weights()
    away = x[:, :, None] - x[:, None]
    d = away.square().sum(-1)
    edge = _edges(layer, layer.first_activation(h, d, d0), pairs)
    tangent_d = _of_squares(away, tangent_x)
    lengths = torch.stack([w.distance, w.first_distance])

    # Tangents of numbers that depend on a pair's a by `slopes`, (B, N, N, C) → (B, N, N, K).
    own = other = None if tangent_h is None else tangent_h
    if tangent_h is not None:
        own, other = F.linear(tangent_h, w.own), F.linear(tangent_h, w.other)

    def tangent_of(slopes: Tensor) -> Tensor:
        of_d, of_d0 = (slopes @ lengths.T).unbind(-1)
        result = of_d[..., None] * tangent_d + of_d0[..., None] * tangent_d0
        if own is None or other is None:
            return result
        result += slopes @ own.transpose(2, 3)
        return result + (slopes.transpose(1, 2) @ other.transpose(2, 3)).transpose(1, 2)

    r = (d + SMALL).sqrt()
    pull = edge.pull / (r + 1)
    tangent_pull = (tangent_of(edge.pull_slope) - (pull / (2 * r))[..., None] * tangent_d) / (r + 1)[..., None]
    moved = tangent_x * pull.sum(2)[..., None, None] - (pull @ tangent_x.flatten(2)).view_as(tangent_x)
    moved_x = tangent_x + step * (moved + away.transpose(2, 3) @ tangent_pull)
    x = x + step * (away * pull[..., None]).sum(2)
    if last:
        return x, h, moved_x, None

    second = linear(layer.edge_mlp, 2).weight
    by_length = [edge.gain * ((edge.slope * length) @ second.T) for length in lengths]
    tangents = torch.cat([tangent_d, tangent_d0, tangent_of(edge.opened)], dim=2)  # (B, N, 3N, K)
    message = tangents.transpose(2, 3) @ torch.cat([*by_length, edge.carried], dim=2)  # (B, N, K, C)
    if own is not None and other is not None:
        atoms = max(1, IN_CACHE // other[0].numel())
        room = x.new_empty(2, atoms * other[..., 0].numel(), h.shape[-1])
        for low in range(0, x.shape[1], atoms):
            some = slice(low, low + atoms)
            slope, gain = edge.slope[:, some], edge.gain[:, some]
            if atoms == 1:  # of one atom, the pair with itself is easily left out: it has no message
                others = [slice(0, low), slice(low + 1, None)]
                slope, gain = (torch.cat([t[:, :, rows] for rows in others], dim=2) for t in (slope, gain))
                parts = [other[:, rows] for rows in others]
            else:
                parts = [other]
            message[:, some] += _through_second(slope, own[:, some], parts, second, gain, room)
    first, after = linear(layer.node_mlp, 0), linear(layer.node_mlp, 2)
    c = h.shape[-1]
    hidden, slope = _silu(first(torch.cat([h, edge.message.sum(2)], -1)))
    inner = F.linear(message, first.weight[:, c:])
    if tangent_h is not None:
        inner += F.linear(tangent_h, first.weight[:, :c])
    changed = F.linear(inner.mul_(slope[:, :, None]), after.weight)
    return x, h + after(hidden), moved_x, changed if tangent_h is None else changed.add_(tangent_h)


def _through_second(
    slope: Tensor, own: Tensor, parts: list[Tensor], weight: Tensor, gain: Tensor, room: Tensor
) -> Tensor:
    """Σ_j gain_ij ⊙ W (slope_ij ⊙ (own_i + other_j)) for some receiving atoms i: most of the time is spent here.

    A few atoms at a time, so that what is between stays in the cache; and in `room`, as fresh memory is slow.
    Shape: slope, gain (B, n, N, C), own (B, n, K, C), `parts` of other (B, N, K, C) along its atoms → (B, n, K, C).
    """
    shape = (*slope.shape[:3], *own.shape[2:])
    rows = shape[0] * shape[1] * shape[2] * shape[3]
    first, second = room[0, :rows], room[1, :rows]
    sizes = [part.shape[1] for part in parts]
    for part, place in zip(parts, first.view(shape).split(sizes, dim=2), strict=True):
        torch.add(part[:, None], own[:, :, None], out=place)
    first.view(shape).mul_(slope[:, :, :, None])
    torch.mm(first, weight.T, out=second)
    return second.view(shape).mul_(gain[:, :, :, None]).sum(2)


def _silu(a: Tensor) -> tuple[Tensor, Tensor]:
    """SiLU and its slope."""
    return F.silu(a), torch.ops.aten.silu_backward.default(torch.ones_like(a), a)


def _of_squares(away: Tensor, tangent_x: Tensor) -> Tensor:
    """Tangents (B, N, N, K) of |x_i − x_j|²; away (B, N, N, 3)."""
    mine = away @ tangent_x
    return 2 * (mine + mine.transpose(1, 2))
