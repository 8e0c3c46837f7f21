"""Every file of a folder of samples, damaged in every way: the same command makes the same bits, or names it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boltzray.samplers import SMCConfig
from boltzray.sampling import smc
from boltzray.sampling.flow_actors import ActorsConfig
from boltzray.sampling.sample import SampleJob, sample
from boltzray.sampling.sample_files import read_samples
from tests.damage import KINDS, damage, outcome

pytestmark = pytest.mark.usefixtures("ray_cluster")
FAST = {
    "run/draws-00000.npz": "cut off",
    "run/smc-000003/state.json": "one bit flipped",
    "run/smc-000003/part-00000.npz": "another one's",
    "sample.json": "emptied",
    "samples.npz": "one bit flipped",
}


@pytest.fixture(scope="module")
def job(checkpoint: Path, module_home: Path) -> SampleJob:
    config = SMCConfig(schedule="linear", n_steps=5, block_size=8, step_size=1e-6)
    return SampleJob(
        sequence="GG", checkpoint=str(checkpoint), out="whole", samples=40, smc_particles=20, smc=config,
        checkpoint_s=0.0, actors=ActorsConfig(flow_replicas=1),
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(job: SampleJob, ray_cluster: None) -> Path:
    """A run that nothing has disturbed."""
    return sample(job)


def stopped(job: SampleJob, out: str) -> None:
    """Leave a run that was stopped after three steps of SMC."""
    steps = [0]

    def stopping(*arguments: Any) -> None:
        steps[0] += 1
        if steps[0] == 4:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smc, "_show", stopping)
        with pytest.raises(KeyboardInterrupt):
            sample(replace(job, out=out))


@pytest.fixture(scope="module")
def begun(job: SampleJob, module_home: Path, ray_cluster: None) -> tuple[Path, Path]:
    """A run that was stopped, and another one's: of other seeds."""
    stopped(job, "begun")
    stopped(replace(job, seed=1), "other")
    return module_home / "begun", module_home / "other"


def same(whole: Path, out: Path) -> None:
    for one, two in zip(read_samples(whole)[1], read_samples(out)[1], strict=True):
        np.testing.assert_array_equal(np.concatenate(list(one.chunks)), np.concatenate(list(two.chunks)))
        np.testing.assert_array_equal(one.log_weights, two.log_weights)


def files(folder: Path) -> list[str]:
    """Files that decide what a run does: neither the record's place in MLflow, nor the lock."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return [name for name in names if "mlflow" not in name and "lock" not in name]


def attempt(job: SampleJob, source: Path, other: Path, whole: Path, name: str, kind: str) -> str:
    out = source.parent / "damaged"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(source, out)
    damage(out / name, kind, (other / name).read_bytes())
    return outcome(lambda: sample(replace(job, out="damaged")), lambda found: same(whole, found), out)


@pytest.mark.parametrize("name", FAST)
def test_a_damaged_file_is_made_again_or_named(
    name: str, job: SampleJob, whole: Path, begun: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source, other = begun if not name.startswith("samples") else (whole, whole)
    found = attempt(job, source, other, whole, name, FAST[name])
    assert found == ("one line" if name == "sample.json" else "same bits")
    if found == "same bits":
        assert "is damaged" in capsys.readouterr().out


@pytest.mark.slow
def test_every_file_damaged_in_every_way(job: SampleJob, whole: Path, begun: tuple[Path, Path]) -> None:
    rows = 0
    for source, other in (begun, (whole, sample(replace(job, out="another", seed=1)))):
        for name in files(source):
            for kind in KINDS:
                found = attempt(job, source, other, whole, name, kind)
                print(f"| {source.name}/{name} | {kind} | {found} |", flush=True)
                rows += 1
    assert rows > 40
