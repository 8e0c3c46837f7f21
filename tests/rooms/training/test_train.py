"""A training run of two workers: what it computes, and that no death changes it."""

import shutil
import signal
import threading
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import psutil
import pytest
import torch
from job_processes import run_job, stop_job
from safetensors.torch import load_file

from boltzray import models
from boltzray.data.catalogue import inspect_data
from boltzray.data.collate import Collator
from boltzray.data.stream import BatchServer, batches
from boltzray.data.windows import StreamState
from boltzray.models import Flow
from boltzray.runtime.config import parse
from boltzray.runtime.tracking import Tracker
from boltzray.training.train import TrainJob, batch_plan, train
from boltzray.training.train_step import Learner

STEPS, EVERY, COMPARED = 60, 10, 50  # Ray Train takes a report every two seconds
SETTINGS = {
    "data": {"sequences": ["GP", "FS"], "bucket_steps": 4, "shards_per_window": 1},
    "model": {"channels": 16, "head_dim": 8, "blocks": 2, "layers_per_block": 1},
    "train": {"steps": STEPS, "batch": 30, "accumulate": 2, "lr": 3e-3, "precision": "float32", "ema": 0.9},
    "validation": {"every": 40, "frames": 20, "drawn": 1, "draws": 16, "num_cpus": 0.1},
    "workers": {"workers": 2, "threads": 1},
    "checkpoint_every": 20,
    "log_every": EVERY,
}


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data with a reference to validate on."""
    copy = tmp_path_factory.mktemp("data")
    shutil.copytree(data, copy, dirs_exist_ok=True)
    shutil.copytree(copy / "trajectories_subsampled" / "test", copy / "trajectories_subsampled" / "val")
    for path in (copy / "trajectories_subsampled" / "val").glob("*/*.npz"):
        if not path.name.startswith("AA_"):
            path.unlink()
    return copy


def job(folder: Path, out: str) -> TrainJob:
    return parse(TrainJob, {**SETTINGS, "data": {**SETTINGS["data"], "path": str(folder)}, "out": out})


def test_a_folder_without_data_is_named_before_a_cluster_is_started(
    data: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # where there is none
    for settings, message in (
        ({"path": "empty"}, rf"no \.tar in {home / 'empty'}"),
        ({"path": str(data), "sequences": ["WW"]}, "names WW, which has no PDB"),
    ):
        with pytest.raises(ValueError, match=message):
            train(parse(TrainJob, {"data": settings}))


@pytest.fixture(scope="module")
def undisturbed(folder: Path, module_home: Path, ray_cluster: None) -> Path:
    train(job(folder, "undisturbed"))
    return module_home / "undisturbed"


def losses(out: Path) -> dict[int, float]:
    tracker = Tracker.find(out)
    assert tracker is not None
    return dict(tracker.history("loss"))


def assert_same_run(out: Path, undisturbed: Path) -> None:
    """Every loss that either reported, and the weights, to the last bit."""
    assert losses(out) == losses(undisturbed)
    one, two = (load_file(path / "checkpoint" / "model.safetensors") for path in (out, undisturbed))
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


def test_two_workers_compute_what_a_plain_loop_computes(folder: Path, undisturbed: Path) -> None:
    settings = job(folder, "plain")
    data = inspect_data(settings.data, str(folder))
    torch.set_num_threads(1)
    torch.manual_seed(settings.train.seed)
    flow = Flow(settings.model, data.scale_nm)
    learner = Learner(flow, settings.train, device=torch.device("cpu"))
    collator = Collator(flow, {p.sequence: p for p in data.peptides})
    plan, start = batch_plan(settings), StreamState()
    expected = []
    for batch in islice(batches(BatchServer(data, plan, 1, start, []), 0, 0, plan, start), COMPARED):
        microbatches = [collator.batch(microbatch) for microbatch in batch.microbatches]
        assert sum(len(batch.x) for batch in microbatches) == 30
        expected.append(float(learner.train_step(microbatches)["loss"]))
    found = losses(undisturbed)
    for step in range(2 * EVERY, COMPARED + 1, EVERY):
        assert found[step] == pytest.approx(sum(expected[step - EVERY : step]) / EVERY, abs=1e-5)
    assert found[STEPS] < found[EVERY]


def test_a_run_leaves_what_others_need(undisturbed: Path) -> None:
    found = models.checkpoint.describe(undisturbed / "checkpoint").provenance
    assert found["step"] == STEPS
    assert found["temperature_k"] == 310.0
    assert found["sequences"] == ["FS", "GP"]
    assert found["train"]["accumulate"] == 2
    assert found["versions"]["torch"] == torch.__version__
    tracker = Tracker.find(undisturbed)
    assert tracker is not None
    validated = dict(tracker.history("val_nll"))
    assert STEPS in validated, "the last checkpoint is validated"
    assert set(dict(tracker.history("val_ess_AA"))) == set(validated)
    assert all(value > 0 for _, value in tracker.history("val_energy_w2_AA"))
    best = models.checkpoint.describe(undisturbed / "best").provenance
    assert best["score"] == min(validated.values())
    kept = [path for path in (undisturbed / "ray_train").glob("checkpoint_*") if path.is_dir()]
    assert len(kept) == 2
    assert all((path / "state.pt").exists() for path in kept)


def test_a_folder_with_a_run_can_be_refused(folder: Path, undisturbed: Path) -> None:
    settings = {**SETTINGS, "data": {**SETTINGS["data"], "path": str(folder)}, "out": str(undisturbed)}
    with pytest.raises(ValueError, match="resume=never: give another out="):
        train(parse(TrainJob, {**settings, "resume": "never"}))


def arguments(folder: Path, out: str) -> list[str]:
    """The job on the command line."""
    words = [f"data.path={folder}", f"out={out}", "cluster.num_cpus=4", "data.sequences=[GP,FS]", "model=prose"]
    for group, values in SETTINGS.items():
        pairs = values.items() if isinstance(values, dict) else [("", values)]
        words += [f"{group}.{k}={v}".replace(".=", "=") for k, v in pairs if k != "sequences"]
    return words


def test_ctrl_c_changes_nothing(
    folder: Path, undisturbed: Path, module_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command is stopped; with the same settings it goes on, here on another cluster."""
    out = module_home / "stopped"
    first = out / "checkpoint" / "flow.json"
    words = [*arguments(folder, "stopped"), "validation.every=0"]  # changes nothing either, and is half of the work
    assert "goes on from here" in stop_job(module_home, signal.SIGINT, first.exists, "train", *words)
    capsys.readouterr()
    stopped = job(folder, "stopped")
    train(replace(stopped, validation=replace(stopped.validation, every=0)))
    assert "already trained" not in capsys.readouterr().out, "Ctrl-C came after the end"
    assert_same_run(out, undisturbed)


