"""The inverse of one block: token by token, with preallocated keys and values.

Shapes: B samples, P conditions (1 or B), N tokens of D coordinates, C channels, H heads of E channels.

Whatever dtype the products have, the residual stream, the affine step and the sum of log-scales keep that of the
latents: the map stays triangular, so the sum is the exact Jacobian of what was done. Source: TarFlow
(arXiv 2412.06329), Prose (arXiv 2508.18175).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .block import Block
from .conditioning import Conditioning, Precision
from .layers import AdaptiveLayer, GatedLayer, GatedMLP, Modulation, PlainLayer, reorder
from .products import Product, dtype_of

CHUNK = 2**17  # numbers: half the second-level cache of a core


def attend(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention of one token over those before it; `q` is scaled already.

    Shape: q (B, H, E); keys, values (n, B, H, E), the newest token last; bias (n, B, H) → (B, H, E).
    """
    if q.device.type != "cpu":
        k, v = keys.permute(1, 2, 0, 3), values.permute(1, 2, 0, 3)
        mask = None if bias is None else bias.permute(1, 2, 0)[:, :, None].to(q.dtype)
        return F.scaled_dot_product_attention(q[:, :, None], k, v, attn_mask=mask, scale=1.0)[:, :, 0]
    # With one query, batched products are many tiny ones; plain sums over a chunk in cache are 2 to 3 times faster.
    shape, step = q.shape, max(1, CHUNK // (len(keys) * q.shape[-1]))
    q, keys, values = q.flatten(0, 1), keys.flatten(1, 2), values.flatten(1, 2)
    flat_bias = None if bias is None else bias.flatten(1, 2)[..., None]
    y = torch.empty_like(q)
    for i in range(0, len(q), step):
        rows = slice(i, i + step)
        scores = (keys[:, rows] * q[rows]).sum(-1, keepdim=True)
        weights = (scores if flat_bias is None else scores + flat_bias[:, rows].to(scores.dtype)).softmax(0)
        torch.sum(values[:, rows] * weights, 0, out=y[rows])
    return y.view(shape)


def by_token(x: Tensor) -> tuple[Tensor, ...]:
    """(P, N, C) → N tensors, (C,) for one condition, else (P, C)."""
    return (x.detach()[0] if len(x) == 1 else x.detach().transpose(0, 1).contiguous()).unbind()


def _norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    if scale.ndim == 1:
        return F.layer_norm(x, x.shape[-1:], scale, shift)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), scale)


class GatedProduct:
    """silu(x Wᵍᵀ) ⊙ (x Wᵛᵀ), each with its activation or factor in the same call."""

    def __init__(self, gate: Tensor, value: Tensor, dtype: torch.dtype) -> None:
        self.gate, self.value = Product(gate, None, dtype), Product(value, None, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.value.dtype)
        return self.value.times(x, self.gate(x, "swish"))


