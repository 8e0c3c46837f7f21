"""ECNF and ECNF++: an equivariant continuous flow, transferable or of a single system.

A draw is a normal one, moved from t = 0 to 1 along the velocity of a graph network; the density changes by the
divergence on the way. The network sees no translations and moves no mean, so the mean of the latents stays: with
latents of all 3N coordinates it is N(0, I/N), as the target's is (`samplers.com`), and log q is a density on R^{3N}
like that of the other flows. For conformations without a mean it is the published number.

The network cannot tell a conformation from its mirror image, or atoms of one kind from each other: it draws all such
copies, and log Z counts them all.

Shapes: B samples, P conditions (1 or B), N atoms, C channels; see `flow`.
Source: TBG (Klein and Noé 2024, arXiv 2406.14426), prose (arXiv 2508.18175); training: flow matching, arXiv 2210.02747.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conditioning import Conditioning, Precision
from .config import FlowConfig, GraphConfig
from .flow import Flow
from .graph_divergence import velocity_and_divergence
from .graph_network import GraphNetwork, without_mean
from .ode import integrate
from .tables import PeptideLike, PeptideTables

ATOMS, RESIDUES = 54, 20  # types in the vocabulary
ROWS_ON_GPU = 64  # samples that are integrated together


class ECNF(Flow):
    """A continuous flow of positions. log q has no gradient here: that would be another ODE, ten times as expensive."""

    smooth = False

    def __init__(self, config: FlowConfig, scale_nm: float = 1.0, geometry: str | None = None) -> None:
        super().__init__(config, scale_nm, geometry)
        assert config.graph is not None
        self.graph: GraphConfig = config.graph
        self.network = GraphNetwork(n_features(config), config.channels, config.layers_per_block)

    @property
    def transformer_layers(self) -> list[nn.Module]:
        """See `Flow`: its layers, which `compile` is for."""
        return list(self.network.layers)

    def tables(self, peptides: Sequence[PeptideLike]) -> PeptideTables:
        """See `Flow`. A single system has its atoms' types, from 1, in place of those of the vocabulary."""
        if self.config.system:
            tables = PeptideTables.of_system(peptides, self.config)
            return tables.with_atom_types(system_types(self.config)).to(self.device)
        tables = PeptideTables.of(peptides, ())
        short, long = self.graph.shortest, self.graph.longest
        for peptide, length in zip(peptides, tables.seq_len.tolist(), strict=True):
            if not short <= length <= long:
                raise ValueError(
                    f"{peptide.sequence} has {length} residues, this flow takes {short} to {long} (graph.shortest and "
                    "graph.longest of its model): give a peptide of these, or another checkpoint="
                )
        return tables.to(self.device)

    def conditioning(self, tables: PeptideTables) -> Conditioning:
        """See `Flow`."""
        mask = tables.atom_type > 0
        return Conditioning(
            order=tables.orderings,
            inverse_order=tables.orderings,
            mask=mask,
            n_atoms=tables.n_atoms,
            modulations=[[self.network.embed(self._features(tables))]],
            conditions=None,
        )

    def _features(self, tables: PeptideTables) -> Tensor:
        """One-hot features of each atom (P, N, F); zero at padding."""
        dtype = self.network.embedding.weight.dtype
        mask = (tables.atom_type > 0)[..., None]
        if self.config.system:
            return F.one_hot((tables.atom_type - 1).clamp(min=0), n_features(self.config)).to(dtype) * mask
        length = (tables.seq_len[:, None] - self.graph.shortest).expand_as(tables.atom_type)
        parts = [
            (tables.atom_type - 1, ATOMS),
            (tables.aa_pos - 1, self.graph.longest),
            (tables.aa_type - 1, RESIDUES),
            (length, n_lengths(self.graph)),
        ]
        hot = [F.one_hot(values.clamp(min=0), size) for values, size in parts if size > 1]
        return torch.cat(hot, -1).to(dtype) * mask

    def velocity(self, t: Tensor | float, x: Tensor, c: Conditioning) -> Tensor:
        """Velocity of each atom at times t, a number or (B,). Shape: x (B, N, 3) normalised → (B, N, 3)."""
        result: Tensor = self.network(self._times(t, x), x, embedded(c), mask_of(c), recompute=self._recomputes())
        return result

    def divergence(self, t: Tensor | float, x: Tensor, c: Conditioning) -> Tensor:
        """Exact trace (B,) of the velocity's Jacobian, without gradients."""
        self._check(x, c)
        return velocity_and_divergence(self.network, self._times(t, x), x, embedded(c), mask_of(c))[1]

    def log_likelihood(self, x: Tensor, c: Conditioning) -> Tensor:
        """Minus the loss of flow matching, Σ (v − (x₁ − x₀))² over coordinates (B,), x₁ being x less its mean.

        Latents, time and noise of a frame are drawn with a seed that is made of where its first atom is, which training
        data have at random (`augment`): they are the same whoever computes a frame, in whatever batch, padded or not.
        """
        mask = mask_of(c)
        t, x0, noise = (part.to(x) for part in _draws(x[:, 0].cpu().numpy(), x.shape[1]))
        x0, x1 = without_mean(x0, mask), without_mean(x, mask)
        middle = torch.lerp(x0, x1, t[:, None, None])
        if self.graph.noise:
            middle = middle + self.graph.noise * noise * mask[..., None]
        return -flow_matching(self.velocity(t, middle, c), x0, x1)

    def forward(self, x: Tensor, c: Conditioning) -> tuple[Tensor, Tensor]:
        """See `Flow`; without gradients, and to `tolerance`."""
        z, integral = self._follow(x, c, backwards=True)
        return z, -integral

    def inverse(self, z: Tensor, c: Conditioning, precision: Precision = "float32") -> tuple[Tensor, Tensor]:
        """See `Flow`. Latents whose ODE cannot be solved to `tolerance` in `ode.MOST_STEPS` give NaN.

        Raises: ValueError for bf16.
        """
        if precision != "float32":
            raise ValueError("an ECNF integrates its density along the path, in float32: set draw_precision=float32")
        return self._follow(z, c, backwards=False)

    def atoms(self, c: Conditioning) -> int:
        """See `Flow`."""
        return mask_of(c).shape[1]

    @torch.no_grad()
    def _follow(self, x: Tensor, c: Conditioning, *, backwards: bool) -> tuple[Tensor, Tensor]:
        """End of the path from x, and the divergence along it, integrated from t = 0 to 1.

        On a CPU each sample on its own: the bits of a matrix product depend on its shape, and a sample's must not
        depend on who else is in the batch.
        """
        self._check(x, c)
        mask, block = mask_of(c), ROWS_ON_GPU if x.is_cuda else 1
        still = without_mean(x, mask)
        ends, integrals = [x[:0]], [x.new_zeros(0)]
        for low in range(0, len(x), block):
            path = integrate(*self._rows(c, low), still[low : low + block], self._freedom(c, x, low, block),
                             self.graph.tolerance, backwards=backwards)  # fmt: skip
            ends.append(path.x)
            integrals.append(path.integral)
        return torch.cat(ends) + (x - still) * mask[..., None], torch.cat(integrals)

    def _freedom(self, c: Conditioning, x: Tensor, low: int, block: int) -> Tensor:
        return (3 * c.n_atoms).to(x).expand(len(x))[low : low + block]

    def _rows(self, c: Conditioning, low: int) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        """Velocity and divergence of some of the samples from `low` on."""
        e, mask = embedded(c), mask_of(c)

        def own(rows: Tensor) -> tuple[Tensor, Tensor]:
            return (e, mask) if len(e) == 1 else (e[low + rows], mask[low + rows])

        def velocity(t: Tensor, x: Tensor, rows: Tensor) -> Tensor:
            result: Tensor = self.network(t, x, *own(rows))
            return result

        def divergence(t: Tensor, x: Tensor, rows: Tensor) -> Tensor:
            return velocity_and_divergence(self.network, t, x, *own(rows))[1]

        return velocity, divergence

    def _times(self, t: Tensor | float, x: Tensor) -> Tensor:
        return torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x))

    def _recomputes(self) -> bool:
        return self.activation_checkpointing and torch.is_grad_enabled()

    def _check(self, x: Tensor, c: Conditioning) -> None:
        n = self.atoms(c)
        if x.shape[1:] != (n, 3):
            raise ValueError(f"coordinates have shape {tuple(x.shape)}: give (B, {n}, 3) for this peptide")


