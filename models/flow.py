"""Prose and TarFlow, transferable or of a single system: one stack of causal blocks, by configuration.

Shapes: B samples, P conditions (1 or B), N atoms, T tokens (N, or 3N), C channels, K blocks. Coordinates are
normalised: positions in nm minus their mean, over `scale_nm`; the blocks transform these, or internal coordinates.
Source: prose (arXiv 2508.18175), TarFlow (arXiv 2412.06329).
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from boltzray.molecules.zmatrix import geometry_version

from .block import Block
from .conditioning import Conditioning, Precision
from .config import FlowConfig
from .flow_decoder import Decoder
from .internal_coordinates import (
    latents_to_rigid,
    rigid_log_density,
    rigid_motion,
    rigid_slots,
    rigid_to_latents,
    tempered_latents,
    to_internal,
    to_positions,
)
from .layers import reorder, sinusoid
from .tables import PeptideLike, PeptideTables
from .transform import CoordinateMasks

ATOM_TYPES, RESIDUE_TYPES = 128, 64  # sizes of the published embedding tables


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
    """A normalising flow over the atoms of any peptide, or of one: x ↔ z with z ~ N(0, I) on R^{3N}.

    `activation_checkpointing`: in training, compute layers again in the backward pass instead of keeping activations.
    `geometry`: of internal coordinates, the version of the usual bonds and angles (`molecules.zmatrix`).
    `atom_order`: `iupac` if it was trained on atoms in the standard order (`Peptide.iupac`), `file` for a single system
    in the order of its file.
    """

    def __init__(self, config: FlowConfig, scale_nm: float = 1.0, geometry: str | None = None) -> None:
        super().__init__()
        self.config = config
        self.scale_nm = scale_nm
        self.geometry = (geometry or geometry_version()) if config.coordinates == "internal" else None
        self.activation_checkpointing = False
        self.atom_order: Literal["iupac", "file"] = "iupac"
        self.embedding = None if config.system else Embedding(config.channels)
        self.blocks: Sequence[Block] = nn.ModuleList(Block(config, first=k == 0) for k in range(config.blocks))  # type: ignore[assignment]

    def tables(self, peptides: Sequence[PeptideLike]) -> PeptideTables:
        """Peptides as the flow needs them. Raises: ValueError for one that it cannot take."""
        config = self.config
        tables = (
            PeptideTables.of_system(peptides, config)
            if config.system
            else PeptideTables.of(peptides, config.ordering_names, geometry=self.geometry)
        )
        return tables.to(self.blocks[0].proj_in.weight.device)

    def conditioning(self, tables: PeptideTables) -> Conditioning:
        """Everything that depends on the peptides alone, with gradients to the parameters."""
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
        coordinate_masks: list[CoordinateMasks | None] = [None] * len(self.blocks)
        if (t := tables.internal) is not None:
            coordinate_masks = [
                CoordinateMasks.of(reorder(t.present, order), reorder(t.rotatable_dihedrals, order))
                for order in tables.orderings
            ]
        later = self.activation_checkpointing and torch.is_grad_enabled()
        return Conditioning(
            order=tables.orderings,
            inverse_order=tables.orderings.argsort(dim=-1),
            mask=mask,
            n_atoms=tables.n_atoms,
            modulations=[] if later else [b.modulations(e) for b, e in zip(self.blocks, conditions, strict=True)],
            conditions=conditions if later else None,
            internal=tables.internal,
            coordinate_masks=coordinate_masks,
        )

    @torch.no_grad()
    def condition(self, peptide: PeptideLike) -> Conditioning:
        """The conditioning of one peptide, computed once for any number of samples."""
        return self.conditioning(self.tables([peptide]))

    def forward(self, x: Tensor, c: Conditioning) -> tuple[Tensor, Tensor]:
        """Latents and log|det ∂z/∂x|.

        Shape: x (B, N, 3) → z (B, N, 3), logdet (B,).
        """
        tokens, volume = self._enter(x, c)
        z, logdet = self._through(tokens, c)
        if c.internal is None:
            return z.reshape(x.shape), logdet
        rigid = rigid_motion(x, c.internal)
        six = rigid_to_latents(rigid, c.n_atoms)
        z = z.flatten(1).scatter(1, rigid_slots(c.internal).expand(len(z), -1), six).view(x.shape)
        return z, volume + logdet + rigid_log_density(rigid.center, c.n_atoms) - normal_log_density(six)

    def inverse(self, z: Tensor, c: Conditioning, precision: Precision = "float32") -> tuple[Tensor, Tensor]:
        """Coordinates and log|det ∂x/∂z|, token by token, without gradients.

        `precision` is that of matrix products (see `Decoder`); the log-determinant belongs to the coordinates that
        come with it in either. With internal coordinates, latents far out may give none: NaN.

        Shape: z (B, N, 3) → x (B, N, 3), logdet (B,).
        """
        if precision not in c.decoders:
            c.decoders[precision] = Decoder(self.blocks, c, precision)
        decode, t = c.decoders[precision], c.internal
        if t is None:
            tokens, logdet = decode(self._tokens(z, c))
            return tokens.reshape(z.shape), logdet
        six = z.flatten(1).gather(1, rigid_slots(t).expand(len(z), -1))
        y, logdet = decode(self._tokens(z, c) * t.present)
        rigid = latents_to_rigid(six, c.n_atoms)
        x, volume = to_positions(y, rigid, t, self.scale_nm)
        volume = volume + self._log_unit(x, c) + rigid_log_density(rigid.center, c.n_atoms) - normal_log_density(six)
        return x, logdet - volume

    def _tokens(self, x: Tensor, c: Conditioning) -> Tensor:
        """Atoms (B, N, 3) → tokens (B, T, D)."""
        n = c.order.shape[-1] * self.config.token_dim // 3
        if x.shape[1:] != (n, 3):
            raise ValueError(f"coordinates have shape {tuple(x.shape)}: give (B, {n}, 3) for this peptide")
        return x.reshape(len(x), -1, self.config.token_dim)

    def _enter(self, x: Tensor, c: Conditioning) -> tuple[Tensor, Tensor]:
        """Positions → what the blocks transform, and the log-determinant of that, less the rigid motion's part."""
        tokens = self._tokens(x, c)
        if c.internal is None:
            return tokens, x.new_zeros(len(x))
        tokens, volume = to_internal(x * self.scale_nm, c.internal)
        return tokens, volume + self._log_unit(x, c)

    def _log_unit(self, x: Tensor, c: Conditioning) -> Tensor:
        """log|det| of normalised coordinates, less their mean, to nm (P,)."""
        return (3 * c.n_atoms.to(x) - 3) * math.log(self.scale_nm)

    def _through(self, x: Tensor, c: Conditioning) -> tuple[Tensor, Tensor]:
        """The blocks, one after the other. Shape: (B, T, D) → (B, T, D), logdet (B,)."""
        logdet = x.new_zeros(len(x))
        for k, block in enumerate(self.blocks):
            u = reorder(x, c.order[k])
            if c.conditions is None:
                z, slope = block(u, c.modulations[k], c.coordinate_masks[k], c.mask)
            else:
                z, slope = block.checkpointed(u, c.conditions[k], c.coordinate_masks[k], c.mask)
            x = reorder(z, c.inverse_order[k])
            logdet = logdet + slope
        return x, logdet

    def log_prob(self, x: Tensor, c: Conditioning, temperature_ratio: float = 1.0) -> Tensor:
        """Log-density (B,) in normalised coordinates (B, N, 3); `temperature_ratio` as in `push`."""
        tokens, volume = self._enter(x, c)
        z, logdet = self._through(tokens, c)
        z = z.reshape(x.shape)
        if c.internal is None:
            return self._base(z, c, temperature_ratio) + logdet
        # The rotation's latents are left out: their density and its determinant are a constant together.
        center = rigid_motion(x, c.internal).center
        return (
            self._base(z, c, temperature_ratio)
            + logdet
            + volume
            + rigid_log_density(center, c.n_atoms / temperature_ratio)
        )

    def _base(self, z: Tensor, c: Conditioning, temperature_ratio: float) -> Tensor:
        """Log-density (B,) of the latents that blocks make; the others are zero."""
        if c.internal is None:
            return normal_log_density(z, 3 * c.n_atoms, temperature_ratio)
        untempered = z * c.internal.rotatable_dihedrals
        n_untempered = c.internal.rotatable.sum(1)
        tempered = normal_log_density(z - untempered, 3 * c.n_atoms - 6 - n_untempered, temperature_ratio)
        return tempered + normal_log_density(untempered, n_untempered)

    @torch.inference_mode()
    def push(
        self, z: Tensor, c: Conditioning, precision: Precision = "float32", temperature_ratio: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Conformations from standard normal latents, and the log-density of each, summed in the same pass.

        In bf16 too that is the density of these conformations, and what importance weights need; a forward pass gives
        a slightly different one. `temperature_ratio`: temperature over that of the training; latents then have that
        variance, except those of rotatable dihedrals and rotations (see `tempered_latents`).

        Shape: z (n, N, 3) → x (n, N, 3) normalised, log_q (n,).
        """
        if temperature_ratio == 1.0:
            x, logdet = self.inverse(z, c, precision)
            return x, normal_log_density(z, 3 * c.n_atoms) - logdet
        tempered = torch.ones_like(z[:1], dtype=torch.bool) if c.internal is None else tempered_latents(c.internal)
        tempered = tempered.expand(len(z), -1, -1)
        z = torch.where(tempered, z * math.sqrt(temperature_ratio), z)
        x, logdet = self.inverse(z, c, precision)
        density = normal_log_density(z * tempered, tempered.sum((1, 2)), temperature_ratio)
        density = density + normal_log_density(z * ~tempered, (~tempered).sum((1, 2)))
        return x, density - logdet

    def sample(
        self, c: Conditioning, n: int, generator: torch.Generator | None = None, precision: Precision = "float32"
    ) -> tuple[Tensor, Tensor]:
        """`n` conformations of one peptide and the log-density of each; `generator` is a CPU one.

        Shape: x (n, N, 3) normalised, log_q (n,).
        """
        parameter = self.blocks[0].proj_in.weight
        n_atoms = c.order.shape[-1] * self.config.token_dim // 3
        z = torch.randn((n, n_atoms, 3), generator=generator, dtype=parameter.dtype)
        return self.push(z.to(parameter.device), c, precision)


def normal_log_density(z: Tensor, n: Tensor | None = None, variance: float = 1.0) -> Tensor:
    """Log-density (B,) of independent normal numbers (B, ...); `n` (B,) of them count, the others are zero."""
    z = z.flatten(1)
    count = z.shape[1] if n is None else n.to(z)
    return -0.5 * z.square().sum(1) / variance - 0.5 * math.log(2 * math.pi * variance) * count
