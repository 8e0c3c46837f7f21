"""Conformations of several peptides in one batch, padded to the largest: for few replicas of many small peptides."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from .energy import BatchedEnergy
from .tiles import blocks, evaluate_tile, tiled, try_compile, untiled

# Values of a padded atom where zero would divide by zero; it has no pairs, and no self-energy.
_FILLERS = {"born_own": 1.0, "born_scaled": 0.5, "born_radius": 1.0}
_SLOTS = 64  # the residues have 27 to 53
_PADDED = {
    *("mass", "slots", "bond_atoms", "bond_length", "bond_k", "angle_atoms", "angle_theta", "angle_k"),
    *("torsion_atoms", "torsion_constant", "torsion_cos", "torsion_sin", "lj12", "lj6", "pair_cutoff2"),
    *("charge_product", "charge_shift", "born_own", "born_scaled", "born_radius", "born_product", "born_shift"),
    *("born_cutoff2", "born_surface", "born_constants"),
}
_TERMS = {"bond": 2, "angle": 3, "torsion": 4}  # atoms of each


class MixedEnergy:
    """Energies of rows of which each belongs to one of several peptides, in the precision and on the device of these.

    `owners` (B,): the index of each row's peptide; its atoms come first, what follows is ignored. Rows do not depend
    on each other, but their last bits depend on `n_atoms`, to which they are padded.
    """

    def __init__(self, energies: Sequence[BatchedEnergy], owners: Sequence[int], n_atoms: int) -> None:
        first, tables = energies[0], [dict(energy.named_buffers()) for energy in energies]
        if any(own.keys() != _PADDED for own in tables):
            raise ValueError("peptides are put in one batch in force fields of bonds, angles, torsions and OBC only")
        constants = tables[0]["born_constants"]
        if any(
            energy.temperature_k != first.temperature_k
            or not torch.equal(own["born_constants"], constants)
            or energy.mass.dtype != first.mass.dtype
            for energy, own in zip(energies, tables, strict=True)
        ):
            raise ValueError("peptides of one batch must have one temperature, force field and precision")
        self.kt, self.temperature_k, self.compiled = first.kt, first.temperature_k, first.compiled
        if n_atoms < max(energy.n_atoms for energy in energies):
            raise ValueError(f"n_atoms={n_atoms} is less than a peptide has: give at least as many")
        self.n_atoms = n_atoms
        padded = pad_tables(tables, self.n_atoms)
        index = torch.tensor(owners, device=first.mass.device)
        self.mass = padded.pop("mass")[index]  # (B, N) Da, zero for padding
        self._blocks = [
            (rows, {name: tiled(table[index[rows]]) for name, table in padded.items()})
            for rows in blocks(len(owners), self.n_atoms, first.mass.device.type != "cpu")
        ]
        self._constants = {"born_constants": constants}

    def try_compile(self, x_nm: Tensor) -> str | None:
        """As `BatchedEnergy.try_compile`; x has all rows."""
        return try_compile(self, x_nm)

    @torch.no_grad()
    def unchecked(self, x_nm: Tensor, gradient: bool = True) -> tuple[Tensor, Tensor | None]:
        """As `BatchedEnergy.unchecked`, of all rows; the gradient of padding is 0."""
        real = (self.mass > 0)[:, :, None]
        centre = torch.where(real, x_nm, 0.0).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        x = torch.where(real, x_nm - centre, 0.0).to(self.mass.dtype)
        energy = torch.empty(len(x), dtype=x.dtype, device=x.device)
        slope = torch.empty_like(x) if gradient else None
        for rows, tables in self._blocks:
            tile = tiled(x[rows].mT)
            terms, tile_slope = evaluate_tile(tables | self._constants, tile, gradient, self.compiled)
            count = len(x[rows])
            energy[rows] = untiled(torch.stack(list(terms.values())).sum(0), count) / self.kt
            if slope is not None and tile_slope is not None:
                slope[rows] = untiled(tile_slope, count).mT / self.kt
        return energy, slope


def pad_tables(tables: Sequence[Mapping[str, Tensor]], n_atoms: int) -> dict[str, Tensor]:
    """The tables of all peptides, stacked, with the sizes of the largest.

    A padded term acts on the atoms of a real one, by 0; a padded atom has no pairs.
    """
    result: dict[str, list[Tensor]] = {name: [] for name in tables[0] if name != "born_constants"}
    counts = {kind: max(len(t[f"{kind}_atoms"]) for t in tables) for kind in _TERMS}
    for own in tables:
        for name, table in own.items():
            if name in ("slots", "born_constants"):
                continue
            kind = name.split("_")[0]
            shape = [counts[kind], *table.shape[1:]] if kind in counts else [n_atoms] * table.ndim
            new = table.new_full(shape, _FILLERS.get(name, 0))
            if name.endswith("_atoms"):
                new[:] = table[:1]
            new[tuple(slice(size) for size in table.shape)] = table
            result[name].append(new)
        result["slots"].append(_padded_slots(own, counts, n_atoms))
    # The same for any peptides, or else the order of the sums, and so the last bits, would depend on the others.
    depth = _SLOTS * -(-max(len(slots) for slots in result["slots"]) // _SLOTS)
    end = sum(counts[kind] * arms for kind, arms in _TERMS.items())
    for i, slots in enumerate(result["slots"]):
        result["slots"][i] = torch.cat([slots, slots.new_full((depth - len(slots), n_atoms), end)])
    return {name: torch.stack(parts) for name, parts in result.items()}


def _padded_slots(own: Mapping[str, Tensor], counts: Mapping[str, int], n_atoms: int) -> Tensor:
    """Slots (see `tables._slots`) after padding has moved the rows of the bonded gradients."""
    moved, start = [], 0
    for kind, arms in _TERMS.items():
        size = len(own[f"{kind}_atoms"])
        moved += [start + arm * counts[kind] + np.arange(size) for arm in range(arms)]
        start += arms * counts[kind]
    places = torch.from_numpy(np.append(np.concatenate(moved), start)).to(own["slots"].device)
    slots = own["slots"]
    new = slots.new_full((len(slots), n_atoms), start)
    new[:, : slots.shape[1]] = places[slots]
    return new
