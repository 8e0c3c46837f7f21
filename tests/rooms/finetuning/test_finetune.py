"""Finetuning of a tiny flow on real energies: the same bits here and on actors, whatever stops it; energies counted."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from job_processes import run_job, stop_job
from safetensors.torch import load_file

from boltzray import models
from boltzray.evaluation.reference import energies_of
from boltzray.finetuning import rounds
from boltzray.finetuning.config import FinetuneJob, OptimizerConfig
from boltzray.finetuning.executors import Executor
from boltzray.finetuning.finetune import finetune
from boltzray.finetuning.reference import REFERENCE_FRAMES, real_frames, reference_energies
from boltzray.finetuning.round_record import RoundRecord, read_records
from boltzray.models.losses import ObjectiveConfig
from boltzray.molecules import Peptide
from boltzray.molecules.reference_match import check_bonds, in_order_of
from boltzray.molecules.references import load_reference, save_reference
from boltzray.molecules.stereo import atom_names
from boltzray.runtime.config import parse
from boltzray.samplers import SMCConfig
from boltzray.sampling.energy_actors import EnergyConfig, LocalEnergies
from boltzray.sampling.flow_actors import ActorsConfig
from boltzray.sampling.sample_files import read_samples
from boltzray.sampling.target import trained_at_k
from tests.damage import KINDS, damage, outcome
from tests.interrupts import stop_after

MIXED = ObjectiveConfig(terms={"self_improve": 1.0, "reverse_kl": 0.3, "log_variance": 0.1}, teacher=0.1)


def result(out: Path) -> dict[str, Any]:
    """All that must not depend on how a run came about."""
    rounds = [{k: v for k, v in r.items() if k != "seconds"} for r in json.loads((out / "rounds.json").read_text())]
    with np.load(out / "samples.npz") as arrays:
        samples = dict(arrays)
    return {"rounds": rounds, **load_file(out / "checkpoint" / "model.safetensors"), **samples}


def same(one: Path, two: Path) -> None:
    first, second = result(one), result(two)
    assert first.keys() == second.keys()
    for name, value in first.items():
        equal = (
            value == second[name] if name == "rounds" else np.array_equal(np.asarray(value), np.asarray(second[name]))
        )
        assert equal, name


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("sampler", "objective"), [("snis", MIXED), ("smc", ObjectiveConfig(terms={"alpha2": 1.0}))])
def test_actors_give_the_bits_of_one_process(job: FinetuneJob, sampler: Any, objective: ObjectiveConfig) -> None:
    here = replace(job, sampler=sampler, smc_particles=33, objective=objective)
    spread = replace(here, out="b", in_process=False, actors=ActorsConfig(flow_replicas=2))
    same(finetune(here), finetune(spread))


def test_what_a_run_leaves(job: FinetuneJob, data: Path, flow_folder: Path) -> None:
    job = replace(job, data_dir=str(data))
    seen: list[dict[str, Any]] = []
    out = finetune(job, seen.append)
    assert seen == json.loads((out / "rounds.json").read_text())
    assert [r["round"] for r in seen] == [0, 1, 2]
    assert [r["energies"] for r in seen] == [120, 240, 360]
    assert [r["final"] for r in seen] == [False, False, True]
    assert all(np.isfinite(r["ess"]) and r["energy_w2"] > 0 for r in seen)
    assert all(np.isfinite(r["loss"]) for r in seen[1:])
    peptide, (samples,) = read_samples(out)
    assert peptide.sequence == "AA"
    assert len(samples.log_weights) == 120
    assert samples.diagnostics["ess"] == seen[-1]["ess"]
    about = models.checkpoint.describe(out / "checkpoint").provenance
    assert about["finetune"]["parent_sha256"] == models.checkpoint.fingerprint(flow_folder)
    assert about["finetune"]["objective"]["terms"] == {"alpha2": 1.0}
    assert (about["finetune"]["budget"], about["finetune"]["rounds"], about["finetune"]["sequence"]) == (360, 2, "AA")
    assert trained_at_k(out / "checkpoint") == 310.0
    before, after = load_file(flow_folder / "model.safetensors"), load_file(out / "checkpoint" / "model.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert not (out / "run").exists()
    again: list[dict[str, Any]] = []
    finetune(job, again.append)
    assert again == seen
    with pytest.raises(ValueError, match="budget"):
        finetune(replace(job, budget=400))


@pytest.mark.parametrize(
    ("change", "spent"),
    [
        # buffers of 120 − 24, besides the 24 draws of the steps
        ({"objective": MIXED, "budget": 361}, [96, 216, 361]),
        # 33 draws, their gradients, and as many steps of 33 as 140 energies allow
        ({"sampler": "smc", "smc_particles": 33, "buffer": 140, "budget": 500}, [132, 264, 500]),
        ({"objective": ObjectiveConfig(terms={"anneal": 1.0}), "rounds": 1, "budget": 121}, [60, 121]),
        # of rounds of 100, what the steps leave; no more rounds than the budget pays for
        (
            {"objective": ObjectiveConfig(terms={"reverse_kl": 1.0}), "rounds": 0, "buffer": 100, "budget": 250},
            [76, 250],
        ),
    ],
)
def test_every_energy_is_counted(
    job: FinetuneJob, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], spent: list[int]
) -> None:
    evaluated = []

    class Counting(LocalEnergies):
        def ask(self, x_nm: np.ndarray, *, gradient: bool) -> Any:
            evaluated.append(len(x_nm))
            return super().ask(x_nm, gradient=gradient)

    monkeypatch.setattr("boltzray.sampling.flow_actors.LocalEnergies", Counting)
    energies: list[int] = []
    finetune(replace(job, **change), lambda entry: energies.append(entry["energies"]))
    assert energies == spent
    assert sum(evaluated) - 1 == spent[-1]  # one to get ready


@pytest.mark.parametrize(
    ("owner", "name", "calls", "index", "step"),
    [
        (rounds.FinetuneRun, "_tell", 2, 1, 0),  # the second round is drawn, and has not learned
        (Executor, "learn", 6, 1, 2),  # the last step of the second round is lost
        (rounds.RoundProgress, "save_learner", 6, 2, 0),  # all is learned, the last weights are not written
        (models, "save", 2, 1, 0),  # the second round's weights are written, its target is not
    ],
)
def test_a_run_stopped_anywhere_goes_on_with_the_same_bits(
    job: FinetuneJob,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    calls: int,
    index: int,
    step: int,
) -> None:
    mixed = replace(job, objective=MIXED)
    with monkeypatch.context() as patch:
        stop_after(patch, owner, name, calls)
        with pytest.raises(KeyboardInterrupt):
            finetune(mixed)
    progress = rounds.RoundProgress.read(home / "a", job.steps)
    assert (progress.index, progress.step) == (index, step)
    same(finetune(mixed), finetune(replace(mixed, out="b")))


DAMAGED = {
    "run/learner.pt": "one bit flipped",
    "run/round-001/draws-00000.npz": "cut off",
    "rounds.json": "one bit flipped",
    "run/weights/model.safetensors": "cut off",
}


def begun(job: FinetuneJob, out: str) -> None:
    """Leave a run that was stopped within its second round."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, rounds.RoundProgress, "save_learner", 5)
        with pytest.raises(KeyboardInterrupt):
            finetune(replace(job, out=out))


