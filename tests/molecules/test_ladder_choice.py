"""Choice of a ladder: swap rates of harmonic systems in closed form, and settings that do not fit together."""

import numpy as np
import pytest
from scipy.special import betainc

from boltzray.molecules import BatchedEnergy, Peptide
from boltzray.molecules.batched.exchange import BatchedLadders
from boltzray.molecules.exchange_openmm import OpenMMLadders
from boltzray.molecules.ladder_choice import choose_ladder, expected_swap_rates, fit_energies, geometric
from boltzray.molecules.ladder_dynamics import LadderEngine, choose_by_pilot, pilot_config
from boltzray.molecules.replica_exchange import ExchangeConfig
from boltzray.molecules.runs import MDConfig

PILOT = np.array(geometric(310.0, 600.0, 32))


def harmonic(temperature_k: np.ndarray, freedom: int) -> np.ndarray:
    """Mean energy in kT of the lowest temperature: half a kT for each degree of freedom."""
    return freedom / 2 * temperature_k / temperature_k[0]


def exact_rates(temperatures_k: tuple[float, ...], freedom: int) -> np.ndarray:
    """2 P(U_cold > U_hot) by detailed balance, of energies ~ Gamma(d/2) kT: a regularised incomplete beta function."""
    t = np.array(temperatures_k)
    rates: np.ndarray = 2 * betainc(freedom / 2, freedom / 2, t[:-1] / (t[:-1] + t[1:]))
    return rates


def test_the_closed_form_is_the_mean_acceptance() -> None:
    """Of Metropolis between two rungs of 60 degrees of freedom, at 5 σ."""
    rng, n = np.random.default_rng(0), 400_000
    cold, hot = rng.gamma(30, size=n), rng.gamma(30, size=n) * 400 / 310
    accepted = np.minimum(1.0, np.exp((1 - 310 / 400) * (cold - hot)))
    (expected,) = exact_rates((310.0, 400.0), 60)
    assert abs(accepted.mean() - expected) < 5 * accepted.std() / np.sqrt(n)


@pytest.mark.parametrize(("freedom", "error"), [(30, 5e-3), (60, 2.5e-3), (300, 5e-4)])
def test_expected_rates_are_close_to_exact_ones(freedom: int, error: float) -> None:
    """Energies are taken to be normal: that errs by 2e-3 at 60 degrees of freedom and 4e-4 at 300."""
    choice = choose_ladder(PILOT, harmonic(PILOT, freedom), 0.3)
    exact = exact_rates(choice.temperatures_k, freedom)
    np.testing.assert_allclose(choice.expected_swap_rates, exact, rtol=0, atol=error)
    assert np.abs(choice.expected_swap_rates - exact).max() > error / 10, "not the same formula"


def test_rates_follow_the_heat_capacity() -> None:
    """Where energy rises faster with T neighbours swap less, though they are as far apart."""
    energies = fit_energies(PILOT, harmonic(PILOT, 100) * (0.5 + 0.5 * PILOT / 310))
    rates = expected_swap_rates(geometric(310.0, 600.0, 6), energies)
    assert (np.diff(rates) < -0.01).all()


@pytest.mark.parametrize("freedom", [30, 60, 120, 240, 360, 480, 600])
def test_neighbours_of_the_chosen_ladder_swap_at_the_wanted_rate(freedom: int) -> None:
    """Between 20 and 40 %, and a rung more or less would be further from 30 %."""
    ladder = choose_ladder(PILOT, harmonic(PILOT, freedom), 0.3).temperatures_k
    assert (ladder[0], ladder[-1]) == (310.0, 600.0)
    ratios = np.divide(ladder[1:], ladder[:-1])
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-4)
    off = [
        abs(exact_rates(geometric(310.0, 600.0, rungs), freedom).mean() - 0.3)
        for rungs in (len(ladder) - 1, len(ladder), len(ladder) + 1)
    ]
    assert ((exact_rates(ladder, freedom) > 0.2) & (exact_rates(ladder, freedom) < 0.4)).all()
    assert off[1] < min(off) + 2e-3, "but for what the rates err by"


@pytest.mark.parametrize("freedom", [60, 300, 600])
def test_the_noise_of_a_pilot_moves_it_by_one_rung_at_most(freedom: int) -> None:
    """Of twenty independent frames a rung: 10 ps whose energies are correlated for half a picosecond."""
    rng = np.random.default_rng(freedom)
    right = len(choose_ladder(PILOT, harmonic(PILOT, freedom), 0.3).temperatures_k)
    for _ in range(20):
        noisy = rng.gamma(freedom / 2, size=(20, len(PILOT))).mean(0) * PILOT / 310
        assert abs(len(choose_ladder(PILOT, noisy, 0.3).temperatures_k) - right) <= 1


