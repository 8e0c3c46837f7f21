"""A flow over bonds, angles and torsions, transferable or of one molecule; see `autoregressive` for its density.

It need not learn rotations and stiff bonds, and does with little training. Shapes: B samples, P conditions (1 or B),
N atoms, C channels. Coordinates are normalised: positions in nm minus their mean, over `scale_nm`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .autoregressive import Autoregressive
from .conditioning import Conditioning, Precision
from .config import FlowConfig
from .flow import ATOM_TYPES, RESIDUE_TYPES, Flow, normal_log_density
from .flow_decoder import Decoder
from .internal_coordinates import (
    InternalTables,
    PlacedAtoms,
    latents_to_rigid,
    rigid_log_density,
    rigid_motion,
    rigid_slots,
    rigid_to_latents,
    take,
    to_internal,
    to_positions,
)
from .internal_decoder import InternalDecoder
from .layers import embedding, reorder, sinusoid
from .tables import PeptideLike, PeptideTables


class AtomEmbedding(nn.Module):
    """Atom type, residue type, residue position and chain length → (P, N, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.atom, self.residue = embedding(ATOM_TYPES, channels), embedding(RESIDUE_TYPES, channels)
        self.place = nn.Linear(2 * channels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels))

    def forward(self, tables: PeptideTables) -> Tensor:
        dtype = self.atom.weight.dtype
        position = sinusoid(tables.aa_pos, self.channels, 100.0).to(dtype)
        length = sinusoid(tables.seq_len[:, None], self.channels, 100.0).to(dtype).expand_as(position)
        e: Tensor = self.mlp(
            self.atom(tables.atom_type)
            + self.residue(tables.aa_type)
            + self.place(torch.cat([position, length], dim=-1))
        )
        return e


class SystemEmbedding(nn.Module):
    """A learned vector for each atom of the only molecule → (P, N, C)."""

    def __init__(self, atoms: int, channels: int) -> None:
        super().__init__()
        self.atom = embedding(atoms, channels)

    def forward(self, tables: PeptideTables) -> Tensor:
        e: Tensor = self.atom.weight.expand(len(tables.n_atoms), -1, -1)
        return e


