"""References that carry weights and independent runs: files, resampling, and every metric."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reports import ENERGIES, FRAMES, GOLDEN, PEPTIDE, TICA

from boltzray.molecules import Peptide
from boltzray.molecules.independent_runs import halfway, run_lengths_at, split_runs
from boltzray.molecules.metrics import METRICS, compare, noise_floor
from boltzray.molecules.observables import bond_outliers, dihedrals
from boltzray.molecules.reference_match import in_order_of
from boltzray.molecules.references import ReferenceTrajectory, load_reference, save_reference
from boltzray.molecules.stereo import atom_names

N = 240
TIMES = np.random.default_rng(0).integers(0, 4, N)
RUNS = (50, 100, 90)


def logs(weights: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(weights) + 5.0  # need not be normalised


@pytest.fixture(scope="module")
def drawn() -> dict[str, Any]:
    """Draws whose bonds are partly bad, with weights of their own."""
    rng = np.random.default_rng(1)
    positions = GOLDEN["generated"][:200] + rng.normal(scale=0.009, size=(200, *FRAMES.shape[1:]))
    return {"positions": positions, "energy": GOLDEN["generated_energy_kT"][:200], "log_w": rng.normal(size=200)}


def measured(drawn: dict[str, Any], rows: np.ndarray, **options: Any) -> dict[str, float]:
    d, p = drawn, PEPTIDE
    return compare(FRAMES[rows], d["positions"], ENERGIES[rows], d["energy"], p, TICA, d["log_w"], **options)


# --- metrics ------------------------------------------------------------------------------------


def test_integer_weights_are_repeated_frames_in_every_metric(drawn: dict[str, Any]) -> None:
    """Clusters begin with the same centres, so the same are found; k-means need not promise it."""
    weighted = measured(drawn, np.arange(N), reference_log_weights=logs(TIMES))
    repeated = measured(drawn, np.repeat(np.arange(N), TIMES))
    plain = measured(drawn, np.arange(N))
    assert set(weighted) == set(METRICS)
    assert 0.1 < weighted["bad_bonds"] < 0.9
    for name, value in weighted.items():
        assert value == pytest.approx(repeated[name], abs=1e-10 if name.endswith("jsd") else 1e-12), name
        if name.endswith(("w1", "w2", "jsd")):
            assert abs(value - plain[name]) > 1e-4, name


def test_equal_weights_are_none_to_the_last_bit(drawn: dict[str, Any]) -> None:
    options: dict[str, Any] = {"frames": 150, "intervals": 2}
    equal = measured(drawn, np.arange(N), reference_log_weights=np.full(N, -3.0), **options)
    assert equal == measured(drawn, np.arange(N), **options)


def test_frames_of_the_reference_without_weight_may_hold_anything(drawn: dict[str, Any]) -> None:
    frames, energies, log_w = FRAMES[:N].copy(), ENERGIES[:N].copy(), np.zeros(N)
    frames[::5], energies[::5], log_w[::5] = np.nan, np.inf, -np.inf
    d = drawn
    found = compare(
        *(frames, d["positions"], energies, d["energy"], PEPTIDE, TICA, d["log_w"]), reference_log_weights=log_w
    )
    assert found == measured(drawn, np.flatnonzero(log_w == 0))


def test_weights_undo_the_bias_of_a_run_that_favours_a_basin() -> None:
    """Truth: all frames. Of those with ψ < 0 the reference has every fourth, four times as heavy."""
    psi = dihedrals(FRAMES, PEPTIDE.topology)[1][:, 0]
    rare = psi < 0
    kept = ~rare
    kept[np.flatnonzero(rare)[::4]] = True
    log_w = np.where(rare, np.log(4.0), 0.0)[kept]
    sets = FRAMES[kept], FRAMES, ENERGIES[kept], ENERGIES, PEPTIDE, TICA
    only = ("torus_w2", "torus_jsd", "tica_jsd")
    plain, weighted = compare(*sets, only=only), compare(*sets, reference_log_weights=log_w, only=only)
    assert 0.1 < rare.mean() < 0.9
    assert weighted["torus_w2"] < 0.5 * plain["torus_w2"]
    for name in only[1:]:
        assert weighted[name] < 0.2 * plain[name], name


def test_intervals_of_a_weighted_reference(drawn: dict[str, Any]) -> None:
    steep = -50.0 * np.arange(N)  # one frame has all the weight: a redraw may leave it out
    found = measured(drawn, np.arange(N), reference_log_weights=steep, intervals=3)
    assert np.isfinite(list(found.values())).all()
    assert found["torus_w2_low"] <= found["torus_w2"] < found["torus_w2_high"]


def test_mean_bond_lengths_are_weighted() -> None:
    reference = np.concatenate([FRAMES[:50], 1.5 * FRAMES[:50]])
    weights = np.repeat([1.0, 0.0], 50)
    expected = bond_outliers(FRAMES[50:80], PEPTIDE.topology, FRAMES[:50])
    assert np.array_equal(bond_outliers(FRAMES[50:80], PEPTIDE.topology, reference, weights), expected)
    assert bond_outliers(FRAMES[50:80], PEPTIDE.topology, reference).min() > expected.max()


@pytest.mark.parametrize(
    ("log_weights", "message"),
    [
        (np.zeros(3), r"shape \(3,\), expected \(240,\): one for each reference frame"),
        (np.full(N, np.nan), "NaN or"),
        (np.full(N, -np.inf), "no reference frame counts"),
        (np.where(np.arange(N) < 5, 0.0, -np.inf), "has 5 frames"),
    ],
)
def test_bad_weights_are_one_line(drawn: dict[str, Any], log_weights: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measured(drawn, np.arange(N), reference_log_weights=log_weights)


# --- noise floor --------------------------------------------------------------------------------


def floor(rows: np.ndarray, **options: Any) -> dict[str, float]:
    return noise_floor(FRAMES[rows], ENERGIES[rows], PEPTIDE, TICA, only=("torus_w2", "tica_jsd"), **options)


def halves(cut: int, **options: Any) -> dict[str, float]:
    first, second, energies = FRAMES[:cut], FRAMES[cut:N], ENERGIES[:N]
    only = ("torus_w2", "tica_jsd")
    return compare(first, second, energies[:cut], energies[cut:], PEPTIDE, TICA, only=only, **options)


def test_the_noise_floor_is_between_whole_runs() -> None:
    every = np.arange(N)
    assert floor(every, run_lengths=RUNS) == halves(150)  # 150 is nearer to 120 than 50
    assert floor(every, run_lengths=(N,)) == floor(every, run_lengths=(10, N - 10)) == floor(every) == halves(N // 2)
    assert floor(every, run_lengths=RUNS) != floor(every)


def test_the_noise_floor_weighs_both_halves() -> None:
    log_w = logs(TIMES)
    found = floor(np.arange(N), log_weights=log_w, run_lengths=RUNS)
    assert found == pytest.approx(halves(150, log_weights=log_w[150:], reference_log_weights=log_w[:150]), abs=1e-12)
    lengths = [int(part.sum()) for part in split_runs(TIMES, RUNS)]
    assert found == pytest.approx(floor(np.repeat(np.arange(N), TIMES), run_lengths=lengths), abs=1e-10)


def test_a_half_without_weight_has_no_noise_floor() -> None:
    for dead in (slice(0, 120), slice(120, N)):
        log_w = np.zeros(N)
        log_w[dead] = -np.inf
        assert floor(np.arange(N), log_weights=log_w) == {}
    assert floor(np.arange(30)) == {}


def test_halves_of_runs() -> None:
    assert [halfway(10), halfway(10, (10,)), halfway(10, (3, 3, 4)), halfway(10, (1, 9)), halfway(10, (1, 9), 2)] == [
        *(5, 5, 6, 1, 5)
    ]
    assert run_lengths_at(np.array([0, 1, 5, 9]), (3, 1, 6)) == (2, 2)
    assert run_lengths_at(np.array([0, 1]), ()) == ()


# --- frames that count the same -----------------------------------------------------------------


def trajectory(log_weights: np.ndarray | None = None, runs: tuple[int, ...] = RUNS) -> ReferenceTrajectory:
    return ReferenceTrajectory(positions_nm=FRAMES[:N], log_weights=log_weights, run_lengths=runs)


def order(found: ReferenceTrajectory) -> np.ndarray:
    """Rows of the golden frames that these are."""
    return np.array([int(np.flatnonzero((FRAMES[:N] == x).all((1, 2)))[0]) for x in found.positions_nm])


def test_resampled_frames_stand_for_all_in_order_of_time() -> None:
    weighted = trajectory(logs(TIMES))
    assert weighted.weights == pytest.approx(TIMES / TIMES.sum(), abs=1e-15)
    same = weighted.equally_weighted(2 * TIMES.sum())
    assert np.array_equal(order(same), np.repeat(np.arange(N), 2 * TIMES))
    assert (same.log_weights, same.run_lengths) == (None, tuple(2 * int(t.sum()) for t in split_runs(TIMES, RUNS)))
    few = weighted.equally_weighted(100)
    assert (np.diff(order(few)) >= 0).all()
    assert np.abs(np.bincount(order(few), minlength=N) - 100 * weighted.weights).max() < 1
    assert np.array_equal(few.positions_nm, weighted.equally_weighted(100).positions_nm)


def test_equal_frames_are_evenly_spaced_and_come_once() -> None:
    few = trajectory().equally_weighted(24)
    assert np.diff(order(few)).tolist() == [10] * 23
    assert few.run_lengths == (5, 10, 9)
    assert trajectory().weights.tolist() == [1 / N] * N
    assert np.array_equal(trajectory().equally_weighted(10_000).positions_nm, FRAMES[:N])


def test_a_subsample_keeps_weights_and_runs() -> None:
    weighted = trajectory(np.random.default_rng(3).normal(scale=2.0, size=N))
    few = weighted.subsampled(60)
    assert len(few.positions_nm) == sum(few.run_lengths) == 60
    assert len(few.run_lengths) == 3
    x = ENERGIES[:N]
    assert few.weights @ ENERGIES[order(few)] == pytest.approx(weighted.weights @ x, abs=0.2 * x.std())
    heaviest = np.argsort(weighted.weights)[-5:]
    assert set(heaviest) <= set(order(few))


# --- files --------------------------------------------------------------------------------------


def test_weights_and_runs_are_kept_in_files_and_in_another_order_of_atoms(tmp_path: Path, data: Path) -> None:
    path, log_w = tmp_path / "AA_subsampled.npz", logs(TIMES)
    save_reference(path, FRAMES[:N], TICA, atom_names(PEPTIDE), log_weights=log_w, run_lengths=RUNS)
    other = Peptide.from_pdb(data / "cases" / "atom_order_reference" / "AA_order.pdb")
    for found in (load_reference(path), in_order_of(other, load_reference(path))):
        assert found.log_weights is not None
        assert np.array_equal(found.log_weights, log_w)
        assert found.run_lengths == RUNS
    assert found.atoms == tuple(atom_names(other)) != tuple(atom_names(PEPTIDE))
    save_reference(path, FRAMES[:N], TICA)
    with np.load(path) as archive:
        assert not {"log_weights", "run_lengths"} & set(archive)
    plain = load_reference(path)
    assert (plain.log_weights, plain.run_lengths) == (None, ())


BAD: list[tuple[dict[str, Any], str]] = [
    ({"log_weights": np.zeros(3)}, r"expected \(5,\): one for each reference frame"),
    ({"log_weights": np.array([0.0, np.nan, 0, 0, 0])}, "NaN or"),
    ({"log_weights": np.array([0.0, np.inf, 0, 0, 0])}, "NaN or"),
    ({"log_weights": np.full(5, -np.inf)}, "no reference frame counts"),
    ({"run_lengths": np.array([2, 2])}, r"run_lengths is \[2, 2\]: give the frames of each run, 5 in all"),
    ({"run_lengths": np.array([5, 0])}, "5 in all"),
    ({"run_lengths": np.array([2.5, 2.5])}, "5 in all"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD)
def test_wrong_weights_and_runs_are_refused(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    path = tmp_path / "wrong.npz"
    with pytest.raises(ValueError, match=message):
        save_reference(path, FRAMES[:5], None, **wrong)
    assert not path.exists()
    np.savez(path, positions=FRAMES[:5], **wrong)
    with pytest.raises(ValueError, match=rf"wrong\.npz: .*{message}") as error:
        load_reference(path)
    assert "\n" not in str(error.value)


def test_a_reference_whose_finite_frames_have_no_weight_is_refused() -> None:
    frames, log_w = FRAMES[:5].copy(), np.full(5, -np.inf)
    frames[0], log_w[0] = np.nan, 0.0
    with pytest.raises(ValueError, match="no frame of it is finite and has a weight"):
        in_order_of(PEPTIDE, ReferenceTrajectory(positions_nm=frames, log_weights=log_w))