def flow_matching(v: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
    """Squares of the velocity's error, summed over coordinates. Shape: (B, N, 3) each → (B,)."""
    return (v - (x1 - x0)).square().sum((1, 2))


def n_lengths(graph: GraphConfig) -> int:
    """Chain lengths that a transferable flow tells apart; one of them alone is no feature."""
    return graph.longest - graph.shortest + 1


def n_features(config: FlowConfig) -> int:
    """Features of an atom, without the time."""
    assert config.graph is not None
    if config.system:
        return max(system_types(config))
    lengths = n_lengths(config.graph)
    return ATOMS + config.graph.longest + RESIDUES + (lengths if lengths > 1 else 0)


def system_types(config: FlowConfig) -> list[int]:
    """The type of each atom of a single system, from 1."""
    assert config.graph is not None
    return [1 + kind for kind in config.graph.atom_types or range(config.system_atoms)]


def embedded(c: Conditioning) -> Tensor:
    e = c.modulations[0][0]
    assert isinstance(e, Tensor)
    return e


def mask_of(c: Conditioning) -> Tensor:
    assert c.mask is not None
    return c.mask


def _draws(places: np.ndarray, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Time (B,), latents and noise (B, n, 3), standard normal, each row with a seed made of `places` (B, 3).

    Padding comes last and changes nothing of the atoms before it.
    """
    rows = []
    for place in np.ascontiguousarray(places, np.float32):
        rng = np.random.default_rng(np.frombuffer(place.tobytes(), np.uint32))
        rows.append((rng.random(dtype=np.float32), rng.standard_normal((n, 2, 3), np.float32)))
    normal = torch.from_numpy(np.stack([draw for _, draw in rows]))
    return torch.tensor([time for time, _ in rows]), normal[:, :, 0], normal[:, :, 1]
