"""Positions ↔ bonds, angles and torsions, as tokens of a flow; and the rigid motion, whose density is known.

A conformation x on R^{3N} is its mean x̄, a rotation, and 3N − 6 internal coordinates. Energies and weights know only
these; so x̄ ~ N(0, I/N) and a uniform rotation are exact, and nothing of them is left to learn.

Shapes: B conformations, P peptides (1 or B), N atoms. Units: nm, rad; x̄ in normalised coordinates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from .layers import reorder

LOG_ROTATIONS = math.log(8 * math.pi**2)  # volume of the rotation group


class HasInternal(Protocol):
    """A peptide with a z-matrix, such as `molecules.Peptide`."""

    def internal(self, geometry: str | None = None) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class InternalTables:
    """Z-matrices of P peptides, padded to N atoms; see `molecules.zmatrix`.

    Shape: z_matrix (P, N, 3), the atoms that a bond, angle and torsion refer to; present (P, N, 3), which of these an
    atom has; rotatable (P, N), torsions that are rotatable dihedrals; mean, scale (P, N, 3); permutation (P, N),
    the atom that stands for each in the flow's convention of names, and its inverse; level (P, N), −1 = padding;
    placement (P, N), atoms in an order in which each comes after those that place it; root (P, 3), the atoms that carry
    the rigid motion.
    """

    z_matrix: Tensor
    present: Tensor
    rotatable: Tensor
    mean: Tensor
    scale: Tensor
    permutation: Tensor
    inverse_permutation: Tensor
    level: Tensor
    placement: Tensor
    root: Tensor

    @classmethod
    def of(cls, peptides: Sequence[HasInternal], geometry: str) -> "InternalTables":
        """Tables of `peptides` for a flow that was trained with that version of the table of usual values.

        Raises: ValueError for one without usual geometry (see `Peptide.internal`).
        """
        tables = [p.internal(geometry) for p in peptides]
        length = max(len(table["level"]) for table in tables)

        def stacked(name: str, padding: float) -> Tensor:
            return torch.from_numpy(np.stack([_padded(table[name], length, padding) for table in tables]))

        z_matrix, level = stacked("z_matrix", -1), stacked("level", -1)
        root = torch.stack([(level == k).int().argmax(1) for k in range(3)], 1)
        permutation = torch.from_numpy(np.stack([_extended(table["permutation"], length) for table in tables]))
        return cls(
            z_matrix=z_matrix.clamp(min=0),
            present=z_matrix >= 0,
            rotatable=stacked("rotatable", 0) > 0,
            mean=stacked("mean", 0),
            scale=stacked("scale", 1),
            permutation=permutation,
            inverse_permutation=permutation.long().argsort(1),
            level=level,
            placement=torch.from_numpy(np.stack([_extended(table["placement"], length) for table in tables])),
            root=root,
        )

    @property
    def rotatable_dihedrals(self) -> Tensor:
        """Mask (P, N, 3) of the coordinates that are rotatable dihedrals."""
        return self.rotatable[..., None] & (torch.arange(3, device=self.rotatable.device) == 2)

    def rows(self, index: Tensor, n: int) -> "InternalTables":
        """Peptides `index`, their first `n` atoms."""
        cut = {f.name: getattr(self, f.name)[index, :n] for f in fields(self) if f.name != "root"}
        return InternalTables(**cut, root=self.root[index])

    def to(self, device: torch.device | str) -> "InternalTables":
        """The same on `device`, without waiting for the copy."""
        return InternalTables(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})


def _extended(permutation: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([permutation, np.arange(len(permutation), length)])


def _padded(row: np.ndarray, length: int, value: float) -> np.ndarray:
    padding = [(0, length - len(row)), *[(0, 0)] * (row.ndim - 1)]
    return np.pad(row, padding, constant_values=value)


class PlacedAtoms(NamedTuple):
    """The part of z-matrices that a density needs, in the order of placement; see `InternalTables`.

    Shape: present (P, N, 3); rotatable (P, N); references (P, N, 3), places of the atoms that put each.
    """

    present: Tensor
    rotatable: Tensor
    references: Tensor

    @classmethod
    def of(cls, t: InternalTables) -> "PlacedAtoms":
        """Reorder the tables."""
        order = t.placement.long()
        references = reorder(t.z_matrix.long(), order)
        return cls(
            present=reorder(t.present, order),
            rotatable=reorder(t.rotatable[..., None], order)[..., 0],
            references=order.argsort(-1).gather(1, references.flatten(1)).view(references.shape),
        )

    def atom(self, i: int) -> "PlacedAtoms":
        """Of one atom, which stays a dimension."""
        return PlacedAtoms(*(t[:, i : i + 1] for t in self))


class Rigid(NamedTuple):
    """Mean of the atoms (B, 3) and angles of a rotation: cos ϑ, α, γ (B, 3)."""

    center: Tensor
    angles: Tensor


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index` (P, M) of x (B, N, ...)."""
    if index.shape[0] == 1:
        return x[:, index[0]]
    shape = (*index.shape, *x.shape[2:])
    return x.gather(1, index.view(*index.shape, *[1] * (x.ndim - 2)).expand(shape))


