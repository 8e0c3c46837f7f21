"""Energies of either engine: from actors, in the process that asks, and by a pool that loses an actor."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from boltzray import models
from boltzray.molecules import BatchedEnergy, EnergyBatch, OpenMMEnergy, Peptide
from boltzray.runtime.cluster import Cluster
from boltzray.runtime.config import parse
from boltzray.samplers import SMCConfig, SMCState, smc_steps
from boltzray.sampling.energy_actors import (
    BatchedEnergies,
    Energies,
    EnergyActors,
    EnergyConfig,
    EnergyServer,
    Molecule,
    start_servers,
)
from boltzray.sampling.energy_pool import EnergyPool
from boltzray.sampling.flow_actors import ActorsConfig, Target, start_actors
from boltzray.sampling.ray_population import Proposals, RayPopulation
from boltzray.sampling.smc_checkpoint import load_part

pytestmark = pytest.mark.usefixtures("ray_cluster")
OPENMM, BATCHED = EnergyConfig(engine="openmm"), EnergyConfig(engine="batched")
CLUSTER = Cluster(cpus=2, gpus=0, local=True)


@pytest.fixture(scope="module")
def peptide(data: Path) -> Peptide:
    return Peptide.from_pdb(data / "pdbs" / "test" / "AA.pdb")


@pytest.fixture(scope="module")
def molecule(peptide: Peptide) -> Molecule:
    return Molecule(peptide.to_pdb())


@pytest.fixture(scope="module")
def pool() -> Iterator[EnergyPool]:
    with EnergyPool(OPENMM, CLUSTER) as pool:
        yield pool


def shaken(peptide: Peptide, count: int, seed: int = 0) -> np.ndarray:
    """Some too close, one with NaN."""
    noise = np.random.default_rng(seed).normal(size=(count, peptide.n_atoms, 3))
    x = peptide.positions + noise * np.linspace(0.0, 0.02, count)[:, None, None]
    if count > 3:
        x[3, 0] = np.nan
    return x


def same(one: EnergyBatch, two: EnergyBatch) -> None:
    """Bit for bit."""
    assert one.energy.dtype == two.energy.dtype == np.float64
    np.testing.assert_array_equal(one.energy, two.energy)
    np.testing.assert_array_equal(one.ok, two.ok)
    assert (one.gradient is None) == (two.gradient is None)
    if one.gradient is not None and two.gradient is not None:
        np.testing.assert_array_equal(one.gradient, two.gradient)


@pytest.fixture(scope="module")
def servers() -> Iterator[list[str]]:
    names, actors = start_servers(OPENMM, 3, num_cpus=0)
    yield names
    for actor in actors:
        ray.kill(actor)


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("gradient", [True, False])
def test_both_engines_answer_alike(
    peptide: Peptide, molecule: Molecule, servers: list[str], count: int, gradient: bool
) -> None:
    x, answers = shaken(peptide, count), []
    clients: list[Energies] = [EnergyActors(servers, molecule), BatchedEnergies(molecule, BATCHED)]
    for client in clients:
        answers.append(client.collect(client.ask(x, gradient=gradient)))
    same(answers[0], OpenMMEnergy(peptide).evaluate(x, gradient))
    same(answers[1], BatchedEnergy(peptide).evaluate(torch.from_numpy(x), gradient).arrays())
    openmm, batched = answers
    assert openmm.ok.tolist() == batched.ok.tolist() == [row != 3 for row in range(count)]
    np.testing.assert_allclose(batched.energy, openmm.energy, rtol=1e-5)
    if openmm.gradient is not None and batched.gradient is not None and count:
        np.testing.assert_allclose(batched.gradient, openmm.gradient, atol=1e-5 * np.abs(openmm.gradient).max())


def pid_of(actor: Any) -> int:
    return int(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())))


def test_a_killed_actor_in_the_middle_of_ten_thousand_loses_nothing(
    peptide: Peptide, molecule: Molecule, pool: EnergyPool
) -> None:
    x = shaken(peptide, 10_000)
    (undisturbed,) = pool.evaluate([(molecule, x)], gradient=True)
    victims = [pid_of(actor) for actor in pool.actors]

    def kill(done: int) -> None:
        if done == 12:
            os.kill(victims[0], signal.SIGKILL)

    (disturbed,) = pool.evaluate([(molecule, x)], gradient=True, chunk=257, on_done=kill)
    assert pid_of(pool.actors[0]) != victims[0]
    assert len(disturbed.energy) == 10_000
    assert disturbed.ok.sum() == 9_999
    same(disturbed, undisturbed)
    same(
        EnergyBatch(*(part[:50] for part in (disturbed.energy, disturbed.gradient, disturbed.ok))),  # type: ignore[index]
        OpenMMEnergy(peptide).evaluate(x[:50]),
    )


def test_a_pool_serves_several_peptides_in_order(peptide: Peptide, molecule: Molecule, pool: EnergyPool) -> None:
    others = [Peptide.from_sequence(sequence) for sequence in ("GP", "GG", "AG", "GA", "PG")]  # more than stay ready
    warm = Molecule(peptide.to_pdb(), 620.0)
    requests = [(Molecule(other.to_pdb()), shaken(other, 5 + i)) for i, other in enumerate(others)]
    requests += [(warm, shaken(peptide, 9)), (molecule, shaken(peptide, 0)), requests[0]]
    answers = pool.evaluate(requests, chunk=4)
    assert [len(answer.energy) for answer in answers] == [5, 6, 7, 8, 9, 9, 0, 5]
    for (asked, x), answer in zip(requests, answers, strict=True):
        expected = OpenMMEnergy(Peptide.from_pdb(asked.pdb), asked.temperature_k).evaluate(x, gradient=False)
        same(answer, expected)


def test_a_batched_pool(peptide: Peptide, molecule: Molecule) -> None:
    x = shaken(peptide, 70).astype(np.float32)
    with EnergyPool(BATCHED, CLUSTER, actors=1) as pool:
        (answer,) = pool.evaluate([(molecule, x)], gradient=True, chunk=33)
    same(answer, BatchedEnergy(peptide).evaluate_arrays(x))


def test_positions_of_another_peptide_are_named(molecule: Molecule, pool: EnergyPool) -> None:
    with pytest.raises(ValueError, match=r"x_nm has shape \(2, 22, 3\): give \(B, 23, 3\)"):
        pool.evaluate([(molecule, np.zeros((2, 22, 3)))])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"engine": "amber"}, "engine: Input should be 'openmm' or 'batched'"),
        ({"engine": "openmm", "compile": True}, "are of engine=batched"),
        ({"engine": "openmm", "precision": "float32"}, "are of engine=batched"),
        ({"precision": "half"}, "precision: Input should be 'float64' or 'float32'"),
    ],
)
def test_wrong_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(EnergyConfig, values)


def test_compiling_where_it_does_not_work_is_named(molecule: Molecule, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("no compiler\nand more")

    monkeypatch.setattr("boltzray.molecules.batched.tiles._compiled", lambda: broken)
    server = EnergyServer(EnergyConfig(compile=True))
    with pytest.raises(ValueError, match=r"energy.compile=true does not work here \(no compiler\): leave it false"):
        server.evaluate(molecule, np.zeros((1, 23, 3)))


def drawn_and_moved(flows: list[Any], folder: Path) -> tuple[np.ndarray, ...]:
    """Energies and densities of 40 proposals; log-weights, positions and densities of 16 of them after SMC."""
    folder.mkdir()
    config = SMCConfig(schedule="linear", n_steps=3, block_size=8, step_size=1e-6)
    drawn = Proposals.draw(flows, 40, 8, 0, folder)
    population, state = RayPopulation.start(flows, drawn.blocks(16), 16, 8, 0), SMCState.start(16, config)
    for _, after in smc_steps(population, config, 0, state):
        state = after
    x = np.concatenate([block["x"] for block in ray.get(population.blocks)])
    return drawn.energy, drawn.log_q, drawn.log_p, state.log_w, x, *population.scalars()


def test_samples_with_batched_energies_do_not_depend_on_the_actors(
    checkpoint: Path, target: Target, peptide: Peptide, tmp_path: Path
) -> None:
    """SNIS and SMC; and OpenMM weighs the same draws alike."""
    actors = start_actors(checkpoint, target, ActorsConfig(flow_replicas=2), BATCHED, CLUSTER)
    try:
        one, two = (drawn_and_moved(actors.flows[:count], tmp_path / str(count)) for count in (1, 2))
    finally:
        actors.stop()
    for mine, its in zip(one, two, strict=True):
        np.testing.assert_array_equal(mine, its)
    (part,) = (tmp_path / "1").glob("draws-*.npz")
    x_nm = load_part(part, "x")["x"].astype(np.float64) * models.load(checkpoint).scale_nm
    np.testing.assert_allclose(one[0], OpenMMEnergy(peptide).evaluate(x_nm, gradient=False).energy, rtol=1e-4)
