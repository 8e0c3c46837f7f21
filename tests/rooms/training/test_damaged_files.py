"""Every file of a training that was stopped, damaged in every way: the same weights, or one line."""

import shutil
import signal
from pathlib import Path

import pytest
import torch
from job_processes import stop_job
from safetensors.torch import load_file

from boltzray.runtime.config import parse
from boltzray.training.train import TrainJob, train
from tests.damage import KINDS, damage, outcome

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow, pytest.mark.timeout(3000)]
SETTINGS = {
    "model": {"channels": 16, "head_dim": 8, "blocks": 2, "layers_per_block": 1},
    "train": {"steps": 400, "batch": 30, "lr": 3e-3, "precision": "float32", "ema": 0.9},
    "validation": {"every": 0},
    "workers": {"workers": 1, "threads": 1, "max_failures": 0},
    "checkpoint_every": 20,
}


def job(data: Path, out: str, seed: int = 0) -> TrainJob:
    settings = {**SETTINGS, "train": {**SETTINGS["train"], "seed": seed}, "data": {"path": str(data), **CHOSEN}}
    return parse(TrainJob, {**settings, "out": out})


CHOSEN = {"sequences": ["GP", "FS"], "bucket_steps": 4, "shards_per_window": 1}


def begun(home: Path, data: Path, out: str, seed: int = 0) -> None:
    """Leave a run that was killed after a checkpoint."""
    words = [f"data.path={data}", f"out={out}", "cluster.num_cpus=4", "data.sequences=[GP,FS]", "model=prose"]
    for group, values in {**SETTINGS, "data": {k: v for k, v in CHOSEN.items() if k != "sequences"}}.items():
        pairs = values.items() if isinstance(values, dict) else [("", values)]
        words += [f"{group}.{k}={v}".replace(".=", "=") for k, v in pairs]
    written = home / out / "checkpoint" / "flow.json"
    assert "already" not in stop_job(home, signal.SIGKILL, written.exists, "train", *words, f"train.seed={seed}")


def same(out: Path, whole: Path) -> None:
    one, two = (load_file(path / "checkpoint" / "model.safetensors") for path in (out, whole))
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


@pytest.fixture(scope="module")
def whole(data: Path, module_home: Path, ray_cluster: None) -> Path:
    """A run that nothing has disturbed, beside two that were stopped."""
    begun(module_home, data, "begun")
    begun(module_home, data, "other", seed=1)
    return train(job(data, "whole")).parent


@pytest.mark.parametrize("folder", ["", "best", "checkpoint", "ray_train"])
def test_every_file_damaged_in_every_way(folder: str, data: Path, module_home: Path, whole: Path) -> None:
    source, other, out = (module_home / name for name in ("begun", "other", "damaged"))
    written = [path for path in source.rglob("*") if path.is_file() and path.stat().st_size]
    names = sorted((path.relative_to(source) for path in written), reverse=True)  # the newest checkpoint first
    rows = 0
    for name in names:
        if "mlflow" in name.name or "lock" in name.name or folder != (name.parts[0] if len(name.parts) > 1 else ""):
            continue
        for kind in KINDS:
            if kind == "another one's" and not (other / name).exists():
                continue
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(source, out)
            damage(out / name, kind, (other / name).read_bytes() if (other / name).exists() else b"")
            found = outcome(lambda: train(job(data, "damaged")), lambda found: same(found.parent, whole), out)
            print(f"| {name} | {kind} | {found} |", flush=True)
            rows += 1
    assert rows > 5
