"""Batches of energies, from any engine: a failed conformation is a value, not an exception. numpy only."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = npt.NDArray[np.float64]

# No atom of a peptide that means anything is this far from the mean of its atoms: eight extended residues
# span 3 nm. OpenMM's neighbour list takes memory and time with the square of the extent.
MAX_RADIUS_NM = 100.0


@dataclass(frozen=True, eq=False)
class EnergyBatch:
    """Energies of B conformations; where `ok` is False, energy is +inf and gradient 0.

    Shape: energy (B,), gradient (B, N, 3) or None when not asked for, ok (B,) bool. Units: kT, kT/nm.
    """

    energy: FloatArray
    gradient: FloatArray | None
    ok: npt.NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: "list[EnergyBatch]") -> "EnergyBatch":
        """One batch of several, in order; at least one."""
        gradients = [part.gradient for part in parts if part.gradient is not None]
        return cls(
            np.concatenate([part.energy for part in parts]),
            np.concatenate(gradients) if gradients else None,
            np.concatenate([part.ok for part in parts]),
        )


@dataclass(frozen=True, eq=False)
class TensorEnergyBatch:
    """`EnergyBatch` on tensors, in the precision of what made it."""

    energy: "Tensor"
    gradient: "Tensor | None"
    ok: "Tensor"

    def arrays(self) -> EnergyBatch:
        """The same in float64 on the CPU."""
        return EnergyBatch(
            self.energy.double().numpy(force=True),
            None if self.gradient is None else self.gradient.double().numpy(force=True),
            self.ok.numpy(force=True),
        )


def checked_positions(x_nm: npt.ArrayLike, n_atoms: int) -> FloatArray:
    """Positions (B, N, 3) as float64. Raises: ValueError for another shape, or another dtype than floating."""
    x = np.asarray(x_nm)
    if x.ndim != 3 or x.shape[1:] != (n_atoms, 3):
        raise ValueError(f"x_nm has shape {x.shape}: give (B, {n_atoms}, 3), in nm")
    if x.dtype.kind != "f":
        raise ValueError(f"x_nm has dtype {x.dtype}: give floating-point numbers")
    return x.astype(np.float64)
