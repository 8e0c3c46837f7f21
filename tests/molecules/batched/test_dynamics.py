"""Batched dynamics: conserved energy, temperature, the equilibrium of OpenMM, and resuming bit for bit."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from scipy.stats import ks_2samp

from boltzray.molecules import BatchedEnergy, OpenMMEnergy, Peptide, runs
from boltzray.molecules.batched.dynamics import Replicas, langevin_step, simulate, thermal_velocities
from boltzray.molecules.batched.mixture import MixedEnergy
from boltzray.molecules.constants import KB
from boltzray.molecules.dynamics import simulate as simulate_openmm
from boltzray.molecules.energy import make_context
from boltzray.molecules.forcefield import create_system
from boltzray.molecules.runs import MDConfig, load_trajectory

ROOT = Path(__file__).parents[3]
GOLDEN = np.load(ROOT / "tests" / "golden" / "metrics.npz")
FRAMES = torch.from_numpy(GOLDEN["reference"].astype(np.float64))
SHORT = MDConfig(warmup_ps=0.05, interval_ps=0.01, frames_per_chunk=2)
FREEDOM = 3 * 23 - 3  # the centre of mass is kept at rest


@pytest.fixture(scope="module")
def peptide() -> Peptide:
    return Peptide.from_pdb(GOLDEN["pdb"].tobytes().decode())


def start(energy: BatchedEnergy, frames: torch.Tensor, generator: torch.Generator) -> Replicas:
    x = frames.to(energy.mass)
    return Replicas(x, thermal_velocities(energy, normal(x, generator)))


def normal(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(like.shape, dtype=like.dtype, generator=generator)


def temperature(energy: BatchedEnergy, v: torch.Tensor) -> torch.Tensor:
    return (energy.mass[:, None] * v**2).sum((1, 2)) / (FREEDOM * KB)


def agree(name: str, values: torch.Tensor, expected: float, expected_error: float = 0.0) -> None:
    """The mean over independent replicas within five standard errors."""
    mean = values.double().mean().item()
    error = np.hypot(values.double().std().item() / np.sqrt(len(values)), expected_error)
    assert abs(mean - expected) < 5 * error, f"{name}: {mean:.3f} ± {error:.3f}, expected {expected:.3f}"


def test_energy_is_conserved_without_friction(peptide: Peptide) -> None:
    """Verlet: the fluctuation shrinks with the square of the step, and there is no drift."""
    energy = BatchedEnergy(peptide)
    fluctuation = {}
    for timestep in (0.5, 0.25):
        step = langevin_step(energy, timestep, friction_per_ps=0.0)
        generator = torch.Generator().manual_seed(1)
        state, totals = start(energy, FRAMES[:32], generator), []
        for _ in range(round(40 / timestep)):
            moved = step(state, normal(state.x, generator))
            middle = (state.v + moved.v) / 2  # velocities are half a step off the positions
            kinetic = 0.5 * (energy.mass[:, None] * middle**2).sum((1, 2)) / energy.kt
            totals.append(energy(state.x) + kinetic)
            state = moved
        total = torch.stack(totals[1:])
        fluctuation[timestep] = (total - total.mean(0)).pow(2).mean().sqrt().item()
        half = len(total) // 2
        agree("drift in kT", total[half:].mean(0) - total[:half].mean(0), 0.0)
    assert fluctuation[0.25] < fluctuation[0.5] / 3 < 0.5


def test_nve_equals_openmm(peptide: Peptide) -> None:
    """The same trajectory as OpenMM's Verlet, so the same drift; from a centre of mass at rest, as both keep it."""
    energy = BatchedEnergy(peptide)
    generator = torch.Generator().manual_seed(4)
    state = start(energy, FRAMES[:3], generator)
    share = (energy.mass / energy.mass.sum())[:, None]
    state = Replicas(state.x, state.v - (share * state.v).sum(1, keepdim=True))
    step, ours, theirs = langevin_step(energy, 0.5, friction_per_ps=0.0), state, []
    for x, v in zip(*state, strict=True):
        context = make_context(create_system(peptide), "Reference", openmm.VerletIntegrator(0.0005))
        context.setPositions(x.numpy())
        context.setVelocities(v.numpy())
        context.getIntegrator().step(100)
        theirs.append(context.getState(positions=True).getPositions(asNumpy=True)._value)
    for _ in range(100):
        ours = step(ours, ours.v)
    assert (ours.x - state.x).abs().max() > 0.01
    np.testing.assert_allclose(ours.x, np.stack(theirs), atol=1e-6)


