"""Transformer layers of the flow: attention, and a layer that is adaptive (Prose) or plain (TarFlow).

The part of a layer that depends on the condition e alone is its *modulation*. It is computed apart from the
pass over the coordinates, so that one peptide pays for it once, not once a sample and token.

Shapes: B samples, P conditions (1 or B), N tokens, C channels.
Source: Zhai et al. 2024 (arXiv 2412.06329); Tan et al. 2025 (arXiv 2508.18175); AlphaFold 3 for the adaptive norm.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CPU_EXPLICIT_ATTENTION = 128  # tokens
RMS_EPSILON = 1e-6


class Modulation(NamedTuple):
    """Scales, shifts and gates of one adaptive layer, each (P, N, C)."""

    scale1: Tensor
    shift1: Tensor
    gate1: Tensor
    scale2: Tensor
    shift2: Tensor
    gate2: Tensor


def sinusoid(position: Tensor, channels: int, base: float) -> Tensor:
    """Sine and cosine of `position` at `channels`/2 wavelengths, interleaved.

    Shape: (...) → (..., channels).
    """
    exponent = torch.arange(0, channels, 2, device=position.device, dtype=torch.float32) / channels
    angle = position[..., None].to(torch.float32) * torch.pow(torch.tensor(base, device=position.device), -exponent)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


def embedding(count: int, channels: int) -> nn.Embedding:
    """Embedding (count, channels), normal as torch makes it; on the meta device, where flows are outlined, of nothing.

    There torch imports its compiler for the normal, which takes seconds.
    """
    weight = torch.empty(count, channels)
    return nn.Embedding(count, channels, _weight=weight if weight.is_meta else nn.init.normal_(weight))


def reorder(x: Tensor, order: Tensor) -> Tensor:
    """Rows of x (B or P, N, D) in `order` (P, N)."""
    if order.shape[0] == 1:
        return x[:, order[0]]
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q·k/√D) v over the tokens where `mask` is true, or all.

    Shape: q (B, H, T, D); k, v (B, H, N, D); mask (B or 1, 1, 1, N) → (B, H, T, D).
    """
    if q.device.type != "cpu" or k.shape[-2] > CPU_EXPLICIT_ATTENTION:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # Plain products, for the reason that `causal_attention` gives.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    y: Tensor = scores.softmax(-1).to(v.dtype) @ v
    return y


