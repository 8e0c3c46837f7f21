"""Sweeps: settings, placement, early stopping, tables and page; and small ones with real energies."""

import html
import json
import math
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from job_processes import run_job, stop_job
from mlflow.tracking import MlflowClient
from omegaconf import OmegaConf

from boltzray.finetuning.config import FinetuneJob
from boltzray.models.losses import ObjectiveConfig
from boltzray.runtime.cluster import Cluster
from boltzray.runtime.config import parse
from boltzray.runtime.mlflow_store import tracking_uri
from boltzray.sweeping.config import SweepJob, Trial, trials
from boltzray.sweeping.outcomes import (
    Outcome,
    best,
    best_of_each,
    command,
    mark,
    outcome,
    write_configuration,
    write_tables,
)
from boltzray.sweeping.space import dimensions, sample_settings
from boltzray.sweeping.sweep import sweep
from boltzray.sweeping.sweep_page import write_sweep_report
from boltzray.sweeping.tune import placement, scheduler

SIX = ("self_improve", "forward_kl", "reverse_kl", "log_variance", "alpha2", "anneal")
PRESETS = sorted(path.stem for path in (Path(__file__).parents[3] / "conf" / "sweep").glob("*.yaml"))


def job(**changes: Any) -> SweepJob:
    values: dict[str, Any] = {
        "sequence": "AA",
        "objectives": {name: ObjectiveConfig(terms={name: 1.0}) for name in SIX},
        "budget": 1000,
        "rounds": 3,
        "batch": 8,
        "space": {"optimizer": {"lr": "1e-5..1e-3"}},
    }
    return SweepJob(**(values | changes))


