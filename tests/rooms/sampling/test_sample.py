"""SNIS and SMC over actors: the bits of one process, whatever the number of actors and whichever of them dies."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from boltzray.molecules import EnergyBatch, OpenMMEnergy, Peptide
from boltzray.runtime.actor_pool import IN_FLIGHT
from boltzray.runtime.cluster import Cluster
from boltzray.samplers import Endpoints, SMCConfig, SMCState, run_smc, smc_steps
from boltzray.sampling.energy_actors import EnergyActors, EnergyConfig, EnergyServer, Molecule
from boltzray.sampling.flow_actors import Actors, ActorsConfig, FlowServer, Target, start_actors
from boltzray.sampling.ray_population import Proposals, RayPopulation
from boltzray.sampling.sample import SampleJob, sample
from boltzray.sampling.sample_files import read_samples
from boltzray.sampling.smc import Positions

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
    server = FlowServer(str(checkpoint), target, lambda: InProcess(target))
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
    drawn = Proposals.draw(actors.flows, N, CONFIG.block_size, SEED, folder)
    x = np.concatenate(list(Positions(drawn.paths, 1.0)))
    population = RayPopulation.start(actors.flows, drawn.blocks(N), N, CONFIG.block_size, SEED)
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
    server = FlowServer(str(checkpoint), target, lambda: InProcess(target))
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


Interval = tuple[float, float, float]  # what tells a block, from, to


class TimedFlow(FlowServer):
    """Remembers when its flow was busy, and with which block."""

    intervals: list[Interval]

    def evaluate(self, x: torch.Tensor) -> Endpoints:
        from boltzray import models

        plain, self.intervals = models.log_prob_and_gradient, getattr(self, "intervals", [])

        def timed(flow: Any, here: torch.Tensor, *arguments: Any) -> Any:
            began = time.time()
            result = plain(flow, here, *arguments)
            self.intervals.append((mark(here.numpy() * flow.scale_nm), began, time.time()))
            return result

        if not hasattr(plain, "timed"):
            timed.timed = True  # type: ignore[attr-defined]
            models.log_prob_and_gradient = timed
        return super().evaluate(x)


class TimedEnergies(EnergyServer):
    """The same of energies."""

    def evaluate(self, molecule: Molecule, x_nm: np.ndarray, gradient: bool = True, rows: Any = None) -> EnergyBatch:
        began = time.time()
        result = super().evaluate(molecule, x_nm, gradient, rows)
        self.intervals = [*getattr(self, "intervals", []), (mark(x_nm), began, time.time())]
        return result


def mark(x_nm: np.ndarray) -> float:
    return round(float(np.abs(x_nm.astype(np.float64)).sum()), 2)


def test_flow_and_energies_of_different_blocks_overlap(checkpoint: Path, target: Target) -> None:
    """One flow, one OpenMM actor: while the energies of a block are awaited the flow computes on the next."""
    name = "energy-timed"
    energy = ray.remote(num_cpus=0)(TimedEnergies).options(name=name).remote(EnergyConfig(engine="openmm"))
    energies = partial(EnergyActors, [name], Molecule(target.pdb, target.temperature_k))
    flow = ray.remote(num_cpus=0, max_concurrency=IN_FLIGHT)(TimedFlow).remote(str(checkpoint), target, energies)
    try:
        noise = np.random.default_rng(0).standard_normal((8, 64, 23, 3), np.float32)
        RayPopulation.start([flow], (ray.put(x) for x in noise), 512, 64, SEED)
        of_flow, of_energy = (ray.get(a.__ray_call__.remote(lambda self: self.intervals)) for a in (flow, energy))
    finally:
        ray.kill(flow)
        ray.kill(energy)
    marks = {mark(x * 0.17) for x in noise}
    of_energy = [interval for interval in of_energy if interval[0] in marks]
    assert len(of_energy) == 8
    assert {interval[0] for interval in of_flow} >= marks
    shared = [
        max(0.0, min(end, until) - max(began, since))
        for block, began, end in of_flow
        for other, since, until in of_energy
        if other != block
    ]
    busy = [sum(end - began for _, began, end in intervals) for intervals in (of_flow, of_energy)]
    print(f"flow busy {busy[0]:.3f} s, energies {busy[1]:.3f} s, different blocks at once {sum(shared):.3f} s")
    assert sum(seconds > 0 for seconds in shared) >= 2
