"""One causal affine transformation of all tokens: a transformer that gives each token's scale and shift.

Shapes: B samples, P conditions (1 or B), N tokens, C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.config import FlowConfig
from models.layers import AdaptiveLayer, Modulation, PlainLayer, sinusoid

EXPANSION = 4


class Block(nn.Module):
    """One causal affine transformation of the tokens in the block's ordering."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        c = config.channels
        layer = AdaptiveLayer if config.adaptive else PlainLayer
        self.channels, self.heads = c, c // config.head_dim
        self.lookahead = config.lookahead
        self.proj_in = nn.Linear(3, c)
        self.proj_cond: nn.Module = (
            nn.Sequential(nn.Linear(2 * c, c), nn.GELU(), nn.Linear(c, c)) if config.lookahead else nn.Linear(c, c)
        )
        self.position_scale = nn.Parameter(torch.tensor(0.01))
        self.layers = nn.ModuleList(layer(c, config.head_dim, EXPANSION) for _ in range(config.layers_per_block))
        self.proj_out = nn.Linear(c, 6)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def modulations(self, c: Tensor) -> list[Modulation | Tensor]:
        """Each layer's modulation from the condition (P, N, C) in this block's ordering."""
        if self.lookahead:
            c = torch.cat([c, nn.functional.pad(c[:, 1:], (0, 0, 0, 1))], dim=-1)
        e = self.proj_cond(c)
        return [layer.modulation(e) for layer in self.layers]  # type: ignore[operator]

    def positions(self, n: int) -> Tensor:
        """What is added to tokens 0..n-1 to tell them apart (n, C)."""
        index = torch.arange(n, device=self.position_scale.device)
        return self.position_scale * sinusoid(index, self.channels, 10000.0).to(self.position_scale.dtype)

    def head(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Log-scale and shift, each (..., 3), that a token's features give its successor."""
        with torch.autocast(h.device.type, enabled=False):  # they make the density: never below float32
            a, b = self.proj_out(h.to(self.proj_out.weight.dtype)).chunk(2, dim=-1)
        return a, b

    def forward(self, u: Tensor, modulations: Sequence[Modulation | Tensor]) -> tuple[Tensor, Tensor]:
        """Log-scale and shift (B, N, 3) of every token from those before it; the first gets zeros."""
        h = self.proj_in(u) + self.positions(u.shape[1])
        for layer, modulation in zip(self.layers, modulations, strict=True):
            h = layer(h, modulation)
        a, b = self.head(h[:, :-1])
        return nn.functional.pad(a, (0, 0, 1, 0)), nn.functional.pad(b, (0, 0, 1, 0))