def attempt(job: FinetuneJob, home: Path, name: str, kind: str) -> str:
    out = home / "damaged"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(home / "begun", out)
    damage(out / name, kind, (home / "other" / name).read_bytes())
    return outcome(lambda: finetune(replace(job, out="damaged")), lambda found: same(found, home / "b"), out)


def test_damaged_files_are_made_again_or_named(job: FinetuneJob, home: Path) -> None:
    begun(job, "begun")
    begun(replace(job, seed=1), "other")
    finetune(replace(job, out="b"))
    found = {name: attempt(job, home, name, kind) for name, kind in DAMAGED.items()}
    assert found.pop("run/round-001/draws-00000.npz") == "same bits"
    assert set(found.values()) == {"one line"}, "what was learned cannot be made again"


@pytest.mark.slow
def test_every_file_damaged_in_every_way(job: FinetuneJob, home: Path) -> None:
    begun(job, "begun")
    begun(replace(job, seed=1), "other")
    finetune(replace(job, out="b"))
    names = sorted(str(path.relative_to(home / "begun")) for path in (home / "begun").rglob("*") if path.is_file())
    for name in names:
        if "mlflow" not in name and "lock" not in name:
            for kind in KINDS:
                print(f"| {name} | {kind} | {attempt(job, home, name, kind)} |")


