"""One causal transformation of all tokens: a transformer gives each token's parameters from those before it.

Shapes: B samples, P conditions (1 or B), N tokens of D coordinates (3: an atom, 1), C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import FlowConfig
from .layers import AdaptiveLayer, Modulation, PlainLayer, sinusoid

EXPANSION = 4


class Block(nn.Module):
    """One causal affine transformation of the tokens in the block's ordering: z = (u − b) · exp(−a).

    Source: TarFlow (arXiv 2412.06329).
    """

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        c = config.channels
        layer = AdaptiveLayer if config.adaptive else PlainLayer
        self.channels, self.heads = c, c // config.head_dim
        self.lookahead = config.lookahead
        self.proj_in = nn.Linear(config.token_dim, c)
        self.position_scale: nn.Parameter | None = None
        self.position: nn.Parameter | None = None
        if config.system:  # one peptide: positions are learned, and there is nothing to be conditioned on
            self.position = nn.Parameter(0.01 * torch.randn(config.system_tokens, c))
        else:
            self.proj_cond: nn.Module = (
                nn.Sequential(nn.Linear(2 * c, c), nn.GELU(), nn.Linear(c, c)) if config.lookahead else nn.Linear(c, c)
            )
            self.position_scale = nn.Parameter(torch.tensor(0.01))
        self.layers = nn.ModuleList(layer(c, config.head_dim, EXPANSION) for _ in range(config.layers_per_block))
        self.proj_out = nn.Linear(c, 2 * config.token_dim)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def condition(self, c: Tensor) -> Tensor:
        """Condition e of the tokens, shared by the layers, from that of the atoms in this block's ordering.

        With `lookahead` a token also sees the condition of the next one, which is the one that it transforms.

        Shape: (P, N, C) → (P, N, C).
        """
        if self.lookahead:
            c = torch.cat([c, nn.functional.pad(c[:, 1:], (0, 0, 0, 1))], dim=-1)
        e: Tensor = self.proj_cond(c)
        return e

    def modulations(self, e: Tensor | None) -> list[Modulation | Tensor | None]:
        """Modulation of each layer; None where there is no condition."""
        return [_modulation(layer, e) for layer in self.layers]

    def positions(self, n: int) -> Tensor:
        """Position embedding (n, C) of tokens 0..n-1."""
        if self.position is not None:
            return self.position[:n]
        scale = self.position_scale
        assert scale is not None
        return scale * sinusoid(torch.arange(n, device=scale.device), self.channels, 10000.0).to(scale.dtype)

    def head(self, h: Tensor) -> Tensor:
        """Parameters a and b (..., 2D) that a token's features give its successor."""
        with torch.autocast(h.device.type, enabled=False):  # they make the density: never below float32
            p: Tensor = self.proj_out(h.to(self.proj_out.weight.dtype))
        return p

    def forward(
        self,
        u: Tensor,
        modulations: Sequence[Modulation | Tensor | None],
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Transformed tokens, and log|det ∂z/∂u|. `mask` (P, N): real tokens, None when all are.

        Shape: u (B, N, D) in the block's ordering → z (B, N, D), logdet (B,).
        """
        z, slope = self.by_coordinate(u, modulations, mask)
        return z, slope.sum((1, 2))

    def by_coordinate(
        self,
        u: Tensor,
        modulations: Sequence[Modulation | Tensor | None],
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Transformed tokens, and the logarithm of the Jacobian's diagonal (B, N, D); arguments as in `forward`."""
        h = self._embed(u)
        for layer, modulation in zip(self.layers, modulations, strict=True):
            h = layer(h, modulation)
        return self._transform(u, h, mask)

    def checkpointed(self, u: Tensor, e: Tensor | None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`forward` with activation checkpointing: layers and modulations are computed again in the backward pass."""
        h = self._embed(u)
        for layer in self.layers:
            h = checkpoint(_modulated, layer, h, e, use_reentrant=False, preserve_rng_state=False)
        z, slope = self._transform(u, h, mask)
        return z, slope.sum((1, 2))

    def _embed(self, u: Tensor) -> Tensor:
        h: Tensor = self.proj_in(u) + self.positions(u.shape[1])
        return h

    def _transform(self, u: Tensor, h: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        p = nn.functional.pad(self.head(h[:, :-1]), (0, 0, 1, 0))  # the first token gets zeros: it passes
        if mask is not None:
            p = p * mask[..., None]  # padding stands last in every ordering, so the mask needs no reordering
        a, b = p.chunk(2, dim=-1)
        return (u - b) * torch.exp(-a), -a


def _modulation(layer: nn.Module, e: Tensor | None) -> Modulation | Tensor | None:
    return None if e is None else layer.modulation(e)  # type: ignore[operator]


def _modulated(layer: nn.Module, h: Tensor, e: Tensor | None) -> Tensor:
    result: Tensor = layer(h, _modulation(layer, e))
    return result
