"""An OpenMM System read into arrays, for the batched force field. Needs OpenMM; what it returns does not."""

import re
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import openmm
from openmm import unit

Tables = dict[str, npt.NDArray[np.generic]]

COULOMB = 138.93545764438198  # kJ nm / mol / e², OpenMM's value
MAX_PERIODICITY = 6

# OBC1 as OpenMM's `implicit/obc1.xml` writes it; {n} are numbers that the tables take over.
_BORN = (
    "select(step(r+sr2-or1), 0.5*(1/L-1/U+0.25*(r-sr2^2/r)*(1/(U^2)-1/(L^2))+0.5*log(L/U)/r), 0);"
    "U=r+sr2;L=max(or1, D);D=abs(r-sr2)",
    "1/(1/or-tanh({alpha}*psi+{gamma}*psi^3)/radius);psi=I*or; radius=or+offset; offset={offset}",
)
_ENERGY = (
    "-0.5*{coulomb}*(1/soluteDielectric-1/solventDielectric)*charge^2/B",
    "{surface}*(radius+{probe})^2*(radius/B)^6; radius=or+offset",
    "-{coulomb}*(1/soluteDielectric-1/solventDielectric)*charge1*charge2*(1/f-{shift});"
    "f=sqrt(r^2+B1*B2*exp(-r^2/(4*B1*B2)))",
)
_ENERGY_PLAIN = (*_ENERGY[:2], _ENERGY[2].replace("(1/f-{shift})", "/f"))


def read_system(system: openmm.System) -> Tables:
    """All tables of `molecules.batched_terms`, float64 and int64, in kJ/mol, nm, rad, e, Da.

    Raises: ValueError that names a force, or a feature of one, that the batched energy does not have.
    """
    masses = [system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(system.getNumParticles())]
    tables: Tables = {"mass": np.array(masses)}
    readers = {
        openmm.HarmonicBondForce: _bonds,
        openmm.HarmonicAngleForce: _angles,
        openmm.PeriodicTorsionForce: _torsions,
        openmm.NonbondedForce: _nonbonded,
        openmm.CustomGBForce: _custom_gb,
        openmm.GBSAOBCForce: _gbsa_obc,
    }
    if system.getNumConstraints() or any(system.isVirtualSite(i) for i in range(len(masses))):
        raise ValueError("the System has constraints or virtual sites: use the OpenMM energy")
    for force in system.getForces():
        if isinstance(force, openmm.CMMotionRemover):
            continue
        if type(force) not in readers:
            raise ValueError(f"the batched energy does not know {force.getName()}: use the OpenMM energy")
        tables |= readers[type(force)](force)
    missing = {"bond_k", "angle_k", "torsion_cos", "charge_product", "born_constants"} - tables.keys()
    if missing:
        raise ValueError(f"the System lacks {', '.join(sorted(missing))}: use the OpenMM energy")
    return tables | {"slots": _slots(tables, len(masses))}


def _plain(quantities: list[unit.Quantity]) -> list[float]:
    return [q.value_in_unit_system(unit.md_unit_system) for q in quantities]


def _bonds(force: openmm.HarmonicBondForce) -> Tables:
    rows = [force.getBondParameters(i) for i in range(force.getNumBonds())]
    return {
        "bond_atoms": np.array([row[:2] for row in rows], np.int64).reshape(-1, 2),
        "bond_length": np.array(_plain([row[2] for row in rows])),
        "bond_k": np.array(_plain([row[3] for row in rows])),
    }


def _angles(force: openmm.HarmonicAngleForce) -> Tables:
    rows = [force.getAngleParameters(i) for i in range(force.getNumAngles())]
    return {
        "angle_atoms": np.array([row[:3] for row in rows], np.int64).reshape(-1, 3),
        "angle_theta": np.array(_plain([row[3] for row in rows])),
        "angle_k": np.array(_plain([row[4] for row in rows])),
    }


def _torsions(force: openmm.PeriodicTorsionForce) -> Tables:
    """k (1 + cos(nφ − δ)) = k + k cos δ cos nφ + k sin δ sin nφ; all n of the same four atoms in one row."""
    series: dict[tuple[int, ...], npt.NDArray[np.float64]] = defaultdict(lambda: np.zeros((3, MAX_PERIODICITY)))
    for i in range(force.getNumTorsions()):
        *atoms, n, phase, k = force.getTorsionParameters(i)
        if not 1 <= n <= MAX_PERIODICITY:
            raise ValueError(f"a torsion has periodicity {n}: the batched energy has 1 to {MAX_PERIODICITY}")
        phase, k = _plain([phase, k])
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
    cutoff, shift = _cutoff(force, "NonbondedForce")
    unknown = (
        force.getNumParticleParameterOffsets(),
        force.getNumExceptionParameterOffsets(),
        cutoff < np.inf and (force.getUseSwitchingFunction() or force.getReactionFieldDielectric() != 1.0),
    )
    if any(unknown):
        raise ValueError("NonbondedForce with offsets, switching, or a dielectric other than 1: use OpenMM")
    n = force.getNumParticles()
    charge, sigma, epsilon = np.array([_plain(force.getParticleParameters(i)) for i in range(n)]).T
    product = COULOMB * np.outer(charge, charge)
    sigma = (sigma[:, None] + sigma) / 2
    epsilon = np.sqrt(np.outer(epsilon, epsilon))
    shifts, cutoffs = np.full((n, n), shift), np.full((n, n), cutoff**2)
    for i in range(force.getNumExceptions()):
        a, b, *parameters = force.getExceptionParameters(i)
        for pair in ((a, b), (b, a)):
            product[pair], sigma[pair], epsilon[pair] = _plain(parameters)
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


