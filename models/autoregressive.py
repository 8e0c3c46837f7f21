"""Density of the internal coordinates of a peptide, atom after atom in one causal pass of a transformer.

Of each atom the bond comes first, the angle given the bond, and the torsion given both: mixtures of normal densities,
around the circle for rotatable dihedrals. Attention also knows where the atoms before stand, seen from where the next
one is put: what would clash is far along the chain, but near in space.

Shapes: B samples, P conditions (1 or B), N atoms in the order of their placement, C channels, H heads.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, pad
from torch.utils.checkpoint import checkpoint

from .block import EXPANSION
from .config import FlowConfig
from .internal_coordinates import PlacedAtoms, take
from .layers import PlainLayer
from .mixture import Mixture

FEATURES = 5  # bond, angle, stiff torsion; sine and cosine of a rotatable dihedral
PAIR_CHANNELS = 16
NEAREST_NM, FARTHEST_NM, SHELLS, SHELL_WIDTH_NM = 0.1, 1.15, 8, 0.15  # distances that pairs tell apart
SMALL_NM = 0.05


class Head(nn.Module):
    """Features of an atom, and those of its coordinates that are known → parameters of a mixture for the next one."""

    def __init__(self, channels: int, known: int, components: int) -> None:
        super().__init__()
        self.up = nn.Linear(channels, channels)
        self.known = nn.Linear(known, channels, bias=False) if known else None
        self.down = nn.Linear(channels, 3 * components)
        with torch.no_grad():
            self.down.weight.mul_(0.1)

    def forward(self, h: Tensor, known: Tensor) -> Tensor:
        hidden = self.up(h)
        if self.known is not None:
            hidden = hidden + self.known(known)
        with torch.autocast(h.device.type, enabled=False):  # it makes the density: never below float32
            p: Tensor = self.down(gelu(hidden).to(self.down.weight.dtype))
        return p


class Autoregressive(nn.Module):
    """The network and the mixtures that it makes."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        c = config.channels
        self.proj_in = nn.Linear(FEATURES, c)
        self.current, self.following = nn.Linear(c, c, bias=False), nn.Linear(c, c)
        self.pairs = nn.Linear(3 + SHELLS, PAIR_CHANNELS)
        self.layers = nn.ModuleList(
            PlainLayer(c, config.head_dim, EXPANSION, qk_norm=False) for _ in range(config.layers_per_block)
        )
        self.biases = nn.Linear(PAIR_CHANNELS, config.layers_per_block * (c // config.head_dim), bias=False)
        self.norm = nn.LayerNorm(c)
        self.bond, self.angle = Head(c, 0, config.components), Head(c, 1, config.components)
        self.torsion, self.dihedral = Head(c, 2, config.components), Head(c, 2, config.dihedral_components)
        nn.init.zeros_(self.biases.weight)

    def condition(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """From embeddings of the atoms, those of the one whose coordinates come in, and of the next, which is put.

        Shape: (P, N, C) → (P, N, C) each.
        """
        return self.current(e), self.following(e)

    def forward(
        self, y: Tensor, x_nm: Tensor, condition: tuple[Tensor, Tensor], atoms: PlacedAtoms, *, recompute: bool = False
    ) -> Tensor:
        """Features (B, N, C) of each atom, of what the atoms before it are like and where they are.

        `recompute`: activation checkpointing. Shape: y (B, N, 3) standardised internal coordinates; x_nm (B, N, 3).
        """
        current, following = condition
        came = self.proj_in(inputs(y, atoms.rotatable)) + current
        h = pad(came[:, :-1], (0, 0, 1, 0))
        biases = self.attention_biases(pad(self.seen(x_nm, x_nm[:, :-1], atoms), (0, 0, 1, 0)))
        for layer, bias in zip(self.layers, biases, strict=True):
            if recompute:
                h = checkpoint(layer, h, following, bias, use_reentrant=False, preserve_rng_state=False)
            else:
                h = layer(h, following, bias)
        features: Tensor = self.norm(h)
        return features

    def attention_biases(self, pairs: Tensor) -> tuple[Tensor, ...]:
        """Biases of each layer's attention (B, H, n, m), from features of pairs (B, n, m, PAIR_CHANNELS).

        Of the pairs with nothing, which comes first, features are zero.
        """
        # All layers at once, and rows of pairs innermost: products with three outputs each would be slow.
        flat = self.biases.weight @ pairs.flatten(1, 2).transpose(1, 2)
        each = flat.view(len(pairs), len(self.layers), -1, *pairs.shape[1:3])
        return each.unbind(1)

    def seen(self, x_nm: Tensor, others: Tensor, atoms: PlacedAtoms) -> Tensor:
        """Features of other atoms as they are seen from where each of `atoms` is put.

        Shape: x_nm (B, ≥, 3), the atoms that `atoms` (P, n, …) refer to; others (B, m, 3) → (B, n, m, PAIR_CHANNELS).
        """
        p, g, q = (take(x_nm, atoms.references[..., k]) for k in range(3))
        along = normalize(p - g, dim=-1)
        out = normalize(torch.linalg.cross(g - q, along), dim=-1)
        axes = torch.stack([along, torch.linalg.cross(out, along), out], dim=-1) * atoms.present[..., 2, None, None]
        away = others[:, None] - p[:, :, None]
        distance = away.norm(dim=-1, keepdim=True)
        centers = torch.linspace(NEAREST_NM, FARTHEST_NM, SHELLS, dtype=away.dtype, device=away.device)
        shells = (distance - centers) / SHELL_WIDTH_NM
        direction = away @ axes / (distance + SMALL_NM)
        features: Tensor = gelu(self.pairs(torch.cat([direction, torch.exp(-shells.square())], dim=-1)))
        return features

    def log_density(self, y: Tensor, features: Tensor, atoms: PlacedAtoms, temperature_ratio: float = 1.0) -> Tensor:
        """Log-density of each coordinate given those before it, zero where there is none. Shape: (B, N, 3)."""
        return self._each(Mixture.log_density, y, features, atoms, temperature_ratio)

    def to_normal(self, y: Tensor, features: Tensor, atoms: PlacedAtoms, temperature_ratio: float = 1.0) -> Tensor:
        """Standard normal numbers (B, N, 3) of the coordinates, zero where there is none."""
        return self._each(Mixture.to_normal, y, features, atoms, temperature_ratio)

    def mixture(self, k: int, y: Tensor, features: Tensor, temperature_ratio: float = 1.0) -> Mixture:
        """Of the bond, the angle or the stiff torsion, `k` = 0, 1, 2, given the coordinates before it."""
        head = (self.bond, self.angle, self.torsion)[k]
        return Mixture.on_line(head(features, y[..., :k]), temperature_ratio)

    def dihedral_mixture(self, y: Tensor, features: Tensor) -> Mixture:
        """Of the torsion where it is a rotatable dihedral."""
        return Mixture.on_circle(self.dihedral(features, y[..., :2]))

    def _each(
        self, function: Callable[[Mixture, Tensor], Tensor], y: Tensor, features: Tensor, atoms: PlacedAtoms,
        temperature_ratio: float,
    ) -> Tensor:  # fmt: skip
        parts = [function(self.mixture(k, y, features, temperature_ratio), y[..., k]) for k in range(3)]
        turns = atoms.rotatable.expand(y.shape[:2])
        own = y[turns]
        found = function(self.dihedral_mixture(own, features[turns]), own[..., 2])
        parts[2] = parts[2].masked_scatter(turns, found)
        return torch.where(atoms.present, torch.stack(parts, -1), y.new_zeros(()))


def inputs(y: Tensor, rotatable: Tensor) -> Tensor:
    """Bond, angle, and a stiff torsion itself, or a rotatable one's sine and cosine. Shape: (…, 3) → (…, 5)."""
    torsion, zero = y[..., 2], y.new_zeros(())
    stiff = torch.where(rotatable, zero, torsion)
    sine, cosine = torch.where(rotatable, torsion.sin(), zero), torch.where(rotatable, torsion.cos(), zero)
    return torch.stack([y[..., 0], y[..., 1], stiff, sine, cosine], dim=-1)