def test_a_trained_flow_is_not_trained_again(
    folder: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(job(folder, "undisturbed"))
    assert "already trained" in capsys.readouterr().out
    changed = replace(job(folder, "undisturbed"), train=replace(job(folder, "undisturbed").train, lr=0.5))
    with pytest.raises(ValueError, match=r"train\.lr"):
        train(changed)


def test_training_starts_from_a_flow_and_is_told_energies(undisturbed: Path, folder: Path, module_home: Path) -> None:
    settings = {
        "data": {"sequences": ["FS", "YT"], "path": str(folder), "bucket_steps": 4},
        "train": {"steps": 4, "batch": 30, "lr": 1e-6, "precision": "float32", "energy_weight": 0.3},
        "validation": {"every": 0},
        "workers": {"workers": 1, "threads": 1},
        "log_every": 1,
    }
    started = parse(TrainJob, {**settings, "init": str(undisturbed / "checkpoint"), "out": "started"})
    train(started)
    out = module_home / "started"
    first, last = models.load(undisturbed / "checkpoint"), models.load(out / "checkpoint")
    assert (last.config, last.scale_nm) == (first.config, first.scale_nm), "whatever model= says"
    for name, weights in last.state_dict().items():
        torch.testing.assert_close(weights, first.state_dict()[name], atol=1e-4, rtol=1e-4)
    found = models.checkpoint.describe(out / "checkpoint").provenance
    assert found["sequences"] == ["FS", "GP", "YT"], "of both trainings"
    assert found["init_sha256"] == models.checkpoint.fingerprint(undisturbed / "checkpoint")
    tracker = Tracker.find(out)
    assert tracker is not None
    spreads = dict(tracker.history("log_w_spread"))
    assert len(spreads) == 4
    assert all(value > 1.0 for value in spreads.values()), "this flow has learned next to nothing"
    train(started)  # and it is known to be done
    with pytest.raises(ValueError, match="holds a run of another init"):
        train(replace(started, init=""))


def test_what_cannot_be_started_from_is_refused_before_a_cluster_is(
    data: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = str(undisturbed / "checkpoint")
    system = models.save(
        Flow(models.FlowConfig(**SETTINGS["model"], adaptive=False, lookahead=False, system="AA", system_atoms=23)),
        tmp_path / "system",
    )
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # where there is none
    for settings, message in (
        ({"init": begin, "data": {"path": str(data), "scale_nm": 0.5}}, "not 0.5: leave it out"),
        ({"init": str(system), "data": {"path": str(data)}}, "start from a transferable flow"),
        ({"init": "nowhere", "data": {"path": str(data)}}, "no checkpoint at"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            train(parse(TrainJob, {**settings, "out": "refused"}))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_killed_driver_changes_nothing(folder: Path, undisturbed: Path, module_home: Path) -> None:
    out = module_home / "driver"
    stop_job(
        module_home, signal.SIGKILL, (out / "checkpoint" / "flow.json").exists, "train", *arguments(folder, "driver")
    )
    done = run_job(module_home, "train", *arguments(folder, "driver"), timeout_s=1200)
    assert done.returncode == 0, done.stderr
    assert "already trained" not in done.stdout, "the kill came after the end"
    assert_same_run(out, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_killed_worker_changes_nothing(folder: Path, undisturbed: Path, module_home: Path) -> None:
    out = module_home / "worker"
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 240
        while not (out / "checkpoint" / "flow.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        for process in psutil.Process().children(recursive=True):
            if any("RayTrainWorker" in part for part in process.cmdline()):
                process.send_signal(signal.SIGKILL)
                killed.append(process.pid)
                return

    thread = threading.Thread(target=kill)
    thread.start()
    train(job(folder, "worker"))
    thread.join()
    assert killed, "no worker was found to kill"
    tracker = Tracker.find(out)
    assert tracker is not None
    assert any(name.startswith("failure_") for name in tracker.facts()), "the kill came after the end"
    assert_same_run(out, undisturbed)
