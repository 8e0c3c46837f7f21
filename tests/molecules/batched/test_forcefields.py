"""The batched energy of Systems of many force fields against OpenMM's Reference platform, force by force."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch

from boltzray.molecules import BatchedEnergy, Peptide
from boltzray.molecules.batched.mixture import MixedEnergy
from tests.systems import KELVIN, SYSTEMS, compare, make_system, only, reference, shaken

ROOT = Path(__file__).parents[3]
PAIRS = (openmm.NonbondedForce, openmm.CustomNonbondedForce, openmm.CustomBondForce)
# Residues whose parameters are of a kind of their own: maps of G and P; sulphur, charges, rings.
SEQUENCE, OTHERS = "AGPV", "MKEWC"
SLOW = ("CHARMM36 of 2024",)  # reading its file takes a minute

CASES = [
    *((name, SEQUENCE) for name in SYSTEMS if name not in SLOW),
    *((name, OTHERS) for name in ("amber19, GBn2", "CHARMM36, GBn2", "amber14, gbn")),
    *(pytest.param(name, OTHERS, marks=pytest.mark.slow) for name in SLOW),
]


@pytest.mark.parametrize(("name", "sequence"), CASES)
def test_equals_reference_force_by_force(name: str, sequence: str) -> None:
    """All forces, each force alone, and what `terms` tells of each."""
    system, peptide = make_system(name, sequence)
    x = shaken(peptide)
    energy = compare(system, x)
    terms = energy.terms(torch.from_numpy(x))
    forces = [force for force in system.getForces() if not isinstance(force, openmm.CMMotionRemover)]
    of_pairs = [force for force in forces if type(force) in PAIRS]
    told = set()
    for force in forces:
        own = type(force)
        alone = only(system, lambda f, own=own: type(f) is own)
        compare(alone, x)
        group = only(system, lambda f: type(f) in PAIRS) if force in of_pairs and len(of_pairs) > 1 else alone
        key = "GBForce" if "GB" in own.__name__ else "NonbondedForce" if force in of_pairs else None
        key = key or own.__name__
        np.testing.assert_allclose(terms[key], reference(group, x)[0], rtol=1e-9, atol=1e-9)
        told.add(key)
    assert told == terms.keys()


def test_float32() -> None:
    for name in ("CHARMM36, GBn2", "amber14, gbn2, salt, cutoff", "amber14, cutoff, switched"):
        system, peptide = make_system(name)
        x = shaken(peptide)
        expected, gradient = reference(system, x)
        batch = BatchedEnergy.of_system(system, KELVIN).float().evaluate(torch.from_numpy(x))
        assert batch.gradient is not None
        np.testing.assert_allclose(batch.energy, expected, rtol=1e-4)
        scale = np.abs(gradient).max((1, 2), keepdims=True)
        np.testing.assert_allclose(batch.gradient / scale, gradient / scale, atol=1e-4)


def empty(n_atoms: int) -> openmm.System:
    system = openmm.System()
    for _ in range(n_atoms):
        system.addParticle(12.0)
    return system


def chains(peptide: Peptide) -> list[tuple[int, int, int, int]]:
    """Some dihedrals, along the order of atoms."""
    return [(i, i + 1, i + 2, i + 3) for i in range(0, peptide.n_atoms - 3, 2)]


def test_maps_of_any_size() -> None:
    """Random values, several maps, some of them unused; atoms all over the circle, a dihedral twice in a term."""
    peptide, rng = Peptide.from_sequence("KD"), np.random.default_rng(1)
    system, force = empty(peptide.n_atoms), openmm.CMAPTorsionForce()
    for size in (7, 24, 3, 12):
        force.addMap(size, rng.normal(size=size * size).tolist())
    atoms = chains(peptide)
    for i, first in enumerate(atoms):
        force.addTorsion((0, 1, 3)[i % 3], *first, *atoms[(3 * i + 1) % len(atoms)])
    force.addTorsion(1, *atoms[0], *atoms[0])
    system.addForce(force)
    x = peptide.positions + 0.3 * rng.normal(size=(40, peptide.n_atoms, 3))
    energy = compare(system, x)
    assert energy.cmap_coefficients.shape == (16, 49 + 576 + 144)


def test_torsions_of_ryckaert_and_bellemans() -> None:
    peptide, rng = Peptide.from_sequence("KD"), np.random.default_rng(2)
    system, force = empty(peptide.n_atoms), openmm.RBTorsionForce()
    for atoms in chains(peptide):
        force.addTorsion(*atoms, *rng.normal(size=6).tolist())
    system.addForce(force)
    compare(system, peptide.positions + 0.3 * rng.normal(size=(20, peptide.n_atoms, 3)))


@pytest.mark.parametrize(
    "expression",
    [
        "k*(theta-theta0)^2",
        "k*min(dtheta, 2*pi - dtheta)^2; dtheta = abs(theta - theta0); pi = 3.141592653589793",
        "k*min(dtheta, 2*pi-dtheta)^2; dtheta = abs(theta-theta0);pi = 3.141593;",
        "k*min(dtheta, 2*3.141592653589793-dtheta)^2; dtheta = abs(theta-theta0)",
    ],
)
def test_impropers_wrapped_or_not(expression: str) -> None:
    """At angles all over the circle, and equilibrium angles at its ends; each way of writing that OpenMM has."""
    peptide, rng = Peptide.from_sequence("KD"), np.random.default_rng(3)
    system, force = empty(peptide.n_atoms), openmm.CustomTorsionForce(expression)
    force.addPerTorsionParameter("k")
    force.addPerTorsionParameter("theta0")
    for i, atoms in enumerate(chains(peptide)):
        force.addTorsion(*atoms, [50.0 + i, (-np.pi, 0.0, 1.0, np.pi, 2.8)[i % 5]])
    system.addForce(force)
    tolerance = 1e-5 if "3.141593;" in expression else 1e-9  # OpenMM's way round has six digits there
    compare(system, peptide.positions + 0.3 * rng.normal(size=(20, peptide.n_atoms, 3)), tolerance)


def test_several_forces_of_a_kind_are_one() -> None:
    system, peptide = make_system("CHARMM36 in vacuum")
    kinds = (openmm.HarmonicBondForce, openmm.HarmonicAngleForce, openmm.PeriodicTorsionForce)
    kinds += (openmm.CustomTorsionForce, openmm.CustomBondForce)
    for force in list(system.getForces()):
        if type(force) in kinds:
            system.addForce(openmm.XmlSerializer.clone(force))
    wrapped = openmm.CustomTorsionForce(
        "k*min(dtheta, 2*pi-dtheta)^2; dtheta = abs(theta-theta0); pi = 3.14159265358979"
    )
    wrapped.addPerTorsionParameter("k")
    wrapped.addPerTorsionParameter("theta0")
    wrapped.addTorsion(0, 5, 9, 14, [3.0, 3.0])
    series = openmm.RBTorsionForce()
    series.addTorsion(1, 6, 8, 12, *range(6))
    for force in (wrapped, series, openmm.HarmonicBondForce(), openmm.CustomTorsionForce("k*(theta-theta0)^2")):
        if isinstance(force, openmm.CustomTorsionForce) and not force.getNumTorsions():
            force.addPerTorsionParameter("k")
            force.addPerTorsionParameter("theta0")
        system.addForce(force)
    compare(system, shaken(peptide))


def test_lennard_jones_as_psf_and_prmtop_files_have_it() -> None:
    """With the roots of the coefficients; 1-4 pairs scaled; charges without Lennard-Jones, as there."""
    system, peptide = make_system("CHARMM36, cutoff, switched")
    for force in system.getForces():
        if isinstance(force, openmm.CustomNonbondedForce):
            force.setEnergyFunction("(a/r6)^2-b/r6; r6=r^6;a=acoef(type1, type2);b=bcoef(type1, type2)")
            function = force.getTabulatedFunction(0)
            n, m, values = function.getFunctionParameters()
            function.setFunctionParameters(n, m, np.sqrt(values).tolist())
        if isinstance(force, openmm.CustomBondForce):
            force.setEnergyFunction("3.2*epsilon*((sigma/r)^12-(sigma/r)^6)")
        if isinstance(force, openmm.NonbondedForce):
            force.setUseSwitchingFunction(False)  # has no Lennard-Jones energy to switch
    compare(system, shaken(peptide))


def test_at_the_switch_and_beyond_the_cutoff() -> None:
    """One pair of atoms before, at and after the switching distance and the cutoff; a row beyond all."""
    system, peptide = make_system("CHARMM36, cutoff, switched")
    x = np.repeat(peptide.positions[None], 7, 0)
    direction = x[0, -1] - x[0, 0]
    direction /= np.linalg.norm(direction)
    for row, r in enumerate([0.3, 0.6 - 1e-9, 0.6 + 1e-9, 0.75, 0.9 - 1e-9, 0.9 + 1e-9, 5.0]):
        x[row, -1] = x[row, 0] + r * direction
    compare(system, x)


@pytest.mark.parametrize("name", ["CHARMM36, GBn2", "amber14, hct, cutoff", "amber14, cutoff, switched"])
def test_rows_are_independent_and_bad_ones_values(name: str) -> None:
    system, peptide = make_system(name)
    for energy in (BatchedEnergy.of_system(system, KELVIN), BatchedEnergy.of_system(system, KELVIN).float()):
        x = np.concatenate([shaken(peptide), np.repeat(peptide.positions[None], 4, 0)])
        x[4, 3, 1], x[5, 6], x[6, 8], x[7] = np.nan, 1e30, x[6, 9], 0.0
        batch = energy.evaluate(torch.from_numpy(x))
        assert batch.ok.tolist() == 4 * [True] + 4 * [False]
        assert batch.gradient is not None
        assert (batch.gradient[4:] == 0).all()
        for row in range(4):
            alone = energy.evaluate(torch.from_numpy(x[row : row + 1]))
            assert torch.equal(alone.energy[0], batch.energy[row])
            assert alone.gradient is not None
            assert torch.equal(alone.gradient[0], batch.gradient[row])


def test_loads_without_openmm(tmp_path: Path) -> None:
    system, peptide = make_system("amber14, gbn2, salt, cutoff")
    energy, x = BatchedEnergy.of_system(system, KELVIN), torch.from_numpy(shaken(peptide))
    energy.save(tmp_path / "energy.npz")
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys; sys.modules['openmm'] = None\n"
        "import numpy as np, torch; from boltzray.molecules import BatchedEnergy\n"
        f"energy = BatchedEnergy.load({str(tmp_path / 'energy.npz')!r})\n"
        f"x = torch.from_numpy(np.load({str(tmp_path / 'x.npy')!r}))\n"
        "print(energy.temperature_k, *(e.hex() for e in energy(x).tolist()))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["300.0", *(e.hex() for e in energy(x).tolist())]


def test_several_peptides_in_one_batch_need_a_force_field_without_maps() -> None:
    """Those of bonds, angles, torsions and OBC, whichever of its forms; the others are refused."""
    system, peptide = make_system("amber14, obc2, cutoff")
    energy, x = BatchedEnergy.of_system(system, KELVIN), torch.from_numpy(shaken(peptide))
    mixed, slope = MixedEnergy([energy], [0] * len(x), peptide.n_atoms).unchecked(x)
    torch.testing.assert_close(mixed, energy(x), rtol=1e-12, atol=0)
    assert slope is not None
    for name in ("CHARMM36 in vacuum", "amber14, hct", "amber14, gbn2", "amber14, cutoff, switched"):
        other = BatchedEnergy.of_system(make_system(name)[0], KELVIN)
        with pytest.raises(ValueError, match="put in one batch in force fields of bonds, angles, torsions and OBC"):
            MixedEnergy([energy, other], [0, 1], peptide.n_atoms)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CHARMM36, GBn2", "amber14, gbn2, salt, cutoff", "amber14, cutoff, switched"])
def test_compiled_equals_eager(name: str) -> None:
    for sequence in (SEQUENCE, "GK"):
        system, peptide = make_system(name, sequence)
        x = torch.from_numpy(shaken(peptide, (0.0, 0.003, 0.01, 0.02)).repeat(30, 0))
        eager, compiled = (
            BatchedEnergy.of_system(system, KELVIN).float(),
            BatchedEnergy.of_system(system, KELVIN).float(),
        )
        assert compiled.try_compile(x) is None
        expected, batch = eager.evaluate(x), compiled.evaluate(x)
        torch.testing.assert_close(batch.energy, expected.energy, rtol=1e-5, atol=1e-3)
        assert batch.gradient is not None
        assert expected.gradient is not None
        scale = expected.gradient.abs().amax((1, 2), keepdim=True)
        torch.testing.assert_close(batch.gradient / scale, expected.gradient / scale, rtol=0, atol=1e-5)
        assert torch.equal(compiled.evaluate(x[7:8]).energy, batch.energy[7:8])
