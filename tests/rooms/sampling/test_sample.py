"""SNIS and SMC over actors: the bits of one process, whatever the number of actors and whichever of them dies."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
import ray
import torch

from boltzray.molecules import EnergyBatch, OpenMMEnergy, Peptide
from boltzray.runtime.actor_pool import RayWorkers
from boltzray.runtime.cluster import Cluster
from boltzray.runtime.workers import IN_FLIGHT
from boltzray.samplers import SMCConfig, SMCState, run_smc, smc_steps
from boltzray.sampling.energy_actors import EnergyActors, EnergyConfig, EnergyServer, Molecule
from boltzray.sampling.flow_actors import Actors, ActorsConfig, FlowServer, start_actors
from boltzray.sampling.population import BlockPopulation, Proposals
from boltzray.sampling.sample import SampleJob, sample
from boltzray.sampling.sample_files import read_samples
from boltzray.sampling.smc import Positions
from boltzray.sampling.target import Target

pytestmark = pytest.mark.usefixtures("ray_cluster")
CONFIG = SMCConfig(schedule="linear", n_steps=4, block_size=8, step_size=1e-5, moves_per_step=2)
N, SEED = 20, 5  # three blocks, the last one shorter


class InProcess:
    """Energies computed where they are asked for."""

    def __init__(self, target: Target) -> None:
        self.openmm = OpenMMEnergy(Peptide.from_pdb(target.pdb), target.temperature_k)

    def ask(self, x_nm: np.ndarray, *, gradient: bool) -> EnergyBatch:
        return self.openmm.evaluate(x_nm, gradient)

    def collect(self, asked: EnergyBatch) -> EnergyBatch:
        return asked


@pytest.fixture(scope="module")
def expected(checkpoint: Path, target: Target) -> Any:
    """Proposals and SMC in this process, with threads as the actors have them."""
    threads = torch.get_num_threads()
    server = FlowServer(str(checkpoint), target, lambda _: InProcess(target))
    x = np.concatenate([server.draw(SEED, i, n)[0] for i, n in enumerate((8, 8, 4))])
    result = run_smc(torch.from_numpy(x), server.evaluate, CONFIG, SEED)
    torch.set_num_threads(threads)
    return x, result


@pytest.fixture(scope="module")
def actors(ray_cluster: None, checkpoint: Path, target: Target) -> Iterator[Actors]:
    """Two of each kind; test_sampling_blocks has other numbers."""
    config, cluster = ActorsConfig(flow_replicas=2, energy_actors=2), Cluster(cpus=4, gpus=0, local=True)
    started = start_actors(checkpoint, target, config, EnergyConfig(engine="openmm"), cluster)
    yield started
    started.stop()


def run(folder: Path, actors: Actors, disturb: Callable[[int], None] = lambda step: None) -> Any:
    """Proposals, positions at the end of SMC, its state and log Z; `disturb` is called after each step."""
    drawn = Proposals.sample(actors.workers, N, CONFIG.block_size, SEED, folder)
    x = np.concatenate(list(Positions(drawn.paths, 1.0)))
    population = BlockPopulation.start(actors.workers, drawn.blocks(np.arange(N)), CONFIG.block_size, SEED)
    state = SMCState.start(N, CONFIG)
    for record, after in smc_steps(population, CONFIG, SEED, state):
        state = after
        disturb(record.step)
    positions = np.concatenate([block["x"] for block in ray.get(population.blocks)])
    return x, positions, state, record.log_z


def test_actors_give_the_bits_of_one_process(tmp_path: Path, actors: Actors, expected: Any) -> None:
    x, positions, state, log_z = run(tmp_path, actors)
    drawn, result = expected
    assert np.array_equal(x, drawn)
    assert np.array_equal(positions, result.x.numpy())
    assert np.array_equal(state.log_w, result.log_w.numpy())
    assert log_z == result.log_z
    assert any(step.resampled for step in result.steps)


def pid_of(actor: Any) -> int:
    def pid(_: Any) -> int:
        return os.getpid()

    return ray.get(actor.__ray_call__.options(max_task_retries=-1).remote(pid))


def test_killed_actors_change_nothing(tmp_path: Path, actors: Actors, expected: Any) -> None:
    """A flow in the middle of SMC, and an energy actor a step later."""
    victims = {2: actors.flows[0], 3: actors.energies[0]}
    pids = {step: pid_of(actor) for step, actor in victims.items()}

    def disturb(step: int) -> None:
        if step in pids:
            os.kill(pids[step], signal.SIGKILL)

    _, positions, _, log_z = run(tmp_path, actors, disturb)
    assert np.array_equal(positions, expected[1].x.numpy())
    assert log_z == expected[1].log_z
    assert all(pid_of(actor) != pids[step] for step, actor in victims.items())


def test_densities_are_those_of_flow_and_force_field(checkpoint: Path, target: Target, data: Path) -> None:
    """Against a plain computation, with the centre-of-mass term written out."""
    server = FlowServer(str(checkpoint), target, lambda _: InProcess(target))
    peptide = Peptide.from_pdb(data / "pdbs" / "test" / "AA.pdb")
    x = torch.from_numpy((peptide.positions - peptide.positions.mean(0))[None].astype(np.float32) / 0.17)
    x = x + 0.1
    ends = server.evaluate(x)
    energy = OpenMMEnergy(peptide, 310.0).evaluate(x.numpy().astype(np.float64) * 0.17)
    com = -0.5 * 23 * float(x.double().mean(1).square().sum())
    assert float(ends.log_p[0]) == pytest.approx(com - energy.energy[0], rel=1e-9)
    h, direction = 1e-4, torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for log_density, gradient in ((ends.log_p, ends.grad_p), (ends.log_q, ends.grad_q)):
        which = 1 if log_density is ends.log_p else 0
        up, down = (server.evaluate(x + s * h * direction)[which] for s in (1, -1))
        assert float((up - down) / (2 * h)) == pytest.approx(float((gradient * direction).sum()), rel=2e-2)


def test_sample_writes_what_it_promises(checkpoint: Path, data: Path, home: Path) -> None:
    import mdtraj

    job = SampleJob(
        sequence="AA",
        checkpoint=str(checkpoint),
        out=str(home / "aa"),
        data_dir=str(data),
        samples=40,
        smc_particles=16,
        energy=EnergyConfig(engine="openmm"),
        actors=ActorsConfig(flow_replicas=1, energy_actors=1),  # the other tests' actors hold two CPUs
        smc=SMCConfig(schedule="linear", n_steps=3, block_size=8, step_size=1e-6),
    )
    out = sample(job)
    peptide, sets = read_samples(out)
    assert [s.name for s in sets] == ["SNIS", "SMC"]
    with np.load(out / "samples.npz") as arrays:
        assert {"positions_nm", "log_weights", "energy_kT", "log_q"} <= set(arrays)
        positions, energy = arrays["positions_nm"], arrays["energy_kT"]
    assert positions.shape == (16, 23, 3)
    again = OpenMMEnergy(peptide).evaluate(positions.astype(np.float64)).energy
    np.testing.assert_allclose(energy, again, rtol=1e-3)
    trajectory = mdtraj.load(str(out / "ensemble.xtc"), top=str(out / "topology.pdb"))
    assert trajectory.n_atoms == 23
    assert len(trajectory) == 16
    before = (out / "samples.npz").stat().st_mtime_ns
    assert sample(job) == out  # a finished run is not run twice
    assert (out / "samples.npz").stat().st_mtime_ns == before


class NotedLock:
    """The lock on a flow; it leaves a file in `folder` each time that it is taken."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lock, self.taken = folder, Lock(), 0

    def __enter__(self) -> None:
        self.lock.acquire()
        self.taken += 1
        (self.folder / str(self.taken)).touch()

    def __exit__(self, *_: Any) -> None:
        self.lock.release()