@pytest.mark.parametrize(("freedom", "highest_k"), [(600, 1500.0), (50_000, 600.0)])
def test_a_ladder_of_many_rungs_is_found(freedom: int, highest_k: float) -> None:
    """Though a few rungs swap at rates that are zero to rounding, however many they are."""
    pilot = np.array(geometric(310.0, highest_k, 32))
    choice = choose_ladder(pilot, harmonic(pilot, freedom), 0.3)
    assert np.mean(choice.expected_swap_rates) == pytest.approx(0.3, abs=0.05)


def test_a_range_that_is_too_wide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 128 rungs swaps at 0\.3 up to 600 K: lower remd\.max_temperature_k"):
        choose_ladder(PILOT, harmonic(PILOT, 10**7), 0.3)


@pytest.mark.parametrize("engine", ["batched", "openmm"])
def test_a_pilot_of_a_dipeptide(engine: str) -> None:
    """17 atoms have 45 internal coordinates, and energies rise as those of so many springs: three or four rungs.

    Friction is strong, and hydrogens are heavy, for a pilot of a fifth of a picosecond.
    """
    peptide, remd = Peptide.from_sequence("GG"), ExchangeConfig(pilot_ps=0.2, exchange_ps=0.02)
    md = MDConfig(friction_per_ps=50.0, timestep_fs=2.0, hydrogen_mass_da=3.0)
    dynamics = pilot_config(md, remd)
    energy = BatchedEnergy(peptide, md.temperature_k, hydrogen_mass_da=md.hydrogen_mass_da).float()
    ladders: LadderEngine = OpenMMLadders(peptide, dynamics) if engine == "openmm" else BatchedLadders(energy, dynamics)
    choice = choose_by_pilot(ladders, peptide, md, remd, seed=0, rungs=8)
    assert len(choice.temperatures_k) in (3, 4)
    assert choice == choose_by_pilot(ladders, peptide, md, remd, seed=0, rungs=8)


@pytest.mark.parametrize(
    ("remd", "md", "message"),
    [
        ({"exchange_ps": 0.0015}, {}, r"remd\.exchange_ps must be a whole multiple of md\.timestep_fs: change one"),
        ({"exchange_ps": 0.0004}, {}, r"remd\.exchange_ps must be a whole multiple of md\.timestep_fs: change one"),
        ({"exchange_ps": 0.3}, {}, r"md\.interval_ps must be a whole multiple of remd\.exchange_ps: change one"),
        ({"exchange_ps": 2.0}, {}, r"md\.interval_ps must be a whole multiple of remd\.exchange_ps: change one"),
        ({}, {"temperature_k": 800.0}, r"remd\.max_temperature_k=800: give more than md\.temperature_k"),
        (
            {"temperatures_k": (300, 400)},
            {},
            r"lowest of remd\.temperatures_k is 300: it must be md\.temperature_k=310",
        ),
    ],
)
def test_settings_that_do_not_fit_the_dynamics_are_refused(
    remd: dict[str, object], md: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ExchangeConfig(**remd).check(MDConfig(**md))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("remd", "message"),
    [
        ({"temperatures_k": (310, 310)}, "ris"),
        ({"temperatures_k": (400, 310)}, "ris"),
        ({"temperatures_k": (310,)}, "has 1 temperatures: give 2 to 128"),
        ({"temperatures_k": (-10, 310)}, "positive"),
        ({"temperatures_k": range(300, 429)}, "has 129 temperatures: give 2 to 128"),
        ({"swap_rate": 30.0}, r"swap_rate=30\.0: give a fraction between 0 and 1"),
        ({"pilot_ps": 0.0}, r"pilot_ps=0\.0: give a positive number"),
        ({"max_temperature_k": float("nan")}, r"max_temperature_k=nan: give a positive number"),
    ],
)
def test_settings_without_sense_are_refused(remd: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ExchangeConfig(**remd)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_given_ladder_needs_no_highest_temperature() -> None:
    config, md = ExchangeConfig(temperatures_k=(310, 400), max_temperature_k=200.0), MDConfig(timestep_fs=2.0)
    config.check(md)
    assert config.temperatures_k == (310.0, 400.0)
    assert (config.steps_per_attempt(md), config.attempts_per_frame(md)) == (50, 10)


@pytest.mark.parametrize("energies", [[3.0, 2.0, 1.0], [1.0, float("nan"), 3.0]])
def test_a_pilot_that_went_wrong_chooses_nothing(energies: list[float]) -> None:
    with pytest.raises(ValueError, match=r"do not rise with temperature: give a longer remd\.pilot_ps"):
        choose_ladder([310.0, 400.0, 600.0], energies, 0.3)
