"""Replica exchange on tensors: closed forms, detailed balance, temperatures, and the same bits after a kill."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor

from boltzray.molecules import BatchedEnergy, Peptide
from boltzray.molecules.batched.dynamics import Replicas, generator
from boltzray.molecules.batched.exchange import BatchedLadders, LangevinRows, Walk, swap, walk
from boltzray.molecules.constants import KB
from boltzray.molecules.ladder_dynamics import simulate_ladders
from boltzray.molecules.ladder_mixing import swap_rates
from boltzray.molecules.mbar import ladder_log_weights
from boltzray.molecules.replica_exchange import ExchangeConfig, LadderTrajectory, load_ladder, load_rung
from boltzray.molecules.runs import MDConfig

ROOT = Path(__file__).parents[3]
RUNGS_K = (300.0, 480.0, 768.0, 1229.0, 1966.0)
LADDERS = 64


class Wells:
    """Two atoms, as a `BatchedEnergy` for the dynamics: r = x₂ − x₁ in a tilted double well, harmonic across.

    U / kT₀ = 9 ((x / a)² − 1)² + 0.6 x / a + 20 (y² + z²) / a², a = 0.1 nm.
    """

    A, BARRIER, TILT, ACROSS = 0.1, 9.0, 0.6, 20.0

    def __init__(self) -> None:
        self.temperature_k, self.n_atoms, self.mass = RUNGS_K[0], 2, torch.tensor([2.0, 2.0])
        self.kt = KB * self.temperature_k

    def unchecked(self, x_nm: Tensor, gradient: bool = True) -> tuple[Tensor, Tensor | None]:
        r = (x_nm[:, 1] - x_nm[:, 0]) / self.A
        x, across = r[:, 0], r[:, 1:]
        energy = self.BARRIER * (x**2 - 1) ** 2 + self.TILT * x + self.ACROSS * (across**2).sum(1)
        along = 4 * self.BARRIER * x * (x**2 - 1) + self.TILT
        slope = torch.cat([along[:, None], 2 * self.ACROSS * across], 1) / self.A
        return energy, torch.stack([-slope, slope], 1)

    @classmethod
    def exact(cls, temperature_k: float) -> tuple[float, float]:
        """Share of the right well, and mean energy in kT₀, by quadrature."""
        x, beta = np.linspace(-3, 3, 20001), RUNGS_K[0] / temperature_k
        u = cls.BARRIER * (x**2 - 1) ** 2 + cls.TILT * x
        p = np.exp(-beta * u)
        p /= p.sum()
        return float(p[x > 0].sum()), float(p @ u + 1 / beta)  # two harmonic coordinates: kT / 2 each


def run_wells(ladders: int, frames: int, seed: int = 0) -> tuple[list[LadderTrajectory], np.ndarray]:
    """Ladders that all start in the left, deeper well; and kinetic temperatures (F, L, R) in units of each rung's."""
    energy, config = Wells(), MDConfig(timestep_fs=1.0, friction_per_ps=20.0)
    rungs = torch.tensor(RUNGS_K, dtype=torch.float64)
    streams = [generator(seed + i, 1, r) for i in range(ladders) for r in range(len(RUNGS_K))]
    dynamics = LangevinRows(energy, config, rungs.repeat(ladders), streams)  # type: ignore[arg-type]
    x = torch.tensor([[0.05, 0, 0], [-0.05, 0, 0]]).repeat(len(streams), 1, 1)
    state, walkers = Replicas(x, torch.zeros_like(x)), torch.arange(len(RUNGS_K)).repeat(ladders, 1)
    uniforms = [generator(seed + i, 2) for i in range(ladders)]
    kinetic, parts = [], list[Walk]()
    for block in range(1 + frames // 5):  # the first one warms up
        state, part = walk(
            dynamics, state, walkers, rungs, uniforms,
            frames=5, attempts_per_frame=4, steps_per_attempt=10, first_attempt=20 * block,
        )  # fmt: skip
        walkers = part.walkers[-1].long()
        if block:
            parts.append(part)
            squares = (energy.mass[:, None] * state.v**2).sum((1, 2)).view(ladders, -1)
            kinetic.append((squares / (3 * KB * rungs)).numpy())
    x, u, w = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    found = [
        LadderTrajectory(
            temperatures_k=RUNGS_K, positions_nm=x[:, i], energy_kT=u[:, i].astype(float), walkers=w[:, i],
            interval_ps=0.04,
        )
        for i in range(ladders)
    ]  # fmt: skip
    return found, np.stack(kinetic)


@pytest.fixture(scope="module")
def wells() -> tuple[list[LadderTrajectory], np.ndarray]:
    return run_wells(LADDERS, frames=200)


def agree(name: str, of_ladders: np.ndarray, expected: float) -> None:
    """The mean over independent ladders within five standard errors, which are small enough to mean something."""
    mean, error = of_ladders.mean(), of_ladders.std(ddof=1) / np.sqrt(len(of_ladders))
    assert abs(mean - expected) < 5 * error, f"{name}: {mean:.4f} ± {error:.4f}, expected {expected:.4f}"
    assert error < 0.05 * max(abs(expected), 0.5), (name, error)


def right(ladder: LadderTrajectory) -> np.ndarray:
    return np.asarray(ladder.positions_nm[:, :, 1, 0] > ladder.positions_nm[:, :, 0, 0])


def test_double_well_has_its_shares_at_every_temperature(wells: tuple[list[LadderTrajectory], np.ndarray]) -> None:
    """The barrier is 9 kT at the lowest rung, where plain dynamics of this length hardly ever crosses it."""
    later = [right(ladder)[60:] for ladder in wells[0]]
    for r, temperature in enumerate(RUNGS_K):
        agree(f"right well at {temperature} K", np.array([x[:, r].mean() for x in later]), Wells.exact(temperature)[0])


def test_energies_at_every_temperature_are_exact(wells: tuple[list[LadderTrajectory], np.ndarray]) -> None:
    for r, temperature in enumerate(RUNGS_K):
        means = np.array([ladder.energy_kT[60:, r].mean() for ladder in wells[0]])
        agree(f"energy at {temperature} K", means, Wells.exact(temperature)[1])


def test_all_rungs_weighted_to_one_temperature(wells: tuple[list[LadderTrajectory], np.ndarray]) -> None:
    """Of the lowest rung, and of a temperature between two; the free energies are those of the quadrature."""
    cut = [
        LadderTrajectory(
            temperatures_k=RUNGS_K, positions_nm=w.positions_nm[60:], energy_kT=w.energy_kT[60:],
            walkers=w.walkers[240:], interval_ps=0.04,
        )
        for w in wells[0]
    ]  # fmt: skip
    for temperature in (300.0, 400.0):
        log_w, _ = ladder_log_weights(cut, temperature)
        w = [np.exp(part) for part in log_w]
        share, energy = Wells.exact(temperature)
        shares = [(p * right(ladder)).sum() / p.sum() for p, ladder in zip(w, cut, strict=True)]
        agree(f"right well, all rungs at {temperature} K", np.array(shares), share)
        energies = [(p * ladder.energy_kT).sum() / p.sum() for p, ladder in zip(w, cut, strict=True)]
        agree(f"energy, all rungs at {temperature} K", np.array(energies), energy)


def test_rungs_keep_their_temperatures(wells: tuple[list[LadderTrajectory], np.ndarray]) -> None:
    """Kinetic ones: 1 on each rung, as much in the second half as in the first; leapfrog's own error is below 1 %."""
    kinetic = wells[1]  # (time, ladder, rung)
    half = len(kinetic) // 2
    for r, temperature in enumerate(RUNGS_K):
        drift = kinetic[half:, :, r].mean(0) - kinetic[:half, :, r].mean(0)
        error = drift.std() / np.sqrt(LADDERS)
        assert abs(drift.mean()) < 5 * error < 0.2, (temperature, drift.mean(), error)
        mean, error = kinetic[:, :, r].mean(), kinetic[:, :, r].mean(0).std() / np.sqrt(LADDERS)
        assert abs(mean - 1) < 0.01 + 5 * error, (temperature, mean, error)


# --- swaps --------------------------------------------------------------------------------------


def swap_many(energy: Tensor, attempt: int, seed: int = 0) -> tuple[Replicas, Tensor, Tensor, Tensor]:
    """Swaps of ladders with these energies (L, R) on rungs 300, 400, 500, …; x has the energy in it."""
    ladders, rungs = energy.shape
    temperature = 300.0 + 100.0 * torch.arange(rungs, dtype=torch.float64)
    x = energy.reshape(-1, 1, 1).repeat(1, 2, 3)
    uniform = torch.rand(ladders, rungs - 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    walkers = torch.arange(rungs).repeat(ladders, 1)
    return *swap(Replicas(x, torch.ones_like(x)), walkers, energy, temperature, attempt, uniform), temperature


def test_swaps_take_everything_along_and_rescale_velocities() -> None:
    energy = torch.randn(500, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for attempt in (0, 1):
        state, walkers, moved, temperature = swap_many(energy, attempt)
        assert torch.equal(state.x[:, 0, 0].view(500, 5), moved)
        assert torch.equal(energy.gather(1, walkers), moved)
        assert torch.equal(walkers.sort(1).values, torch.arange(5).repeat(500, 1))
        scale = (temperature / temperature[walkers]).sqrt()
        torch.testing.assert_close(state.v[:, 0, 0].view(500, 5), scale)
        changed = walkers != torch.arange(5)
        for r in range(4):  # only the pairs whose turn it is
            pair = (walkers[:, r] == r + 1) & (walkers[:, r + 1] == r)
            assert pair.any() == (r % 2 == attempt)
        assert not changed[:, 4 if attempt == 0 else 0].any()
    beta = 300.0 / torch.tensor([300.0, 400.0])
    better = torch.tensor([[3.0, 1.0]], dtype=torch.float64)  # the hot one is lower: always swapped
    assert (beta[0] - beta[1]) * (better[0, 0] - better[0, 1]) > 0
    assert swap_many(better, 0)[1].tolist() == [[1, 0]]


def test_swaps_accept_by_metropolis_and_obey_detailed_balance() -> None:
    """Acceptance of fixed energies is min(1, exp(ΔβΔU)); fluxes between two states of a pair are equal at 5 σ."""
    n = 200_000
    one, two = torch.tensor([0.0, 4.0], dtype=torch.float64), torch.tensor([4.0, 0.0], dtype=torch.float64)
    rates = []
    for seed, energy in enumerate((one, two)):
        swapped = swap_many(energy.repeat(n, 1), 0, seed)[1][:, 0] == 1
        rates.append(swapped.double().mean().item())
    exact = float(np.exp((1 - 0.75) * (0.0 - 4.0)))
    assert rates[1] == 1.0
    assert abs(rates[0] - exact) < 5 * np.sqrt(exact * (1 - exact) / n)
    # π(one) k(one → two) = π(two) k(two → one), with π ∝ exp(−β₀U₀ − β₁U₁)
    balance = np.exp(-0.75 * 4.0) * rates[0] / (np.exp(-4.0) * rates[1])
    assert abs(balance - 1) < 5 * np.sqrt((1 - exact) / exact / n)


def test_swaps_leave_the_distributions_alone() -> None:
    """Harmonic energies of 40 degrees of freedom, drawn exactly on four rungs: after swaps they are distributed so."""
    rng, n = np.random.default_rng(0), 20_000
    temperature = 300.0 + 100.0 * np.arange(4)
    energy = rng.gamma(20.0, temperature / 300.0, (n, 4))
    x = torch.from_numpy(energy)
    for attempt in range(6):
        x = swap_many(x, attempt, seed=attempt)[2]
    assert (x != torch.from_numpy(energy)).any()
    fresh = rng.gamma(20.0, temperature / 300.0, (n, 4))
    for r in range(4):
        assert ks_2samp(x[:, r].numpy(), fresh[:, r]).pvalue > 1e-6


# --- a peptide, on disk -------------------------------------------------------------------------

SHORT = MDConfig(warmup_ps=0.05, interval_ps=0.02, frames_per_chunk=3)
EXCHANGE = ExchangeConfig(exchange_ps=0.01)
LADDER_K, SEEDS = (310.0, 330.0, 350.0), (5, 6, 7)


@pytest.fixture(scope="module")
def peptide() -> Peptide:
    return Peptide.from_sequence("GG")


def advance(peptide: Peptide, folders: Sequence[Path], time_ps: float, seeds: Sequence[int] = SEEDS) -> int:
    energy = BatchedEnergy(peptide, LADDER_K[0]).float()
    found = simulate_ladders(
        BatchedLadders(energy, SHORT), peptide, folders, SHORT, EXCHANGE, LADDER_K, time_ps, seeds
    )  # fmt: skip
    return len(list(found))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.npz"))}


@pytest.fixture(scope="module")
def whole(peptide: Peptide, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three ladders, undisturbed."""
    folders = [tmp_path_factory.mktemp("whole") / str(i) for i in range(3)]
    assert advance(peptide, folders, 0.18) == 3
    return folders


def test_files_hold_rungs_walkers_and_energies(peptide: Peptide, whole: list[Path]) -> None:
    ladder = load_ladder(whole[0])
    assert ladder.temperatures_k == LADDER_K
    assert ladder.positions_nm.shape == (9, 3, peptide.n_atoms, 3)
    assert ladder.walkers.shape == (18, 3)
    np.testing.assert_array_equal(np.sort(ladder.walkers, axis=1), np.tile(np.arange(3), (18, 1)))
    np.testing.assert_array_equal(load_rung(whole[0], 1), ladder.positions_nm[:, 1])
    energy = BatchedEnergy(peptide, LADDER_K[0])
    expected = energy(torch.from_numpy(ladder.positions_nm.reshape(-1, peptide.n_atoms, 3)).double())
    np.testing.assert_allclose(ladder.energy_kT.ravel(), expected, atol=1e-3)
    assert 0 < np.nanmean(swap_rates([load_ladder(folder) for folder in whole])) <= 1


def test_ladders_resume_identically_in_any_company(peptide: Peptide, whole: list[Path], tmp_path: Path) -> None:
    parts = [tmp_path / str(i) for i in range(3)]
    assert advance(peptide, parts, 0.06) == 1
    assert advance(peptide, parts[:1], 0.18, SEEDS[:1]) == 2  # alone
    assert advance(peptide, parts[1:], 0.18, SEEDS[1:]) == 2
    assert [contents(part) for part in parts] == [contents(folder) for folder in whole]
    (parts[1] / "chunks" / "chunk_1.npz").unlink()
    assert advance(peptide, parts, 0.18) == 1
    assert [contents(part) for part in parts] == [contents(folder) for folder in whole]
    assert advance(peptide, parts, 0.18) == 0
    more = [tmp_path / f"more{i}" for i in range(14)]
    advance(peptide, [*more, tmp_path / "again"], 0.06, [*range(100, 114), SEEDS[1]])
    first = contents(tmp_path / "again")
    assert first == {name: contents(whole[1])[name] for name in first}


def test_a_killed_ladder_resumes_identically(peptide: Peptide, whole: list[Path], tmp_path: Path) -> None:
    folders = [tmp_path / str(i) for i in range(3)]
    code = (
        "from tests.molecules.batched.test_exchange import advance; from boltzray.molecules import Peptide\n"
        "from pathlib import Path\n"
        f"advance(Peptide.from_sequence('GG'), [Path(p) for p in {list(map(str, folders))!r}], 500.0)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as process:
        deadline = time.monotonic() + 100
        while not (folders[0] / "chunks" / "chunk_1.npz").exists():
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    advance(peptide, folders, 0.18)
    for expected, resumed in zip(map(contents, whole), map(contents, folders), strict=True):
        assert {name: resumed[name] for name in expected} == expected


def test_other_settings_are_refused_and_damage_is_named(peptide: Peptide, whole: list[Path], tmp_path: Path) -> None:
    energy = BatchedEnergy(peptide, LADDER_K[0]).float()
    with pytest.raises(ValueError, match=r"temperatures_k was \[310.0, 330.0, 350.0\] and is now \[310.0, 340.0\]"):
        list(
            simulate_ladders(
                BatchedLadders(energy, SHORT), peptide, whole[:1], SHORT, EXCHANGE, (310.0, 340.0), 0.06, SEEDS[:1]
            )
        )
    with pytest.raises(ValueError, match="no ladder under"):
        load_ladder(tmp_path)
