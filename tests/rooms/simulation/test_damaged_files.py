"""Every file of a simulation, damaged in every way: going on writes the same shards, or says one line."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from boltzray.molecules.runs import MDConfig
from boltzray.simulation.simulate import SimulateJob, simulate
from tests.damage import KINDS, damage, outcome

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow, pytest.mark.timeout(3000)]
MD = MDConfig(warmup_ps=0.05, interval_ps=0.01, frames_per_chunk=4)
JOB = SimulateJob(sequences=("GG",), time_ns=0.00004, replicas=2, hold_out=1, out="begun", md=MD)
LONGER = replace(JOB, time_ns=0.00008)


def results(out: Path) -> dict[str, bytes]:
    paths = [*out.glob("webdatasets/*/*.tar"), *out.glob("trajectories_subsampled/*/*/*.npz")]
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(paths)}


def test_every_file_damaged_in_every_way(home: Path) -> None:
    simulate(JOB)
    simulate(replace(JOB, out="other", seed=1))
    whole = results(simulate(replace(LONGER, out="whole")))
    names = sorted(str(path.relative_to(home / "begun")) for path in (home / "begun").rglob("*") if path.is_file())
    rows = 0
    for name in names:
        if "mlflow" in name or "lock" in name or name.startswith("simulations/"):
            continue
        for kind in KINDS:
            out = home / "damaged"
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(home / "begun", out)
            damage(out / name, kind, (home / "other" / name).read_bytes())

            def check(found: Path) -> None:
                assert results(found) == whole

            print(f"| {name} | {kind} | {outcome(lambda: simulate(replace(LONGER, out='damaged')), check, out)} |")
            rows += 1
    assert rows > 20
