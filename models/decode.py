"""The inverse of one block: token by token, with preallocated keys and values.

Shapes: B samples, N tokens, C channels, H heads.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.block import Block
from models.layers import AdaptiveLayer, Attention, Modulation, PlainLayer


def _attend(attention: Attention, x: Tensor, keys: Tensor, values: Tensor, i: int) -> Tensor:
    """Attention of token i (B, C) over tokens 0..i; writes its key and value into (B, H, N, D)."""
    q, k, v = (t.unflatten(-1, (-1, attention.head_dim)) for t in attention.project(x))
    keys[:, :, i] = k
    values[:, :, i] = v
    y = F.scaled_dot_product_attention(q[:, :, None], keys[:, :, : i + 1], values[:, :, : i + 1])
    return attention.proj(y.flatten(1))


def decode_block(
    block: Block, z: Tensor, modulations: Sequence[Modulation | Tensor], mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Solve z = (u - b(u)) · exp(-a(u)) for u, one token after the other.

    Shape: z (B, N, 3) in the block's ordering → u (B, N, 3), Σa (B,).
    """
    batch, n, _ = z.shape
    shape = (len(block.layers), 2, batch, block.heads, n, block.channels // block.heads)
    cache = z.new_empty(shape)
    position = block.positions(n)
    u = z.clone()
    total = z.new_zeros(batch)
    for i in range(n - 1):  # the last token conditions nothing
        h = block.proj_in(u[:, i]) + position[i]
        for layer, modulation, (keys, values) in zip(block.layers, modulations, cache, strict=True):
            if isinstance(layer, AdaptiveLayer):
                scale1, shift1, gate1, scale2, shift2, gate2 = (t[:, i] for t in modulation)
                y = F.layer_norm(h, h.shape[-1:]) * scale1 + shift1
                y = y + _attend(layer.attention, y, keys, values, i)
                y = y + layer.mlp(y)
                h = h + y * gate1
                h = h + layer.transition(F.layer_norm(h, h.shape[-1:]) * scale2 + shift2) * gate2
            else:
                assert isinstance(layer, PlainLayer)
                assert isinstance(modulation, Tensor)
                h = h + modulation[:, i]
                h = h + _attend(layer.attention, h, keys, values, i)
                h = h + layer.mlp(h)
        a, b = block.head(h)
        if mask is not None:
            real = mask[:, i + 1, None]
            a, b = a * real, b * real
        u[:, i + 1] = z[:, i + 1] * torch.exp(a) + b
        total = total + a.sum(1)
    return u, total