def test_energies_of_openmm_in_the_same_process(job: FinetuneJob) -> None:
    openmm = finetune(replace(job, out="b", rounds=1, budget=80, energy=EnergyConfig(engine="openmm")))
    batched = finetune(replace(job, rounds=1, budget=80))
    for one, two in zip(read_records(openmm), read_records(batched), strict=True):
        assert one.ess == pytest.approx(two.ess, rel=1e-3)


@pytest.mark.slow
def test_a_killed_run_goes_on(job: FinetuneJob, home: Path) -> None:
    """SIGKILL to a real `python jobs/finetune.py` within a round; the same command ends with the same bits."""
    values = {
        "sequence": "AA", "checkpoint": job.checkpoint, "out": "a", "budget": 360, "rounds": 2, "steps": 40, "batch": 8,
        "smc.block_size": 16, "checkpoint_s": 0, "data_dir": "none", "in_process": "true", "objective.teacher": 0.1,
    }  # fmt: skip
    command = ["finetune", *(f"{k}={v}" for k, v in values.items())]
    learner = home / "a" / "run" / "learner.pt"
    stop_job(home, signal.SIGKILL, learner.exists, *command)
    stopped_at = torch.load(learner, weights_only=True)
    assert (stopped_at["index"], stopped_at["step"] < 40) == (0, True)
    done = run_job(home, *command, timeout_s=400)
    assert done.returncode == 0, done.stderr
    assert "goes on after 1 of 3 draws" in done.stdout
    assert "before: ESS" in done.stdout
    assert (home / "a" / "report.html").exists()
    whole = replace(job, out="b", steps=40, data_dir="none", smc=SMCConfig(block_size=16))
    same(home / "a", finetune(replace(whole, objective=ObjectiveConfig(teacher=0.1), checkpoint_s=60.0)))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_learner_that_dies_is_replaced(job: FinetuneJob, monkeypatch: pytest.MonkeyPatch) -> None:
    spread = replace(job, in_process=False, actors=ActorsConfig(flow_replicas=1), objective=MIXED, steps=6)
    learn, killed = Executor.learn, []

    def deadly(self: Executor, seconds: float) -> Any:
        report = learn(self, seconds)
        if report.step == 3:
            pid = ray.get(self.workers.actors[0].__ray_call__.remote(lambda _: os.getpid()))
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        return report

    with monkeypatch.context() as patch:
        patch.setattr(Executor, "learn", deadly)
        out = finetune(spread)
    assert len(killed) == 2
    same(out, finetune(replace(spread, out="b", in_process=True)))


