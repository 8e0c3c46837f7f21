"""The network of Robin (ArBG): logits of each coordinate's bin, given the bins before it.

Shapes: B samples, P conditions (1 or B), N atoms, T = 3N tokens (x, y, z of the first atom, then of the second, …),
C channels, H heads of E channels, K bins. Source: Robin (arXiv 2606.27361).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import FlowConfig
from .layers import RMS_EPSILON, GatedLayer, embedding, masked_attention, sinusoid
from .tables import PeptideTables

ATOM_TYPES, RESIDUE_TYPES = 64, 32  # sizes of the published embedding tables
INITIAL = 0.5  # standard deviation of embeddings at the start
BASE = 10000.0  # of all encodings


class Placed(NamedTuple):
    """Tensors that depend on the peptide alone.

    Shape: static (P, T, C), the embeddings of the coordinate to be predicted; of the global condition, None without
    one: keys, values (P, H, N, E), and mask (P, 1, 1, N) of real atoms, None where there is no padding.
    """

    static: Tensor
    keys: Tensor | None = None
    values: Tensor | None = None
    mask: Tensor | None = None


class AtomCondition(nn.Module):
    """Atom type, residue type, residue position, chain length and place of the atom → (P, N, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.atom, self.residue = embedding(ATOM_TYPES, channels), embedding(RESIDUE_TYPES, channels)
        self.mlp = nn.Sequential(nn.Linear(5 * channels, channels), nn.GELU(), nn.Linear(channels, channels))

    def forward(self, tables: PeptideTables) -> Tensor:
        atom, dtype = self.atom(tables.atom_type), self.atom.weight.dtype
        index = torch.arange(atom.shape[1], device=atom.device)
        places = (tables.aa_pos, tables.seq_len[:, None], index[None])
        encoded = [sinusoid(p, self.channels, BASE).to(dtype).expand_as(atom) for p in places]
        c: Tensor = self.mlp(torch.cat([atom, self.residue(tables.aa_type), *encoded], dim=-1))
        return c


class GlobalAttention(nn.Module):
    """Attention of each token over the condition of all atoms; torch's `MultiheadAttention`, its keys computed once."""

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def keys_and_values(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """From conditions (P, N, C), keys and values (P, H, N, E)."""
        channels = c.shape[-1]
        both = F.linear(c, self.in_proj_weight[channels:], self.in_proj_bias[channels:])
        k, v = (t.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for t in both.chunk(2, dim=-1))
        return k, v

    def forward(self, h: Tensor, placed: Placed) -> Tensor:
        assert placed.keys is not None
        assert placed.values is not None
        channels = h.shape[-1]
        q = F.linear(h, self.in_proj_weight[:channels], self.in_proj_bias[:channels])
        q = q.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        shape = (len(q), -1, -1, -1)
        k, v = placed.keys.to(q.dtype).expand(shape), placed.values.to(q.dtype).expand(shape)
        y = masked_attention(q, k, v, placed.mask)
        seen: Tensor = self.out_proj(y.transpose(1, 2).flatten(2))
        return seen


class TokenNetwork(nn.Module):
    """A causal transformer over the bins of coordinates. A single system has no condition."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        c = config.channels
        self.channels = c
        self.token = embedding(config.bins, c)
        self.dimension, self.place = embedding(3, c), embedding(config.max_atoms, c)
        self.embedding = None if config.system_atoms else AtomCondition(c)
        self.look = None if config.system_atoms else GlobalAttention(c, config.head_dim)
        self.layers = nn.ModuleList(GatedLayer(c, config.head_dim) for _ in range(config.layers_per_block))
        self.norm = nn.RMSNorm(c, eps=RMS_EPSILON)
        self.head = nn.Linear(c, config.bins, bias=False)
        if not self.head.weight.is_meta:
            self._begin()

    @torch.no_grad()
    def _begin(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                module.weight.mul_(INITIAL)
        # Bins that lie side by side begin alike, as input and as output: ours; 8192 bins seldom meet all data.
        waves = sinusoid(torch.arange(len(self.head.weight)), self.channels, BASE)
        self.token.weight.copy_(waves)
        self.head.weight.copy_(waves / self.channels**0.5)

    def condition(self, tables: PeptideTables, mask: Tensor | None) -> Placed:
        """Everything that depends on the peptides alone; `tables` in the order in which atoms are visited."""
        n, weight = tables.atom_type.shape[1], self.token.weight
        axis = torch.arange(3, device=weight.device).repeat(n)
        index = torch.arange(n, device=weight.device).repeat_interleave(3)
        steps = torch.arange(3 * n, device=weight.device)
        static = sinusoid(steps, self.channels, BASE).to(weight.dtype) + self.dimension(axis) + self.place(index)
        if self.embedding is None or self.look is None:
            return Placed(static[None])
        c = self.embedding(tables)
        keys, values = self.look.keys_and_values(c)
        return Placed(static + c.repeat_interleave(3, 1), keys, values, None if mask is None else mask[:, None, None])

    def features(self, tokens: Tensor, placed: Placed, *, recompute: bool = False) -> Tensor:
        """Features (B, T, C) of each token (B, T), of those before it. `recompute`: activation checkpointing."""
        before = F.pad(tokens[:, :-1], (1, 0))  # bin 0 stands before the first
        h = self.token(before) + placed.static
        if self.look is not None:
            h = h + self.look(h, placed)
        for layer in self.layers:
            h = checkpoint(layer, h, use_reentrant=False, preserve_rng_state=False) if recompute else layer(h)
        return h

    def logits(self, h: Tensor) -> Tensor:
        """Logits (…, K) from features."""
        with torch.autocast(h.device.type, enabled=False):  # they make the density: never below float32
            logits: Tensor = self.head(self.norm(h.to(self.head.weight.dtype)))
        return logits
