"""The inverse of one block: token by token, with preallocated keys and values.

Shapes: B samples, P conditions (1 or B), N tokens of D coordinates, C channels, H heads of E channels.

Whatever dtype the products have, the residual stream, the affine step and the sum of log-scales keep that of the
latents: the map stays triangular, so the sum is the exact Jacobian of what was done. Source: TarFlow
(arXiv 2412.06329), Prose (arXiv 2508.18175).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .block import Block
from .layers import AdaptiveLayer, Modulation, PlainLayer
from .products import Product
from .transform import CoordinateMasks

CHUNK = 2**17  # numbers: half the second-level cache of a core


def attend(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Softmax attention of one token over those before it; `q` is scaled already.

    Shape: q (B, H, E); keys, values (n, B, H, E), the newest token last → (B, H, E).
    """
    if q.device.type != "cpu":
        k, v = keys.permute(1, 2, 0, 3), values.permute(1, 2, 0, 3)
        return F.scaled_dot_product_attention(q[:, :, None], k, v, scale=1.0)[:, :, 0]
    # With one query, batched products are many tiny ones; plain sums over a chunk in cache are 2 to 3 times faster.
    shape, step = q.shape, max(1, CHUNK // (len(keys) * q.shape[-1]))
    q, keys, values = q.flatten(0, 1), keys.flatten(1, 2), values.flatten(1, 2)
    y = torch.empty_like(q)
    for i in range(0, len(q), step):
        rows = slice(i, i + step)
        weights = (keys[:, rows] * q[rows]).sum(-1, keepdim=True).softmax(0)
        torch.sum(values[:, rows] * weights, 0, out=y[rows])
    return y.view(shape)


def _by_token(x: Tensor) -> tuple[Tensor, ...]:
    """(P, N, C) → N tensors, (C,) for one condition, else (P, C)."""
    return (x.detach()[0] if len(x) == 1 else x.detach().transpose(0, 1).contiguous()).unbind()


def _norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    if scale.ndim == 1:
        return F.layer_norm(x, x.shape[-1:], scale, shift)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), scale)


class LayerDecoder:
    """One layer, for one token after the other."""

    def __init__(
        self, layer: AdaptiveLayer | PlainLayer, modulation: Modulation | Tensor | None, dtype: torch.dtype
    ) -> None:
        attention, mlp = layer.attention, layer.mlp
        self.head_dim = attention.head_dim
        scale = self.head_dim**-0.5
        self.norms = [attention.norm, mlp.norm, attention.k_norm]
        # The softmax's 1/√E goes into the norm of the queries, so that no token pays for it.
        self.q_scale, self.q_shift = attention.q_norm.weight.detach() * scale, attention.q_norm.bias.detach() * scale
        self.qkv = Product(attention.qkv.weight, attention.qkv.bias, dtype)
        self.proj = Product(attention.proj.weight, attention.proj.bias, dtype)
        self.up = Product(mlp.up.weight, mlp.up.bias, dtype)
        self.down = Product(mlp.down.weight, mlp.down.bias, dtype)
        self.modulations: list[Modulation] = []
        self.added: tuple[Tensor, ...] = ()
        if isinstance(layer, AdaptiveLayer):
            assert isinstance(modulation, Modulation)
            value, gate = layer.transition.up.weight.chunk(2)
            # Two products instead of one split afterwards: each then has its activation or factor in the same call.
            self.value, self.gate = Product(value, None, dtype), Product(gate, None, dtype)
            self.out = Product(layer.transition.down.weight, None, dtype)
            self.modulations = [Modulation(*t) for t in zip(*map(_by_token, modulation), strict=True)]
        elif modulation is not None:
            assert isinstance(modulation, Tensor)
            self.added = _by_token(modulation)

    def __call__(self, h: Tensor, i: int, keys: Tensor, values: Tensor) -> Tensor:
        """Features (B, C) of token `i` after the layer; writes its key and value into (N, B, H, E)."""
        if not self.modulations:
            h = h + self.added[i] if self.added else h
            return self._mlp(self._attention(h, i, keys, values))
        m = self.modulations[i]
        y = self._mlp(self._attention(_norm(h, m.scale1, m.shift1), i, keys, values))
        h = torch.addcmul(h, y, m.gate1)
        x = _norm(h, m.scale2, m.shift2).to(self.out.dtype)
        y = self.out(self.value.times(x, self.gate(x, "swish")))
        return torch.addcmul(h, y.to(h.dtype), m.gate2)

    def _attention(self, y: Tensor, i: int, keys: Tensor, values: Tensor) -> Tensor:
        norm, _, k_norm = self.norms
        q, k, v = self.qkv(norm(y)).to(y.dtype).chunk(3, dim=-1)
        q = F.layer_norm(q, q.shape[-1:], self.q_scale, self.q_shift)
        keys[i] = k_norm(k).view(keys[i].shape)
        values[i] = v.view(values[i].shape)
        q = q.to(keys.dtype).unflatten(-1, (-1, self.head_dim))
        return self.proj.plus(attend(q, keys[: i + 1], values[: i + 1]).view(y.shape), y)

    def _mlp(self, y: Tensor) -> Tensor:
        return self.down.plus(self.up(self.norms[1](y), "gelu"), y)


class BlockDecoder:
    """One block for one condition: weights cast and packed, modulations split by token.

    `mask` (P, N): real tokens, None when all are. `dtype` is that of the products, keys and values.
    """

    def __init__(
        self, block: Block, modulations: Sequence[Modulation | Tensor | None], mask: Tensor | None, n: int,
        dtype: torch.dtype, coordinate_masks: CoordinateMasks | None,
    ) -> None:  # fmt: skip
        self.block, self.mask, self.dtype = block, mask, dtype
        self.coordinate_masks = [None if coordinate_masks is None else coordinate_masks.token(i) for i in range(n)]
        self.layers = [
            LayerDecoder(layer, modulation, dtype)  # type: ignore[arg-type]
            for layer, modulation in zip(block.layers, modulations, strict=True)
        ]
        self.bias = (block.positions(n) + block.proj_in.bias).detach().unbind()

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Solve z = transform(u; p(u)) for u, one token after the other.

        Shape: z (B, N, D) in the block's ordering → u (B, N, D), log|det ∂u/∂z| (B,).
        """
        batch, n, _ = z.shape
        block, z = self.block, z.transpose(0, 1).contiguous()
        shape = (len(self.layers), 2, n, batch, block.heads, block.channels // block.heads)
        # Tokens come before samples in memory: step i reads the contiguous rows 0..i and writes one.
        cache = torch.empty(shape, dtype=self.dtype, device=z.device)
        transform, u, scales = block.transform, torch.empty_like(z), torch.zeros_like(z)
        p = z.new_zeros(batch, 1, transform.parameters)  # nothing stands before the first token
        for i in range(n):
            own_masks = self.coordinate_masks[i]
            # Tokens stay a dimension of the transform, which is that of the forward pass.
            u_i, scale = transform.inverse(z[i][:, None], p, own_masks)
            u[i], scales[i] = u_i[:, 0], scale[:, 0]
            if i == n - 1:  # the last token conditions nothing
                break
            h = F.linear(transform.inputs(u_i, own_masks)[:, 0], block.proj_in.weight, self.bias[i])
            for layer, (keys, values) in zip(self.layers, cache, strict=True):
                h = layer(h, i, keys, values)
            p = block.head(h)[:, None]  # of the next token
            if self.mask is not None:
                p = p * self.mask[:, i + 1, None, None]
        return u.transpose(0, 1), scales.sum((0, 2))
