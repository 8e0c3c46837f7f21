"""A weighted reference in the report: what is drawn of it, and judged by it, is that of frames repeated."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from reports import ENERGIES, FRAMES, PEPTIDE, REFERENCE, TICA, ensemble, report

from boltzray.molecules.independent_runs import split_runs
from boltzray.molecules.observables import project
from boltzray.report.contents import Reference, quantiles
from boltzray.report.figures import plot_report
from boltzray.report.figures_structures import panels
from boltzray.report.plotting import Picture
from boltzray.report.verdict import verdict

N = len(FRAMES)
TIMES = np.random.default_rng(0).integers(0, 4, N)
RUNS = (300, 350, 350)
LENGTHS = tuple(int(times.sum()) for times in split_runs(TIMES, RUNS))


def weighted(weights: np.ndarray, **changes: Any) -> Reference:
    with np.errstate(divide="ignore"):
        return replace(REFERENCE, log_weights=np.log(weights), **changes)


def repeated(times: np.ndarray, **changes: Any) -> Reference:
    frames, energies = np.repeat(FRAMES, times, axis=0), np.repeat(ENERGIES, times)
    return replace(REFERENCE, positions_nm=frames, energy_kT=energies, **changes)


def figures(reference: Reference, *ensembles: Any) -> dict[str, Picture]:
    return {p.name: p for p in plot_report(report(*ensembles or (ensemble(),), reference=reference))}


@pytest.fixture(scope="module")
def pair() -> tuple[dict[str, Picture], dict[str, Picture], dict[str, Picture]]:
    """Figures of weights, of the same frames repeated, and of the frames alone."""
    with_weights = figures(weighted(TIMES, run_lengths=RUNS))
    return with_weights, figures(repeated(TIMES, run_lengths=LENGTHS)), figures(REFERENCE)


def test_the_histogram_of_energies_is_weighted(pair: tuple[dict[str, Picture], ...]) -> None:
    def drawn(pictures: dict[str, Picture]) -> tuple[np.ndarray, np.ndarray]:
        data = pictures["energy"].figure.axes[0].patches[0].get_data()
        return np.asarray(data.values), np.asarray(data.edges)

    (density, edges), *others = map(drawn, pair)
    counted = np.histogram(ENERGIES, edges, weights=TIMES)[0] / TIMES.sum() / np.diff(edges)
    np.testing.assert_allclose(density, counted, atol=1e-12)
    assert np.abs(density - others[1][0]).max() > 0.05 * density.max()
    at = (0.001, 0.5, 0.999)
    expected = np.quantile(np.repeat(ENERGIES, TIMES), at, method="inverted_cdf")
    assert np.array_equal(quantiles(ENERGIES, at, TIMES), expected)


def test_the_cumulative_energies_are_weighted() -> None:
    far = ensemble(energy_kT=ENERGIES + 1e4)  # lie outside: drawn on a logarithmic axis, too
    line = figures(weighted(TIMES), far)["energy_log"].figure.axes[0].lines[0]
    order = np.argsort(ENERGIES)
    np.testing.assert_allclose(line.get_ydata(), np.cumsum(TIMES[order]) / TIMES.sum(), atol=1e-12)


@pytest.mark.parametrize("name", ["ramachandran_1", "tica"])
def test_maps_and_halves_are_weighted(pair: tuple[dict[str, Picture], ...], name: str) -> None:
    def reference_map(pictures: dict[str, Picture]) -> np.ndarray:
        (mesh,) = [m for m in pictures[name].figure.axes[1].collections if isinstance(m, QuadMesh)]
        return np.ma.filled(np.ma.masked_invalid(mesh.get_array()), -1.0)

    ours, same, plain = pair
    if name == "ramachandran_1":  # the edges are fixed
        np.testing.assert_allclose(reference_map(ours), reference_map(same), atol=1e-9)
        assert np.abs(reference_map(ours) - reference_map(plain)).max() > 0.1
        assert ours[name].caption == same[name].caption
    assert ours[name].caption != plain[name].caption  # of the halves


def test_panels_say_how_many_frames_they_are_worth() -> None:
    reference = weighted(TIMES, run_lengths=RUNS)
    (*_, panel) = panels(report(ensemble(), reference=reference))
    kept = TIMES > 0
    assert np.array_equal(panel.positions_nm, FRAMES[kept])
    np.testing.assert_allclose(panel.weights, TIMES[kept] / TIMES.sum())
    assert panel.halfway == kept[:650].sum()  # 650 is nearer to 500 than 300
    effective = TIMES.sum() ** 2 / np.square(TIMES).sum()
    assert panel.title == f"reference MD\n{N} frames, effective {effective:.0f}"
    plain = panels(report(ensemble()))[-1]
    assert (plain.title, plain.halfway) == (f"reference MD\n{N} frames", N // 2)


def test_the_profile_of_the_slow_coordinate_is_weighted() -> None:
    """All weight on frames below the median of TIC 1, then above: there the profiles lie."""
    tic = project(TICA, FRAMES, PEPTIDE.topology)[:, 0]
    low = tic < np.median(tic)
    lines = []
    for half in (low, ~low):
        axis = figures(weighted(np.where(half, 1.0, 1e-9)))["tica_profile"].figure.axes[0]
        lines.append([(line.get_xdata(), np.asarray(line.get_ydata())) for line in axis.lines])
    for drawn in lines:
        assert len(drawn) == 4  # two halves, the ensemble, the reference
        assert all(np.nanmin(y) == 0.0 for _, y in drawn)
    means = [float(np.average(x, weights=np.exp(-np.nan_to_num(y, nan=np.inf)))) for *_, (x, y) in lines]
    assert means == pytest.approx([tic[low].mean(), tic[~low].mean()], abs=0.1)


def test_the_verdict_uses_weighted_quantiles() -> None:
    """Draws like the frames of high energy: as they should be, if the weight of the reference is on these."""
    high = np.median(ENERGIES) < ENERGIES
    draws = ensemble(np.where(high, 0.0, -np.inf))
    texts = []
    for reference in (REFERENCE, weighted(np.where(high, 1.0, 1e-12)), repeated(high.astype(int))):
        texts.append(next(f.text for f in verdict(report(draws, reference=reference)) if "weighted median" in f.text))
    shifts = [float(re.findall(r"by (\S+) kT", text.replace("−", "-"))[0]) for text in texts]
    assert shifts[0] == pytest.approx(np.median(ENERGIES[high]) - np.median(ENERGIES), abs=0.05)
    assert shifts[1:] == pytest.approx([0.0, 0.0], abs=0.05)


def test_bad_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"log-weights of shape \(3,\)"):
        replace(REFERENCE, log_weights=np.zeros(3))
    energies = np.where(TIMES > 0, np.inf, 0.0)
    with pytest.raises(ValueError, match="finite ones"):
        weighted(TIMES, energy_kT=energies)
