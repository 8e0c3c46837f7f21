"""Whatever dies, the bits of an undisturbed run: actors at random times, the driver, a node."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from job_processes import environment, run_job, stop_job
from restarts import ARGUMENTS, has_begun, undisturbed

from boltzray.runtime.cluster import Cluster
from boltzray.runtime.tracking import Tracker
from boltzray.samplers import SMCConfig, SMCState, smc_steps
from boltzray.sampling.block_files import load_part
from boltzray.sampling.energy_actors import EnergyConfig
from boltzray.sampling.flow_actors import Actors, ActorsConfig, start_actors
from boltzray.sampling.population import BlockPopulation, Proposals
from boltzray.sampling.sample import sample
from boltzray.sampling.smc import SMCRun
from boltzray.sampling.smc_checkpoint import last_checkpoint, save_checkpoint
from boltzray.sampling.target import Target

CONFIG = SMCConfig(schedule="linear", n_steps=8, block_size=8, step_size=1e-5)
LONG = replace(CONFIG, n_steps=24)  # time to be killed in
N, SEED = 20, 5


@pytest.fixture(scope="module")
def actors(ray_cluster: None, checkpoint: Path, target: Target) -> Iterator[Actors]:
    """Two of each kind; those that are killed start again by themselves."""
    config, cluster = ActorsConfig(flow_replicas=2, energy_actors=2), Cluster(cpus=4, gpus=0, local=True)
    started = start_actors(checkpoint, target, config, EnergyConfig(engine="openmm"), cluster)
    yield started
    started.stop()


@pytest.fixture
def tracker(home: Path) -> Tracker:
    return Tracker.open("sample", home, {})


def run_smc_on_actors(folder: Path, actors: Actors, tracker: Tracker, n: int = N, config: SMCConfig = CONFIG) -> Any:
    """Draw and anneal; positions and log-weights at the end, and log Z."""
    folder.mkdir(exist_ok=True)
    drawn = Proposals.sample(actors.workers, n, config.block_size, SEED, folder)
    annealing = SMCRun(config=config, n=n, seed=SEED, folder=folder, checkpoint_s=0.0)
    state, steps, _ = annealing.run(drawn, actors.workers, tracker)
    final = last_checkpoint(folder)
    assert final is not None
    x = np.concatenate([load_part(path, "x")["x"] for path in final.paths])
    return x, state.log_w, steps[-1].log_z


def same(one: Any, two: Any) -> None:
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])
    assert one[2] == two[2]


def kill_now_and_then(actors: Actors, seed: int, stop: threading.Event, killed: list[float]) -> None:
    """SIGKILL to the process of some actor, at random times."""
    source = random.Random(seed)
    while not stop.wait(source.uniform(0.0, 0.2)):
        actor = source.choice([*actors.flows, *actors.energies])
        if killed and time.monotonic() - killed[-1] < 8.0:
            continue  # an actor takes seconds to start again: let something be done in between
        pid = ray.get(actor.__ray_call__.options(max_task_retries=-1).remote(lambda _: os.getpid()))
        if not stop.is_set():
            os.kill(pid, signal.SIGKILL)
            killed.append(time.monotonic())


def check_random_kills(seeds: range, folder: Path, actors: Actors, tracker: Tracker) -> None:
    total = 0
    undisturbed = run_smc_on_actors(folder / "undisturbed", actors, tracker, config=LONG)
    for seed in seeds:
        stop, killed = threading.Event(), list[float]()
        killer = threading.Thread(target=kill_now_and_then, args=(actors, seed, stop, killed))
        killer.start()
        try:
            same(run_smc_on_actors(folder / str(seed), actors, tracker, config=LONG), undisturbed)
        finally:
            stop.set()
            killer.join()
        total += len(killed)
    print(f"{total} actors killed in {len(seeds)} runs")
    assert total >= 0.5 * len(seeds)


def test_actors_killed_at_random_change_nothing(tmp_path: Path, actors: Actors, tracker: Tracker) -> None:
    check_random_kills(range(1), tmp_path, actors, tracker)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_actors_killed_at_random_twenty_times(tmp_path: Path, actors: Actors, tracker: Tracker) -> None:
    check_random_kills(range(1, 21), tmp_path, actors, tracker)


def test_a_part_that_is_missing_is_drawn_again(tmp_path: Path, actors: Actors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boltzray.sampling.block_files.PART_ROWS", 16)
    whole = Proposals.sample(actors.workers, 50, 8, SEED, tmp_path)
    assert [len(load_part(path, "x")["x"]) for path in whole.paths] == [16, 16, 16, 2]
    contents = [path.stat().st_mtime_ns for path in whole.paths]
    before = load_part(whole.paths[1], "x", "log_q", "log_p", "energy")
    whole.paths[1].unlink()
    again = Proposals.sample(actors.workers, 50, 8, SEED, tmp_path)
    for name, values in load_part(again.paths[1], *before).items():
        assert np.array_equal(values, before[name]), name
    unchanged = [path.stat().st_mtime_ns for path in again.paths]
    assert [a == b for a, b in zip(contents, unchanged, strict=True)] == [True, False, True, True]
    for mine, its in zip(again.blocks(np.arange(20)), whole.blocks(np.arange(20)), strict=True):
        assert np.array_equal(mine, its)


def test_smc_goes_on_from_every_checkpoint(tmp_path: Path, actors: Actors, tracker: Tracker) -> None:
    """Broken off after each step in turn, by a new `SMCRun` each time."""
    undisturbed = run_smc_on_actors(tmp_path / "whole", actors, tracker)
    folder = tmp_path / "pieces"
    folder.mkdir()
    drawn = Proposals.sample(actors.workers, N, CONFIG.block_size, SEED, folder)
    annealing = SMCRun(config=CONFIG, n=N, seed=SEED, folder=folder, checkpoint_s=0.0)
    for _ in range(CONFIG.n_steps - 1):
        population, state, steps, seconds = annealing._begin(drawn, actors.workers)
        record, state = next(smc_steps(population, CONFIG, SEED, state))
        save_checkpoint(folder, population, state, [*steps, record], seconds)
        assert [path.name for path in folder.glob("smc-*")] == [f"smc-{record.step:06d}"]
    same(run_smc_on_actors(folder, actors, tracker), undisturbed)


def test_what_was_written_halfway_is_not_read(tmp_path: Path, actors: Actors) -> None:
    drawn = Proposals.sample(actors.workers, N, CONFIG.block_size, SEED, tmp_path)
    population = BlockPopulation.start(actors.workers, drawn.blocks(np.arange(N)), CONFIG.block_size, SEED)
    state = SMCState.start(N, CONFIG)
    assert last_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, population, state, [], 1.5)

    class Dies:
        def save(self, folder: Path) -> None:
            (folder / "part-00000.npz").write_bytes(b"half a f")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, Dies(), state._replace(step=1), [], 2.0)
    found = last_checkpoint(tmp_path)
    assert found is not None
    assert found.state.step == 0
    assert found.seconds == 1.5
    loaded = BlockPopulation.load(actors.workers, found.paths, CONFIG.block_size, SEED)
    for mine, its in zip(ray.get(loaded.blocks), ray.get(population.blocks), strict=True):
        assert all(np.array_equal(mine[name], its[name]) for name in its)


def final(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "samples.npz") as arrays:
        return dict(arrays)


@pytest.mark.slow  # three jobs; the other tests here go on from each checkpoint without a new process
@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_driver_goes_on(home: Path, checkpoint: Path) -> None:
    """SIGKILL to a real `python jobs/sample.py` in the middle of SMC; the same command ends with the same bits."""
    arguments = ["sample", f"checkpoint={checkpoint}", "out=a", *ARGUMENTS, "cluster.num_cpus=2"]
    stop_job(home, signal.SIGKILL, lambda: has_begun(home / "a"), *arguments)
    assert not (home / "a" / "samples.npz").exists()
    done = run_job(home, *arguments)
    assert done.returncode == 0, done.stderr
    assert "SMC goes on after step" in done.stdout
    assert not (home / "a" / "run").exists()
    one, two = final(home / "a"), final(sample(undisturbed(checkpoint, "b")))
    assert one.keys() == two.keys()
    for name, values in one.items():
        assert np.array_equal(values, two[name]), name


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1500)
def test_a_lost_node_changes_nothing(home: Path, checkpoint: Path, data: Path) -> None:
    """Two nodes, of which one is removed in the middle of SMC with the actors and blocks on it."""
    script = Path(__file__).with_name("losing_a_node.py")
    outputs = []
    for out, extra in (("a", []), ("b", ["undisturbed"])):
        done = subprocess.run(
            [sys.executable, str(script), str(checkpoint), str(data), str(home / out), *extra],
            cwd=home,
            env=environment(home),
            capture_output=True,
            text=True,
            timeout=700,
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    print(outputs[0])
    assert "node removed" in outputs[0]
    assert "0 actors were on the node" not in outputs[0]
    one, two = final(home / "a"), final(home / "b")
    for name, values in one.items():
        assert np.array_equal(values, two[name]), name
