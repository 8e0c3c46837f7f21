"""Weights of all rungs at one temperature, against harmonic systems and one of two states, known in closed form."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from boltzray.molecules import mbar
from boltzray.molecules.mbar import ladder_free_energies, ladder_log_weights
from boltzray.molecules.replica_exchange import LadderTrajectory

FREEDOM, REPEATS = 20, 16
LADDER = (310.0, 400.0, 500.0, 600.0)
T = np.array(LADDER)


def ladder(energy_kT: np.ndarray) -> LadderTrajectory:
    """A ladder of these energies (F, R)."""
    return LadderTrajectory(
        temperatures_k=LADDER,
        positions_nm=np.zeros((*energy_kT.shape, 1, 3), dtype=np.float32),
        energy_kT=energy_kT,
        walkers=np.zeros(energy_kT.shape, dtype=np.uint8),
        interval_ps=1.0,
    )


def harmonic(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Independent energies of each rung: ½ kT for each degree of freedom."""
    return rng.gamma(FREEDOM / 2, T / T[0], size=(frames, len(T)))


def agree(values: np.ndarray, expected: np.ndarray | float) -> None:
    """Means over independent repeats within five of their standard errors."""
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    assert (np.abs(values.mean(0) - expected) < 5 * error).all(), (values.mean(0), error, expected)


def repeats(estimate: Callable[[np.random.Generator], np.ndarray], count: int = REPEATS) -> np.ndarray:
    """Estimates of independent data."""
    return np.array([estimate(np.random.default_rng(seed)) for seed in range(count)])


def test_free_energies_of_a_harmonic_system() -> None:
    """−ln Z is −d/2 ln T and a constant."""
    found = repeats(lambda rng: ladder_free_energies(harmonic(rng, 500), LADDER))
    assert (found[:, 0] == 0).all()
    agree(found[:, 1:], -FREEDOM / 2 * np.log(T[1:] / T[0]))
    assert found.std(0).max() < 0.1


@pytest.mark.parametrize("temperature_k", [310.0, 350.0, 400.0, 500.0, 560.0, 600.0])
def test_mean_energy_at_a_rung_and_between_rungs(temperature_k: float) -> None:
    def estimate(rng: np.random.Generator) -> np.ndarray:
        ladders = [ladder(harmonic(rng, 200)) for _ in range(2)]
        log_w, _ = ladder_log_weights(ladders, temperature_k)
        return np.array(sum((np.exp(w) * one.energy_kT).sum() for w, one in zip(log_w, ladders, strict=True)))

    found, expected = repeats(estimate), FREEDOM / 2 * temperature_k / T[0]
    agree(found, expected)
    alone = expected / np.sqrt(FREEDOM / 2) / np.sqrt(400)  # of 400 frames at this temperature only
    assert found.std(ddof=1) < 1.1 * alone, "other rungs help"


def test_weights_are_normalised_over_all_ladders() -> None:
    rng = np.random.default_rng(1)
    ladders = [ladder(harmonic(rng, frames)) for frames in (100, 300)]
    log_w, free = ladder_log_weights(ladders, 310.0)
    assert [w.shape for w in log_w] == [(100, 4), (300, 4)]
    sums = [np.exp(w).sum() for w in log_w]
    assert sum(sums) == pytest.approx(1, abs=1e-12)
    assert sums[0] == pytest.approx(0.25, abs=0.05)
    np.testing.assert_array_equal(free, ladder_free_energies(np.concatenate([x.energy_kT for x in ladders]), LADDER))
    swapped, _ = ladder_log_weights(ladders[::-1], 310.0)
    np.testing.assert_allclose(swapped[1], log_w[0], atol=1e-6)


def test_energies_may_have_any_zero() -> None:
    """A shift of all energies, such as −40,000 kT, moves free energies by β times it, and no weight."""
    energy = harmonic(np.random.default_rng(2), 300)
    (one,), free = ladder_log_weights([ladder(energy)], 350.0)
    (other,), shifted = ladder_log_weights([ladder(energy - 40_000)], 350.0)
    np.testing.assert_allclose(other, one, atol=1e-5)
    np.testing.assert_allclose(shifted - free, -40_000 * (T[0] / T - 1), atol=1e-5)


def test_many_frames_are_weighted_with_what_some_of_them_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 80,000 energies every eighth is solved for: the same to their error, and every frame has its weight."""
    energy = harmonic(np.random.default_rng(3), 20_000)
    free = ladder_free_energies(energy, LADDER)
    monkeypatch.setattr(mbar, "SOLVED_FRAMES", 10_000)
    (weights,), some = ladder_log_weights([ladder(energy)], 310.0)
    assert 1e-6 < np.abs(some - free).max() < 0.1
    assert np.isfinite(weights).all()
    assert (np.exp(weights) * energy).sum() == pytest.approx(FREEDOM / 2, abs=0.1)


def test_a_rare_state_is_known_better_from_all_rungs() -> None:
    """A state 4 kT above the other has 1.8 % at 310 K and 11 % at 600 K; 200 frames a rung."""

    def estimate(rng: np.random.Generator) -> np.ndarray:
        rare = rng.random((200, len(T))) < expit(-4 * T[0] / T)
        energy = 4.0 * rare + rng.gamma(5, T / T[0], size=rare.shape)
        (log_w,), _ = ladder_log_weights([ladder(energy)], 310.0)
        return np.array([(np.exp(log_w) * rare).sum(), rare[:, 0].mean()])

    found = repeats(estimate, 60)
    agree(found, expit(-4.0))
    all_rungs, lowest = found.std(0, ddof=1)
    assert lowest == pytest.approx(np.sqrt(expit(-4.0) * expit(4.0) / 200), rel=0.3)  # 0.0094
    assert all_rungs < 0.6 * lowest, (all_rungs, lowest)


def test_ladders_of_other_rungs_are_refused() -> None:
    one = ladder(harmonic(np.random.default_rng(4), 10))
    other = replace(one, temperatures_k=(310.0, 400.0, 500.0, 601.0))
    with pytest.raises(ValueError, match="different temperatures: give those of one run"):
        ladder_log_weights([one, other], 310.0)


def test_nothing_is_printed(root: Path) -> None:
    """pymbar advertises JAX at import, and warns of what is not used."""
    code = (
        "import logging, numpy; logging.basicConfig(level=logging.INFO)\n"
        "from boltzray.molecules.mbar import ladder_free_energies\n"
        "print(ladder_free_energies(numpy.random.default_rng(0).gamma(5, (1, 2), (50, 2)), (300, 600))[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0.0\n", "")