def to_internal(x_nm: Tensor, t: InternalTables) -> tuple[Tensor, Tensor]:
    """Bonds, angles, torsions of positions, standardised, and log|det| of the map from positions less rigid motion.

    Shape: x_nm (B, N, 3) → y (B, N, 3), zero where there is no coordinate; logdet (B,).
    """
    u, v, w = _vectors(take(x_nm, t.permutation), t)
    has_bond, has_angle, has_torsion = t.present.unbind(-1)
    ex, ey, ez = torch.eye(3, dtype=x_nm.dtype, device=x_nm.device)
    bond = torch.where(has_bond[..., None], u, ex).norm(dim=-1)
    ua, va = torch.where(has_angle[..., None], u, ex), torch.where(has_angle[..., None], v, ey)
    angle = torch.atan2(torch.linalg.cross(ua, va).norm(dim=-1), (ua * va).sum(-1))
    ut, vt = torch.where(has_torsion[..., None], u, ex), torch.where(has_torsion[..., None], v, ey)
    torsion = _torsion(ut, vt, torch.where(has_torsion[..., None], w, ez))
    raw = torch.stack([bond, angle, torsion], -1)
    mean, scale = t.mean.to(raw), t.scale.to(raw)
    shifted = raw - mean
    turned = torch.remainder(shifted[..., 2] + math.pi, 2 * math.pi) - math.pi
    y = torch.stack([shifted[..., 0], shifted[..., 1], turned], -1) / scale
    y = torch.where(t.present, y, torch.zeros_like(y))
    return y, -_log_volume(bond, angle, scale, t)


def _log_volume(bond: Tensor, angle: Tensor, scale: Tensor, t: InternalTables) -> Tensor:
    """log of b² sin θ for all atoms that have them, and of the scales: volume of positions in one of tokens (B,)."""
    has_bond, has_angle, _ = t.present.unbind(-1)
    zero = bond.new_zeros(())
    volume = torch.where(has_bond, 2 * bond.log(), zero) + torch.where(has_angle, angle.sin().log(), zero)
    return volume.sum(1) + torch.where(t.present, scale.log(), zero).sum((1, 2))


def _vectors(x: Tensor, t: InternalTables) -> tuple[Tensor, Tensor, Tensor]:
    p, g, q = (take(x, t.z_matrix[..., k]) for k in range(3))
    return x - p, g - p, q - g