class LayerDecoder:
    """One layer, for one token after the other."""

    def __init__(
        self,
        layer: AdaptiveLayer | PlainLayer | GatedLayer,
        modulation: Modulation | Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        attention, mlp = layer.attention, layer.mlp
        self.head_dim = attention.head_dim
        scale = self.head_dim**-0.5
        self.norms = [attention.norm, mlp.norm, attention.k_norm]
        self.scale, self.q_norm = scale, isinstance(attention.q_norm, nn.LayerNorm)
        if isinstance(attention.q_norm, nn.LayerNorm):
            # The softmax's 1/√E goes into the norm of the queries, so that no token pays for it.
            self.q_scale = attention.q_norm.weight.detach() * scale
            self.q_shift = attention.q_norm.bias.detach() * scale
        self.qkv = Product(attention.qkv.weight, attention.qkv.bias, dtype)
        self.proj = Product(attention.proj.weight, attention.proj.bias, dtype)
        self.up: GatedProduct | Product = (
            GatedProduct(mlp.gate.weight, mlp.value.weight, dtype)
            if isinstance(mlp, GatedMLP)
            else Product(mlp.up.weight, mlp.up.bias, dtype)
        )
        self.down = Product(mlp.down.weight, mlp.down.bias, dtype)
        self.modulations: list[Modulation] = []
        self.added: tuple[Tensor, ...] = ()
        if isinstance(layer, AdaptiveLayer):
            assert isinstance(modulation, Modulation)
            value, gate = layer.transition.up.weight.chunk(2)
            self.gated = GatedProduct(gate, value, dtype)  # two products instead of one that is split afterwards
            self.out = Product(layer.transition.down.weight, None, dtype)
            self.modulations = [Modulation(*t) for t in zip(*map(by_token, modulation), strict=True)]
        elif modulation is not None:
            assert isinstance(modulation, Tensor)
            self.added = by_token(modulation)

    def __call__(self, h: Tensor, i: int, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
        """Features (B, C) of token `i` after the layer; writes its key and value into (N, B, H, E).

        `bias` (i + 1, B, H): of attention, in plain layers.
        """
        if not self.modulations:
            h = h + self.added[i] if self.added else h
            return self._mlp(self._attention(h, i, keys, values, bias))
        m = self.modulations[i]
        y = self._mlp(self._attention(_norm(h, m.scale1, m.shift1), i, keys, values))
        h = torch.addcmul(h, y, m.gate1)
        y = self.out(self.gated(_norm(h, m.scale2, m.shift2)))
        return torch.addcmul(h, y.to(h.dtype), m.gate2)

    def _attention(self, y: Tensor, i: int, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
        norm, _, k_norm = self.norms
        q, k, v = self.qkv(norm(y)).to(y.dtype).chunk(3, dim=-1)
        q = F.layer_norm(q, q.shape[-1:], self.q_scale, self.q_shift) if self.q_norm else q * self.scale
        keys[i] = k_norm(k).view(keys[i].shape)
        values[i] = v.view(values[i].shape)
        q = q.to(keys.dtype).unflatten(-1, (-1, self.head_dim))
        return self.proj.plus(attend(q, keys[: i + 1], values[: i + 1], bias).view(y.shape), y)

    def _mlp(self, y: Tensor) -> Tensor:
        x = self.norms[1](y)
        return self.down.plus(self.up(x) if isinstance(self.up, GatedProduct) else self.up(x, "gelu"), y)


class BlockDecoder:
    """One block for one condition: weights cast and packed, modulations split by token.

    `mask` (P, N): real tokens, None when all are. `dtype` is that of the products, keys and values.
    """

    def __init__(
        self, block: Block, modulations: Sequence[Modulation | Tensor | None], mask: Tensor | None, n: int,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        self.block, self.mask, self.dtype = block, mask, dtype
        self.layers = [
            LayerDecoder(layer, modulation, dtype)  # type: ignore[arg-type]
            for layer, modulation in zip(block.layers, modulations, strict=True)
        ]
        self.bias = (block.positions(n) + block.proj_in.bias).detach().unbind()

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Solve z = (u − b) · exp(−a) for u, one token after the other.

        Shape: z (B, N, D) in the block's ordering → u (B, N, D), log|det ∂u/∂z| (B,).
        """
        batch, n, _ = z.shape
        block, z = self.block, z.transpose(0, 1).contiguous()
        shape = (len(self.layers), 2, n, batch, block.heads, block.channels // block.heads)
        # Tokens come before samples in memory: step i reads the contiguous rows 0..i and writes one.
        cache = torch.empty(shape, dtype=self.dtype, device=z.device)
        u, scales = torch.empty_like(z), torch.zeros_like(z)
        p = z.new_zeros(batch, 2 * z.shape[-1])  # nothing stands before the first token
        for i in range(n):
            scales[i], shift = p.chunk(2, dim=-1)
            u[i] = torch.addcmul(shift, z[i], scales[i].exp())
            if i == n - 1:  # the last token conditions nothing
                break
            h = F.linear(u[i], block.proj_in.weight, self.bias[i])
            for layer, (keys, values) in zip(self.layers, cache, strict=True):
                h = layer(h, i, keys, values)
            p = block.head(h)  # of the next token
            if self.mask is not None:
                p = p * self.mask[:, i + 1, None]
        return u.transpose(0, 1), scales.sum((0, 2))


class BlocksDecoder:
    """The inverse of a stack of blocks for one condition, in one precision."""

    def __init__(self, blocks: Sequence[Block], c: Conditioning, precision: Precision) -> None:
        self.c, dtype = c, dtype_of(precision, blocks[0].proj_in.weight)
        with torch.inference_mode():
            self.blocks = [
                BlockDecoder(block, modulations, c.mask, c.order.shape[-1], dtype)
                for block, modulations in zip(blocks, c.modulations, strict=True)
            ]

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Shape: z (B, T, D) → x (B, T, D), log|det ∂x/∂z| (B,)."""
        logdet = z.new_zeros(len(z))
        for k in reversed(range(len(self.blocks))):
            u, scales = self.blocks[k](reorder(z, self.c.order[k]))
            z = reorder(u, self.c.inverse_order[k])
            logdet = logdet + scales
        return z, logdet