def causal_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q·k/√D + bias) v over the tokens up to each one's own.

    Shape: q, k, v (B, H, N, D); bias (B, H, N, N) → (B, H, N, D).
    """
    if torch.is_autocast_enabled(q.device.type):
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    n, d = q.shape[-2:]
    if q.device.type != "cpu" or n > CPU_EXPLICIT_ATTENTION:
        if bias is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        past = torch.full((n, n), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype) + past)
    # On CPUs torch's fused kernel loses to plain products while the sequence is short, in bfloat16 by 6 to 8 times.
    past = torch.full((n, n), -torch.inf, dtype=q.dtype).triu(1)
    flat_q, flat_k, flat_v = (t.reshape(-1, n, d) for t in (q, k, v))
    if bias is not None:
        past = (bias.to(q.dtype) + past).reshape(-1, n, n)
    scores = torch.baddbmm(past, flat_q, flat_k.transpose(1, 2), alpha=d**-0.5)
    return torch.bmm(scores.softmax(-1), flat_v).view(q.shape)


class Attention(nn.Module):
    """Causal self-attention; with `qk_norm`, queries and keys are normalised over all channels before the heads.

    `plain`: normalised by the root mean square alone, and without biases (Robin).
    """

    def __init__(self, channels: int, head_dim: int, *, qk_norm: bool = True, plain: bool = False) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.norm = nn.RMSNorm(channels, eps=RMS_EPSILON) if plain else nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=not plain)
        self.q_norm = nn.LayerNorm(channels) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(channels) if qk_norm else nn.Identity()
        self.proj = nn.Linear(channels, channels, bias=not plain)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (..., C)."""
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        return self.q_norm(q), self.k_norm(k), v

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = (t.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for t in self.project(x))
        # Padding comes last in every ordering, so causality alone keeps real tokens from seeing it.
        return self.proj(causal_attention(q, k, v, bias).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """LayerNorm, then two linear maps with a GELU between."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.up = nn.Linear(channels, expansion * channels)
        self.down = nn.Linear(expansion * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(self.norm(x))))


class GatedMLP(nn.Module):
    """Normalised by the root mean square; SwiGLU without biases, then a linear map with one (Robin)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(channels, eps=RMS_EPSILON)
        self.gate = nn.Linear(channels, hidden, bias=False)
        self.value = nn.Linear(channels, hidden, bias=False)
        self.down = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.down(F.silu(self.gate(x)) * self.value(x))


class Transition(nn.Module):
    """SwiGLU without biases."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.up = nn.Linear(channels, 2 * expansion * channels, bias=False)
        self.down = nn.Linear(expansion * channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class AdaLN(nn.Module):
    """Scale and shift from the condition, for a LayerNorm without its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.scale = nn.Linear(channels, channels)
        self.shift = nn.Linear(channels, channels, bias=False)

    def forward(self, e: Tensor) -> tuple[Tensor, Tensor]:
        e = self.norm(e)
        return torch.sigmoid(self.scale(e)), self.shift(e)


class PlainLayer(nn.Module):
    """The condition is added, then attention and MLP (TarFlow). Its modulation is e itself, or None without one."""

    def __init__(self, channels: int, head_dim: int, expansion: int, *, qk_norm: bool = True) -> None:
        super().__init__()
        self.attention = Attention(channels, head_dim, qk_norm=qk_norm)
        self.mlp = MLP(channels, expansion)

    def modulation(self, e: Tensor) -> Tensor:
        """The condition e (P, N, C) itself."""
        return e

    def forward(self, x: Tensor, modulation: Tensor | None, bias: Tensor | None = None) -> Tensor:
        x = x if modulation is None else x + modulation
        x = x + self.attention(x, bias)
        return x + self.mlp(x)


class GatedLayer(nn.Module):
    """Attention and a gated MLP after norms without shifts (Robin, arXiv 2606.27361); hidden width 8C/3."""

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        self.attention = Attention(channels, head_dim, qk_norm=False, plain=True)
        self.mlp = GatedMLP(channels, 8 * channels // 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class AdaptiveLayer(nn.Module):
    """Attention, MLP and transition between adaptive norms and gates (Prose)."""

    def __init__(self, channels: int, head_dim: int, expansion: int) -> None:
        super().__init__()
        self.norm1 = AdaLN(channels)
        self.attention = Attention(channels, head_dim)
        self.mlp = MLP(channels, expansion)
        self.gate1 = nn.Linear(channels, channels)
        self.norm2 = AdaLN(channels)
        self.transition = Transition(channels, expansion)
        self.gate2 = nn.Linear(channels, channels)
        for gate in (self.gate1, self.gate2):
            nn.init.zeros_(gate.weight)
            nn.init.constant_(gate.bias, -2.0)

    def modulation(self, e: Tensor) -> Modulation:
        """Scales, shifts and gates from the condition e (P, N, C)."""
        scale1, shift1 = self.norm1(e)
        scale2, shift2 = self.norm2(e)
        gate1, gate2 = torch.sigmoid(self.gate1(e)), torch.sigmoid(self.gate2(e))
        return Modulation(scale1, shift1, gate1, scale2, shift2, gate2)

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        m, shape = modulation, x.shape[-1:]
        y = F.layer_norm(x, shape) * m.scale1 + m.shift1
        y = y + self.attention(y)
        y = y + self.mlp(y)
        x = x + y * m.gate1
        y = F.layer_norm(x, shape) * m.scale2 + m.shift2
        return x + self.transition(y) * m.gate2
