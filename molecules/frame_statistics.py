"""Statistics of frames that tell how they were simulated: copies, constraints, force field and temperature.

Shapes: T frames, N atoms, B bonds (first, second).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openmm import HarmonicBondForce, unit

from .bonds import bonds_of
from .constants import KB
from .forcefield import FORCEFIELDS, create_system
from .peptide import Peptide

Array = NDArray[np.floating]

FEWEST = 10  # frames, for a spread
CONSTRAINED_NM = 1e-3  # X-H bonds spread by 0.003 nm at 300 K, and XTC's rounding by 0.0004 nm
USUAL = (0.75, 1.33)  # energy of bonds over that of equipartition
CHUNK = 2000


def bond_lengths(positions: Array, bonds: NDArray[np.int64]) -> NDArray[np.float32]:
    """Shape: (T, N, 3), (B, 2) -> (T, B)."""
    return in_chunks(lambda x: np.linalg.norm(x[:, bonds[:, 0]] - x[:, bonds[:, 1]], axis=-1), positions)


def in_chunks(function: Callable[[Array], NDArray[Any]], positions: Array) -> NDArray[np.float32]:
    """Compute a function of frames, of some at a time in double precision."""
    parts = [positions[i : i + CHUNK] for i in range(0, max(len(positions), 1), CHUNK)]
    return np.concatenate([function(part.astype(np.float64)).astype(np.float32) for part in parts])


def rounded(positions: Array) -> list[str]:
    """Note positions that XTC or GRO have rounded, whatever file they have come in since. Units: nm."""
    thousandths = positions[:FEWEST].astype(np.float64) * 1000
    if positions.dtype.itemsize >= 4 and np.abs(thousandths - np.round(thousandths)).max() > 0.02:
        return []
    return [
        "positions are rounded to 0.001 nm, as XTC does, which raises energies by 0.3 kT in AA and 1.1 kT in ARIP and "
        "scatters them by 0.8 and 1.5 kT: TRR, DCD, NetCDF and HDF5 keep more digits"
    ]


def repeated(positions: NDArray[np.float32]) -> list[str]:
    """Note frames that are copies of others."""
    count = len(positions) - len({hash(frame.tobytes()) for frame in positions})
    if not count:
        return []
    return [f"{count} of {len(positions)} frames are copies of another one: did runs overlap, or stand still?"]


def vibrations(
    positions: NDArray[np.float32], peptide: Peptide, bonds: NDArray[np.int64], temperature_k: float, forcefield: str
) -> list[str]:
    """Note bonds that do not vibrate as the force field has it: constrained, another force field or temperature."""
    if len(positions) < FEWEST:
        return []
    lengths, notes = bond_lengths(positions, bonds).astype(np.float64), []
    elements = [atom.element.symbol for atom in peptide.topology.atoms()]
    light = np.array(["H" in (elements[i], elements[j]) for i, j in bonds])
    stiff = lengths.std(axis=0) < CONSTRAINED_NM
    if stiff[light].mean() > 0.5:
        kind = "all" if stiff.mean() > 0.9 else "X-H"
        notes.append(
            f"{kind} bonds have one length: the run had constraints. A flow learns bonds that the force field does not "
            "have, so energies and weights will be off: simulate without constraints (OpenMM: constraints=None, "
            "GROMACS: constraints = none, Amber: ntc=1, ntf=1; at 1 fs)"
        )
    stretch = _stretch(lengths, peptide, bonds, ~stiff, forcefield) / temperature_k
    if not USUAL[0] < stretch < USUAL[1] and np.isfinite(stretch):
        notes.append(
            f"the energy of bonds is {stretch:.2g} times what {forcefield} has at {temperature_k:g} K: simulated in "
            "another force field or at another temperature? Say so with forcefield= and temperature_k="
        )
    return notes


def bond_temperature_k(positions: Array, peptide: Peptide, forcefield: str) -> float:
    """Temperature at which bonds vibrate, by equipartition; NaN where the force field's bonds are not known.

    Strain, which moves a bond's mean, does not count. Shape: (T, N, 3). Units: nm.
    """
    bonds, _ = bonds_of(peptide.topology)
    lengths = bond_lengths(positions, bonds).astype(np.float64)
    _, k = _bond_terms(peptide, bonds, forcefield)
    free = (lengths.std(axis=0) > CONSTRAINED_NM) & (k > 0)
    return float(np.median((k * lengths.var(axis=0))[free])) / KB if free.any() else float("nan")


def _stretch(
    lengths: Array, peptide: Peptide, bonds: NDArray[np.int64], free: NDArray[np.bool_], forcefield: str
) -> float:
    """Temperature (K) of which twice the mean energy of a bond is kT; the median over `free` ones, NaN without any."""
    usual, k = _bond_terms(peptide, bonds, forcefield)
    free = free & (k > 0)
    return float(np.median((k * (lengths - usual) ** 2).mean(axis=0)[free])) / KB if free.any() else float("nan")


def _bond_terms(peptide: Peptide, bonds: NDArray[np.int64], forcefield: str) -> tuple[Array, Array]:
    """Usual lengths (B,) and force constants (B,), zero where they are not known. Units: nm, kJ/mol/nm²."""
    try:
        system = create_system(peptide, forcefield) if forcefield in FORCEFIELDS else None
    except ValueError:  # no parameters for this molecule
        system = None
    forces = [force for force in system.getForces() if isinstance(force, HarmonicBondForce)] if system else []
    terms = {}
    for force in forces:
        for i in range(force.getNumBonds()):
            first, second, length, k = force.getBondParameters(i)
            terms[min(first, second), max(first, second)] = (
                length.value_in_unit(unit.nanometer),
                k.value_in_unit(unit.kilojoule_per_mole / unit.nanometer**2),
            )
    usual, k = np.array([terms.get((int(first), int(second)), (0.0, 0.0)) for first, second in bonds]).reshape(-1, 2).T
    return usual, k
