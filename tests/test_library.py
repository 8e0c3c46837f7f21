"""`import boltzray` and what it offers: the bits of the jobs, averages with intervals, other formats."""

import json
import re
import subprocess
import sys
import warnings
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from job_processes import environment

import boltzray
from boltzray.ensemble import Ensemble, with_peptide
from boltzray.molecules import OpenMMEnergy, Peptide
from boltzray.molecules.ensemble import Ensemble as SamplerEnsemble
from boltzray.sampling.flow_actors import ActorsConfig
from boltzray.sampling.sample import SampleJob, sample

HERE = {"actors": {"in_process": True, "flow_replicas": 1}}


@pytest.fixture(scope="module")
def drawn() -> Ensemble:
    """Of the shipped flow, twice as many as a block has."""
    return boltzray.sample("DG", n=600, seed=3, **HERE)


def test_the_name_is_cheap_and_says_what_it_has(root: Path, home: Path) -> None:
    code = (
        "import boltzray, sys\nassert not {'torch', 'numpy', 'ray'} & sys.modules.keys()\n"
        "print(*(n for n in dir(boltzray) if n[0] != '_'), boltzray.__version__)\nboltzray.sampel"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(home), capture_output=True, text=True)
    assert {"sample", "finetune", "simulate", "energy", "load", "Ensemble", "0.1.0"} <= set(done.stdout.split())
    assert "has no attribute 'sampel'" in done.stderr


def test_samples_are_those_of_the_job(home: Path, drawn: Ensemble) -> None:
    job = SampleJob(sequence="DG", samples=600, sampler="snis", seed=3, out="a", actors=ActorsConfig(in_process=True))
    found = boltzray.load(sample(job))
    for name in ("positions_nm", "log_weights", "energy_kT", "log_q", "weights"):
        assert np.array_equal(getattr(found, name), getattr(drawn, name)), name
    assert (found.peptide.sequence, found.temperature_k) == ("DG", 310.0)
    assert found.diagnostics["ess"] == drawn.diagnostics["ess"]
    assert not list(home.glob("outputs*"))  # without a folder nothing is kept


def test_an_ensemble_says_what_it_is_worth(drawn: Ensemble) -> None:
    assert len(drawn) == 600
    assert drawn.positions_nm.shape == (600, 22, 3)
    assert drawn.weights.sum() == pytest.approx(1.0)
    assert drawn.verdict[0][1].startswith("An ensemble to use")
    assert "DG at 310 K: 600 conformations of 22 atoms" in repr(drawn)
    html = drawn._repr_html_()
    assert "Pareto" in html
    assert html.count("data:image/svg+xml") == 1  # two residues: one plot of φ and ψ
    (page,) = re.findall(r'<iframe [^>]* srcdoc="([^"]*)">', html)
    (data,) = re.findall(r'id="viewer-data">(.*?)</script>', unescape(page))
    assert all(len(state["xyz"]) == 3 * 22 for state in json.loads(data)["states"])


def test_averages_are_weighted_and_doubtful_ones_warn(drawn: Ensemble) -> None:
    def span(x: np.ndarray) -> np.ndarray:
        return np.linalg.norm(x[:, 0] - x[:, -1], axis=-1)

    found = drawn.average(span)
    assert found.value == pytest.approx(float(drawn.weights @ span(drawn.positions_nm)))
    assert found.low < found.value < found.high
    assert found.usable
    bars = drawn.histogram(span, 8)
    assert (bars.density * np.diff(bars.edges)).sum() == pytest.approx(1.0)
    expected = np.histogram(span(drawn.positions_nm), bars.edges, weights=drawn.weights)[0]
    np.testing.assert_allclose(bars.density * np.diff(bars.edges), expected, atol=1e-12)
    assert (bars.low <= bars.density + 1e-12).all()
    assert (bars.density <= bars.high + 1e-12).all()
    with pytest.raises(ValueError, match="one value a conformation"):
        drawn.average(lambda x: x)
    heavy = np.random.default_rng(0).standard_cauchy(600) ** 3
    with pytest.warns(UserWarning, match="not to be trusted"):
        assert not drawn.average(heavy).usable


