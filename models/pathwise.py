"""Gradients by the parameters through a sample x = T(z), which the decoder makes without any.

The decoder runs token by token and keeps no graph. With F = T⁻¹ the parallel pass, F(T(z)) = z gives
∂x/∂θ = −J⁻¹ ∂F/∂θ, J = ∂F/∂x, so that gᵀ ∂x/∂θ = −vᵀ ∂F/∂θ with Jᵀ v = g. Each block's Jacobian is triangular in the
block's ordering, with its diagonal D known: v ← v + D⁻¹ (g − Jᵀ v) is exact after as many products as there are tokens,
and mostly after a few.

Source: Vaitl et al. 2022 (arXiv 2206.09016), Vaitl et al. 2024 (arXiv 2403.15881).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .cartesian_flow import CartesianFlow
from .conditioning import Conditioning
from .density import frozen, log_prob_and_gradient
from .flow import Flow
from .internal_coordinates import rigid_motion, take, to_internal, to_positions
from .internal_flow import InternalFlow, internal, placed
from .layers import reorder
from .parts import Parts
from .tables import PeptideTables

TOLERANCE = 1e-5  # of v, relative to the largest entry of its row
ROUNDS = 2  # as many as make it exact, and again: what the first ones overshoot by comes back as rounding
LOST = 1e-2  # rows that are still changing by more are left out


class FlowModel:
    """A flow of one peptide with its present parameters, as the objectives take it: a `losses.Model`.

    `temperature_ratio`: temperature over that of the training, as in `Flow.push`. `parts`: threads that share a batch;
    None computes it as a whole. `bf16`: for the matrix products of `log_prob`.
    """

    def __init__(
        self,
        flow: Flow,
        tables: PeptideTables,
        temperature_ratio: float = 1.0,
        parts: Parts | None = None,
        *,
        bf16: bool = False,
    ) -> None:
        self.flow, self.tables, self.temperature_ratio = flow, tables, temperature_ratio
        self.parts, self.bf16 = parts, bf16

    def log_prob(self, x: Tensor) -> Tensor:
        """See `losses.Model`."""

        def of_rows(x: Tensor) -> Tensor:
            # Without the cache of cast weights, which threads share, and clear for each other.
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False):
                return self.flow.log_prob(x, self._conditioning(), self.temperature_ratio)

        return self._differentiable(of_rows, x)

    def log_prob_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `losses.Model`."""

        def of_rows(x: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                c = self._conditioning()
            return log_prob_and_gradient(self.flow, x, c, self.temperature_ratio)

        if self.parts is None:
            return of_rows(x)
        with frozen(self.flow):  # once for all threads
            log_q, gradient = zip(*self.parts.rows(of_rows, x), strict=True)
        return torch.cat(log_q), torch.cat(gradient)

    def pathwise(self, x: Tensor, cotangent: Tensor) -> Tensor:
        """See `losses.Model`."""

        def of_rows(x: Tensor, cotangent: Tensor) -> Tensor:
            return pathwise(self.flow, x, cotangent, self._conditioning(), self.temperature_ratio)[None]

        return self._differentiable(of_rows, x, cotangent).sum()

    def _differentiable(self, of_rows: Callable[..., Tensor], *batch: Tensor) -> Tensor:
        if self.parts is None:
            return of_rows(*batch)
        parameters = [p for p in self.flow.parameters() if p.requires_grad]
        return self.parts.differentiable(of_rows, parameters, *batch)

    def _conditioning(self) -> Conditioning:
        return self.flow.conditioning(self.tables)


def pathwise(flow: Flow, x: Tensor, cotangent: Tensor, c: Conditioning, temperature_ratio: float = 1.0) -> Tensor:
    """A number whose gradient by the parameters is Σ cotangentᵀ ∂x/∂θ, for samples x = T_θ(z) with z fixed.

    Its value means nothing. Rows for which v cannot be found, and rows that are not finite, count as zero. The rigid
    motion has no parameters. Shape: x, cotangent (B, N, 3) → ().
    """
    x, g = x.detach(), cotangent.detach()
    good = torch.isfinite(x).flatten(1).all(1) & torch.isfinite(g).flatten(1).all(1)
    g = torch.where(good[:, None, None], g, 0.0)
    if isinstance(flow, InternalFlow):
        return _internal_path(flow, x, g, good, c, temperature_ratio)
    assert isinstance(flow, CartesianFlow)
    total, u, g = g.new_zeros(()), flow.tokens(x, c), flow.tokens(g, c)
    # Block by block from the data's side: with J the product of the blocks' Jacobians, each has one small system to
    # solve, and its v is the g of the next.
    for k, block in enumerate(flow.blocks):
        transform = partial(block.by_coordinate, modulations=c.modulations[k], mask=c.mask)
        z, v = solve(transform, reorder(u, c.order[k]), reorder(g, c.order[k]), ROUNDS * u.shape[1])
        total = total - (v * z).sum()
        u, g = reorder(z.detach(), c.inverse_order[k]), reorder(v, c.inverse_order[k])
    return total


def _internal_path(
    flow: InternalFlow, x: Tensor, g: Tensor, good: Tensor, c: Conditioning, temperature_ratio: float
) -> Tensor:
    """`pathwise` for internal coordinates: g becomes their cotangent by the chain rule, the rigid motion held fixed."""
    t, atoms, order = internal(c), placed(c), c.order[0]

    def positions(y: Tensor) -> Tensor:
        made, _ = to_positions(reorder(y, c.inverse_order[0]), rigid, t, flow.scale_nm)
        return made

    def transform(y: Tensor) -> tuple[Tensor, Tensor]:
        x_nm = reorder(take(positions(y) * flow.scale_nm, t.permutation), order)
        features = flow.features(y, x_nm, c)
        z = flow.network.to_normal(y, features, atoms, temperature_ratio)
        density = flow.network.log_density(y, features, atoms, temperature_ratio)
        log_slope = density + 0.5 * z.square() + 0.5 * math.log(2 * math.pi)
        return z, torch.where(atoms.present, log_slope, 0.0)

    with torch.no_grad():
        y, _ = to_internal(x * flow.scale_nm, t)
        y, rigid = reorder(y, order), rigid_motion(x, t)
    with torch.enable_grad():
        leaf = y.requires_grad_()
        (g,) = torch.autograd.grad(positions(leaf), leaf, g)
    g = torch.where(good[:, None, None], g, 0.0)
    z, v = solve(transform, y.detach(), g, ROUNDS * 3 * y.shape[1])
    return -(v * torch.where(good[:, None, None], z, 0.0)).sum()


def solve(
    transform: Callable[[Tensor], tuple[Tensor, Tensor]],
    u: Tensor,
    g: Tensor,
    rounds: int,
    tolerance: float = TOLERANCE,
) -> tuple[Tensor, Tensor]:
    """z = F(u), with gradients to the parameters, and v with Jᵀ v = g, J = ∂F/∂u.

    `transform` returns z and the logarithm of the Jacobian's diagonal; the rest of J is strictly triangular. At most
    `rounds` products. Shape: u, g (B, T, D) → z, v (B, T, D).
    """
    u = u.detach().requires_grad_()
    z, log_slope = transform(u)
    inverse = torch.exp(-log_slope.detach())
    v, change = inverse * g, torch.zeros_like(g)
    # D⁻¹Jᵀ − 1 is strictly triangular, so nilpotent: each round makes one more group exact, the last one first.
    for _ in range(rounds):
        (product,) = torch.autograd.grad(z, u, v, retain_graph=True)
        change = inverse * (g - product)
        v = v + change
        if bool((_largest(change) <= tolerance * _largest(v)).all()):
            break
    kept = _largest(change) <= LOST * _largest(v)  # false for NaN
    return z, torch.where(kept[:, None, None], v, 0.0)


def _largest(t: Tensor) -> Tensor:
    return t.abs().flatten(1).amax(1)
