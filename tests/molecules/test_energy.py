"""OpenMM energies: against references, as a derivative, for bad rows, and around the affinity."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from openmm import app, unit

from boltzray.molecules import OpenMMEnergy, Peptide
from boltzray.molecules.energy import MAX_RADIUS_NM, pinned
from boltzray.molecules.forcefield import FORCEFIELDS, create_system

TESTS = Path(__file__).parents[1]
GOLDEN = np.load(TESTS / "golden" / "metrics.npz")
FRAMES = GOLDEN["reference"].astype(np.float64)
# Taken before any test ran: a thread left pinned by an earlier one would look undisturbed.
ALLOWED = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
needs_affinity = pytest.mark.skipif(not ALLOWED, reason="the system has no affinities")


@pytest.fixture(scope="module")
def peptide() -> Peptide:
    return Peptide.from_pdb(GOLDEN["pdb"].tobytes().decode())


@pytest.fixture(scope="module")
def energy(peptide: Peptide) -> OpenMMEnergy:
    return OpenMMEnergy(peptide)


def capped(sequence: str) -> str:
    """Ace-…-Nme as PDB text: the outer residues of an extended peptide, renamed (bond lengths are off)."""
    n = len(sequence)
    ace = {"CA": "CH3", "C": "C", "O": "O", "HA": "H1", "CB": "H2", "N": "H3"}
    nme = {"N": "N", "H": "H", "CA": "C", "HA": "H1", "CB": "H2", "C": "H3"}
    lines = []
    for line in Peptide.from_sequence(f"A{sequence}A").to_pdb().splitlines():
        if line.startswith("ATOM"):
            residue, name = int(line[22:26]), line[12:16].strip()
            if residue in (1, n + 2):
                cap, names = ("ACE", ace) if residue == 1 else ("NME", nme)
                if name not in names:
                    continue
                name = names[name]
                line = f"{line[:12]} {name:<3} {cap}{line[20:76]} {name[0]}"
            lines.append(line)
    return "\n".join([*lines, "END", ""])


def test_stored_energies(energy: OpenMMEnergy) -> None:
    batch = energy.evaluate(FRAMES, gradient=False)
    assert batch.ok.all()
    assert batch.gradient is None
    assert batch.energy.dtype == np.float64
    np.testing.assert_allclose(batch.energy, GOLDEN["reference_energy_kT"], rtol=1e-5)
    generated = energy.evaluate(GOLDEN["generated"])
    np.testing.assert_allclose(generated.energy, GOLDEN["generated_energy_kT"], rtol=1e-5)


@pytest.mark.parametrize("sequence", ["AA", "ARIP", "ACDEFGHI", "KLMNPQRS", "TVWY"])
def test_platforms_agree(sequence: str, peptide: Peptide) -> None:
    """All twenty residues; the extended eight reach beyond the cutoff."""
    peptide = peptide if sequence == "AA" else Peptide.from_sequence(sequence)
    noise = np.random.default_rng(0).normal(size=(3, peptide.n_atoms, 3))
    x = peptide.positions + 0.003 * noise * np.arange(3)[:, None, None]
    cpu = OpenMMEnergy(peptide).evaluate(x)
    reference = OpenMMEnergy(peptide, platform="Reference").evaluate(x)
    assert cpu.gradient is not None
    assert reference.gradient is not None
    np.testing.assert_allclose(cpu.energy, reference.energy, rtol=1e-5)
    scale = np.abs(reference.gradient).max()
    np.testing.assert_allclose(cpu.gradient, reference.gradient, atol=1e-5 * scale)


def test_gradient_is_the_derivative(peptide: Peptide) -> None:
    energy = OpenMMEnergy(peptide, platform="Reference")
    x, step = FRAMES[:1], 1e-5
    gradient = energy.evaluate(x).gradient
    shifts = np.eye(x[0].size).reshape(-1, *x[0].shape) * step
    upper, lower = (energy.evaluate(x + sign * shifts, gradient=False).energy for sign in (1, -1))
    assert gradient is not None
    np.testing.assert_allclose(((upper - lower) / (2 * step)).reshape(x.shape), gradient, atol=1e-3, rtol=1e-4)


def test_temperature_scales(peptide: Peptide, energy: OpenMMEnergy) -> None:
    cold, warm = energy.evaluate(FRAMES[:2]), OpenMMEnergy(peptide, 620.0).evaluate(FRAMES[:2])
    np.testing.assert_allclose(warm.energy * 2, cold.energy, rtol=1e-12)


def test_translation_does_not_matter(energy: OpenMMEnergy) -> None:
    """In float32, a peptide 10 µm from the origin would be off by several kT."""
    moved = energy.evaluate(FRAMES[:5] + 1e4).energy
    np.testing.assert_allclose(moved, energy.evaluate(FRAMES[:5]).energy, rtol=1e-6)


def spoilt(kind: str) -> np.ndarray:
    x = FRAMES[0].copy()
    match kind:
        case "nan":
            x[3, 1] = np.nan
        case "inf":
            x[3, 1] = -np.inf
        case "huge":
            x[5] = 1e30
        case "overflow":
            x[5:8] = 1.7e308
        case "far":
            x[5] += 2 * MAX_RADIUS_NM
        case "coincident":
            x[22] = x[8]
        case "bonded coincident":
            x[0] = x[1]
        case "nearly coincident":
            x[22] = x[8] + [1e-6, 0, 0]
        case "all equal":
            x[:] = 0.0
    return x


BAD = "nan inf huge overflow far coincident|bonded coincident|nearly coincident|all equal"
BAD_KINDS = [kind for group in BAD.split(" ", 5) for kind in group.split("|")]


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("kind", BAD_KINDS)
def test_bad_rows_are_values(energy: OpenMMEnergy, kind: str, gradient: bool) -> None:
    alone = energy.evaluate(FRAMES[:2], gradient)
    batch = energy.evaluate(np.stack([FRAMES[0], spoilt(kind), FRAMES[1]]), gradient)
    assert batch.ok.tolist() == [True, False, True]
    assert batch.energy[1] == np.inf
    np.testing.assert_array_equal(batch.energy[[0, 2]], alone.energy)
    if gradient:
        assert batch.gradient is not None
        assert alone.gradient is not None
        assert (batch.gradient[1] == 0).all()
        np.testing.assert_array_equal(batch.gradient[[0, 2]], alone.gradient)


def test_every_coincident_pair_is_bad(energy: OpenMMEnergy) -> None:
    n = len(FRAMES[0])
    pairs = [(i, j) for i in range(n) for j in range(i)]
    x = np.repeat(FRAMES[:1], len(pairs), 0)
    for row, (i, j) in enumerate(pairs):
        x[row, i] = x[row, j]
    assert not energy.evaluate(x).ok.any()


def test_beyond_the_cutoff_is_fine(energy: OpenMMEnergy) -> None:
    x = np.repeat(FRAMES[:1], 4, 0)
    x[:, 12:] += np.array([2.0, 5.0, 20.0, 60.0])[:, None, None]
    batch = energy.evaluate(x)
    assert batch.ok.all()
    assert (np.diff(batch.energy) > 0).all()


def test_random_conformations_never_raise(energy: OpenMMEnergy) -> None:
    rng = np.random.default_rng(1)
    scale = 10.0 ** rng.uniform(-8, 4, size=(1000, 1, 1))
    batch = energy.evaluate(rng.normal(size=(1000, 23, 3)) * scale)
    assert 0 < batch.ok.sum() < 1000
    assert np.isfinite(batch.energy[batch.ok]).all()
    assert (batch.energy[~batch.ok] == np.inf).all()


@pytest.mark.parametrize("moved_nm", [1e-4, 0.01, 0.1, 0.3, 0.45, 0.55, 1.0])
def test_a_row_does_not_depend_on_the_others(energy: OpenMMEnergy, moved_nm: float) -> None:
    """Bit for bit, although OpenMM carries a neighbour list from one evaluation to the next."""
    rng = np.random.default_rng(2)
    walk = np.repeat(FRAMES[:10], 4, 0)
    atom = rng.integers(23, size=len(walk))
    direction = rng.normal(size=(len(walk), 3))
    walk[np.arange(len(walk)), atom] += moved_nm * direction / np.linalg.norm(direction, axis=-1, keepdims=True)
    together = energy.evaluate(walk)
    order = rng.permutation(len(walk))
    shuffled = energy.evaluate(walk[order])
    alone = [energy.evaluate(walk[i : i + 1]).energy[0] for i in range(len(walk))]
    np.testing.assert_array_equal(together.energy, alone)
    np.testing.assert_array_equal(shuffled.energy, together.energy[order])
    assert shuffled.gradient is not None
    assert together.gradient is not None
    np.testing.assert_array_equal(shuffled.gradient, together.gradient[order])


def test_pickles_and_takes_an_empty_batch_and_float32(energy: OpenMMEnergy) -> None:
    expected = energy.evaluate(FRAMES[:3])
    copy = pickle.loads(pickle.dumps(energy)).evaluate(FRAMES[:3])
    np.testing.assert_array_equal(copy.energy, expected.energy)
    empty = energy.evaluate(FRAMES[:0])
    assert empty.gradient is not None
    assert (empty.energy.shape, empty.gradient.shape, empty.ok.shape) == ((0,), (0, 23, 3), (0,))
    single = energy.evaluate(FRAMES[:3].astype(np.float32))
    assert single.energy.dtype == np.float64


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (FRAMES[0], r"shape \(23, 3\): give \(B, 23, 3\)"),
        (FRAMES[:2, :22], r"give \(B, 23, 3\)"),
        (FRAMES[:2].astype(np.int64), "dtype int64: give floating-point"),
        (FRAMES[:2].astype(complex), "dtype complex128"),
    ],
)
def test_wrong_input(energy: OpenMMEnergy, x: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        energy.evaluate(x)


def test_wrong_settings(peptide: Peptide) -> None:
    with pytest.raises(ValueError, match="temperature_k=0"):
        OpenMMEnergy(peptide, 0)
    with pytest.raises(ValueError, match="unknown force field 'amber': use one of amber14-obc1"):
        OpenMMEnergy(peptide, forcefield="amber")


@needs_affinity
def test_affinity_is_restored_and_the_worker_pinned(peptide: Peptide) -> None:
    core = max(ALLOWED)
    energy = OpenMMEnergy(peptide, core=core)
    tasks = {int(path.name) for path in Path("/proc/self/task").iterdir()}
    energy.evaluate(FRAMES[:2])
    assert os.sched_getaffinity(0) == ALLOWED
    workers = {int(path.name) for path in Path("/proc/self/task").iterdir()} - tasks
    assert [os.sched_getaffinity(task) for task in workers] == [{core}]
    with pytest.raises(ZeroDivisionError), pinned(core):
        _ = len(os.sched_getaffinity(0) - {core}) / 0
    assert os.sched_getaffinity(0) == ALLOWED
    with pytest.raises(ValueError, match=r"core 100000 cannot be used: choose one of \["):
        OpenMMEnergy(peptide, core=100_000).evaluate(FRAMES[:1])


@pytest.mark.parametrize("sequence", ["A", "AAA"])
def test_capped_single_systems(sequence: str) -> None:
    peptide = Peptide.from_pdb(capped(sequence))
    assert peptide.sequence == f"ACE-{sequence}-NME"
    assert peptide.n_atoms == 12 + 10 * len(sequence)
    assert peptide.vocabulary == 2  # outside the public one
    x = peptide.positions[None] + 0.002 * np.random.default_rng(0).normal(size=(4, peptide.n_atoms, 3))
    results = [
        OpenMMEnergy(peptide, 300.0, forcefield="amber99sbildn-obc", platform=platform).evaluate(x)
        for platform in ("CPU", "Reference")
    ]
    assert all(result.ok.all() for result in results)
    np.testing.assert_allclose(results[0].energy, results[1].energy, rtol=1e-5)


def test_systems_are_the_published_ones(peptide: Peptide) -> None:
    system = create_system(peptide)
    names = [force.getName() for force in system.getForces()]
    bonded = {"HarmonicBondForce", "HarmonicAngleForce", "PeriodicTorsionForce"}
    assert set(names) == bonded | {"NonbondedForce", "CustomGBForce", "CMMotionRemover"}
    nonbonded = system.getForce(names.index("NonbondedForce"))
    assert nonbonded.getNonbondedMethod() == nonbonded.CutoffNonPeriodic
    assert nonbonded.getCutoffDistance()._value == 2.0
    assert nonbonded.getReactionFieldDielectric() == 1.0
    assert system.getNumConstraints() == 0
    assert set(FORCEFIELDS) == {"amber14-obc1", "amber99sbildn-obc"}


def test_force_field_without_parameters() -> None:
    """A residue that the force field has no template for: the last one, less its second oxygen."""
    peptide = Peptide.from_sequence("AA")
    modeller = app.Modeller(peptide.topology, peptide.positions * unit.nanometer)
    modeller.delete([atom for atom in peptide.topology.atoms() if atom.name == "OXT"])
    with pytest.raises(ValueError, match=r"^force field amber14-obc1 has no parameters for AA \([^\n]+$"):
        create_system(replace(peptide, topology=modeller.topology))
