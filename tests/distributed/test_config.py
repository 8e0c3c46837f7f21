"""Configurations are typed, and say what is wrong with them in one line."""

from pathlib import Path

import pytest

from boltzray.config import claim, parse, results_home
from boltzray.sampling import SampleJob
from boltzray.simulation import SimulateJob
from boltzray.training import TrainJob


def test_nested_values_become_what_they_stand_for() -> None:
    job = parse(TrainJob, {"model": {"channels": 32, "head_dim": 16}, "train": {"lr": 1, "betas": [0.9, 0.99]}})
    assert job.model.channels == 32
    assert job.train.lr == 1.0
    assert job.train.betas == (0.9, 0.99)
    assert job.data.path == "data"


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TrainJob, {"foo": 1}, "unknown key foo"),
        (TrainJob, {"train": {"lrr": 1}}, r"unknown key train\.lrr"),
        (TrainJob, {"train": {"steps": "abc"}}, r"train\.steps: .*integer.*'abc'"),
        (TrainJob, {"train": {"precision": "fp8"}}, "choose bf16 or float32"),
        (TrainJob, {"model": {"channels": 100}}, "try channels=64"),
        (SampleJob, {}, "give a peptide"),
        (SampleJob, {"sequence": "AA", "smc_particles": 2000}, "from 2 to samples=1000"),
        (SampleJob, {"sequence": "AA", "smc": {"kernel": "hmcc"}}, "smc.kernel"),
        (SimulateJob, {"sequences": ["AXZ"]}, "'X' at position 2 of 'AXZ'"),
        (SimulateJob, {"sequences": [""]}, "empty"),
        (SimulateJob, {"replicas": 1}, "leaves nothing to train on"),
        (SimulateJob, {"md": {"interval_ps": 0.0003}}, "whole number of steps"),
    ],
)
def test_wrong_values_are_one_line(kind: type, values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse(kind, values)
    assert "\n" not in str(error.value)


def test_a_folder_belongs_to_the_settings_it_was_begun_with(tmp_path: Path) -> None:
    claim(tmp_path, "train", {"lr": 1, "betas": (1, 2)})
    claim(tmp_path, "train", {"lr": 1, "betas": (1, 2)})
    with pytest.raises(ValueError, match="lr=1, now lr=2: give another out="):
        claim(tmp_path, "train", {"lr": 2, "betas": (1, 2)})


def test_results_survive_a_job_s_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOLTZRAY_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert results_home() == tmp_path
    snapshot = tmp_path / "ray" / "session_x" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    snapshot.mkdir(parents=True)
    monkeypatch.chdir(snapshot)
    assert results_home() == Path.home() / "boltzray"
