"""Many peptides: the table of means, failures that stay alone, and going on."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from boltzray.evaluation.evaluate_many import EvaluateJob, PerPeptideOptions, evaluate, model_names
from boltzray.evaluation.result import EvaluationResult
from boltzray.evaluation.summary import write_summary
from boltzray.evaluation.summary_figure import strips
from boltzray.evaluation.summary_rows import FLOOR, LABELS, PUBLISHED, Row, means, rows_of
from boltzray.sampling.flow_actors import ActorsConfig

FACTS = {"command": "x"}


def row(sequence: str, ess: float, sampler: str = "SNIS") -> Row:
    return Row(sequence=sequence, sampler=sampler, level="good", metrics={"ess": ess, "torus_w2": 2 * ess})


def test_means_are_over_peptides_of_a_length() -> None:
    rows = [row("AA", 0.2), row("DG", 0.4), row("ARIP", 0.5), row("AA", 0.1, FLOOR), Row(sequence="KG", sampler="")]
    found = means([*rows, row("AA", 0.3, "SMC")])
    assert [(m.length, m.sampler, m.peptides) for m in found] == [
        (2, "SNIS", 2),
        (2, "SMC", 1),
        (2, FLOOR, 1),
        (4, "SNIS", 1),
    ]
    assert found[0].mean == {"ess": pytest.approx(0.3), "torus_w2": pytest.approx(0.6)}
    assert found[0].error["ess"] == pytest.approx(0.1)
    assert found[3].error["ess"] == 0.0


def test_summary_of_ninety_peptides(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    letters = list("ACDEFGHIKLMNPQRSTVWY")
    rows = [row("".join(rng.choice(letters, n)), float(rng.random())) for n in (2, 4, 8) for _ in range(30)]
    lost = Row(sequence="WWWW", sampler="", error="no energy <is> finite")
    write_summary(tmp_path, [*rows, lost], FACTS)
    page = (tmp_path / "summary.html").read_text()
    assert page.count('<tr><th scope="row">') >= 91
    assert "no energy &lt;is&gt; finite" in page
    assert len(page) < 600_000
    with (tmp_path / "table.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [float(r["ess"]) for r in read[:-1]] == [r.metrics["ess"] for r in rows]
    assert read[-1]["error"] == "no energy <is> finite"
    assert pq.read_table(tmp_path / "table.parquet")["ess"].to_pylist()[:-1] == [r.metrics["ess"] for r in rows]
    with (tmp_path / "means.csv").open() as file:
        assert [(r["length"], r["peptides"]) for r in csv.DictReader(file)] == [("2", "30"), ("4", "30"), ("8", "30")]


def test_the_ess_of_a_row_is_that_of_the_raw_weights(tmp_path: Path) -> None:
    found = {"diagnostics": {"ess": 0.1}, "metrics": {"ess": 0.3, "ess_low": 0.2, "torus_w2": 1.0}}
    result = {"sequence": "AA", "reference": None, "verdict": [], "headline": "", "level": "good"}
    result |= {"noise_floor": {"torus_w2": 0.5}, "SNIS": found}  # as in metrics.json
    snis, floor = rows_of("AA", tmp_path, EvaluationResult.from_json(result), "")
    assert snis.metrics == {"ess": 0.1, "torus_w2": 1.0}
    assert (floor.sampler, floor.metrics) == (FLOOR, {"torus_w2": 0.5})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "give one of"),
        ({"split": "test", "sequences": ("AA",)}, "give one of"),
        ({"split": "test", "intervals": -1}, "intervals"),
        ({"split": "test", "published": (2,)}, "give one of"),
        ({"published": (2, 3)}, "published=3: .* 2, 4 and 8"),
    ],
)
def test_wrong_settings(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateJob(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name the peptides"):
        PerPeptideOptions(sequence="AA")
    with pytest.raises(ValueError, match="at least 2"):
        PerPeptideOptions(samples=1)


def test_one_that_fails_does_not_stop_the_others(
    ray_cluster: None, home: Path, data: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    actors = ActorsConfig(flow_replicas=1)
    settings = PerPeptideOptions(
        checkpoint=str(checkpoint), samples=64, sampler="snis", data_dir=str(data), actors=actors
    )
    job = EvaluateJob(sequences=("ACE-A-NME", "DG"), data_dir=str(data), intervals=0, sample=settings)
    with pytest.raises(RuntimeError, match=r"1 failed .*ACE-A-NME has residues that a transferable.*again"):
        evaluate(job)
    out = home / "outputs" / "evaluate" / "peptides"
    page = (out / "summary.html").read_text()
    assert '<a href="DG/report.html">DG</a>' in page
    assert "that a transferable flow of vocabulary 1 does not know" in page
    made = [out / "DG" / name for name in ("report.html", "metrics.json", "samples.npz")]
    metrics = json.loads((out / "DG" / "metrics.json").read_text())
    assert metrics["noise_floor"]["torus_w2"] > 0
    assert metrics["SNIS"]["metrics"]["energy_w2"] > 100  # the flow has learned nothing
    with (out / "table.csv").open() as file:
        assert [(r["sequence"], r["sampler"]) for r in csv.DictReader(file)] == [
            ("ACE-A-NME", ""),
            ("DG", "SNIS"),
            ("DG", FLOOR),
        ]
    before = [path.stat().st_mtime_ns for path in made]
    with pytest.raises(RuntimeError, match="1 failed"):
        evaluate(job)
    assert [path.stat().st_mtime_ns for path in made] == before
    assert "already sampled" in capsys.readouterr().out


def test_a_split_without_references_says_where_it_looked(home: Path, checkpoint: Path) -> None:
    job = EvaluateJob(split="test", data_dir=str(home), sample=PerPeptideOptions(checkpoint=str(checkpoint)))
    with pytest.raises(ValueError, match=r"no reference trajectory below .*test"):
        evaluate(job)


def test_a_flow_that_is_not_there_is_told_before_any_is_sampled(home: Path) -> None:
    job = EvaluateJob(sequences=("AA",), checkpoints=("boltzray://peptides-small", "outputs/none"), data_dir=str(home))
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*outputs/none"):
        evaluate(job)
    assert not (home / "outputs" / "evaluate" / "peptides" / "peptides-small").exists()


def test_lengths_of_rows_do_not_count_caps() -> None:
    names = {"ACE-AAAA-NME": 4, "ACE-A-NME": 1, "NAN": 3, "a_folder": 0, "MSE": 3}
    assert {name: Row(sequence=name, sampler="").length for name in names} == names


def test_the_published_peptides(tmp_path: Path) -> None:
    """All of them, whether there is reference MD or not."""
    job = EvaluateJob(published=(2, 4))
    found = job.peptides(tmp_path)
    assert [len(name) for name in found] == 30 * [2] + 30 * [4]
    assert {"AA", "DG", "ARIP"} < set(found)
    assert job.folder == "outputs/evaluate/published-2-4"


def test_several_flows_have_rows_of_their_own(tmp_path: Path) -> None:
    checkpoints = ("boltzray://peptides-small", "outputs/a/checkpoint", "hub://x/y/robin.ckpt", "outputs/b/a/best")
    assert list(model_names(checkpoints)) == ["peptides-small", "a", "robin", "a-2"]
    job = EvaluateJob(sequences=("AA", "DG"), checkpoints=checkpoints[:2])
    jobs = job.jobs(job.sequences, tmp_path)
    assert list(jobs) == ["peptides-small/AA", "peptides-small/DG", "a/AA", "a/DG"]
    assert jobs["a/DG"].checkpoint == "outputs/a/checkpoint"
    assert jobs["a/DG"].folder == str(tmp_path / "a" / "DG")
    assert vars(jobs["a/DG"]) | {"checkpoint": "", "out": ""} == vars(jobs["peptides-small/DG"]) | {
        "checkpoint": "",
        "out": "",
    }
    with pytest.raises(ValueError, match="checkpoints= are sampled"):
        EvaluateJob(samples=("a",), checkpoints=checkpoints)


def test_models_side_by_side(tmp_path: Path) -> None:
    """One floor for all; k̂, energies and seconds beside the metrics; the interval of the ESS of untreated weights."""
    numbers = {"diagnostics": {"ess": 0.1, "k_hat": 0.5, "n_evaluations": 100.0, "seconds": 2.0}}
    numbers |= {"metrics": {"ess": 0.1, "ess_low": 0.05, "ess_high": 0.2, "torus_w2": 1.0}}
    result = {"sequence": "AA", "reference": None, "verdict": [], "headline": "", "level": "good"}
    found = EvaluationResult.from_json(result | {"noise_floor": {"torus_w2": 0.5}, "SNIS": numbers})
    rows = [row for model in ("a", "b") for row in rows_of("AA", tmp_path, found, "", model)]
    rows += rows_of("WWWWWWWW", tmp_path, None, "it has 195 atoms", "b")
    assert rows[0].metrics["ess_high"] == 0.2
    means_of = {m.sampler: m for m in means(rows)}
    assert means_of.keys() == {"a SNIS", "b SNIS", FLOOR}
    assert means_of[FLOOR].peptides == 1
    assert means_of["b SNIS"].mean | {"ess": 0.1, "k_hat": 0.5, "n_evaluations": 100.0, "seconds": 2.0} == (
        means_of["b SNIS"].mean
    )
    write_summary(tmp_path, rows, FACTS)
    page = (tmp_path / "summary.html").read_text()
    assert "it has 195 atoms" in page
    assert page.count("energies</th>") == 1


def test_the_figure_has_what_is_known_and_no_empty_axes() -> None:
    """Without reference MD there are no distances to it: nothing is drawn of these."""
    rows = [Row(sequence=s, sampler="SNIS", metrics={"ess": e}) for s, e in (("AA", 0.5), ("DG", 0.4), ("ARIP", 0.1))]
    (picture,) = strips(rows, PUBLISHED, LABELS, FLOOR)
    drawn = [axis for axis in picture.figure.axes if axis.axison]
    assert [axis.get_title() for axis in drawn] == [LABELS["ess"]]
    assert "reference" not in picture.caption
    assert list(strips([replace(row, metrics={}) for row in rows], PUBLISHED, LABELS, FLOOR)) == []
    everything = dict.fromkeys(PUBLISHED, 0.3)
    (picture,) = strips([*rows, Row(sequence="AA", sampler=FLOOR, metrics=everything)], PUBLISHED, LABELS, FLOOR)
    assert sum(axis.axison for axis in picture.figure.axes) == len(PUBLISHED)
    assert "halves of the reference" in picture.caption
