"""Gradients by the parameters through a sample x = T(z), which the decoder makes without any.

The decoder runs token by token and keeps no graph. With F = T⁻¹ the parallel pass, F(T(z)) = z gives
∂x/∂θ = −J⁻¹ ∂F/∂θ, J = ∂F/∂x, so that gᵀ ∂x/∂θ = −vᵀ ∂F/∂θ with Jᵀ v = g. Each block's Jacobian is triangular in the
block's ordering, with its diagonal D known: v ← v + D⁻¹ (g − Jᵀ v) is exact after as many products as there are tokens,
and mostly after a few.

Source: Vaitl et al. 2022 (arXiv 2206.09016), Vaitl et al. 2024 (arXiv 2403.15881).
"""

from dataclasses import replace

import torch
from torch import Tensor

from .block import Block
from .conditioning import Conditioning
from .density import log_prob_and_gradient
from .flow import Flow
from .internal_coordinates import rigid_motion, to_internal, to_positions
from .layers import Modulation, reorder
from .tables import PeptideTables
from .transform import CoordinateMasks

TOLERANCE = 1e-5  # of v, relative to the largest entry of its row
LOST = 1e-2  # rows that are still changing by more are left out


class FlowModel:
    """A flow of one peptide with its present parameters, as the objectives take it: a `losses.Model`.

    `temperature_ratio`: temperature over that of the training, as in `Flow.push`.
    """

    def __init__(self, flow: Flow, tables: PeptideTables, temperature_ratio: float = 1.0) -> None:
        self.flow, self.temperature_ratio = flow, temperature_ratio
        self.conditioning = flow.conditioning(tables)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.flow.log_prob(x, self.conditioning, self.temperature_ratio)

    def log_prob_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            c = _detached(self.conditioning)
        return log_prob_and_gradient(self.flow, x, c, self.temperature_ratio)

    def pathwise(self, x: Tensor, cotangent: Tensor) -> Tensor:
        return pathwise(self.flow, x, cotangent, self.conditioning)


def pathwise(flow: Flow, x: Tensor, cotangent: Tensor, c: Conditioning) -> Tensor:
    """A number whose gradient by the parameters is Σ cotangentᵀ ∂x/∂θ, for samples x = T_θ(z) with z fixed.

    Its value means nothing. Rows for which v cannot be found, and rows that are not finite, count as zero. The rigid
    motion has no parameters. Shape: x, cotangent (B, N, 3) → ().
    """
    x, u, g = x.detach(), x.detach().flatten(1), cotangent.detach()
    good = torch.isfinite(x).flatten(1).all(1) & torch.isfinite(g).flatten(1).all(1)
    g = torch.where(good[:, None, None], g, 0.0)
    if c.internal is None:
        u, g = flow._tokens(x, c), flow._tokens(g, c)
    else:
        # To internal coordinates, in which the blocks work: g becomes the cotangent of these, by the chain rule. The
        # map itself has no parameters, and the rigid motion is held fixed.
        with torch.no_grad():
            u, _ = to_internal(x * flow.scale_nm, c.internal)
            rigid = rigid_motion(x, c.internal)
        with torch.enable_grad():
            leaf = u.requires_grad_()
            made, _ = to_positions(leaf, rigid, c.internal, flow.scale_nm)
            (g,) = torch.autograd.grad(made, leaf, g)
        u, g = u.detach(), torch.where(good[:, None, None], g, 0.0)
    total = g.new_zeros(())
    # Block by block from the data's side: with J the product of the blocks' Jacobians, each has one small system to
    # solve, and its v is the g of the next.
    for k, block in enumerate(flow.blocks):
        here = reorder(u, c.order[k])
        z, v = solve(block, here, reorder(g, c.order[k]), c.modulations[k], c.coordinate_masks[k], c.mask)
        total = total - (v * z).sum()
        u, g = reorder(z.detach(), c.inverse_order[k]), reorder(v, c.inverse_order[k])
    return total


def solve(
    block: Block,
    u: Tensor,
    g: Tensor,
    modulations: list[Modulation | Tensor | None],
    coordinate_masks: CoordinateMasks | None,
    mask: Tensor | None,
    tolerance: float = TOLERANCE,
) -> tuple[Tensor, Tensor]:
    """z = F(u) of one block, with gradients to its parameters, and v with Jᵀ v = g, J = ∂F/∂u.

    Shape: u, g (B, T, D) in the block's ordering → z, v (B, T, D).
    """
    u = u.detach().requires_grad_()
    z, log_slope = block.by_coordinate(u, modulations, coordinate_masks, mask)
    inverse = torch.exp(-log_slope.detach())
    v, change = inverse * g, torch.zeros_like(g)
    # D⁻¹Jᵀ − 1 is strictly triangular, so nilpotent: each round makes one more token exact, the last one first.
    for _ in range(u.shape[1]):
        (product,) = torch.autograd.grad(z, u, v, retain_graph=True)
        change = inverse * (g - product)
        v = v + change
        if bool((_largest(change) <= tolerance * _largest(v)).all()):
            break
    kept = _largest(change) <= LOST * _largest(v)  # false for NaN
    return z, torch.where(kept[:, None, None], v, 0.0)


def _largest(t: Tensor) -> Tensor:
    return t.abs().flatten(1).amax(1)


def _detached(c: Conditioning) -> Conditioning:
    """The same without gradients to the parameters."""

    def bare(m: Modulation | Tensor | None) -> Modulation | Tensor | None:
        if isinstance(m, Modulation):
            return Modulation(*(part.detach() for part in m))
        return None if m is None else m.detach()

    return replace(c, modulations=[[bare(m) for m in layers] for layers in c.modulations], decoders={})