def _torsion(u: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """Torsion about v of u, which starts where v does, and w, which starts where v ends."""
    n1, n2 = torch.linalg.cross(v, u), torch.linalg.cross(v, w)
    return torch.atan2((torch.linalg.cross(n1, n2) * v).sum(-1) / v.norm(dim=-1), (n1 * n2).sum(-1))


def to_positions(y: Tensor, rigid: Rigid, t: InternalTables, scale_nm: float) -> tuple[Tensor, Tensor]:
    """Normalised positions, zero at padding, and the log|det| of `to_internal` there.

    A y outside the chart (a negative bond, a torsion more than half a turn away) gives NaN.

    Shape: y (B, N, 3) → x (B, N, 3), logdet (B,).
    """
    scale, mean = t.scale.to(y), t.mean.to(y)
    bond, angle, torsion = (y * scale + mean).unbind(-1)
    half_turn = (y * scale)[..., 2].abs() <= math.pi
    inside = torch.stack([bond > 0, (angle > 0) & (angle < math.pi), half_turn], -1) | ~t.present
    bond, angle = bond.clamp(min=1e-6), angle.clamp(1e-6, math.pi - 1e-6)
    x = _grow(bond, angle, torsion, t) / scale_nm @ frame(rigid.angles).transpose(1, 2)
    real = (t.level >= 0)[..., None]
    x = torch.where(real, x - _mean(x, real)[:, None] + rigid.center[:, None], 0.0)
    x = torch.where(inside.all(-1).all(-1)[:, None, None], x, torch.nan)
    return take(x, t.inverse_permutation), -_log_volume(bond, angle, scale, t)


def _mean(x: Tensor, real: Tensor) -> Tensor:
    """Mean of the real atoms (B, 3)."""
    return (x * real).sum(1) / real.sum(1)


def _grow(bond: Tensor, angle: Tensor, torsion: Tensor, t: InternalTables) -> Tensor:
    """Positions (B, N, 3) in the frame of the root: first atom at 0, second on x, third in the upper xy half-plane."""
    local = torch.stack(
        [-bond * angle.cos(), bond * angle.sin() * torsion.cos(), bond * angle.sin() * torsion.sin()], dim=-1
    )
    ex, ey, _ = torch.eye(3, dtype=bond.dtype, device=bond.device)
    x = torch.zeros_like(local)
    for level in range(1, int(t.level.max()) + 1):
        columns = (t.level == level).any(0).nonzero()[:, 0]
        p, g, q = (take(x, t.z_matrix[:, columns, k]) for k in range(3))
        if level == 1:
            new = bond[:, columns, None] * ex
        elif level == 2:
            a, b = bond[:, columns, None], angle[:, columns, None]
            new = p - a * b.cos() * ex + a * b.sin() * ey
        else:
            along = normalize(p - g, dim=-1)
            out = normalize(torch.linalg.cross(g - q, along), dim=-1)
            axes = torch.stack([along, torch.linalg.cross(out, along), out], dim=-1)
            new = p + (axes @ local[:, columns, :, None])[..., 0]
        here = (t.level[:, columns] == level)[..., None]
        x = x.index_copy(1, columns, torch.where(here, new, x[:, columns]))
    return x


def place(i: int, raw: Tensor, x: Tensor, atoms: PlacedAtoms) -> Tensor:
    """Position (B, 3) of atom `i` in the order of placement, of which `atoms` is, among those before it: x (B, ≥ i, 3).

    The first three are in the frame of the root, as in `_grow`. Shape: raw (B, 3), bond, angle and torsion. Units: nm.
    """
    bond, angle, torsion = (part[:, None] for part in raw.unbind(-1))
    p, g, q = (take(x, atoms.references[..., k])[:, 0] for k in range(3))
    if i < 3:  # N, CA, C
        ex, ey, _ = torch.eye(3, dtype=x.dtype, device=x.device)
        return p + (0 * bond, bond * ex, bond * (angle.sin() * ey - angle.cos() * ex))[i]
    along = normalize(p - g, dim=-1)
    out = normalize(torch.linalg.cross(g - q, along), dim=-1)
    side = torch.linalg.cross(out, along)
    return p + bond * (angle.sin() * (torsion.cos() * side + torsion.sin() * out) - angle.cos() * along)


def rigid_motion(x: Tensor, t: InternalTables) -> Rigid:
    """Mean and rotation of normalised positions (B, N, 3)."""
    first, second, third = take(x, t.root).unbind(1)
    e1 = normalize(second - first, dim=-1)
    e3 = normalize(torch.linalg.cross(e1, third - first), dim=-1)
    e2 = torch.linalg.cross(e3, e1)
    azimuth = torch.atan2(e1[:, 1], e1[:, 0])
    south, east = _directions(e1[:, 2], azimuth)
    turn = torch.atan2((e2 * east).sum(-1), (e2 * south).sum(-1))
    return Rigid(_mean(x, (t.level >= 0)[..., None]), torch.stack([e1[:, 2], azimuth, turn], -1))


def frame(angles: Tensor) -> Tensor:
    """Rotation matrices (B, 3, 3) of `Rigid.angles`; their columns are the axes of the root."""
    height, azimuth, turn = angles.unbind(-1)
    ring = (1 - height * height).clamp(min=0).sqrt()
    e1 = torch.stack([ring * azimuth.cos(), ring * azimuth.sin(), height], -1)
    south, east = _directions(height, azimuth)
    e2 = turn.cos()[:, None] * south + turn.sin()[:, None] * east
    return torch.stack([e1, e2, torch.linalg.cross(e1, e2)], -1)


def _directions(height: Tensor, azimuth: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors to the south and to the east at a point of the sphere."""
    ring, zero = (1 - height * height).clamp(min=0).sqrt(), torch.zeros_like(height)
    south = torch.stack([height * azimuth.cos(), height * azimuth.sin(), -ring], -1)
    return south, torch.stack([-azimuth.sin(), azimuth.cos(), zero], -1)


def rigid_log_density(center: Tensor, n_atoms: Tensor) -> Tensor:
    """Log-density (B,) of x̄ ~ N(0, I/N) and of a uniform rotation."""
    n = n_atoms.to(center)
    return 1.5 * (n / (2 * math.pi)).log() - 0.5 * n * center.square().sum(-1) - LOG_ROTATIONS


def rigid_to_latents(rigid: Rigid, n_atoms: Tensor) -> Tensor:
    """Six standard normal numbers (B, 6) of a rigid motion with that density."""
    center = rigid.center * n_atoms.to(rigid.center).sqrt()[:, None]
    return torch.cat([center, torch.special.ndtri(_uniform(rigid.angles))], -1)


def latents_to_rigid(z: Tensor, n_atoms: Tensor) -> Rigid:
    """Inverse of `rigid_to_latents`."""
    height, azimuth, turn = torch.special.ndtr(z[:, 3:]).unbind(-1)
    angles = torch.stack([2 * height - 1, (2 * azimuth - 1) * math.pi, (2 * turn - 1) * math.pi], -1)
    return Rigid(z[:, :3] / n_atoms.to(z).sqrt()[:, None], angles)


def rigid_slots(t: InternalTables) -> Tensor:
    """Columns (P, 6) of the latents (B, 3N) that hold the rigid motion: those that `present` leaves empty."""
    first, second, third = (3 * t.root).unbind(1)
    return torch.stack([first, first + 1, first + 2, second + 1, second + 2, third + 2], 1)


def tempered_latents(t: InternalTables) -> Tensor:
    """Mask (P, N, 3) of the latents whose variance is the temperature's: all but rotations and rotatable dihedrals.

    The base of these two is uniform on a compact space, which no temperature widens; a stiff coordinate spreads as √T.
    """
    tempered = t.present & ~t.rotatable_dihedrals
    return tempered.flatten(1).scatter(1, rigid_slots(t)[:, :3], True).view(tempered.shape)


def _uniform(angles: Tensor) -> Tensor:
    """Angles as numbers uniform in (0, 1)."""
    height, azimuth, turn = angles.unbind(-1)
    uniform = torch.stack([(height + 1) / 2, azimuth / (2 * math.pi) + 0.5, turn / (2 * math.pi) + 0.5], -1)
    tiny = torch.finfo(angles.dtype).eps
    return uniform.clamp(tiny, 1 - tiny)  # a quantile of 0 or 1 is infinite
