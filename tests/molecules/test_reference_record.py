"""The record beside a reference: what it says, that it comes back as it was, and the rule for convergence."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boltzray.molecules import Peptide
from boltzray.molecules.convergence import StateEstimate, drift_of
from boltzray.molecules.reference_record import (
    Ladder,
    ReferenceRecord,
    drifting,
    read_record,
    record_of,
    record_path,
    unconverged,
)
from boltzray.molecules.references import save_reference

LADDER = Ladder(temperatures_k=(310.0, 400.0), swap_rates=(math.nan,), round_trips=3, round_trips_per_ns=1.5)


def recorded(npz: Path, data: Path, **more: Any) -> ReferenceRecord:
    """The record of four runs of AA."""
    frames = np.load(data / "trajectories_subsampled" / "test" / "2AA" / "AA_subsampled.npz")["positions"][:8000]
    if not npz.exists():
        save_reference(npz, frames, None, time_ns=1.6)
    return record_of(
        npz,
        Peptide.from_pdb(data / "pdbs" / "test" / "AA.pdb"),
        frames,
        forcefield="amber14-obc1",
        temperature_k=310.0,
        engine="openmm",
        time_ns=(0.4,) * 4,
        run_lengths=(2000,) * 4,
        energy_evaluations=1_600_000,
        ladder=LADDER,
        **more,
    )


@pytest.fixture
def made(tmp_path: Path, data: Path) -> tuple[Path, ReferenceRecord]:
    """MD of AA as four runs, and their record."""
    npz = tmp_path / "AA_subsampled.npz"
    return npz, recorded(npz, data)


def test_a_record_comes_back_as_it_was(made: tuple[Path, ReferenceRecord]) -> None:
    npz, record = made
    assert read_record(npz) is None
    record.write(npz)
    assert record_path(npz).name == "AA_reference.json"
    assert sorted(path.name for path in npz.parent.iterdir()) == ["AA_reference.json", "AA_subsampled.npz"]
    found = read_record(npz)
    assert found is not None
    assert repr(found) == repr(record), "NaN and ∞ too"
    assert (found.runs, found.total_ns, found.frames, found.effective_frames) == (4, 3.2, 8000, 8000)
    assert found.method == "replica exchange"
    assert [state.label for state in found.states][-1] == "φ(A2) 0…120°"
    assert found.states[-1].visits == 0
    assert found.converged == (not found.reasons)
    json.loads(record_path(npz).read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_infinities_and_unknowns_come_back(made: tuple[Path, ReferenceRecord]) -> None:
    npz, record = made
    odd = replace(record.states[0], r_hat=math.inf, error=math.nan)
    changed = replace(record, states=(odd,), time_ns=(math.nan,), ladder=None, energy_evaluations=None)
    changed.write(npz)
    assert repr(read_record(npz)) == repr(changed)


def test_a_record_is_of_one_trajectory(made: tuple[Path, ReferenceRecord]) -> None:
    npz, record = made
    assert record.is_of(npz)
    npz.write_bytes(npz.read_bytes() + b" ")
    assert not record.is_of(npz)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: "[]",
        lambda text: "",
        lambda text: text.replace('"share"', '"part"'),
        lambda text: text.replace('"runs": 4', '"runs": "four"'),
        lambda text: text.replace('"sequence": "AA"', '"sequence": null'),
    ],
)
def test_a_damaged_record_is_refused_by_name(made: tuple[Path, ReferenceRecord], damage: object) -> None:
    npz, record = made
    record.write(npz)
    path = record_path(npz)
    text = path.read_text()
    path.write_text(damage(text))  # type: ignore[operator]
    assert path.read_text() != text
    with pytest.raises(ValueError, match=r"AA_reference\.json is no record of a reference"):
        read_record(npz)


# --- the rule -----------------------------------------------------------------------------------


def estimate(label: str = "A", **changes: float) -> StateEstimate:
    values = {"share": 0.3, "error": 0.01, "low": 0.28, "high": 0.32, "r_hat": 1.0, "effective_frames": 900.0}
    return StateEstimate(label=label, visits=9, **values | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "runs", "expected"),
    [
        (estimate(), 4, []),
        (estimate(), None, []),
        (estimate(), 3, ["3 independent runs, at least 4 are needed"]),
        (estimate(r_hat=1.06), 4, ["R̂ above 1.05 (A: 1.06)"]),
        (estimate(r_hat=math.nan), 4, ["R̂ above 1.05 (A: unknown)"]),
        (estimate(effective_frames=99.0), 4, ["fewer than 100 effective frames (A: 99)"]),
        (estimate(effective_frames=99.7), 4, ["fewer than 100 effective frames (A: 99.7)"]),
        (estimate(r_hat=1.0521), 4, ["R̂ above 1.05 (A: 1.052)"]),
        (
            replace(estimate(share=0.0, high=1.0, r_hat=math.nan, effective_frames=0.0), visits=0),
            4,
            ["never visited, and not known to be rare (A: up to 100 %)"],
        ),
        (estimate(share=0.002, low=0.0, high=0.004, r_hat=9.0), 4, []),
        (estimate(share=0.998, low=0.996, high=1.0, r_hat=9.0), 4, []),
        (estimate(share=0.0016, low=0.0, high=0.011, r_hat=1.12), 4, ["R̂ above 1.05 (A: 1.12)"]),
        (estimate(share=0.994, r_hat=9.0), 4, ["R̂ above 1.05 (A: 9)"]),
    ],
)
def test_the_rule(state: StateEstimate, runs: int | None, expected: list[str]) -> None:
    assert unconverged([estimate("B"), state], runs) == expected


def test_reasons_name_the_worst_states() -> None:
    states = [estimate(name, r_hat=1 + value) for name, value in zip("ABCDE", (0.1, 0.3, 0.2, 0.06, 0.5), strict=True)]
    assert unconverged(states, 4) == ["R̂ above 1.05 (E: 1.5, B: 1.3, C: 1.2 and 2 more)"]


def relaxing(seed: int, start: float, runs: int = 16) -> list[np.ndarray]:
    """Runs of 60 frames that forget where they began in 10."""
    noise, keep = np.random.default_rng(seed).standard_normal((60, runs)), np.exp(-0.1)
    x = [np.full(runs, start)]
    for step in noise:
        x.append(keep * x[-1] + np.sqrt(1 - keep**2) * step)
    return list(np.array(x[1:]).T)


def test_runs_that_began_before_equilibrium_are_told() -> None:
    """R̂ between runs cannot see what they share. Runs at equilibrium pass but for one in two hundred."""
    drift = drift_of(relaxing(0, -4.0))
    assert drift is not None
    assert drift.certain
    assert drift.rise == pytest.approx(4.0 / 30 * sum(np.exp(-0.1 * k) for k in range(1, 31)), abs=4 * drift.error)
    (reason,) = drifting(drift)
    assert reason.startswith("energies rise by 1.")
    assert "they began before equilibrium" in reason
    settled = [drift_of(relaxing(seed, 0.0)) for seed in range(1, 401)]
    assert sum(one is not None and one.certain for one in settled) <= 10
    assert drift_of(relaxing(0, -4.0, runs=3)) is None


def test_a_drift_is_the_first_reason_of_a_record(made: tuple[Path, ReferenceRecord], data: Path) -> None:
    npz, record = made
    drift = drift_of(relaxing(0, -4.0))
    again = recorded(npz, data, energy_drift=drift)
    assert not again.converged
    assert again.reasons == (*drifting(drift), *record.reasons)