class InternalFlow(Flow):
    """A density over internal coordinates and the rigid motion. As a map of latents, each coordinate is a quantile."""

    def __init__(self, config: FlowConfig, scale_nm: float = 1.0, geometry: str | None = None) -> None:
        super().__init__(config, scale_nm, geometry)
        self.embedding: nn.Module = (
            SystemEmbedding(config.system_atoms, config.channels) if config.system else AtomEmbedding(config.channels)
        )
        self.network = Autoregressive(config)

    @property
    def transformer_layers(self) -> list[nn.Module]:
        """See `Flow`."""
        return list(self.network.layers)

    def tables(self, peptides: Sequence[PeptideLike]) -> PeptideTables:
        """See `Flow`."""
        if self.config.system:
            return PeptideTables.of_system(peptides, self.config, geometry=self.geometry).to(self.device)
        vocabulary = self.config.vocabulary
        return PeptideTables.of(peptides, (), geometry=self.geometry, vocabulary=vocabulary).to(self.device)

    def conditioning(self, tables: PeptideTables) -> Conditioning:
        """See `Flow`."""
        t = tables.internal
        assert t is not None
        order = t.placement.long()
        current, following = self.network.condition(reorder(self.embedding(tables), order))
        return Conditioning(
            order=order[None],
            inverse_order=order.argsort(-1)[None],
            mask=None,
            n_atoms=tables.n_atoms,
            modulations=[[current, following]],
            conditions=None,
            internal=t,
            placed=PlacedAtoms.of(t),
        )

    def forward(self, x: Tensor, c: Conditioning) -> tuple[Tensor, Tensor]:
        """See `Flow`."""
        y, features, volume = self._enter(x, c)
        z = reorder(self.network.to_normal(y, features, placed(c)), c.inverse_order[0])
        log_q = self._log_prob(y, features, volume, x, c, 1.0)
        t = internal(c)
        six = rigid_to_latents(rigid_motion(x, t), c.n_atoms)
        z = z.flatten(1).scatter(1, rigid_slots(t).expand(len(z), -1), six).view(x.shape)
        return z, log_q - normal_log_density(z, 3 * c.n_atoms)

    def inverse(self, z: Tensor, c: Conditioning, precision: Precision = "float32") -> tuple[Tensor, Tensor]:
        """See `Flow`. Latents far out may give no conformation: NaN."""
        x, log_q = self.push(z, c, precision)
        return x, normal_log_density(z, 3 * c.n_atoms) - log_q

    def log_prob(self, x: Tensor, c: Conditioning, temperature_ratio: float = 1.0) -> Tensor:
        """See `Flow`."""
        y, features, volume = self._enter(x, c)
        return self._log_prob(y, features, volume, x, c, temperature_ratio)

    @torch.inference_mode()
    def push(
        self, z: Tensor, c: Conditioning, precision: Precision = "float32", temperature_ratio: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """See `Flow`."""
        key = (precision, temperature_ratio)
        if key not in c.decoders:
            decode = InternalDecoder(self.network, c, precision, temperature_ratio)
            c.decoders[key] = Decoder(decode, alone=len(c.order[0]) == 1, records=z.is_cuda)
        t = internal(c)
        self._check(z, c)
        y, log_density = c.decoders[key](reorder(z, c.order[0]))
        six = z.flatten(1).gather(1, rigid_slots(t).expand(len(z), -1))
        # The mean of the atoms spreads with the temperature, as it does in the target; a rotation does not.
        six = torch.cat([six[:, :3] * math.sqrt(temperature_ratio), six[:, 3:]], -1)
        rigid = latents_to_rigid(six, c.n_atoms)
        x, volume = to_positions(reorder(y, c.inverse_order[0]), rigid, t, self.scale_nm)
        rigid_density = rigid_log_density(rigid.center, c.n_atoms / temperature_ratio)
        return x, log_density + volume + self._log_unit(x, c) + rigid_density

    def _enter(self, x: Tensor, c: Conditioning) -> tuple[Tensor, Tensor, Tensor]:
        """Internal coordinates and features in the order of placement, and the log-volume of the former."""
        self._check(x, c)
        t, order, x_nm = internal(c), c.order[0], x * self.scale_nm
        y, volume = to_internal(x_nm, t)
        y, x_nm = reorder(y, order), reorder(take(x_nm, t.permutation), order)
        recompute = self.activation_checkpointing and torch.is_grad_enabled()
        return y, self.features(y, x_nm, c, recompute=recompute), volume + self._log_unit(x, c)

    def features(self, y: Tensor, x_nm: Tensor, c: Conditioning, *, recompute: bool = False) -> Tensor:
        """Features (B, N, C) of y (B, N, 3) at x_nm (B, N, 3), in the order of placement."""
        current, following = c.modulations[0]
        assert isinstance(current, Tensor)
        assert isinstance(following, Tensor)
        features: Tensor = self.network(y, x_nm, (current, following), placed(c), recompute=recompute)
        return features

    def _log_prob(
        self, y: Tensor, features: Tensor, volume: Tensor, x: Tensor, c: Conditioning, temperature_ratio: float
    ) -> Tensor:
        each = self.network.log_density(y, features, placed(c), temperature_ratio)
        center = rigid_motion(x, internal(c)).center
        return each.sum((1, 2)) + volume + rigid_log_density(center, c.n_atoms / temperature_ratio)

    def _log_unit(self, x: Tensor, c: Conditioning) -> Tensor:
        """log|det| of normalised coordinates, less their mean, to nm (P,)."""
        return (3 * c.n_atoms.to(x) - 3) * math.log(self.scale_nm)

    def _check(self, x: Tensor, c: Conditioning) -> None:
        n = c.order.shape[-1]
        if x.shape[1:] != (n, 3):
            raise ValueError(f"coordinates have shape {tuple(x.shape)}: give (B, {n}, 3) for this peptide")


def internal(c: Conditioning) -> InternalTables:
    assert c.internal is not None
    return c.internal


def placed(c: Conditioning) -> PlacedAtoms:
    assert c.placed is not None
    return c.placed