class NotedFlow(FlowServer):
    """A flow whose use is noted in `folder`."""

    def __init__(self, folder: Path, checkpoint: str, target: Target, energies: Any) -> None:
        super().__init__(checkpoint, target, energies)
        self._alone = NotedLock(folder)  # type: ignore[assignment]


class SlowEnergies(EnergyServer):
    """Answers for one of `n` blocks only when the flow has begun on the next."""

    def __init__(self, folder: Path, n: int, molecule: Molecule) -> None:
        super().__init__(molecule)
        self.folder, self.n, self.asked = folder, n, 0

    def evaluate(self, x_nm: np.ndarray, gradient: bool = True) -> EnergyBatch:
        if gradient:  # the first call, when the flow gets ready, is without
            self.asked += 1
            deadline = time.monotonic() + 60
            while len(list(self.folder.iterdir())) < min(self.asked + 1, self.n):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the flow waits for the energies of block {self.asked}")
                time.sleep(0.002)
        return super().evaluate(x_nm, gradient)


def test_flow_and_energies_of_different_blocks_overlap(tmp_path: Path, checkpoint: Path, target: Target) -> None:
    """One flow, one OpenMM actor: while the energies of a block are awaited the flow computes on the next."""
    name, n = "energy-slow", 4
    energy = ray.remote(num_cpus=0)(SlowEnergies).options(name=name).remote(tmp_path, n, target.molecule)
    energies = lambda _: EnergyActors([name])  # noqa: E731
    served = ray.remote(num_cpus=0, max_concurrency=IN_FLIGHT)(NotedFlow)
    flow = served.remote(tmp_path, str(checkpoint), target, energies)
    try:
        noise = np.random.default_rng(0).standard_normal((n, 8, 23, 3), np.float32)
        population = BlockPopulation.start(RayWorkers([flow]), iter(noise), 8, SEED)
    finally:
        ray.kill(flow)
        ray.kill(energy)
    assert len(population.log_q) == 8 * n
    assert len(list(tmp_path.iterdir())) == n
