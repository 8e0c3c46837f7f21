"""An OpenMM System read into arrays, for the batched force field. Needs OpenMM; what it returns does not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import openmm
from openmm import unit

from .bonded_tables import angles, bonds, impropers, maps, periodic_torsions, ryckaert_bellemans
from .born import custom_gb, gbsa_obc
from .expressions import Tables
from .pair_tables import pair_tables
from .terms import BONDED

# Several forces of one of these kinds are read as one.
_BONDED: dict[type[openmm.Force], Callable[[Any], Tables]] = {
    openmm.HarmonicBondForce: bonds,
    openmm.HarmonicAngleForce: angles,
    openmm.PeriodicTorsionForce: periodic_torsions,
    openmm.RBTorsionForce: ryckaert_bellemans,
    openmm.CustomTorsionForce: impropers,
    openmm.CMAPTorsionForce: maps,
}
_BORN: dict[type[openmm.Force], Callable[[Any], Tables]] = {
    openmm.CustomGBForce: custom_gb,
    openmm.GBSAOBCForce: gbsa_obc,
}
_PAIRS = (openmm.NonbondedForce, openmm.CustomNonbondedForce, openmm.CustomBondForce)


def read_system(system: openmm.System) -> Tables:
    """All tables of `molecules.batched.terms`, float64 and int64, in kJ/mol, nm, rad, e, Da; those of no force missing.

    Raises: ValueError that names a force, or a feature of one, that the batched energy does not have.
    """
    n = system.getNumParticles()
    masses = [system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(n)]
    if any(system.isVirtualSite(i) for i in range(n)):
        raise ValueError("the System has virtual sites: use the OpenMM energy")
    if system.getNumConstraints():
        raise ValueError("the System has constraints: make it with constraints=None, or use the OpenMM energy")
    if not all(masses):
        raise ValueError("the System has particles without mass, which stand still: use the OpenMM energy")
    forces = [force for force in system.getForces() if not isinstance(force, openmm.CMMotionRemover)]
    for force in forces:
        if type(force) not in (*_BONDED, *_BORN, *_PAIRS):
            raise ValueError(f"the batched energy does not know {force.getName()}: use the OpenMM energy")
    tables: Tables = {"mass": np.array(masses)} | _bonded([force for force in forces if type(force) in _BONDED], n)
    of_pairs = {kind: [force for force in forces if type(force) is kind] for kind in _PAIRS}
    if any(of_pairs.values()):
        charged, by_type, ends = of_pairs.values()
        tables |= pair_tables(_only(charged), _only(by_type), ends, n)
    if born := _only([force for force in forces if type(force) in _BORN]):
        tables |= _BORN[type(born)](born)
    for force in forces:
        if force.usesPeriodicBoundaryConditions():
            raise ValueError(f"{force.getName()} is periodic: use the OpenMM energy")
    if tables.keys() == {"mass"}:
        raise ValueError("the System has no forces: make it with a force field")
    return tables


def _only(forces: list[Any]) -> Any:
    if len(forces) > 1:
        raise ValueError(f"the System has a second {forces[1].getName()}: use the OpenMM energy")
    return forces[0] if forces else None


def _bonded(forces: list[Any], n_atoms: int) -> Tables:
    """Terms of all forces of a kind one after the other; of none, no tables."""
    parts: dict[str, list[Tables]] = {}
    for force in forces:
        new = _BONDED[type(force)](force)
        parts.setdefault(next(iter(new)), []).append(new)
    tables: Tables = {}
    for atoms, of_kind in parts.items():
        if atoms == "cmap_atoms" and len(of_kind) > 1:
            raise ValueError("the System has a second CMAPTorsionForce: use the OpenMM energy")
        if any(len(part[atoms]) for part in of_kind):
            tables |= {name: np.concatenate([part[name] for part in of_kind]) for name in of_kind[0]}
    return tables | {"slots": _slots(tables, n_atoms)} if tables else tables


def _slots(tables: Tables, n_atoms: int) -> npt.NDArray[np.int64]:
    """For every atom, the rows of the bonded gradients that act on it; the row past the end is zero.

    Atoms innermost, so that a compiler vectorises over the conformations and not over the slots.
    Rows in the order in which `terms.BONDED` lists them: bond ends, angle arms, torsion arms.
    """
    names = [f"{kind}_atoms" for kind in BONDED if f"{kind}_atoms" in tables]
    owner = np.concatenate([column for name in names for column in tables[name].T])
    rows = [np.flatnonzero(owner == atom) for atom in range(n_atoms)]
    slots = np.full((max(map(len, rows)), n_atoms), len(owner))
    for atom, row in enumerate(rows):
        slots[: len(row), atom] = row
    return slots