def test_noiseless_step_is_verlet(peptide: Peptide) -> None:
    """Against the formula, and against OpenMM's gradient."""
    energy = BatchedEnergy(peptide)
    generator = torch.Generator().manual_seed(0)
    state = start(energy, FRAMES[:2], generator)
    moved = langevin_step(energy, 1.0, 0.0)(state, normal(state.x, generator))
    gradient = OpenMMEnergy(peptide, platform="Reference").evaluate(state.x.numpy()).gradient
    assert gradient is not None
    mass = energy.mass.numpy()[:, None]
    v = state.v.numpy() - (mass * state.v.numpy()).sum(1, keepdims=True) / mass.sum()
    v = v - 0.001 * energy.kt * gradient / mass
    np.testing.assert_allclose(moved.v, v, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(moved.x, state.x.numpy() + 0.001 * v, rtol=1e-12)
    assert torch.equal(langevin_step(energy, 1.0, 0.0)(state, normal(state.x, generator)).x, moved.x)  # pure


def test_stationary_at_the_equilibrium_of_openmm(peptide: Peptide) -> None:
    """Frames of a long OpenMM run stay what they are: potential energy, its spread, and the temperature."""
    energy = BatchedEnergy(peptide).float()
    generator = torch.Generator().manual_seed(2)
    step, state = langevin_step(energy, 1.0, friction_per_ps=20.0), start(energy, FRAMES[:480], generator)
    for _ in range(150):
        state = step(state, normal(state.x, generator))
    reference = torch.from_numpy(GOLDEN["reference_energy_kT"])
    potential, n = energy(state.x), len(reference)
    agree("potential energy", potential, reference.mean().item(), reference.std().item() / np.sqrt(n))
    spread = (reference - reference.mean()) ** 2
    agree("its variance", (potential - potential.mean()) ** 2, spread.mean().item(), spread.std().item() / np.sqrt(n))
    agree("temperature", temperature(energy, state.v), 310.0)


@pytest.mark.slow
def test_same_distribution_as_openmm(peptide: Peptide, tmp_path: Path) -> None:
    """Both from the built structure, at the published friction, after the same time; two independent codes."""
    energy, config = BatchedEnergy(peptide).float(), MDConfig(warmup_ps=2.0, interval_ps=0.5, frames_per_chunk=1)
    energy.compile()
    folders = [tmp_path / str(i) for i in range(1024)]
    assert len(list(simulate(energy, peptide, folders, config, 0.5, seeds=range(1024)))) == 1
    x = torch.from_numpy(np.stack([load_trajectory(folder)[-1] for folder in folders]))
    for i in range(48):
        list(simulate_openmm(peptide, tmp_path / f"openmm{i}", config, 0.5, seed=i))
    other = torch.from_numpy(np.stack([load_trajectory(tmp_path / f"openmm{i}")[-1] for i in range(48)]))
    expected = energy(other).double()
    agree("potential energy", energy(x), expected.mean().item(), expected.std().item() / np.sqrt(48))
    velocities = [np.load(folder / "chunks" / "chunk_0.npz")["velocities"][-1] for folder in folders]
    theirs = [np.load(tmp_path / f"openmm{i}" / "chunks" / "chunk_0.npz")["velocities"][-1] for i in range(48)]
    warm = temperature(energy, torch.from_numpy(np.stack(theirs))).double()
    ours = temperature(energy, torch.from_numpy(np.stack(velocities)))
    agree("temperature", ours, warm.mean().item(), warm.std().item() / np.sqrt(48))


@pytest.mark.slow
def test_long_run_keeps_the_temperature_and_energy(peptide: Peptide) -> None:
    """At the published friction, 10 ps of 640 replicas from equilibrium."""
    energy = BatchedEnergy(peptide).float()
    energy.compile()
    generator = torch.Generator().manual_seed(3)
    step, state = langevin_step(energy, 1.0, 0.3), start(energy, FRAMES[:640], generator)
    for _ in range(10_000):
        state = step(state, normal(state.x, generator))
    reference = torch.from_numpy(GOLDEN["reference_energy_kT"])
    agree("temperature", temperature(energy, state.v), 310.0)
    error = reference.std().item() / np.sqrt(len(reference))
    potential = energy(state.x)
    agree("potential energy", potential, reference.mean().item(), error)
    assert ks_2samp(potential.numpy(), reference.numpy()).pvalue > 1e-5  # the whole distribution


def contents(folders: list[Path]) -> list[dict[str, bytes]]:
    return [{str(p.relative_to(f)): p.read_bytes() for p in sorted(f.rglob("*.npz"))} for f in folders]


SEEDS = [5, 6, 7]


@pytest.fixture(scope="module")
def whole(peptide: Peptide, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three replicas, undisturbed."""
    folders = [tmp_path_factory.mktemp("whole") / str(i) for i in range(3)]
    progress = list(simulate(BatchedEnergy(peptide).float(), peptide, folders, SHORT, 0.06, SEEDS))
    assert [(p.chunks_done, p.chunks_total) for p in progress] == [(1, 3), (2, 3), (3, 3)]
    return folders


def test_resumes_identically_with_the_files_of_dynamics(peptide: Peptide, whole: list[Path], tmp_path: Path) -> None:
    energy = BatchedEnergy(peptide).float()
    parts = [tmp_path / str(i) for i in range(3)]
    assert len(list(simulate(energy, peptide, parts, SHORT, 0.02, SEEDS))) == 1
    list(simulate(energy, peptide, parts, SHORT, 0.06, SEEDS))
    assert contents(parts) == contents(whole)
    (parts[1] / "chunks" / "chunk_1.npz").unlink()
    assert len(list(simulate(energy, peptide, parts, SHORT, 0.06, SEEDS))) == 1
    assert contents(parts) == contents(whole)
    assert list(simulate(energy, peptide, parts, SHORT, 0.06, SEEDS)) == []
    frames = [load_trajectory(folder) for folder in whole]
    assert [(f.shape, f.dtype) for f in frames] == [((6, 23, 3), np.float32)] * 3
    assert np.abs(frames[0] - frames[1]).max() > 1e-3


@pytest.mark.parametrize("others", [0, 1, 39])
def test_a_replica_does_not_depend_on_its_company(
    peptide: Peptide, whole: list[Path], tmp_path: Path, others: int
) -> None:
    """Bit for bit: so a run may be divided in any way among cores, and extended by replicas."""
    energy = BatchedEnergy(peptide).float()
    folders = [tmp_path / str(i) for i in range(others + 1)]
    list(simulate(energy, peptide, folders, SHORT, 0.02, [*range(100, 100 + others), SEEDS[1]]))
    for name, content in contents(folders[-1:])[0].items():
        assert content == (whole[1] / name).read_bytes(), name


def test_a_killed_run_resumes_identically(peptide: Peptide, whole: list[Path], tmp_path: Path) -> None:
    pdb = tmp_path / "peptide.pdb"
    pdb.write_text(peptide.to_pdb())
    folders = [tmp_path / str(i) for i in range(3)]
    code = (
        "from boltzray.molecules import BatchedEnergy, Peptide; from boltzray.molecules.runs import MDConfig\n"
        "from boltzray.molecules.batched.dynamics import simulate\n"
        f"peptide = Peptide.from_pdb({str(pdb)!r}); energy = BatchedEnergy(peptide).float()\n"
        f"for _ in simulate(energy, peptide, {list(map(str, folders))!r}, {SHORT!r}, 500, {SEEDS!r}): pass"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as process:
        deadline = time.monotonic() + 100
        while not (folders[0] / "chunks" / "chunk_1.npz").exists():
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    restored = Peptide.from_pdb(pdb)
    list(simulate(BatchedEnergy(restored).float(), restored, folders, SHORT, 0.06, SEEDS))
    for expected, resumed in zip(contents(whole), contents(folders), strict=True):
        assert {name: resumed[name] for name in expected} == expected


def test_padded_beside_others_it_moves_as_alone(peptide: Peptide, tmp_path: Path) -> None:
    """To rounding, which grows; and to the last bit whatever the others are."""
    others = [Peptide.from_sequence("GG"), Peptide.from_sequence("GP")]
    peptides, padding = [peptide, *others], 32
    energies = [BatchedEnergy(p) for p in peptides]
    owners = [1, 0, 2, 0]
    rows = [peptides[owner] for owner in owners]
    one, two = ([tmp_path / kind / str(i) for i in range(4)] for kind in ("one", "two"))
    mixed = MixedEnergy(energies, owners, padding)
    list(simulate(mixed, rows, one, SHORT, 0.02, [1, 5, 2, 3]))
    list(simulate(MixedEnergy(energies, owners[1:2], padding), rows[1:2], two[1:2], SHORT, 0.02, [5]))
    assert contents(two[1:2]) == contents(one[1:2])
    assert [load_trajectory(folder).shape[1] for folder in one] == [p.n_atoms for p in rows]
    x = torch.zeros(4, padding, 3, dtype=torch.float64)
    for i, p in enumerate(rows):
        x[i, : p.n_atoms] = torch.from_numpy(p.positions)
    state = start_mixed = Replicas(x, thermal_velocities(mixed, normal(x, torch.Generator().manual_seed(0))))
    alone = Replicas(*(part[1::2, :23] for part in start_mixed))
    steps = [langevin_step(energy, 1.0, 0.3) for energy in (mixed, energies[0])]
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        noise = normal(x, generator)
        state, alone = steps[0](state, noise), steps[1](alone, noise[1::2, :23])
    torch.testing.assert_close(state.x[1::2, :23], alone.x, rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="n_atoms=20 is less"):
        MixedEnergy(energies, owners, 20)
    with pytest.raises(ValueError, match="one temperature"):
        MixedEnergy([energies[0], BatchedEnergy(peptide, 300.0)], owners, padding)


@pytest.mark.parametrize("engine", ["batched", "openmm"])
def test_the_hot_part_heats_and_the_warm_up_cools(peptide: Peptide, tmp_path: Path, engine: str) -> None:
    """At 2,000 K, then back: what the warm-up leaves has the temperature that it ended at.

    With the usual friction of 0.3/ps, which the warm-up does not have: with it three quarters of the heat were left.
    """
    energy, found = BatchedEnergy(peptide), {}
    for name, cooling in (("hot", 0.0), ("cooled", 1.0)):
        config = MDConfig(
            hot_ps=0.6, hot_temperature_k=2000.0, warmup_ps=cooling, timestep_fs=0.5, interval_ps=0.01,
            frames_per_chunk=1,
        )  # fmt: skip
        folders = [tmp_path / f"{name}_{i}" for i in range(8)]
        if engine == "batched":
            list(simulate(energy, peptide, folders, config, 0.01, range(8)))
        else:
            for i, folder in enumerate(folders):
                list(simulate_openmm(peptide, folder, config, 0.01, seed=i))
        v = np.stack([np.load(folder / "warmup.npz")["velocities"][-1] for folder in folders])
        found[name] = temperature(energy, torch.from_numpy(v).double()).mean().item()
    assert 1400 < found["hot"] < 2400, found  # 8 × 66 squares: ± 6 %
    assert 220 < found["cooled"] < 400, found


def test_warm_ups_of_earlier_versions_stay(peptide: Peptide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that joins one which is there does not make it anew with today's friction, which run.json has."""
    energy, folders = BatchedEnergy(peptide).float(), [tmp_path / "old", tmp_path / "new"]
    with monkeypatch.context() as earlier:
        earlier.setattr(runs, "WARMUP_FRICTION_PER_PS", SHORT.friction_per_ps)
        list(simulate(energy, peptide, folders[:1], SHORT, 0.06, [5]))
    before = {path: path.read_bytes() for path in folders[0].rglob("*.npz")}
    list(simulate(energy, peptide, folders, SHORT, 0.02, [5, 6]))
    assert {path: path.read_bytes() for path in folders[0].rglob("*.npz")} == before
    assert len(load_trajectory(folders[0])) == 6
    frictions = [json.loads((f / "run.json").read_text())["versions"][0]["warmup_friction_per_ps"] for f in folders]
    assert frictions == [0.3, 5.0]


def test_run_json_records_the_engine_and_another_run_is_refused(peptide: Peptide, whole: list[Path]) -> None:
    energy = BatchedEnergy(peptide).float()
    record = json.loads((whole[0] / "run.json").read_text())
    assert record["settings"]["engine"] == "batched float32"
    assert record["settings"]["seed"] == SEEDS[0]
    assert (
        record["versions"][0]["versions"].items()
        >= {"torch": torch.__version__, "device": "cpu", "compiled": "False"}.items()
    )
    with pytest.raises(ValueError, match=r"holds another run \(seed was 5 and is now 6"):
        list(simulate(energy, peptide, whole, SHORT, 0.06, [6, 7, 8]))
    with pytest.raises(ValueError, match="engine was batched float32 and is now batched float64"):
        list(simulate(energy.double(), peptide, whole, SHORT, 0.06, SEEDS))
    with pytest.raises(ValueError, match="engine was batched float32 and is now openmm"):
        list(simulate_openmm(peptide, whole[0], SHORT, 0.06, SEEDS[0]))


def test_divergence_and_wrong_settings_are_named(peptide: Peptide, tmp_path: Path) -> None:
    energy = BatchedEnergy(peptide).float()
    wild = MDConfig(timestep_fs=20.0, warmup_ps=1.0, interval_ps=0.2, frames_per_chunk=2)
    with pytest.raises(RuntimeError, match="failed in the warm-up: lower timestep_fs"):
        list(simulate(energy, peptide, [tmp_path / "wild"], wild, 1.0, [1]))
    with pytest.raises(ValueError, match=r"at 310.0 K, the run of 23 at 300.0 K"):
        list(simulate(energy, peptide, [tmp_path / "a"], MDConfig(temperature_k=300.0), 1.0, [1]))
    with pytest.raises(ValueError, match="time_ps=0"):
        list(simulate(energy, peptide, [tmp_path / "a"], SHORT, 0, [1]))
