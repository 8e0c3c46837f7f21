"""Equal budgets: what counts, who wins, and the whole comparison on a small flow."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from boltzray.evaluation.compare import CompareJob, compare_budgets
from boltzray.evaluation.compare_page import winners
from boltzray.evaluation.compare_runs import RunPlan, Spent, effective_frames
from boltzray.evaluation.reference import load_reference_ensemble
from boltzray.molecules import Peptide
from boltzray.molecules.metrics import compare
from boltzray.molecules.references import load_reference, save_reference
from boltzray.molecules.stereo import atom_names
from boltzray.report.curves import CURVE_METRICS, BudgetRun, curves, load_curves, save_curves
from boltzray.sampling.flow_actors import ActorsConfig


def run(method: str, repeat: int, torus: float, budget: int = 1000) -> BudgetRun:
    return BudgetRun(
        method=method, budget=budget, repeat=repeat, energies=1e3, seconds=2.0, metrics={"torus_w2": torus}
    )


def test_points_are_means_with_standard_errors(tmp_path: Path) -> None:
    runs = [run("SNIS", 0, 1.0), run("SNIS", 1, 3.0), run("MD", 0, 5.0), run("SNIS", 0, 0.5, budget=100)]
    save_curves(tmp_path, runs, {"torus_w2": 0.25})
    snis, md = load_curves(tmp_path)
    assert [point.budget for point in snis.points] == [100, 1000]
    assert (snis.points[1].mean, snis.points[1].error) == ({"torus_w2": 2.0}, {"torus_w2": pytest.approx(1.0)})
    assert snis.points[1].margin("torus_w2") == pytest.approx(12.706, abs=1e-3)  # Student's t of two runs
    assert (md.points[0].error, md.floor) == ({"torus_w2": 0.0}, {"torus_w2": 0.25})
    with (tmp_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["torus_w2"]) for row in rows] == [1.0, 3.0, 5.0, 0.5]
    assert load_curves(tmp_path / "nowhere") == []


def test_a_winner_is_named_with_those_that_cannot_be_told_from_it() -> None:
    runs = [
        *(run("A", r, x) for r, x in enumerate((1.0, 1.1, 0.9))),
        *(run("B", r, x) for r, x in enumerate((1.1, 1.0, 1.2))),
        *(run("C", r, x) for r, x in enumerate((5.0, 5.1, 4.9))),
    ]
    ((budget, best),) = winners(curves(runs, {}))
    assert (budget, best["torus_w2"], best["effective"]) == (1000, ["A", "B"], [])


def test_effective_frames_of_a_correlated_series() -> None:
    rng, rho, n = np.random.default_rng(0), 0.9, 20_000
    noise, series = rng.standard_normal(n), np.zeros(n)
    for i in range(1, n):
        series[i] = rho * series[i - 1] + noise[i]
    assert effective_frames(series) == pytest.approx(n * (1 - rho) / (1 + rho), rel=0.15)
    assert effective_frames(np.ones(100)) == 1.0


def test_what_finetuning_spent(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no finished finetuning"):
        Spent.read(tmp_path)
    (tmp_path / "checkpoint").mkdir()
    rounds = [{"energies": 500, "n": 500, "seconds": 1.0}, {"energies": 1500, "n": 600, "seconds": 9.0, "final": True}]
    (tmp_path / "rounds.json").write_text(json.dumps(rounds))
    spent = Spent.read(tmp_path)
    assert (spent.energies, spent.seconds, spent.checkpoint) == (900, 9.0, tmp_path / "checkpoint")


def test_files_are_named_by_method_budget_and_repeat(tmp_path: Path) -> None:
    draws = RunPlan(folder=tmp_path, budgets=(100, 1000), repeats=2, frames=100, seed=0)
    (tmp_path / "runs").mkdir()
    draws.save("finetuned SNIS (a)", 100, 1, energies=1.0)
    assert [path.name for path in (tmp_path / "runs").glob("*.npz")] == ["finetuned-snis--a-100-1.npz"]
    assert draws.missing("finetuned SNIS (a)") == [(100, 0), (1000, 0), (1000, 1)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "give a peptide"),
        ({"sequence": "AA", "methods": ()}, "nothing to compare"),
        ({"sequence": "AA", "budgets": (10,)}, "100 or more"),
        ({"sequence": "AA", "repeats": 0}, "repeats"),
    ],
)
def test_wrong_settings(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompareJob(**wrong)  # type: ignore[arg-type]


def test_md_and_snis_from_end_to_end(ray_cluster: None, home: Path, data: Path, checkpoint: Path) -> None:
    job = CompareJob(
        sequence="AA",
        checkpoint=str(checkpoint),
        methods=("md", "snis"),
        budgets=(100, 400),
        repeats=2,
        frames=100,
        data_dir=str(data),
        actors=ActorsConfig(flow_replicas=1),
    )
    out = compare_budgets(job)
    assert out == home / "outputs" / "sample" / "AA" / "budgets"
    md, snis = load_curves(out)
    assert (md.method, snis.method) == ("MD", "SNIS")
    for curve in (md, snis):
        assert [(p.budget, p.runs, p.energies) for p in curve.points] == [(100, 2, 100.0), (400, 2, 400.0)]
        assert all(set(p.mean) == set(CURVE_METRICS) for p in curve.points)
    assert md.points[1].mean["energy_w2"] < snis.points[1].mean["energy_w2"]  # the flow has learned nothing
    assert set(md.floor) == set(CURVE_METRICS) - {"effective"}
    page = (out / "compare.html").read_text()
    assert "budget_seconds" in page
    before = (out / "curves.json").read_text()
    (out / "runs" / "snis-400-1.npz").unlink()
    (out / "runs" / "snis-400-1.json").unlink()
    compare_budgets(job)  # what is missing is made again, the same
    again = json.loads((out / "curves.json").read_text())
    for new, old in zip(again, json.loads(before), strict=True):
        assert [p["mean"] for p in new["points"]] == [pytest.approx(p["mean"]) for p in old["points"]]


@pytest.mark.slow
def test_curves_are_of_the_weighted_reference(ray_cluster: None, home: Path, data: Path, checkpoint: Path) -> None:
    aa, folder = Peptide.from_pdb(data / "pdbs" / "test" / "AA.pdb"), Path("trajectories_subsampled", "test", "2AA")
    stored = load_reference(data / folder / "AA_subsampled.npz")
    frames, log_w = stored.positions_nm[:300], np.random.default_rng(0).normal(size=300)
    path = home / "weighted" / folder / "AA_subsampled.npz"
    save_reference(path, frames, stored.tica, atom_names(aa), log_weights=log_w, run_lengths=(100, 200))
    job = CompareJob(
        sequence="AA",
        checkpoint=str(checkpoint),
        methods=("snis",),
        budgets=(100,),
        repeats=1,
        frames=300,
        data_dir=str(home / "weighted"),
        actors=ActorsConfig(flow_replicas=1),
    )
    out = compare_budgets(job)
    (snis,) = load_curves(out)
    reference = load_reference_ensemble(Peptide.from_sequence("AA"), home / "weighted", 310.0)[0]
    assert reference is not None
    assert reference.tica is not None
    with np.load(out / "runs" / "snis-100-0.npz") as run:
        drawn = run["positions_nm"], reference.energy_kT, run["energy_kT"]
        of = Peptide.from_sequence("AA"), reference.tica, run["log_weights"]
        found = [
            compare(reference.positions_nm, *drawn, *of, reference_log_weights=weights, only=("torus_w2",))["torus_w2"]
            for weights in (log_w, None)
        ]
    assert snis.points[0].mean["torus_w2"] == pytest.approx(found[0], abs=1e-6)
    assert abs(found[0] - found[1]) > 1e-4
    split = slice(100), slice(100, None)
    halves = [(reference.positions_nm[s], reference.energy_kT[s], log_w[s]) for s in split]
    (one, e_one, w_one), (two, e_two, w_two) = halves
    between = compare(one, two, e_one, e_two, *of[:2], w_two, reference_log_weights=w_one, only=("torus_w2",))
    assert snis.floor["torus_w2"] == pytest.approx(between["torus_w2"], abs=1e-6)