def _cutoff(force: openmm.NonbondedForce | openmm.CustomGBForce, name: str) -> tuple[float, float]:
    """Cutoff in nm (inf for none), and what is subtracted from 1/r inside it."""
    if force.getNonbondedMethod() == force.NoCutoff:
        return np.inf, 0.0
    if force.getNonbondedMethod() != force.CutoffNonPeriodic:
        raise ValueError(f"{name} is periodic: the batched energy has NoCutoff and CutoffNonPeriodic")
    cutoff = force.getCutoffDistance().value_in_unit(unit.nanometer)
    return cutoff, 1 / cutoff


def _custom_gb(force: openmm.CustomGBForce) -> Tables:
    """OBC1 as the force field file spells it: each expression is compared with the one implemented."""
    single, no_exclusions = force.SingleParticle, force.ParticlePairNoExclusions
    names = [force.getPerParticleParameterName(i) for i in range(force.getNumPerParticleParameters())]
    values = [force.getComputedValueParameters(i) for i in range(force.getNumComputedValues())]
    terms = [force.getEnergyTermParameters(i) for i in range(force.getNumEnergyTerms())]
    extras = (force.getNumGlobalParameters(), force.getNumTabulatedFunctions(), force.getNumExclusions())
    cutoff, shift = _cutoff(force, "CustomGBForce")
    known = (
        names == ["charge", "or", "sr"]
        and not any(extras)
        and [(v[0], v[2]) for v in values] == [("I", no_exclusions), ("B", single)]
        and [t[1] for t in terms] == [single, single, no_exclusions]
    )
    energies = _ENERGY if cutoff < np.inf else _ENERGY_PLAIN
    born = _numbers(_BORN, [v[1] for v in values]) if known else {}
    found = _numbers(energies, [t[0] for t in terms]) if born else {}
    same = np.isclose([found.get("shift", shift), found.get("offset", 0)], [shift, born.get("offset", 1)])
    if not same.all() or found.get("kappa", 0.0) != 0:
        raise ValueError("the CustomGBForce is not OBC1 with surface area: use the OpenMM energy")
    n = force.getNumParticles()
    particles = np.array([force.getParticleParameters(i) for i in range(n)]).reshape(n, 3).T
    return _born(particles, born | found, cutoff, beta=0.0, engulfed=0.0)


def _numbers(templates: tuple[str, ...], expressions: list[str]) -> dict[str, float]:
    """The numbers that stand at the {names}, and the constants assigned; empty if one does not match."""
    found: dict[str, float] = {}
    for template, expression in zip(templates, expressions, strict=True):
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[-+.0-9eE]+)", re.escape(template.replace(" ", "")))
        match = re.fullmatch(pattern + r"((;\w+=[-+.0-9eE]+)*)", expression.replace(" ", ""))
        if match is None:
            return {}
        constants = [c.split("=") for c in match.group(match.re.groups - 1).split(";") if c]
        pairs = [(name, float(value)) for name, value in constants + list(match.groupdict().items())]
        if any(not np.isclose(found.setdefault(name, value), value) for name, value in pairs):
            return {}
    return found


def _gbsa_obc(force: openmm.GBSAOBCForce) -> Tables:
    """OBC2, whose constants OpenMM has in its code."""
    if force.getNonbondedMethod() != force.NoCutoff:
        raise ValueError("GBSAOBCForce with a cutoff: the batched energy has it without only")
    found = {
        "alpha": 1.0,
        "gamma": 4.85,
        "offset": 0.009,
        "probe": 0.14,
        "coulomb": COULOMB,
        "surface": 4 * np.pi * _plain([force.getSurfaceAreaEnergy()])[0],
        "soluteDielectric": force.getSoluteDielectric(),
        "solventDielectric": force.getSolventDielectric(),
    }
    n = force.getNumParticles()
    charge, radius, scale = np.array(
        [[*_plain(force.getParticleParameters(i)[:2]), force.getParticleParameters(i)[2]] for i in range(n)]
    ).T
    own = radius - found["offset"]
    return _born(np.array([charge, own, scale * own]), found, np.inf, beta=0.8, engulfed=1.0)


def _born(
    particles: npt.NDArray[np.float64], found: dict[str, float], cutoff: float, beta: float, engulfed: float
) -> Tables:
    charge, own, scaled = particles
    factor = found["coulomb"] * (1 / found["soluteDielectric"] - 1 / found["solventDielectric"])
    product = -factor * np.outer(charge, charge)
    cutoffs = np.full(product.shape, cutoff**2)
    np.fill_diagonal(cutoffs, 0.0)
    radius = own + found["offset"]
    return {
        "born_own": own,
        "born_scaled": scaled,
        "born_radius": radius,
        "born_product": product,
        "born_shift": product / cutoff,
        "born_cutoff2": cutoffs,
        "born_surface": found["surface"] * (radius + found["probe"]) ** 2,
        "born_constants": np.array([found["alpha"], beta, found["gamma"], engulfed]),
    }


def _slots(tables: Tables, n_atoms: int) -> npt.NDArray[np.int64]:
    """For every atom, the rows of the bonded gradients that act on it; the row past the end is zero.

    Atoms innermost, so that a compiler vectorises over the conformations and not over the slots.
    Rows in the order in which `batched_terms.bonded` lists them: bond ends, angle arms, torsion arms.
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
