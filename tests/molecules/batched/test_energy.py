"""The batched force field: against OpenMM's Reference platform, as a derivative, and for bad rows."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from openmm import app

from boltzray.molecules import BatchedEnergy, OpenMMEnergy, Peptide
from boltzray.molecules.batched.energy import MAX_RADIUS_NM
from boltzray.molecules.batched.mixture import MixedEnergy
from boltzray.molecules.batched.tables import read_system
from boltzray.molecules.constants import KB
from boltzray.molecules.forcefield import create_system

ROOT = Path(__file__).parents[3]
GOLDEN = np.load(ROOT / "tests" / "golden" / "metrics.npz")
FRAMES = GOLDEN["reference"].astype(np.float64)
KT = KB * 310.0
ALL_TWENTY = ["AA", "ARIP", "ACDEFGHI", "KLMNPQRS", "TVWY"]
CAPPED = """\
ATOM      1  H1  ACE A   1       2.000   1.000  -0.000  1.00  0.00           H
ATOM      2  CH3 ACE A   1       2.000   2.090   0.000  1.00  0.00           C
ATOM      3  H2  ACE A   1       1.486   2.454   0.890  1.00  0.00           H
ATOM      4  H3  ACE A   1       1.486   2.454  -0.890  1.00  0.00           H
ATOM      5  C   ACE A   1       3.427   2.641  -0.000  1.00  0.00           C
ATOM      6  O   ACE A   1       4.391   1.877  -0.000  1.00  0.00           O
ATOM      7  N   ALA A   2       3.555   3.970  -0.000  1.00  0.00           N
ATOM      8  H   ALA A   2       2.733   4.556  -0.000  1.00  0.00           H
ATOM      9  CA  ALA A   2       4.853   4.614  -0.000  1.00  0.00           C
ATOM     10  HA  ALA A   2       5.408   4.316   0.890  1.00  0.00           H
ATOM     11  CB  ALA A   2       5.661   4.221  -1.232  1.00  0.00           C
ATOM     12  HB1 ALA A   2       5.123   4.521  -2.131  1.00  0.00           H
ATOM     13  HB2 ALA A   2       6.630   4.719  -1.206  1.00  0.00           H
ATOM     14  HB3 ALA A   2       5.809   3.141  -1.241  1.00  0.00           H
ATOM     15  C   ALA A   2       4.713   6.129   0.000  1.00  0.00           C
ATOM     16  O   ALA A   2       3.601   6.653   0.000  1.00  0.00           O
ATOM     17  N   NME A   3       5.846   6.835   0.000  1.00  0.00           N
ATOM     18  H   NME A   3       6.737   6.359  -0.000  1.00  0.00           H
ATOM     19  C   NME A   3       5.846   8.284   0.000  1.00  0.00           C
ATOM     20  H1  NME A   3       4.819   8.648   0.000  1.00  0.00           H
ATOM     21  H2  NME A   3       6.360   8.648   0.890  1.00  0.00           H
ATOM     22  H3  NME A   3       6.360   8.648  -0.890  1.00  0.00           H
END
"""


@pytest.fixture(scope="module")
def peptide() -> Peptide:
    return Peptide.from_pdb(GOLDEN["pdb"].tobytes().decode())


@pytest.fixture(scope="module")
def energy(peptide: Peptide) -> BatchedEnergy:
    return BatchedEnergy(peptide)


def system_of(name: str) -> tuple[Peptide, str]:
    if name == "capped":
        return Peptide.from_pdb(CAPPED), "amber99sbildn-obc"
    return Peptide.from_sequence(name), "amber14-obc1"


def shaken(peptide: Peptide) -> np.ndarray:
    """Extended, as warm as dynamics, and far too hot."""
    noise = np.random.default_rng(0).normal(size=(4, peptide.n_atoms, 3))
    return peptide.positions + np.array([0, 0.003, 0.01, 0.06])[:, None, None] * noise


def tensor(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames)


@pytest.mark.parametrize("name", [*ALL_TWENTY, "capped"])
def test_equals_reference(name: str) -> None:
    peptide, forcefield = system_of(name)
    x = shaken(peptide)
    expected = OpenMMEnergy(peptide, forcefield=forcefield, platform="Reference").evaluate(x)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        batch = BatchedEnergy(peptide, forcefield=forcefield).to(dtype).evaluate(tensor(x))
        assert batch.energy.dtype == dtype
        assert batch.ok.all()
        np.testing.assert_allclose(batch.energy, expected.energy, rtol=tolerance)
        assert batch.gradient is not None
        assert expected.gradient is not None
        scale = np.abs(expected.gradient).max((1, 2), keepdims=True)
        np.testing.assert_allclose(batch.gradient / scale, expected.gradient / scale, atol=tolerance)


@pytest.mark.parametrize("name", ["ACDEFGHI", "KLMNPQRS", "TVWY", "capped"])
def test_every_term_equals_reference(name: str) -> None:
    peptide, forcefield = system_of(name)
    system, x = create_system(peptide, forcefield), shaken(peptide)
    names = [force.getName() for force in system.getForces()]
    for group, force in enumerate(system.getForces()):
        force.setForceGroup(group)
    integrator, platform = openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    module = BatchedEnergy(peptide, forcefield=forcefield)
    double, single = module.terms(tensor(x)), module.float().terms(tensor(x))
    for row, frame in enumerate(x):
        context.setPositions(frame)
        for group, name in enumerate(names):
            state = context.getState(energy=True, groups={group})
            expected = state.getPotentialEnergy()._value / KT
            name = "GBForce" if "GB" in name else name
            if name in double:
                assert double[name][row].item() == pytest.approx(expected, rel=1e-9), name
                assert single[name][row].item() == pytest.approx(expected, rel=1e-4), name


@pytest.mark.parametrize("sequence", ["AA", "DG", "ARIP"])
def test_three_codes_agree_on_frames_of_dynamics(sequence: str, data: Path) -> None:
    peptide = Peptide.from_pdb(data / "pdbs" / "test" / f"{sequence}.pdb")
    path = data / "trajectories_subsampled" / "test" / f"{len(sequence)}AA" / f"{sequence}_subsampled.npz"
    x = np.load(path)["positions"][::20][:50].astype(np.float64)
    reference = OpenMMEnergy(peptide, platform="Reference").evaluate(x)
    single = BatchedEnergy(peptide).float().evaluate_arrays(x)
    assert reference.gradient is not None
    scale = np.abs(reference.gradient).max()
    for batch, tolerance in (
        (OpenMMEnergy(peptide).evaluate(x), 1e-5),
        (BatchedEnergy(peptide).evaluate_arrays(x), 1e-9),
        (single, 1e-4),
    ):
        np.testing.assert_allclose(batch.energy, reference.energy, rtol=tolerance)
        assert batch.gradient is not None
        np.testing.assert_allclose(batch.gradient, reference.gradient, atol=tolerance * scale)


def test_arrays_in_and_out_as_openmm_has_them(peptide: Peptide, energy: BatchedEnergy) -> None:
    """Of a read-only array, as Ray gives it; of wrong input, the same words."""
    x = np.stack([FRAMES[0], spoilt("nan"), FRAMES[1], spoilt("1e30"), spoilt("coincident")])
    x.flags.writeable = False
    for module in (energy, BatchedEnergy(peptide).float()):
        batch, expected = module.evaluate_arrays(x), OpenMMEnergy(peptide).evaluate(x)
        assert batch.gradient is not None
        assert (batch.energy.dtype, batch.gradient.dtype, batch.ok.dtype) == (np.float64, np.float64, np.bool_)
        assert batch.ok.tolist() == expected.ok.tolist() == [True, False, True, False, False]
        assert (batch.energy[~batch.ok] == np.inf).all()
        assert (batch.gradient[~batch.ok] == 0).all()
        np.testing.assert_allclose(batch.energy[batch.ok], expected.energy[batch.ok], rtol=1e-4)
        assert module.evaluate_arrays(x, gradient=False).gradient is None
    with pytest.raises(ValueError, match=r"shape \(22, 3\): give \(B, 23, 3\), in nm"):
        energy.evaluate_arrays(x[0, :22])


def test_without_a_compiler_it_stays_eager_and_says_why(peptide: Peptide) -> None:
    import torch._inductor.config

    energy, x = BatchedEnergy(peptide), tensor(FRAMES[:2])
    expected = energy(x)
    with torch._inductor.config.patch({"cpp.cxx": ("/nonexistent/g++",)}):
        reason = energy.try_compile(x)
    assert reason is not None
    assert reason.startswith("No working C++ compiler found")
    assert not energy.compiled
    assert torch.equal(energy(x), expected)


def test_stored_energies(energy: BatchedEnergy) -> None:
    for key in ("reference", "generated"):
        batch = energy.evaluate(torch.from_numpy(GOLDEN[key][:200]), gradient=False)
        assert batch.gradient is None
        np.testing.assert_allclose(batch.energy, GOLDEN[f"{key}_energy_kT"][:200], rtol=1e-5)


def test_gradient_is_the_derivative(energy: BatchedEnergy) -> None:
    x, size = tensor(FRAMES[:1]), FRAMES[0].size
    shifts = torch.eye(size, dtype=torch.float64).reshape(-1, *x[0].shape) * 1e-6
    gradient = energy.evaluate(x).gradient
    difference = (energy(x + shifts) - energy(x - shifts)) / 2e-6
    assert gradient is not None
    torch.testing.assert_close(difference.reshape(x.shape), gradient, atol=1e-3, rtol=1e-6)


@pytest.mark.parametrize(("name", "centre", "r"), [("AC", "SG", 0.03), ("capped", "CH3", 0.01)])
def test_atoms_engulfed_by_others(name: str, centre: str, r: float) -> None:
    """A hydrogen that lies inside the sphere of its atom: the two kinds of generalised Born differ here."""
    peptide, forcefield = system_of(name)
    atoms = list(peptide.topology.atoms())
    bond = next(b for b in peptide.topology.bonds() if {b[0].name, b[1].name} in ({"SG", "HG"}, {"CH3", "H1"}))
    hydrogen = next(atom.index for atom in bond if atom.element.symbol == "H")
    heavy = next(atom.index for atom in atoms if atom.name == centre)
    x = peptide.positions[None].copy()
    direction = x[0, hydrogen] - x[0, heavy]
    x[0, hydrogen] = x[0, heavy] + r * direction / np.linalg.norm(direction)
    expected = OpenMMEnergy(peptide, forcefield=forcefield, platform="Reference").evaluate(x)
    batch = BatchedEnergy(peptide, forcefield=forcefield).evaluate(tensor(x))
    assert batch.ok.all()
    assert batch.gradient is not None
    np.testing.assert_allclose(batch.energy, expected.energy, rtol=1e-9)
    np.testing.assert_allclose(batch.gradient, expected.gradient, rtol=1e-6, atol=1e-3)


def test_rows_of_several_peptides_padded() -> None:
    """Whatever stands where a peptide has no atoms; a bad row spoils itself only."""
    peptides = [Peptide.from_sequence(sequence) for sequence in ("AA", "GP", "WF", "KYC")]
    energies, owners = [BatchedEnergy(p) for p in peptides], [0, 1, 2, 3, 3, 2, 1, 0, 0]
    x = torch.full((len(owners), 72, 3), torch.nan, dtype=torch.float64)
    for row, owner in enumerate(owners):
        x[row, : energies[owner].n_atoms] = tensor(shaken(peptides[owner])[row % 3]) + row
    x[4, 3] = torch.nan
    energy, slope = MixedEnergy(energies, owners, 72).unchecked(x)
    assert slope is not None
    assert energy.isfinite().tolist() == [row != 4 for row in range(len(owners))]
    for row, owner in enumerate(owners):
        n = energies[owner].n_atoms
        if row != 4:
            expected = energies[owner].evaluate(x[row : row + 1, :n])
            assert expected.gradient is not None
            torch.testing.assert_close(energy[row], expected.energy[0], rtol=1e-12, atol=0)
            scale = expected.gradient.abs().max()
            torch.testing.assert_close(slope[row, :n] / scale, expected.gradient[0] / scale, rtol=0, atol=1e-12)
            assert (slope[row, n:] == 0).all()


def test_differentiable_once(energy: BatchedEnergy) -> None:
    x = tensor(FRAMES[:3]).float().requires_grad_()
    (2 * energy(x)).sum().backward()
    batch = energy.evaluate(x)
    assert x.grad is not None
    assert batch.gradient is not None
    assert not batch.gradient.requires_grad
    torch.testing.assert_close(x.grad, 2 * batch.gradient.float())


def spoilt(kind: str) -> np.ndarray:
    x = FRAMES[0].copy()
    match kind:
        case "nan":
            x[3, 1] = np.nan
        case "inf":
            x[3, 1] = -np.inf
        case "1e30":
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


KINDS = ["nan", "inf", "1e30", "overflow", "far", "coincident", "bonded coincident", "nearly coincident"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("kind", [*KINDS, "all equal"])
def test_bad_rows_are_values(peptide: Peptide, kind: str, gradient: bool, dtype: torch.dtype) -> None:
    energy = BatchedEnergy(peptide).to(dtype)
    alone = energy.evaluate(tensor(FRAMES[:2]), gradient)
    batch = energy.evaluate(tensor(np.stack([FRAMES[0], spoilt(kind), FRAMES[1]])), gradient)
    assert batch.ok.tolist() == [True, False, True]
    assert batch.energy[1] == torch.inf
    assert torch.equal(batch.energy[[0, 2]], alone.energy)
    if gradient:
        assert batch.gradient is not None
        assert alone.gradient is not None
        assert (batch.gradient[1] == 0).all()
        assert torch.equal(batch.gradient[[0, 2]], alone.gradient)


def test_every_coincident_pair_is_bad(energy: BatchedEnergy) -> None:
    i, j = np.triu_indices(23, 1)
    x = np.repeat(FRAMES[:1], len(i), 0)
    x[np.arange(len(i)), i] = x[np.arange(len(i)), j]
    for gradient in (True, False):
        assert not energy.evaluate(tensor(x), gradient).ok.any()


def test_at_and_beyond_the_cutoff(peptide: Peptide, energy: BatchedEnergy) -> None:
    """One pair of atoms just inside, at, and just outside 2 nm; then the halves far apart."""
    x = np.repeat(FRAMES[:1], 8, 0)
    direction = x[0, 22] - x[0, 0]
    direction /= np.linalg.norm(direction)
    for row, r in enumerate([2 - 1e-9, 2.0, 2 + 1e-9, 2.5]):
        x[row, 22] = x[row, 0] + r * direction
    x[4:, 12:] += np.array([2.0, 5.0, 20.0, 60.0])[:, None, None]
    batch = energy.evaluate(tensor(x))
    assert batch.ok.all()
    expected = OpenMMEnergy(peptide, platform="Reference").evaluate(x)
    inside = [0, 2, 3, 4, 5, 6, 7]  # at the cutoff, rounding decides
    np.testing.assert_allclose(batch.energy[inside], expected.energy[inside], rtol=1e-9)
    assert batch.energy[1].item() in (
        pytest.approx(batch.energy[0].item(), rel=1e-8),
        pytest.approx(batch.energy[2].item(), rel=1e-8),
    )


def random_conformations(count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.normal(size=(count, 23, 3)) * 10.0 ** rng.uniform(-4, 3, size=(count, 1, 1))


def compare_random(peptide: Peptide, count: int) -> None:
    x = random_conformations(count)
    expected = OpenMMEnergy(peptide).evaluate(x)
    batch = BatchedEnergy(peptide).evaluate(tensor(x))
    ok = batch.ok.numpy()
    assert 0 < ok.sum() < count
    # OpenMM's CPU platform works in float32: at the edge of its range the two may disagree.
    assert (ok != expected.ok).mean() < 0.1
    assert (expected.energy[ok != expected.ok & np.isfinite(expected.energy)] > 1e20).all()
    both = ok & expected.ok
    np.testing.assert_allclose(batch.energy[both], expected.energy[both], rtol=1e-4)


def test_random_conformations(peptide: Peptide) -> None:
    compare_random(peptide, 1000)


@pytest.mark.slow
def test_many_random_conformations(peptide: Peptide) -> None:
    compare_random(peptide, 100_000)


def test_a_row_does_not_depend_on_the_others(peptide: Peptide) -> None:
    energy = BatchedEnergy(peptide).float()
    together = energy.evaluate(tensor(FRAMES[:300]))
    order = np.random.default_rng(2).permutation(300)
    shuffled = energy.evaluate(tensor(FRAMES[order]))
    assert torch.equal(shuffled.energy, together.energy[order])
    assert shuffled.gradient is not None
    assert together.gradient is not None
    assert torch.equal(shuffled.gradient, together.gradient[order])
    alone = torch.cat([energy.evaluate(tensor(FRAMES[i : i + 1])).energy for i in range(20)])
    assert torch.equal(alone, together.energy[:20])


def test_loads_without_openmm(peptide: Peptide, energy: BatchedEnergy, tmp_path: Path) -> None:
    energy.save(tmp_path / "aa.npz")
    np.save(tmp_path / "x.npy", FRAMES[:4])
    code = (
        "import sys; sys.modules['openmm'] = None\n"
        "import numpy as np, torch; from boltzray.molecules import BatchedEnergy\n"
        f"energy = BatchedEnergy.load({str(tmp_path / 'aa.npz')!r})\n"
        f"x = torch.from_numpy(np.load({str(tmp_path / 'x.npy')!r}))\n"
        "print(energy.temperature_k, *energy.evaluate(x).energy.tolist())"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    expected = [310.0, *energy.evaluate(tensor(FRAMES[:4])).energy.tolist()]
    np.testing.assert_allclose([float(word) for word in run.stdout.split()], expected, rtol=1e-12)
    with pytest.raises(FileNotFoundError):
        BatchedEnergy.load(tmp_path / "nothing.npz")
    (tmp_path / "broken.npz").write_bytes((tmp_path / "aa.npz").read_bytes()[:500])
    np.savez(tmp_path / "other.npz", positions=FRAMES[:1])
    for name in ("broken", "other", "x"):
        path = tmp_path / f"{name}.{'npy' if name == 'x' else 'npz'}"
        with pytest.raises(ValueError, match=f"{path.name} holds no batched energy: write it with"):
            BatchedEnergy.load(path)


def test_pickles_and_takes_an_empty_batch(energy: BatchedEnergy) -> None:
    expected = energy.evaluate(tensor(FRAMES[:3]))
    copy = pickle.loads(pickle.dumps(energy)).evaluate(tensor(FRAMES[:3]))
    assert torch.equal(copy.energy, expected.energy)
    empty = energy.evaluate(tensor(FRAMES[:0]))
    assert empty.gradient is not None
    assert (empty.energy.shape, empty.gradient.shape, empty.ok.shape) == ((0,), (0, 23, 3), (0,))
    assert energy(tensor(FRAMES[:0])).shape == (0,)


def test_temperature_scales(peptide: Peptide, energy: BatchedEnergy) -> None:
    warm = BatchedEnergy(peptide, 620.0)(tensor(FRAMES[:2]))
    torch.testing.assert_close(warm * 2, energy(tensor(FRAMES[:2])), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (FRAMES[0], r"shape \(23, 3\): give \(B, 23, 3\)"),
        (FRAMES[:2, :22], r"give \(B, 23, 3\)"),
        (FRAMES[:2].astype(np.int64), "dtype torch.int64: give floating-point"),
    ],
)
def test_wrong_input(energy: BatchedEnergy, x: np.ndarray, message: str) -> None:
    for call in (energy, energy.evaluate, energy.terms):
        with pytest.raises(ValueError, match=message):
            call(torch.from_numpy(x))


def test_wrong_settings(peptide: Peptide) -> None:
    with pytest.raises(ValueError, match="temperature_k=0"):
        BatchedEnergy(peptide, 0)
    with pytest.raises(ValueError, match="unknown force field 'amber'"):
        BatchedEnergy(peptide, forcefield="amber")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.addForce(openmm.CustomBondForce("r")), "does not know CustomBondForce"),
        (lambda s: s.addConstraint(0, 1, 0.1), "has constraints"),
        (lambda s: force(s, "Bond").setUsesPeriodicBoundaryConditions(True), "HarmonicBondForce is periodic"),
        (lambda s: force(s, "Nonbonded").setNonbondedMethod(2), "NonbondedForce is periodic"),
        (lambda s: force(s, "CustomGB").setComputedValueParameters(0, "I", "r", 2), "is none of HCT, OBC1"),
        (lambda s: force(s, "CustomGB").addEnergyTerm("charge", 0), "is none of HCT, OBC1"),
        (lambda s: force(s, "CustomGB").setCutoffDistance(1.5), "is none of HCT, OBC1"),
        (lambda s: force(s, "Torsion").addTorsion(0, 1, 2, 3, 7, 0.0, 1.0), "periodicity 7"),
    ],
)
def test_unknown_systems_are_refused_by_name(peptide: Peptide, change, message: str) -> None:  # type: ignore[no-untyped-def]
    system = create_system(peptide)
    change(system)
    with pytest.raises(ValueError, match=message):
        read_system(system)


def force(system: openmm.System, name: str) -> openmm.Force:
    return next(f for f in system.getForces() if name in f.getName())


def test_other_phases_and_no_cutoff(peptide: Peptide) -> None:
    """Features that the named force fields do not use but a System may have."""
    files = app.ForceField("amber14-all.xml", "implicit/obc1.xml")
    system = files.createSystem(peptide.topology, nonbondedMethod=app.NoCutoff, constraints=None)
    for i in range(20):
        force(system, "Torsion").addTorsion(i, i + 1, i + 2, i + 3, 1 + i % 6, 0.3 * i, 2.0)
    module = BatchedEnergy.of_system(system, 310.0)
    frame = FRAMES[0].copy()
    frame[12:] += 1.5  # pairs beyond 2 nm
    integrator, platform = openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    context.setPositions(frame)
    state = context.getState(energy=True, forces=True)
    batch = module.evaluate(tensor(frame[None]))
    assert batch.gradient is not None
    np.testing.assert_allclose(batch.energy[0], state.getPotentialEnergy()._value / KT, rtol=1e-9)
    expected = state.getForces(asNumpy=True)._value / -KT
    np.testing.assert_allclose(batch.gradient[0], expected, atol=1e-9 * np.abs(expected).max())


@pytest.mark.slow
def test_compiled_equals_eager(peptide: Peptide) -> None:
    """Also: one compilation serves other batch sizes and other peptides; rows stay independent."""
    for molecule, frames in ((peptide, FRAMES), (Peptide.from_sequence("ARIP"), None)):
        x = tensor(frames[:200] if frames is not None else shaken(molecule).repeat(50, 0))
        eager, compiled = BatchedEnergy(molecule).float(), BatchedEnergy(molecule).float()
        compiled.compile()
        expected, batch = eager.evaluate(x), compiled.evaluate(x)
        torch.testing.assert_close(batch.energy, expected.energy, rtol=1e-5, atol=1e-3)
        assert batch.gradient is not None
        assert expected.gradient is not None
        scale = expected.gradient.abs().amax((1, 2), keepdim=True)
        torch.testing.assert_close(batch.gradient / scale, expected.gradient / scale, rtol=0, atol=1e-5)
        assert torch.equal(compiled.evaluate(x[7:8]).energy, batch.energy[7:8])


@pytest.mark.slow
def test_compiled_mixtures_equal_eager() -> None:
    for sequences, padding, rows in ((("AA", "GP"), 24, 5), (("AF", "KE", "NV"), 40, 40)):
        peptides = [Peptide.from_sequence(sequence) for sequence in sequences]
        energies = [BatchedEnergy(p).float() for p in peptides]
        owners = [i % len(peptides) for i in range(rows)]
        mixed, x = MixedEnergy(energies, owners, padding), torch.zeros(rows, padding, 3)
        for row, owner in enumerate(owners):
            x[row, : energies[owner].n_atoms] = tensor(shaken(peptides[owner])[row % 3])
        expected, slope = mixed.unchecked(x)
        assert mixed.try_compile(x) is None
        energy, compiled = mixed.unchecked(x)
        assert slope is not None
        assert compiled is not None
        torch.testing.assert_close(energy, expected, rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(compiled, slope, rtol=0, atol=1e-5 * slope.abs().max().item())
