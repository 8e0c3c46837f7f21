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
from boltzray.samplers import SMCConfig
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
from boltzray.sampling.flow_actors import ActorsConfig
from boltzray.sampling.sample import SampleJob, sample

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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    flow = models.Flow(models.FlowConfig(channels=16, head_dim=8, blocks=2, layers_per_block=1), scale_nm=0.17)
    return models.save(flow, tmp_path_factory.mktemp("flow") / "checkpoint", {"step": 1})


def test_samples_with_batched_energies_do_not_depend_on_the_actors(checkpoint: Path, data: Path, home: Path) -> None:
    """SNIS and SMC; and OpenMM weighs the same draws alike."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, flows, energy in (("one", 1, BATCHED), ("two", 2, BATCHED), ("openmm", 1, OPENMM)):
        job = SampleJob(
            sequence="AA",
            checkpoint=str(checkpoint),
            out=str(home / name),
            data_dir=str(data),
            samples=40,
            smc_particles=16,
            smc=SMCConfig(schedule="linear", n_steps=3, block_size=8, step_size=1e-6),
            energy=energy,
            actors=ActorsConfig(flow_replicas=flows, energy_actors=1),
        )
        out = sample(job)
        for file in ("snis", "samples"):
            with np.load(out / f"{file}.npz") as arrays:
                found[f"{name} {file}"] = dict(arrays)
    for file in ("snis", "samples"):
        for key, value in found[f"one {file}"].items():
            np.testing.assert_array_equal(found[f"two {file}"][key], value, err_msg=f"{file} {key}")
    snis, other = found["one snis"], found["openmm snis"]
    np.testing.assert_array_equal(snis["positions_nm"], other["positions_nm"])
    np.testing.assert_allclose(snis["energy_kT"], other["energy_kT"], rtol=1e-4)