def test_a_normal_is_averaged_within_its_interval() -> None:
    """Importance weights of N(0, 1) for N(0.5, 1): the mean of the first coordinate is 0.5."""
    peptide, hits = Peptide.from_sequence("GG"), 0
    for seed in range(40):
        x = np.random.default_rng(seed).standard_normal((500, peptide.n_atoms, 3)).astype(np.float32)
        weights = 0.5 * x[:, 0, 0].astype(np.float64)
        plain = SamplerEnsemble(name="SNIS", chunks=[x], log_weights=weights, energy_kT=np.zeros(500))
        average = with_peptide(plain, peptide, 310.0, "amber14-obc1").average(lambda x: x[:, 0, 0])
        hits += average.low <= 0.5 <= average.high
    assert hits >= 33  # of 40 at 95 %: 5 σ


def test_resampled_draws_count_the_same(drawn: Ensemble) -> None:
    again = drawn.resample(5000, seed=1)
    assert np.ptp(again.weights) == 0.0
    error = drawn.average(drawn.energy_kT).error
    assert abs(again.energy_kT.mean() - drawn.weights @ drawn.energy_kT) < error
    assert np.array_equal(again.positions_nm, drawn.resample(5000, seed=1).positions_nm)


def test_other_formats(home: Path, drawn: Ensemble, monkeypatch: pytest.MonkeyPatch) -> None:
    trajectory = drawn.to_mdtraj()
    assert np.array_equal(trajectory.xyz, drawn.positions_nm)
    assert [residue.name for residue in trajectory.topology.residues] == ["ASP", "GLY"]
    monkeypatch.setitem(sys.modules, "MDAnalysis", None)  # as where it is not installed
    with pytest.raises(ImportError, match="pip install MDAnalysis"):
        drawn.to_mdanalysis()
    found = boltzray.load(drawn.save("kept"))
    assert np.array_equal(found.positions_nm, drawn.positions_nm)
    assert np.array_equal(found.log_weights, drawn.log_weights)
    with pytest.raises(FileNotFoundError, match="sample first"):
        boltzray.load("nowhere")


def test_energies_are_those_of_openmm_in_any_order_of_atoms(drawn: Ensemble) -> None:
    x = drawn.positions_nm[:5].astype(np.float64)
    np.testing.assert_allclose(boltzray.energy(drawn).energy[:5], drawn.energy_kT[:5], atol=1e-3)
    plain = Peptide.from_sequence("DG")
    found = boltzray.energy("DG", x, temperature_k=400.0, gradient=True)
    expected = OpenMMEnergy(plain, 400.0).evaluate(x)
    np.testing.assert_allclose(found.energy, expected.energy, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-2, atol=1.0)
    with pytest.raises(ValueError, match=r"give \(B, 22, 3\)"):
        boltzray.energy("DG", x[0])


def test_wrong_settings_are_one_line() -> None:
    with pytest.raises(ValueError, match="unknown key sampels"):
        boltzray.sample("DG", sampels=3)
    with pytest.raises(ValueError, match="at least 2"), warnings.catch_warnings():
        boltzray.sample("DG", n=1)


def test_a_finetuned_flow_and_its_draws(home: Path) -> None:
    found = boltzray.finetune("GG", 240, out="gg", rounds=1, steps=2, batch=8, data_dir="none", **HERE)
    assert found.checkpoint == home / "gg" / "checkpoint"
    assert [r["energies"] for r in found.rounds] == [120, 240]
    assert len(found.ensemble) == 120
    flow = boltzray.sample("GG", n=120, checkpoint=found.checkpoint, **HERE)
    assert np.isfinite(flow.log_q).all()


def test_a_flow_finetuned_to_several_peptides(home: Path) -> None:
    small = {"rounds": 1, "steps": 2, "batch": 8, "data_dir": "none", "validation": ["AL"], "validation_draws": 32}
    found = boltzray.finetune(["GG", "AG"], 256, out="several", **small, **HERE)
    assert found.ensemble is None
    assert [list(r["peptides"]) for r in found.rounds] == [["GG", "AG"]] * 2
    assert boltzray.sample("AL", n=64, checkpoint=found.checkpoint, **HERE).peptide.sequence == "AL"