def composed(root: Path, name: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        config = OmegaConf.to_container(compose(name, list(overrides)), resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


# --- settings -----------------------------------------------------------------------------------


def test_draws_are_spread_over_each_key_and_do_not_depend_on_others() -> None:
    space = dimensions({"a": "1e-5..1e-3", "b": {"c": [1, 2, 4], "d": "0..9"}, "e": None})
    assert list(space) == ["a", "b.c", "b.d"]
    drawn = sample_settings(space, 12, seed=3)
    thirds = sorted(int(3 * math.log10(row["a"] / 1e-5) / 2) for row in drawn)
    assert thirds == [0] * 4 + [1] * 4 + [2] * 4
    assert sorted(row["b.c"] for row in drawn) == [1] * 4 + [2] * 4 + [4] * 4
    assert all(isinstance(row["b.d"], int) and 0 <= row["b.d"] <= 9 for row in drawn)
    alone = sample_settings(dimensions({"a": "1e-5..1e-3"}), 12, seed=3)
    assert [row["a"] for row in alone] == [row["a"] for row in drawn]
    assert [row["a"] for row in sample_settings(space, 12, seed=4)] != [row["a"] for row in drawn]


def test_all_combinations() -> None:
    drawn = sample_settings(dimensions({"a": [1, 2], "b": ["x", "y", "z"]}), 0, seed=0)
    assert len(drawn) == 6
    assert {(row["a"], row["b"]) for row in drawn} == {(a, b) for a in (1, 2) for b in "xyz"}
    assert sample_settings({}, 0, seed=0) == [{}]
    with pytest.raises(ValueError, match=r"space\.a is a range"):
        sample_settings(dimensions({"a": "1..2"}), 0, seed=0)


@pytest.mark.parametrize("wrong", ["5..2", "3", "a..b", 7, "1e-3...1e-2", "1.."])
def test_what_is_no_space_is_named(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"space\.optimizer\.lr"):
        dimensions({"optimizer": {"lr": wrong}})


def test_every_objective_gets_the_same_settings() -> None:
    planned = trials(job(samples=3), Path("/o"))
    assert [t.number for t in planned] == list(range(18))
    assert [t.objective for t in planned[:6]] == list(SIX)
    for start in (0, 6, 12):
        assert len({t.settings["optimizer.lr"] for t in planned[start : start + 6]}) == 1
    assert all(t.job.optimizer.lr == t.settings["optimizer.lr"] for t in planned)
    assert all(t.job.objective.active == {t.objective: 1.0} for t in planned)
    assert len({t.folder for t in planned}) == 18
    assert {t.job.budget for t in planned} == {1000}


def test_settings_that_change_nothing_make_no_trials() -> None:
    space = {"objective": {"hottest_k": [400.0, 600.0]}, "sampler": ["snis"], "smc_particles": [32, 64]}
    planned = trials(job(samples=0, space=space, only=["forward_kl", "anneal"]), Path("/o"))
    assert [(t.objective, t.settings) for t in planned] == [
        ("forward_kl", {"sampler": "snis"}),
        ("anneal", {"objective.hottest_k": 400.0, "sampler": "snis"}),
        ("anneal", {"objective.hottest_k": 600.0, "sampler": "snis"}),
    ]


def test_an_objective_that_draws_at_each_step_stays_in_the_budget() -> None:
    planned = {t.objective: t.job for t in trials(job(steps=100, samples=1), Path("/o"))}
    assert planned["forward_kl"].steps == 100
    assert planned["reverse_kl"].steps == 15  # of 8, in half of 250 energies
    assert planned["reverse_kl"].plan.buffer == 130


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"only": ["nothing"]}, "choose of self_improve"),
        ({"space": {"budget": [1, 2]}}, "cannot be compared"),
        ({"space": {"objective": {"terms": {"alpha2": [1.0]}}}}, "cannot be compared"),
        ({"space": {"foo": [1]}}, "trial 0 .*unknown key foo"),
        ({"space": {"optimizer": {"lr": [-1.0]}}}, r"trial 0 \(self_improve optimizer.lr=-1.0\)"),
        ({"space": {"rounds": [3, 40]}, "samples": 0}, r"trial 6 .*rounds=40.*budget=1000 is too small"),
        ({"budget": 50}, "budget=50 is too small"),
        ({"objectives": {}}, "give objectives"),
        ({"reduction": 1.0}, "above 1"),
    ],
)
def test_wrong_input_is_named_before_anything_runs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trials(job(**changes), Path("/o"))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_make_trials_that_can_be_run_again(root: Path, home: Path, preset: str) -> None:
    made = parse(SweepJob, composed(root, "sweep", "sequence=AA", f"sweep={preset}"))
    planned = trials(made, home)
    assert len(planned) >= (12 if preset != "short" else 10)
    assert any(t.settings for t in planned)
    assert {t.objective for t in planned} == set(made.only or made.objectives)
    for trial in planned:
        write_configuration(trial)
        values = OmegaConf.to_container(OmegaConf.load(trial.folder / "trial.yaml"), resolve=True)
        assert isinstance(values, dict)
        assert values.pop("defaults") == ["_hydra", "_self_"]
        assert parse(FinetuneJob, {str(key): value for key, value in values.items()}) == trial.job


# --- placement ----------------------------------------------------------------------------------


def place(cpus: int, gpus: int, **changes: Any) -> tuple[list[dict[str, float]], int]:
    made = job(**changes)
    return placement(made, trials(made, Path("/o"))[0], Cluster(cpus=cpus, gpus=gpus, local=True))


def test_trials_reserve_all_that_they_need_and_no_more_run_than_fit() -> None:
    assert place(2, 0) == ([{"CPU": 1.0}], 2)
    assert place(16, 0, at_once=3) == ([{"CPU": 1.0}], 3)
    assert place(16, 2) == ([{"CPU": 1.0, "GPU": 1.0}], 2)
    assert place(16, 2, trial_gpus=0.25) == ([{"CPU": 1.0, "GPU": 0.25}], 8)
    assert place(4, 2, trial_gpus=0.25)[1] == 4
    assert place(16, 2, trial_gpus=0.0) == ([{"CPU": 1.0}], 16)
    assert place(5, 0, in_process=False) == ([{"CPU": 1.0}, {"CPU": 1.0}], 2)
    openmm = {"in_process": False, "energy": {"engine": "openmm"}, "actors": {"flow_replicas": 2, "energy_actors": 4}}
    made = parse(SweepJob, asdict(job()) | openmm)
    bundles, at_once = placement(made, trials(made, Path("/o"))[0], Cluster(cpus=8, gpus=0, local=True))
    assert bundles == [{"CPU": 1.0}, *[{"CPU": 0.5}] * 6]
    assert at_once == 2
    with pytest.raises(ValueError, match="takes 1 CPUs and 2 GPUs"):
        place(4, 1, trial_gpus=2.0)


