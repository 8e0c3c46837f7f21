"""Batched dynamics: conserved energy, temperature, the equilibrium of OpenMM, and resuming bit for bit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from molecules import BatchedEnergy, OpenMMEnergy, Peptide
from molecules.batched_dynamics import Replicas, langevin_step, simulate, thermal_velocities
from molecules.dynamics import MDConfig, load_trajectory
from molecules.dynamics import simulate as simulate_openmm
from molecules.forcefield import KB

ROOT = Path(__file__).parents[2]
GOLDEN = np.load(ROOT / "tests" / "golden" / "metrics.npz")
FRAMES = torch.from_numpy(GOLDEN["reference"].astype(np.float64))
SHORT = MDConfig(warmup_ps=0.05, interval_ps=0.01, frames_per_chunk=2)
FREEDOM = 3 * 23 - 3  # the centre of mass is kept at rest


@pytest.fixture(scope="module")
def peptide() -> Peptide:
    return Peptide.from_pdb(GOLDEN["pdb"].tobytes().decode())


def start(energy: BatchedEnergy, frames: torch.Tensor, generator: torch.Generator) -> Replicas:
    x = frames.to(energy.mass)
    return Replicas(x, thermal_velocities(energy, x, generator))


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
            moved = step(state, generator)
            middle = (state.v + moved.v) / 2  # velocities are half a step off the positions
            kinetic = 0.5 * (energy.mass[:, None] * middle**2).sum((1, 2)) / energy.kt
            totals.append(energy(state.x) + kinetic)
            state = moved
        total = torch.stack(totals[1:])
        fluctuation[timestep] = (total - total.mean(0)).pow(2).mean().sqrt().item()
        half = len(total) // 2
        agree("drift in kT", total[half:].mean(0) - total[:half].mean(0), 0.0)
    assert fluctuation[0.25] < fluctuation[0.5] / 3 < 0.5


def test_noiseless_step_is_verlet(peptide: Peptide) -> None:
    """Against the formula, and against OpenMM's gradient."""
    energy = BatchedEnergy(peptide)
    generator = torch.Generator().manual_seed(0)
    state = start(energy, FRAMES[:2], generator)
    moved = langevin_step(energy, 1.0, 0.0)(state, generator)
    gradient = OpenMMEnergy(peptide, platform="Reference").evaluate(state.x.numpy()).gradient
    assert gradient is not None
    mass = energy.mass.numpy()[:, None]
    v = state.v.numpy() - (mass * state.v.numpy()).sum(1, keepdims=True) / mass.sum()
    v = v - 0.001 * energy.kt * gradient / mass
    np.testing.assert_allclose(moved.v, v, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(moved.x, state.x.numpy() + 0.001 * v, rtol=1e-12)
    assert torch.equal(langevin_step(energy, 1.0, 0.0)(state, generator).x, moved.x)  # pure


def test_stationary_at_the_equilibrium_of_openmm(peptide: Peptide) -> None:
    """Frames of a long OpenMM run stay what they are: potential energy, its spread, and the temperature."""
    energy = BatchedEnergy(peptide).float()
    generator = torch.Generator().manual_seed(2)
    step, state = langevin_step(energy, 1.0, friction_per_ps=20.0), start(energy, FRAMES[:480], generator)
    for _ in range(150):
        state = step(state, generator)
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
    assert len(list(simulate(energy, peptide, folders, config, 0.5, seed=1))) == 1
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
        state = step(state, generator)
    reference = torch.from_numpy(GOLDEN["reference_energy_kT"])
    agree("temperature", temperature(energy, state.v), 310.0)
    error = reference.std().item() / np.sqrt(len(reference))
    agree("potential energy", energy(state.x), reference.mean().item(), error)


def contents(folders: list[Path]) -> list[dict[str, bytes]]:
    return [{str(p.relative_to(f)): p.read_bytes() for p in sorted(f.rglob("*.npz"))} for f in folders]


def test_resumes_identically_with_the_files_of_dynamics(peptide: Peptide, tmp_path: Path) -> None:
    energy = BatchedEnergy(peptide).float()
    whole, parts = ([tmp_path / kind / str(i) for i in range(3)] for kind in ("whole", "parts"))
    progress = list(simulate(energy, peptide, whole, SHORT, 0.06, seed=5))
    assert [p.chunks_done for p in progress] == [1, 2, 3]
    assert len(list(simulate(energy, peptide, parts, SHORT, 0.02, seed=5))) == 1
    list(simulate(energy, peptide, parts, SHORT, 0.06, seed=5))
    assert contents(parts) == contents(whole)
    (parts[1] / "chunks" / "chunk_1.npz").unlink()
    assert len(list(simulate(energy, peptide, parts, SHORT, 0.06, seed=5))) == 1
    assert contents(parts) == contents(whole)
    assert list(simulate(energy, peptide, parts, SHORT, 0.06, seed=5)) == []
    frames = [load_trajectory(folder) for folder in whole]
    assert [(f.shape, f.dtype) for f in frames] == [((6, 23, 3), np.float32)] * 3
    assert np.abs(frames[0] - frames[1]).max() > 1e-3
    with pytest.raises(ValueError, match="holds another run"):
        list(simulate(energy, peptide, whole, SHORT, 0.06, seed=6))


def test_divergence_and_wrong_settings_are_named(peptide: Peptide, tmp_path: Path) -> None:
    energy = BatchedEnergy(peptide).float()
    wild = MDConfig(timestep_fs=20.0, warmup_ps=1.0, interval_ps=0.2, frames_per_chunk=2)
    with pytest.raises(RuntimeError, match="failed in the warm-up: lower timestep_fs"):
        list(simulate(energy, peptide, [tmp_path / "wild"], wild, 1.0, seed=1))
    with pytest.raises(ValueError, match=r"at 310.0 K, the run of 23 at 300.0 K"):
        list(simulate(energy, peptide, [tmp_path / "a"], MDConfig(temperature_k=300.0), 1.0, seed=1))
    with pytest.raises(ValueError, match="time_ps=0"):
        list(simulate(energy, peptide, [tmp_path / "a"], SHORT, 0, seed=1))
