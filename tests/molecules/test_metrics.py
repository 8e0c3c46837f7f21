"""The metrics against the published numbers, closed forms and their own symmetries."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ot
import pytest
from openmm.app import PDBFile
from scipy.special import erfinv

from boltzray.molecules.metrics import compare
from boltzray.molecules.observables import Tica
from boltzray.molecules.subsample import weighted_subsample
from boltzray.molecules.transport import jensen_shannon, squared_distances, transport, wasserstein_1d

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.npz"
NAMES = {
    "energy-w2": "energy_w2",
    "energy-w1": "energy_w1",
    "torus-w2": "torus_w2",
    "tica-w2": "tica_w2",
    "tica-k-jsd": "tica_jsd",
    "torus-k-jsd": "torus_jsd",
}
DISTANCES = tuple(NAMES.values())


@pytest.fixture(scope="module")
def golden() -> SimpleNamespace:
    data = dict(np.load(GOLDEN))
    topology = PDBFile(io.StringIO(bytes(data["pdb"]).decode())).topology
    return SimpleNamespace(
        reference=data["reference"],
        generated=data["generated"],
        energy_r=data["reference_energy_kT"],
        energy_g=data["generated_energy_kT"],
        log_weights=data["log_weights"],
        peptide=SimpleNamespace(topology=topology),
        tica=Tica(mean=data["tica_mean"], projection=data["tica_projection"]),
        values=json.loads(bytes(data["values"])),
    )


def _compare(g: SimpleNamespace, **changes: Any) -> dict[str, float]:
    keywords = {k: changes.pop(k) for k in ("log_weights", "intervals", "seed", "only") if k in changes}
    s = SimpleNamespace(**{**vars(g), **changes})
    return compare(s.reference, s.generated, s.energy_r, s.energy_g, s.peptide, s.tica, **keywords)


def test_golden_values(golden: SimpleNamespace) -> None:
    result = _compare(golden)
    for published, ours in NAMES.items():
        assert result[ours] == pytest.approx(golden.values[published], abs=1e-4), ours
    weighted = _compare(golden, log_weights=golden.log_weights, only=("ess",))
    assert weighted == {"ess": pytest.approx(golden.values["ess"], abs=1e-4)}
    assert result["ess"] == pytest.approx(1.0)
    assert (result["chirality"], result["mirrored"]) == (1.0, 0.0)


def test_mirrored_frames_are_mirrored_back_and_counted(golden: SimpleNamespace) -> None:
    generated = golden.generated.copy()
    generated[::3] *= -1
    result, plain = _compare(golden, generated=generated), _compare(golden)
    assert result["mirrored"] == pytest.approx(golden.values["mirrored-fraction-detected"], abs=1e-4)
    for name in (*DISTANCES, "chirality"):
        assert result[name] == pytest.approx(plain[name], abs=1e-6), name


def test_identical_sets_have_no_distance(golden: SimpleNamespace) -> None:
    result = _compare(golden, generated=golden.reference, energy_g=golden.energy_r)
    for name in DISTANCES:
        assert result[name] == pytest.approx(0.0, abs=1e-6), name


def test_integer_weights_are_repeated_rows(golden: SimpleNamespace) -> None:
    times = np.arange(300) % 4
    with np.errstate(divide="ignore"):
        weighted = _compare(
            golden,
            generated=golden.generated[:300],
            energy_g=golden.energy_g[:300],
            log_weights=np.log(times),
        )
    repeated = _compare(
        golden,
        generated=np.repeat(golden.generated[:300], times, axis=0),
        energy_g=np.repeat(golden.energy_g[:300], times),
    )
    for name in DISTANCES:
        assert weighted[name] == pytest.approx(repeated[name], abs=1e-7), name
    assert weighted["ess"] == pytest.approx(times.sum() ** 2 / (times**2).sum() / 300)


def test_order_of_generated_frames_does_not_matter(golden: SimpleNamespace) -> None:
    order = np.random.default_rng(0).permutation(len(golden.generated))
    result = _compare(golden, log_weights=golden.log_weights)
    shuffled = _compare(
        golden,
        generated=golden.generated[order],
        energy_g=golden.energy_g[order],
        log_weights=golden.log_weights[order],
    )
    assert shuffled == pytest.approx(result, abs=1e-8)


def test_frames_without_weight_may_hold_anything(golden: SimpleNamespace) -> None:
    generated, energy = golden.generated.copy(), golden.energy_g.copy()
    generated[::5], energy[::5] = np.nan, np.inf
    log_weights = np.zeros(len(generated))
    log_weights[::5] = -np.inf
    kept = np.isfinite(log_weights)
    expected = _compare(golden, generated=generated[kept], energy_g=energy[kept])
    result = _compare(golden, generated=generated, energy_g=energy, log_weights=log_weights)
    assert result.pop("ess") == pytest.approx(0.8)
    assert result == pytest.approx({k: v for k, v in expected.items() if k != "ess"}, abs=1e-9)


def test_intervals_hold_the_value_and_repeat_with_the_seed(golden: SimpleNamespace) -> None:
    result = _compare(golden, log_weights=golden.log_weights, intervals=5, seed=3)
    assert result == _compare(golden, log_weights=golden.log_weights, intervals=5, seed=3)
    for name in (*DISTANCES, "ess"):
        assert 0 <= result[f"{name}_low"] < result[name] < result[f"{name}_high"], name


def test_intervals_survive_collapsed_weights(golden: SimpleNamespace) -> None:
    result = _compare(golden, log_weights=-1e4 * np.arange(len(golden.generated)), intervals=3)
    assert np.isfinite(list(result.values())).all()
    assert result["ess"] == pytest.approx(1 / len(golden.generated))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generated": np.zeros((1000, 22, 3))}, "generated positions have shape"),
        ({"reference": np.zeros((1000, 22, 3))}, "reference positions have shape"),
        ({"generated": np.zeros((0, 23, 3)), "energy_g": np.zeros(0)}, "generated set is empty"),
        ({"reference": np.zeros((0, 23, 3)), "energy_r": np.zeros(0)}, "reference set is empty"),
        ({"energy_g": np.zeros(7)}, "one for each of the 1000"),
        ({"energy_g": np.full(1000, np.nan)}, "1000 of 1000 generated frames"),
        ({"reference": np.full((1000, 23, 3), np.nan)}, "1000 of 1000 reference frames"),
        ({"log_weights": np.full(1000, -np.inf)}, "every log-weight is -inf"),
        ({"log_weights": np.full(1000, np.nan)}, "NaN or"),
        ({"log_weights": np.zeros(3)}, "expected \\(1000,\\)"),
        ({"tica": Tica(mean=np.zeros(3), projection=np.zeros((3, 2)))}, "has 3 features"),
        ({"reference": np.ones((3, 23, 3)), "energy_r": np.ones(3)}, "has 3 frames"),
    ],
)
def test_bad_input_is_one_line(golden: SimpleNamespace, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        _compare(golden, **changes)
    assert "\n" not in str(error.value)


# --- the distances themselves -------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2])
def test_shifted_and_stretched_gaussians(order: int) -> None:
    quantiles = np.sqrt(2) * erfinv(np.linspace(-1, 1, 20_001)[1:-1])
    ones = np.ones(len(quantiles))
    assert wasserstein_1d(quantiles, quantiles + 3, ones, ones, order) == pytest.approx(3)
    if order == 2:
        stretched = wasserstein_1d(quantiles, 2 * quantiles + 1, ones, ones, order)
        assert stretched == pytest.approx(np.sqrt(1 + 1), rel=1e-3)


@pytest.mark.parametrize("order", [1, 2])
def test_line_agrees_with_pot_and_with_transport(order: int) -> None:
    rng = np.random.default_rng(1)
    x, y, p, q = rng.normal(size=60), rng.normal(size=90), rng.random(60), rng.random(90)
    found = wasserstein_1d(x, y, p, q, order)
    assert found**order == pytest.approx(float(ot.wasserstein_1d(x, y, p / p.sum(), q / q.sum(), p=order)), rel=1e-9)
    if order == 2:
        assert found == pytest.approx(transport(squared_distances(x[:, None], y[:, None]), p, q) ** 0.5)


def test_a_clash_without_weight_does_not_count() -> None:
    stream = np.random.default_rng(0)
    x, y, q = stream.normal(size=2000), stream.normal(size=1999), stream.random(1999)
    expected = wasserstein_1d(x, y, np.ones(2000), q, 2)
    clash = wasserstein_1d(x, np.append(y, 1e12), np.ones(2000), np.append(q, 0.0), 2)
    assert clash == pytest.approx(expected, rel=1e-9)


def test_torus_wraps() -> None:
    x, y = np.array([[np.pi - 0.1, 0.0]]), np.array([[-np.pi + 0.2, 0.5]])
    assert squared_distances(x, y, 2 * np.pi) == pytest.approx(0.3**2 + 0.5**2)


def test_transport_of_a_shift_is_the_shift() -> None:
    x = np.random.default_rng(2).normal(size=(1600, 3))
    ones = np.ones(len(x))
    assert transport(squared_distances(x, x + 0.4), ones, ones) == pytest.approx(3 * 0.4**2)


@pytest.mark.parametrize("columns", [2, 8])
def test_sparse_transport_is_exact(columns: int) -> None:
    rng = np.random.default_rng(columns)
    x, y = rng.normal(size=(1500, columns)), 1.2 * rng.normal(size=(1700, columns))
    p, q = rng.poisson(1.0, 1500).astype(float), np.exp(2 * rng.normal(size=1700))
    cost = squared_distances(x, y, 2 * np.pi)
    dense = ot.emd2(p / p.sum(), q / q.sum(), cost, numItermax=10**9)
    assert transport(cost, p, q) == pytest.approx(dense, rel=1e-9)


def test_jensen_shannon_bounds() -> None:
    a, b = np.array([5.0, 0.0]), np.array([0.0, 7.0])
    assert jensen_shannon(a, b) == pytest.approx(1.0, abs=1e-6)
    assert jensen_shannon(a, 3 * a) == pytest.approx(0.0, abs=1e-9)


def test_weighted_subsample_is_even_for_equal_weights_and_keeps_heavy_rows() -> None:
    one = np.zeros(1000)
    one[7] = 1.0
    assert [part.tolist() for part in weighted_subsample(one, 10)] == [
        [7],
        [1.0],
    ]  # an untrained flow: one proposal has all the weight
    rows, weights = weighted_subsample(np.ones(1000), 10)
    assert np.diff(rows).tolist() == [100] * 9
    assert np.ptp(weights) == 0
    heavy = np.exp(3 * np.random.default_rng(0).normal(size=5000))
    rows, weights = weighted_subsample(heavy, 500)
    assert len(set(rows)) == 500
    assert weights.sum() == pytest.approx(heavy.sum())
    top = np.argsort(heavy)[-50:]
    assert set(top) <= set(rows)
    assert weights[np.isin(rows, top)] == pytest.approx(heavy[rows[np.isin(rows, top)]])