# --- outcomes, tables, page, early stopping -----------------------------------------------------


def round_rows(made: FinetuneJob, values: Sequence[float | None], **more: Any) -> list[dict[str, Any]]:
    """Rounds as `finetune` reports them; None is a draw at another temperature."""
    return [
        {
            "round": k,
            "energies": (k + 1) * made.plan.per_round,
            "n": 100,
            "ess": 0.01 if value is None else value,
            "k_hat": 0.4,
            "max_weight_share": 0.1,
            "n_failed": 0,
            "energy_w2": 1.0 if value is None else 1 / value,
            "draw_k": 500.0 if value is None else 310.0,
            "target_k": 310.0,
            "seconds": 2.0 * k,
            "final": k == made.plan.rounds,
        }
        | more
        for k, value in enumerate(values)
    ]


def write_trial(trial: Trial, values: Sequence[float | None], status: Any = None, message: str = "") -> Outcome:
    """Write into the folder of a trial as a real one does, and read it again."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    (trial.folder / "rounds.json").write_text(json.dumps(round_rows(trial.job, values)))
    if status:
        mark(trial, status, message)
    return outcome(trial)


@pytest.fixture
def found(home: Path) -> tuple[SweepJob, list[Outcome]]:
    made = job(samples=2, data_dir="d")
    planned = trials(made, home / "outputs" / "sweep" / "AA")
    values: list[tuple[Any, ...]] = [
        ([0.1, 0.2, 0.3, 0.4], "done"),
        ([0.1, 0.3, 0.5, 0.6], "done"),
        ([0.1, 0.05], "stopped", "others were better after 500 energies"),
        ([0.1, 0.2, 0.25, 0.3], "done"),
        ([0.1], "diverged", "finetuning diverged: 10 steps <in> a row"),
        ([None, None, None, 0.5], "done"),
        ([0.1, 0.3, 0.5, 0.7], "done"),
        ([0.1, 0.2],),
        ([], "failed", "RuntimeError: no memory"),
    ]
    outcomes = [write_trial(t, *given) for t, given in zip(planned, values, strict=False)]
    return made, outcomes + [outcome(t) for t in planned[len(values) :]]


def test_outcomes_and_the_best(found: tuple[SweepJob, list[Outcome]]) -> None:
    _, outcomes = found
    statuses = [o.status for o in outcomes]
    assert statuses == [
        *("done", "done", "stopped", "done", "diverged", "done", "done", "begun", "failed", "waiting", "waiting"),
        "waiting",
    ]
    top = best(outcomes, "ess")
    assert top is not None
    assert top.trial.number == 6
    assert best(outcomes, "energy_w2") is top
    assert [(name, o.trial.number) for name, o in best_of_each(outcomes, "ess").items()] == [
        ("self_improve", 6),
        ("forward_kl", 1),
        ("anneal", 5),
        ("log_variance", 3),
        ("reverse_kl", 2),
        ("alpha2", 4),
    ]  # those that finished, then by how far they got
    assert outcomes[5].curve("ess") == [(1000, 0.5)]  # draws at other temperatures are not compared
    assert outcomes[7].energies == 500
    assert best(outcomes[7:], "ess") is None


def test_tables_have_a_row_a_trial_and_a_row_a_round(home: Path, found: tuple[SweepJob, list[Outcome]]) -> None:
    _, outcomes = found
    per_trial, per_round = write_tables(home, outcomes)
    table = pyarrow.csv.read_csv(per_trial).to_pylist()
    assert [row["trial"] for row in table] == list(range(12))
    assert table[6]["ess"] == 0.7
    assert table[8]["message"] == "RuntimeError: no memory"
    assert table[0]["optimizer.lr"] == outcomes[0].trial.job.optimizer.lr
    rows = pq.read_table(per_round).to_pylist()
    assert len(rows) == sum(len(o.rounds) for o in outcomes)
    assert {(row["trial"], row["round"]): row["ess"] for row in rows}[1, 2] == 0.5


def test_the_page_says_what_is_best_and_what_went_wrong(home: Path, found: tuple[SweepJob, list[Outcome]]) -> None:
    made, outcomes = found
    line = command(outcomes[6].trial, home / "outputs" / "sweep" / "AA")
    page = write_sweep_report(home, made, outcomes, line).read_text()
    assert "Best: self_improve (trial 6), ESS 70\u00a0% after 1\u202f000 energies." in page
    assert "flow as it was given, on its first draws: 10\u00a0%" in page
    assert "within twice its error" not in page
    assert "Within twice the error of the best" not in page
    assert "Ahead of the best" not in page
    assert "1 of 12 trials diverged: 4." in page
    assert "1 of 12 trials failed: 8." in page
    assert "4 of 12 trials have not ended" in page
    assert "diverged: 10 steps &lt;in&gt; a row" in page
    assert "The best other objective is forward_kl (trial 1)" in page
    assert len(re.findall(r'<tr(?: class="top")?><th scope="row" data-sort=', page)) == 12
    for figure in ("champions", "trials_ess", "trials_energy_w2", "settings"):
        assert f'<img id="{figure}"' in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    outcomes = [replace(o, rounds=[replace(record, ess_error=0.3) for record in o.rounds]) for o in outcomes]
    page = write_sweep_report(home, made, outcomes, line).read_text()
    assert "ESS 70 ± 30.0\u00a0% after" in page
    assert "Within twice the error of the best: trials 0, 1, 3, 5. Which is best, more draws would tell." in page
    assert "within twice its error" in page
    assert '<section class="verdict warn"' in page
    early = [replace(o, status="stopped") if o is outcomes[6] else o for o in outcomes]
    page = write_sweep_report(home, made, early, line).read_text()
    assert "Ahead of the best when stopped early: trial 6. Only finished trials are called best." in page
    nothing = [replace(o, status="waiting", rounds=[]) for o in outcomes]
    assert "No trial has finished yet." in write_sweep_report(home, made, nothing, "").read_text()


@pytest.mark.parametrize("name", ["best of 3", "a,b=c(d)", "it's here"])
def test_the_command_quotes_its_folder(home: Path, found: tuple[SweepJob, list[Outcome]], name: str) -> None:
    *_, last = shlex.split(command(found[1][0].trial, home / name))
    override = OverridesParser.create().parse_override(last)
    assert (override.key_or_group, override.value()) == ("out", f"{name}/best")


class TrialStub:
    """As much of a trial as schedulers ask for."""

    def __init__(self, name: str) -> None:
        self.trial_id = name


def decisions(asha: Any, name: str, values: Sequence[float], energies_a_round: int = 250) -> list[str]:
    trial, made = TrialStub(name), []
    asha.on_trial_add(None, trial)
    for k, value in enumerate(values):
        made.append(asha.on_trial_result(None, trial, {"energies": (k + 1) * energies_a_round, "ess": value}))
        if made[-1] == "STOP":
            break
    return made


def test_the_worse_are_stopped_at_equal_energies_and_a_later_driver_knows(
    home: Path, found: tuple[SweepJob, list[Outcome]]
) -> None:
    made, outcomes = found
    fresh = scheduler(made, [replace(o, status="waiting") for o in outcomes])
    assert decisions(fresh, "a", [0.1, 0.01]) == ["CONTINUE", "CONTINUE"]  # nothing to compare with
    assert decisions(fresh, "b", [0.9, 0.005]) == [
        "CONTINUE",
        "STOP",
    ]  # the flow before learning is not judged
    assert decisions(fresh, "c", [0.1, 0.3, 0.2]) == ["CONTINUE"] * 3
    assert decisions(fresh, "d", [math.nan, math.nan, math.nan]) == ["CONTINUE"] * 3
    knows = scheduler(made, outcomes)
    assert decisions(knows, "a", [0.1, 0.01]) == ["CONTINUE", "STOP"]
    assert decisions(knows, "b", [0.1, 0.3]) == ["CONTINUE", "CONTINUE"]
    w2 = scheduler(replace(made, metric="energy_w2"), outcomes)
    trial = TrialStub("w")
    w2.on_trial_add(None, trial)  # type: ignore[arg-type]
    assert w2.on_trial_result(None, trial, {"energies": 500, "energy_w2": 100.0}) == "STOP"  # type: ignore[arg-type]


# --- small sweeps with real energies ------------------------------------------------------------

TINY = {"budget": 128, "rounds": 1, "steps": 2, "batch": 8, "samples": 0, "seed": 1}


@pytest.mark.usefixtures("ray_cluster")
def test_a_sweep_ends_though_a_trial_diverges(
    root: Path, home: Path, checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job(
        **TINY,
        checkpoint=str(checkpoint),
        data_dir=str(data),
        out="s",
        only=["forward_kl"],
        space={"optimizer": {"lr": [1e-5, 1e18], "clip": [1e9]}},
        at_once=2,
    )
    out = sweep(made)
    found = [outcome(t) for t in trials(made, out)]
    assert [o.status for o in found] == ["done", "diverged"]
    assert "diverged" in found[1].message
    assert found[0].energies == 128
    assert found[0].rounds[-1].final
    assert (found[0].trial.folder / "checkpoint" / "model.safetensors").exists()
    assert "Best: forward_kl (trial 0)" in (out / "sweep.html").read_text()
    client = MlflowClient(tracking_uri())
    (parent,) = client.search_runs(_experiments(client), "tags.`mlflow.runName` = 's'")
    children = client.search_runs(_experiments(client), f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    ended = {run.info.run_name: (run.info.status, run.data.tags["status"]) for run in children}
    assert ended == {"000-forward_kl": ("FINISHED", "done"), "001-forward_kl": ("FAILED", "diverged")}
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best_ess"] == pytest.approx(found[0].rounds[-1].ess)
    histories = [client.get_metric_history(run.info.run_id, "ess") for run in children if run.info.status == "FINISHED"]
    assert [point.value for point in histories[0]] == pytest.approx([record.ess for record in found[0].rounds])

    written = (found[0].trial.folder / "rounds.json").stat().st_mtime_ns
    (found[0].trial.folder / "trial.yaml").unlink()  # as sweeps of earlier versions left it
    assert sweep(replace(made, resume=True)) == out  # nothing is left to do
    assert (found[0].trial.folder / "rounds.json").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="resume=never"):
        sweep(replace(made, resume="never"))
    with pytest.raises(ValueError, match="run with budget=128"):
        sweep(replace(made, budget=256))
    with pytest.raises(ValueError, match="no sweep to go on with"):
        sweep(replace(made, resume=True, out="elsewhere"))

    line = command(found[0].trial, out)
    assert html.escape(line) in (out / "sweep.html").read_text()
    program, script, *arguments = shlex.split(line)
    assert [program, script] == ["python", "jobs/finetune.py"]
    monkeypatch.syspath_prepend(str(root / "jobs"))
    monkeypatch.setattr(sys, "argv", [script, *arguments, "in_process=true"])
    main = import_module("_main")
    monkeypatch.setattr(main, "leave", lambda code: None)  # it would end the tests' process
    main.run("finetune", "boltzray.finetuning.finetune", "FinetuneJob", "finetune")
    one, two = (folder / "checkpoint" / "model.safetensors" for folder in (found[0].trial.folder, out / "best"))
    assert one.read_bytes() == two.read_bytes()


def _experiments(client: MlflowClient) -> list[str]:
    return [e.experiment_id for e in client.search_experiments()]


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_sweep_goes_on(home: Path, checkpoint: Path, data: Path) -> None:
    """SIGKILL, then Ctrl-C, to the driver of twelve trials; what was done before is not done again."""
    line = ["sweep", "sequence=AA", f"checkpoint={checkpoint}", "out=s", f"data_dir={data}", "sweep=short"]
    line += ["budget=400", "cluster.num_cpus=2", "scheduler=none", "batch=8"]
    finished: dict[Path, int] = {}
    for enough, signal_sent in ((3, signal.SIGKILL), (7, signal.SIGINT)):

        def states() -> list[Path]:
            return list((home / "s" / "trials").glob("*/state.json"))

        stop_job(home, signal_sent, lambda n=enough: len(states()) >= n, *line)
        finished |= {path: path.stat().st_mtime_ns for path in states()}
    done = run_job(home, *line, "resume=true", timeout_s=500)
    assert done.returncode == 0, done.stderr
    assert "12 done" in done.stdout
    assert "ended earlier" in done.stdout
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in finished.items())
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    runs = client.search_runs(_experiments(client))
    assert len(runs) == 13  # none was begun twice
    assert {run.info.status for run in runs} == {"FINISHED"}
