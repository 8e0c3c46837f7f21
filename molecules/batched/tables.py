"""An OpenMM System read into arrays, for the batched force field. Needs OpenMM; what it returns does not."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import openmm
from openmm import unit

from .born import COULOMB, Tables, custom_gb, cutoff_and_shift, gbsa_obc, plain

MAX_PERIODICITY = 6


def read_system(system: openmm.System) -> Tables:
    """All tables of `molecules.batched.terms`, float64 and int64, in kJ/mol, nm, rad, e, Da.

    Raises: ValueError that names a force, or a feature of one, that the batched energy does not have.
    """
    masses = [system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(system.getNumParticles())]
    tables: Tables = {"mass": np.array(masses)}
    readers = {
        openmm.HarmonicBondForce: _bonds,
        openmm.HarmonicAngleForce: _angles,
        openmm.PeriodicTorsionForce: _torsions,
        openmm.NonbondedForce: _nonbonded,
        openmm.CustomGBForce: custom_gb,
        openmm.GBSAOBCForce: gbsa_obc,
    }
    if system.getNumConstraints() or any(system.isVirtualSite(i) for i in range(len(masses))):
        raise ValueError("the System has constraints or virtual sites: use the OpenMM energy")
    for force in system.getForces():
        if isinstance(force, openmm.CMMotionRemover):
            continue
        if type(force) not in readers:
            raise ValueError(f"the batched energy does not know {force.getName()}: use the OpenMM energy")
        new = readers[type(force)](force)
        if force.usesPeriodicBoundaryConditions():
            raise ValueError(f"{force.getName()} is periodic: use the OpenMM energy")
        if tables.keys() & new.keys():
            raise ValueError(f"the System has a second {force.getName()}: use the OpenMM energy")
        tables |= new
    missing = {"bond_k", "angle_k", "torsion_cos", "charge_product", "born_constants"} - tables.keys()
    if missing:
        raise ValueError(f"the System lacks {', '.join(sorted(missing))}: use the OpenMM energy")
    return tables | {"slots": _slots(tables, len(masses))}


def _bonds(force: openmm.HarmonicBondForce) -> Tables:
    rows = [force.getBondParameters(i) for i in range(force.getNumBonds())]
    return {
        "bond_atoms": np.array([row[:2] for row in rows], np.int64).reshape(-1, 2),
        "bond_length": np.array(plain([row[2] for row in rows])),
        "bond_k": np.array(plain([row[3] for row in rows])),
    }


def _angles(force: openmm.HarmonicAngleForce) -> Tables:
    rows = [force.getAngleParameters(i) for i in range(force.getNumAngles())]
    return {
        "angle_atoms": np.array([row[:3] for row in rows], np.int64).reshape(-1, 3),
        "angle_theta": np.array(plain([row[3] for row in rows])),
        "angle_k": np.array(plain([row[4] for row in rows])),
    }


def _torsions(force: openmm.PeriodicTorsionForce) -> Tables:
    """k (1 + cos(nφ − δ)) = k + k cos δ cos nφ + k sin δ sin nφ; all n of the same four atoms in one row."""
    series: dict[tuple[int, ...], npt.NDArray[np.float64]] = defaultdict(lambda: np.zeros((3, MAX_PERIODICITY)))
    for i in range(force.getNumTorsions()):
        *atoms, n, phase, k = force.getTorsionParameters(i)
        if not 1 <= n <= MAX_PERIODICITY:
            raise ValueError(f"a torsion has periodicity {n}: the batched energy has 1 to {MAX_PERIODICITY}")
        phase, k = plain([phase, k])
        series[tuple(atoms)][:, n - 1] += k, k * np.cos(phase), k * np.sin(phase)
    values = np.array(list(series.values())).reshape(-1, 3, MAX_PERIODICITY)
    return {
        "torsion_atoms": np.array(list(series), np.int64).reshape(-1, 4),
        "torsion_constant": values[:, 0].sum(-1),
        "torsion_cos": values[:, 1],
        "torsion_sin": values[:, 2],
    }


def _nonbonded(force: openmm.NonbondedForce) -> Tables:
    """Pair tables, symmetric (N, N); exceptions have no cutoff and no reaction field."""
    cutoff, shift = cutoff_and_shift(force, "NonbondedForce")
    unknown = (
        force.getNumParticleParameterOffsets(),
        force.getNumExceptionParameterOffsets(),
        cutoff < np.inf and (force.getUseSwitchingFunction() or force.getReactionFieldDielectric() != 1.0),
    )
    if any(unknown):
        raise ValueError("NonbondedForce with offsets, switching, or a dielectric other than 1: use OpenMM")
    n = force.getNumParticles()
    charge, sigma, epsilon = np.array([plain(force.getParticleParameters(i)) for i in range(n)]).T
    product = COULOMB * np.outer(charge, charge)
    sigma = (sigma[:, None] + sigma) / 2
    epsilon = np.sqrt(np.outer(epsilon, epsilon))
    shifts, cutoffs = np.full((n, n), shift), np.full((n, n), cutoff**2)
    for i in range(force.getNumExceptions()):
        a, b, *parameters = force.getExceptionParameters(i)
        for pair in ((a, b), (b, a)):
            product[pair], sigma[pair], epsilon[pair] = plain(parameters)
            product[pair] *= COULOMB
            shifts[pair], cutoffs[pair] = 0.0, np.inf
    np.fill_diagonal(cutoffs, 0.0)
    return {
        "charge_product": product,
        "charge_shift": product * shifts,
        "lj12": 4 * epsilon * sigma**12,
        "lj6": 4 * epsilon * sigma**6,
        "pair_cutoff2": cutoffs,
    }


def _slots(tables: Tables, n_atoms: int) -> npt.NDArray[np.int64]:
    """For every atom, the rows of the bonded gradients that act on it; the row past the end is zero.

    Atoms innermost, so that a compiler vectorises over the conformations and not over the slots.
    Rows in the order in which `terms.bonded` lists them: bond ends, angle arms, torsion arms.
    """
    columns: Iterator[npt.NDArray[np.int64]] = (
        column for name in ("bond_atoms", "angle_atoms", "torsion_atoms") for column in tables[name].T
    )
    owner = np.concatenate(list(columns))
    rows = [np.flatnonzero(owner == atom) for atom in range(n_atoms)]
    slots = np.full((max(map(len, rows)), n_atoms), len(owner))
    for atom, row in enumerate(rows):
        slots[: len(row), atom] = row
    return slots