def test_a_run_that_diverges_says_so(job: FinetuneJob) -> None:
    with pytest.raises(FloatingPointError, match="diverged"):
        finetune(replace(job, steps=30, optimizer=OptimizerConfig(lr=1e6, max_bad_steps=2)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budget": 20}, "give budget=160 or more"),
        ({"budget": 1000, "buffer": 500}, "budget=1000 is too small for 4 rounds with a buffer of 500"),
        ({"rounds": 0}, "give rounds= or buffer="),
        ({"sequence": ""}, "give a peptide"),
        ({"sequence": "AXZ"}, "unknown residue 'X'"),
        ({"objective": {"terms": {"reverse_kl": 1.0}}, "budget": 1000}, "lower steps or batch"),
        ({"objective": {"terms": {"anneal": 1.0}}, "temperature_k": 600.0}, "must be above temperature_k"),
        ({"sampler": "smc", "smc_particles": 10_000}, "lower smc_particles"),
        ({"optimizer": {"lr": -1.0}}, "optimizer.lr"),
    ],
)
def test_wrong_input_is_refused_with_the_fix(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(FinetuneJob, {"sequence": "AA", **values})


def test_real_frames_are_those_of_the_peptide(
    job: FinetuneJob, home: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name, whatever the order of the file; without names in that of its data folder, or bond lengths tell."""
    pdb, public = data / "pdbs" / "test" / "AA.pdb", data / "trajectories_subsampled" / "test" / "2AA"
    aa, other = Peptide.from_pdb(pdb), Peptide.from_pdb(data / "cases" / "atom_order_reference" / "AA_order.pdb")
    stored = load_reference(public / "AA_subsampled.npz")
    save_reference(home / "named.npz", stored.positions_nm, None, atom_names(aa), temperature_k=500.0)
    np.savez(home / "unnamed.npz", positions=stored.positions_nm)

    def frames(path: Path) -> np.ndarray:
        objective = ObjectiveConfig(terms={"real_data": 1.0}, real_data=str(path))
        found = real_frames(replace(job, objective=objective), other)
        assert found is not None
        return found

    given = frames(public / "AA_subsampled.npz")
    np.testing.assert_array_equal(given, frames(home / "named.npz"))
    assert "objective.real_data is in amber14-obc1 at 500 K, the flow learns of amber14-obc1 at 310 K" in (
        capsys.readouterr().out
    )
    check_bonds(given, other.topology)
    with pytest.raises(ValueError, match=r"unnamed\.npz: its bonds are not those of the peptide .* another order"):
        frames(home / "unnamed.npz")


def test_frames_and_energies_of_a_weighted_reference_count_by_weight(job: FinetuneJob, home: Path, data: Path) -> None:
    public = data / "trajectories_subsampled" / "test" / "2AA" / "AA_subsampled.npz"
    aa, frames = Peptide.from_pdb(data / "pdbs" / "test" / "AA.pdb"), load_reference(public).positions_nm[:40]
    times = np.arange(40) % 2 * 2  # 40 in all: every other frame, twice
    path = home / "trajectories_subsampled" / "test" / "2AA" / "AA_subsampled.npz"
    with np.errstate(divide="ignore"):
        save_reference(path, frames, None, atom_names(aa), log_weights=np.log(times))
    kept = in_order_of(aa, load_reference(path)).positions_nm[1::2]
    weighted = replace(job, data_dir=str(home))
    learnt = real_frames(replace(job, objective=ObjectiveConfig(terms={"real_data": 1.0}, real_data=str(path))), aa)
    assert learnt is not None
    np.testing.assert_array_equal(learnt, np.repeat(kept, 2, axis=0))
    energies = reference_energies(weighted, aa)
    assert energies is not None
    expected = energies_of(aa, kept, 310.0).energy
    assert len(energies) == REFERENCE_FRAMES
    np.testing.assert_allclose(np.sort(energies), np.sort(np.repeat(expected, REFERENCE_FRAMES // 20)), rtol=1e-6)


def test_rounds_follow_from_the_budget() -> None:
    assert FinetuneJob(sequence="AA", budget=1_000_000, rounds=0, buffer=200_000).plan.rounds == 4
    assert FinetuneJob(sequence="AA", budget=20_000).plan.per_round == 4000
    ladder = FinetuneJob(sequence="AA", rounds=2, objective=ObjectiveConfig(terms={"anneal": 1.0}, hottest_k=500.0))
    temperatures = [ladder.temperatures(k) for k in range(3)]
    assert temperatures[0][0] == 500.0
    assert temperatures[0][1] == temperatures[1][0]
    assert temperatures[1][1] == 310.0
    assert temperatures[2] == (310.0, 310.0)


def test_a_record_is_one_flat_dict_on_disk() -> None:
    entry = {
        **{
            "round": 1,
            "energies": 240,
            "n": 120,
            "ess": 0.1,
            "ess_error": 0.01,
            "k_hat": None,
            "max_weight_share": 0.2,
        },
        **{"n_failed": 0, "energy_w2": None, "draw_k": 500.0, "target_k": 310.0},
        **{"alpha2": 2.0, "loss": 2.0, "grad_norm": 1.0, "skipped_steps": 0, "seconds": 3.0, "final": False},
    }
    record = RoundRecord.from_json(entry)
    assert list(record.to_json().items()) == list(entry.items())
    assert record.learning["loss"] == 2.0
    assert not record.on_target
    del entry["ess_error"]
    assert np.isnan(RoundRecord.from_json(entry).ess_error)  # files of the first version
    del entry["n"]
    with pytest.raises(TypeError, match="'n'"):
        RoundRecord.from_json(entry)


def test_a_peptide_beyond_the_flow_is_refused(job: FinetuneJob) -> None:
    with pytest.raises(ValueError, match=r"ARIP has 4 residues, the flow .* was trained on up to 2"):
        finetune(replace(job, sequence="ARIP"))
