"""Prose and TarFlow, transferable or of a single system: one stack of causal blocks, by configuration.

Shapes: B samples, P conditions (1 or B), N atoms, T tokens (N, or 3N), C channels, K blocks; see `flow`.
Source: prose (arXiv 2508.18175), TarFlow (arXiv 2412.06329).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .block import Block
from .block_decoder import BlocksDecoder
from .conditioning import Conditioning, Precision
from .config import FlowConfig
from .flow import ATOM_TYPES, RESIDUE_TYPES, Flow
from .flow_decoder import Decoder
from .layers import embedding, reorder, sinusoid
from .tables import PeptideLike, PeptideTables


class Embedding(nn.Module):
    """Atom type, residue type, residue position and chain length → (P, N, C), zero at padding."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.atom = embedding(ATOM_TYPES, channels)
        self.residue = embedding(RESIDUE_TYPES, channels)
        self.mlp = nn.Sequential(nn.Linear(4 * channels, channels), nn.GELU(), nn.Linear(channels, channels))

    def forward(self, tables: PeptideTables) -> Tensor:
        atom, dtype = self.atom(tables.atom_type), self.atom.weight.dtype
        position = sinusoid(tables.aa_pos, self.channels, 1000.0).to(dtype)
        length = sinusoid(tables.seq_len[:, None], self.channels, 1000.0).to(dtype).expand_as(position)
        c = self.mlp(torch.cat([atom, self.residue(tables.aa_type), position, length], dim=-1))
        return c * (tables.atom_type > 0)[..., None]


class CartesianFlow(Flow):
    """A flow whose blocks transform positions."""

    def __init__(self, config: FlowConfig, scale_nm: float = 1.0, geometry: str | None = None) -> None:
        super().__init__(config, scale_nm, geometry)
        self.embedding = None if config.system else Embedding(config.channels)
        self.blocks: Sequence[Block] = nn.ModuleList(Block(config) for _ in range(config.blocks))  # type: ignore[assignment]

    @property
    def transformer_layers(self) -> list[nn.Module]:
        """See `Flow`."""
        return [layer for block in self.blocks for layer in block.layers]

    def tables(self, peptides: Sequence[PeptideLike]) -> PeptideTables:
        """See `Flow`."""
        config = self.config
        tables = (
            PeptideTables.of_system(peptides, config)
            if config.system
            else PeptideTables.of(peptides, config.ordering_names, vocabulary=config.vocabulary)
        )
        return tables.to(self.device)

    def conditioning(self, tables: PeptideTables) -> Conditioning:
        """See `Flow`."""
        conditions: list[Tensor | None] = [None] * len(self.blocks)
        mask = None
        if self.embedding is not None:
            c, real = self.embedding(tables), tables.atom_type > 0
            conditions = [
                block.condition(reorder(c, order)) for block, order in zip(self.blocks, tables.orderings, strict=True)
            ]
            # On a GPU the look would be a wait; a single peptide is never padded.
            padded = not bool(real.all()) if real.device.type == "cpu" else len(c) > 1
            mask = real if padded else None
        later = self.activation_checkpointing and torch.is_grad_enabled()
        return Conditioning(
            order=tables.orderings,
            inverse_order=tables.orderings.argsort(dim=-1),
            mask=mask,
            n_atoms=tables.n_atoms,
            modulations=[] if later else [b.modulations(e) for b, e in zip(self.blocks, conditions, strict=True)],
            conditions=conditions if later else None,
        )

    def forward(self, x: Tensor, c: Conditioning) -> tuple[Tensor, Tensor]:
        """See `Flow`."""
        tokens, logdet = self.tokens(x, c), x.new_zeros(len(x))
        for k, block in enumerate(self.blocks):
            u = reorder(tokens, c.order[k])
            if c.conditions is None:
                z, slope = block(u, c.modulations[k], c.mask)
            else:
                z, slope = block.checkpointed(u, c.conditions[k], c.mask)
            tokens = reorder(z, c.inverse_order[k])
            logdet = logdet + slope
        return tokens.reshape(x.shape), logdet

    def inverse(self, z: Tensor, c: Conditioning, precision: Precision = "float32") -> tuple[Tensor, Tensor]:
        """See `Flow`."""
        if precision not in c.decoders:
            run = BlocksDecoder(self.blocks, c, precision)
            c.decoders[precision] = Decoder(run, alone=c.order.shape[1] == 1, records=self.device.type == "cuda")
        tokens, logdet = c.decoders[precision](self.tokens(z, c))
        return tokens.reshape(z.shape), logdet

    def tokens(self, x: Tensor, c: Conditioning) -> Tensor:
        """Atoms (B, N, 3) → tokens (B, T, D)."""
        n = self.atoms(c)
        if x.shape[1:] != (n, 3):
            raise ValueError(f"coordinates have shape {tuple(x.shape)}: give (B, {n}, 3) for this peptide")
        return x.reshape(len(x), -1, self.config.token_dim)
