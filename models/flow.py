"""Prose and the transferable TarFlow: one stack of causal affine blocks, by configuration.

Shapes: B samples, P conditions (1 or B), N atoms, C channels, K blocks. Coordinates are normalised: positions in
nm minus their mean, over `scale_nm`. Source: prose (arXiv 2508.18175), TarFlow (arXiv 2412.06329).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.block import Block
from models.config import FlowConfig
from models.decode import decode_block
from models.layers import Modulation, sinusoid
from models.tables import PeptideLike, PeptideTables

ATOM_TYPES, RESIDUE_TYPES = 128, 64  # sizes of the published embedding tables


@dataclass(frozen=True)
class Conditioning:
    """All of the network that depends on the peptide alone.

    Shape: order, inverse_order (K, P, N); mask (P, N) of real atoms, None when there is no padding; n_atoms (P,);
    modulations: for each block, for each layer, tensors (P, N, C) in the block's ordering.
    """

    order: Tensor
    inverse_order: Tensor
    mask: Tensor | None
    n_atoms: Tensor
    modulations: list[list[Modulation | Tensor]]


def _reorder(x: Tensor, order: Tensor) -> Tensor:
    """Rows of x (B or P, N, D) in `order` (P, N)."""
    if order.shape[0] == 1:
        return x[:, order[0]]
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))


class Embedding(nn.Module):
    """Atom type, residue type, residue position and chain length → (P, N, C), zero at padding."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.atom = nn.Embedding(ATOM_TYPES, channels)
        self.residue = nn.Embedding(RESIDUE_TYPES, channels)
        self.mlp = nn.Sequential(nn.Linear(4 * channels, channels), nn.GELU(), nn.Linear(channels, channels))

    def forward(self, tables: PeptideTables) -> Tensor:
        atom, dtype = self.atom(tables.atom_type), self.atom.weight.dtype
        position = sinusoid(tables.aa_pos, self.channels, 1000.0).to(dtype)
        length = sinusoid(tables.seq_len[:, None], self.channels, 1000.0).to(dtype).expand_as(position)
        c = self.mlp(torch.cat([atom, self.residue(tables.aa_type), position, length], dim=-1))
        return c * (tables.atom_type > 0)[..., None]


class Flow(nn.Module):
    """A normalising flow over the atoms of any peptide: x ↔ z with z ~ N(0, I) on R^{3N}."""

    def __init__(self, config: FlowConfig, scale_nm: float = 1.0) -> None:
        super().__init__()
        self.config = config
        self.scale_nm = scale_nm
        self.embedding = Embedding(config.channels)
        self.blocks: Sequence[Block] = nn.ModuleList(Block(config) for _ in range(config.blocks))  # type: ignore[assignment]

    def tables(self, peptides: Sequence[PeptideLike]) -> PeptideTables:
        return PeptideTables.of(peptides, self.config.ordering_names).to(self.blocks[0].position_scale.device)

    def conditioning(self, tables: PeptideTables) -> Conditioning:
        """Everything that depends on the peptides alone, with gradients to the parameters."""
        c = self.embedding(tables)
        length = c.shape[1]
        modulations = [
            block.modulations(_reorder(c, order)) for block, order in zip(self.blocks, tables.orderings, strict=True)
        ]
        padded = bool((tables.n_atoms != length).any()) if tables.n_atoms.device.type == "cpu" else len(c) > 1
        return Conditioning(
            order=tables.orderings,
            inverse_order=tables.orderings.argsort(dim=-1),
            mask=tables.atom_type > 0 if padded else None,
            n_atoms=tables.n_atoms,
            modulations=modulations,
        )

    @torch.no_grad()
    def condition(self, peptide: PeptideLike) -> Conditioning:
        """The conditioning of one peptide, computed once for any number of samples."""
        return self.conditioning(self.tables([peptide]))

    def forward(self, x: Tensor, c: Conditioning) -> tuple[Tensor, Tensor]:
        """Latents and log|det ∂z/∂x|.

        Shape: x (B, N, 3) → z (B, N, 3), logdet (B,).
        """
        logdet = x.new_zeros(x.shape[0])
        for k, block in enumerate(self.blocks):
            u = _reorder(x, c.order[k])
            a, b = block(u, c.modulations[k])
            if c.mask is not None:
                real = c.mask[..., None]  # padding stands last in every ordering, so the mask needs no reordering
                a, b = a * real, b * real
            x = _reorder((u - b) * torch.exp(-a), c.inverse_order[k])
            logdet = logdet - a.sum((1, 2))
        return x, logdet

    def inverse(self, z: Tensor, c: Conditioning) -> tuple[Tensor, Tensor]:
        """Coordinates and log|det ∂x/∂z|, token by token.

        Shape: z (B, N, 3) → x (B, N, 3), logdet (B,).
        """
        logdet = z.new_zeros(z.shape[0])
        for k in reversed(range(len(self.blocks))):
            u, a_sum = decode_block(self.blocks[k], _reorder(z, c.order[k]), c.modulations[k], c.mask)
            z = _reorder(u, c.inverse_order[k])
            logdet = logdet + a_sum
        return z, logdet

    def log_prob(self, x: Tensor, c: Conditioning) -> Tensor:
        """Log-density (B,) in normalised coordinates (B, N, 3)."""
        z, logdet = self(x, c)
        return base_log_prob(z, c.n_atoms) + logdet

    @torch.inference_mode()
    def push(self, z: Tensor, c: Conditioning) -> tuple[Tensor, Tensor]:
        """Conformations from standard normal latents, and the log-density of each, summed in the same pass.

        Shape: z (n, N, 3) → x (n, N, 3) normalised, log_q (n,).
        """
        x, logdet = self.inverse(z, c)
        return x, base_log_prob(z, c.n_atoms) - logdet

    def sample(self, c: Conditioning, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """`n` conformations of one peptide and the log-density of each; `generator` is a CPU one.

        Shape: x (n, N, 3) normalised, log_q (n,).
        """
        parameter = self.blocks[0].position_scale
        z = torch.randn((n, c.order.shape[-1], 3), generator=generator, dtype=parameter.dtype)
        return self.push(z.to(parameter.device), c)


def base_log_prob(z: Tensor, n_atoms: Tensor) -> Tensor:
    """Standard normal log-density (B,) of latents (B, N, 3) that are zero at padding."""
    return -0.5 * z.square().sum((1, 2)) - 1.5 * math.log(2 * math.pi) * n_atoms
