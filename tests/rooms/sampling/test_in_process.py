"""Small work in this process: the bits of actors, without Ray, and either goes on with what the other has begun."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_processes import environment
from restarts import undisturbed

from boltzray.runtime.cpu_affinity import own_core
from boltzray.runtime.workers import LocalWorkers, in_order
from boltzray.samplers import smc_steps
from boltzray.sampling import smc as sampling_smc
from boltzray.sampling.energy_actors import EnergyConfig
from boltzray.sampling.flow_actors import SMALL, ActorsConfig, runs_here
from boltzray.sampling.sample import SampleJob, sample

HERE = ActorsConfig(in_process=True, flow_replicas=2)


def final(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "samples.npz") as arrays:
        return dict(arrays)


def same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    for name, values in one.items():
        assert np.array_equal(values, two[name]), name


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("engine", ["batched", "openmm"])
def test_threads_give_the_bits_of_actors(home: Path, checkpoint: Path, engine: Any) -> None:
    """SNIS, which is snis.npz here, and SMC; one actor, two, one thread, two."""
    job = replace(undisturbed(checkpoint, "actors"), energy=EnergyConfig(engine=engine))
    job = replace(job, smc=replace(job.smc, n_steps=6), samples=64)
    actors = sample(replace(job, actors=ActorsConfig(flow_replicas=1, energy_actors=1, in_process=False)))
    for count in (1, 2):
        here = sample(replace(job, out=f"threads{count}", actors=replace(HERE, flow_replicas=count)))
        same(final(actors), final(here))
        with np.load(actors / "snis.npz") as one, np.load(here / "snis.npz") as two:
            same(dict(one), dict(two))


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("first", [True, False])
def test_each_goes_on_with_what_the_other_has_begun(
    home: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    def stopping(*arguments: Any) -> Any:
        for record, state in smc_steps(*arguments):
            yield record, state
            if record.step == 3:
                raise KeyboardInterrupt

    job = undisturbed(checkpoint, "a")
    job = replace(job, smc=replace(job.smc, n_steps=6), checkpoint_s=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(sampling_smc, "smc_steps", stopping)
        with pytest.raises(KeyboardInterrupt):
            sample(replace(job, actors=ActorsConfig(in_process=first, flow_replicas=1)))
    assert list((home / "a" / "run").glob("smc-*"))
    went_on = sample(replace(job, actors=ActorsConfig(in_process=not first, flow_replicas=1)))
    same(final(went_on), final(sample(replace(job, out="b", actors=HERE))))


CODE = """
import sys
from boltzray.evaluation.evaluate import SampleJob, sample_and_report
from boltzray.runtime.tracking import untracked
with untracked():
    sample_and_report(SampleJob(sequence="DG", samples=64, sampler="snis", data_dir="none", out=sys.argv[1]))
slow = {"ray", "mlflow", "sklearn", "ot", "deeptime", "arviz", "torch._dynamo", "scipy.stats"} & sys.modules.keys()
assert not slow, slow
"""


def test_nothing_slow_is_imported(home: Path) -> None:
    """A small sample imports neither Ray nor what else takes seconds and is not used."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, "a"], env=environment(home), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "in this process" in done.stdout
    assert (home / "a" / "report.html").exists()


def test_what_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boltzray.sampling.flow_actors.with_ray", lambda: False)
    assert runs_here(ActorsConfig(), SMALL)
    assert not runs_here(ActorsConfig(), SMALL + 1)
    assert not runs_here(ActorsConfig(in_process=False), 1)
    assert runs_here(ActorsConfig(in_process=True), SMALL + 1)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert not runs_here(ActorsConfig(), 1)
    assert SampleJob(sequence="AA", samples=1000).energies <= SMALL  # as `jobs/sample.py sequence=AA` takes it


# --- threads ------------------------------------------------------------------------------------


class Server:
    """Answers slowly, or not at all."""

    def __init__(self) -> None:
        self.made_in, self.core = threading.get_ident(), own_core()

    def square(self, x: int) -> tuple[int, int]:
        time.sleep(0.01 * (x % 3))
        return threading.get_ident(), x * x

    def place(self) -> tuple[int, int | None]:
        return self.made_in, self.core

    def fail(self) -> None:
        raise ValueError("as asked")


def test_threads_answer_all_calls_and_raise_their_errors() -> None:
    workers = LocalWorkers(Server, 3)
    try:
        results = in_order(workers.completed("square", [(i,) for i in range(20)]))
        assert [square for _, square in results] == [i * i for i in range(20)]
        assert len({thread for thread, _ in results}) == 3
        with pytest.raises(ValueError, match="as asked"):
            workers.first("fail")
        with pytest.raises(ValueError, match="as asked"):
            in_order(workers.completed("fail", [(), ()]))
        assert workers.first("square", 3)[1] == 9  # and goes on
    finally:
        workers.close()
    with pytest.raises(ZeroDivisionError):
        LocalWorkers(lambda: 1 / 0, 2)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_each_thread_has_a_core_of_its_own_and_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # locks of other processes are not in the way
    for _ in range(3):
        workers = LocalWorkers(Server, 2)
        try:
            places = dict(in_order(workers.completed("place", [()] * 12, keep=False)))
        finally:
            workers.close()
        assert len(set(places.values())) == len(places)
