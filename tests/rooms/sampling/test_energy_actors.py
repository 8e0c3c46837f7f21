"""Energies of either engine: from actors, and in the process that asks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from boltzray import models
from boltzray.molecules import BatchedEnergy, EnergyBatch, OpenMMEnergy, Peptide
from boltzray.runtime.actor_pool import RayWorkers
from boltzray.runtime.cluster import Cluster
from boltzray.runtime.config import parse
from boltzray.runtime.workers import Workers
from boltzray.samplers import SMCConfig, SMCState, smc_steps
from boltzray.sampling.block_files import load_part
from boltzray.sampling.energy_actors import (
    Energies,
    EnergyActors,
    EnergyConfig,
    LocalEnergies,
    Molecule,
    batched,
    start_servers,
)
from boltzray.sampling.flow_actors import ActorsConfig, actor_resources, start_actors
from boltzray.sampling.peptide_source import PeptideSource
from boltzray.sampling.population import BlockPopulation, Proposals
from boltzray.sampling.target import Target

pytestmark = pytest.mark.usefixtures("ray_cluster")
OPENMM, BATCHED = EnergyConfig(engine="openmm"), EnergyConfig(engine="batched")
CLUSTER = Cluster(cpus=2, gpus=0, local=True)


@pytest.fixture(scope="module")
def peptide(data: Path) -> Peptide:
    return Peptide.from_pdb(data / "pdbs" / "test" / "AA.pdb")


@pytest.fixture(scope="module")
def molecule(peptide: Peptide) -> Molecule:
    return Molecule(peptide.to_pdb())


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
def servers(molecule: Molecule) -> Iterator[list[str]]:
    names, actors = start_servers(molecule, 3, num_cpus=0)
    yield names
    for actor in actors:
        ray.kill(actor)


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("gradient", [True, False])
def test_both_engines_answer_alike(
    peptide: Peptide, molecule: Molecule, servers: list[str], count: int, gradient: bool
) -> None:
    x, answers = shaken(peptide, count), []
    clients: list[Energies] = [EnergyActors(servers), LocalEnergies(molecule, BATCHED), LocalEnergies(molecule, OPENMM)]
    for client in clients:
        answers.append(client.collect(client.ask(x, gradient=gradient)))
    same(answers[0], OpenMMEnergy(peptide).evaluate(x, gradient))
    same(answers[1], BatchedEnergy(peptide).evaluate(torch.from_numpy(x), gradient).arrays())
    same(answers[2], answers[0])
    openmm, tensors = answers[:2]
    assert openmm.ok.tolist() == tensors.ok.tolist() == [row != 3 for row in range(count)]
    np.testing.assert_allclose(tensors.energy, openmm.energy, rtol=1e-5)
    if openmm.gradient is not None and tensors.gradient is not None and count:
        np.testing.assert_allclose(tensors.gradient, openmm.gradient, atol=1e-5 * np.abs(openmm.gradient).max())


@pytest.mark.parametrize("source", ["built", "file"])
def test_a_peptide_and_its_text_have_the_same_energies(tmp_path: Path, data: Path, source: str) -> None:
    """To the last bit: the driver asks with the peptide, and actors with the text that they were sent."""
    peptide = PeptideSource(sequence="DG", data_dir=str(tmp_path if source == "built" else data)).load()
    sent = Molecule(peptide.to_pdb()).peptide
    np.testing.assert_array_equal(sent.positions, peptide.positions)
    x = shaken(peptide, 40)
    same(*(batched(one, 310.0, BATCHED).evaluate_arrays(x) for one in (peptide, sent)))
    same(*(OpenMMEnergy(one).evaluate(x) for one in (peptide, sent)))


@pytest.mark.parametrize(
    ("config", "energy", "cluster", "expected"),
    [
        (ActorsConfig(), BATCHED, Cluster(cpus=4, gpus=0, local=True), (4, 0, {"CPU": 1.0}, 1.0)),
        (ActorsConfig(), OPENMM, Cluster(cpus=4, gpus=0, local=True), (4, 4, {"CPU": 0.5}, 0.5)),
        (ActorsConfig(), OPENMM, Cluster(cpus=4, gpus=2, local=True), (2, 3, {"GPU": 1.0}, 1.0)),
        (
            ActorsConfig(flow_replicas=3, energy_actors=5),
            BATCHED,
            Cluster(cpus=4, gpus=2, local=False),
            (3, 0, {"GPU": 1.0}, 1.0),
        ),
        (
            ActorsConfig(flow_replicas=3, energy_actors=5),
            OPENMM,
            Cluster(cpus=4, gpus=0, local=False),
            (3, 5, {"CPU": 0.5}, 0.5),
        ),
    ],
)
def test_what_actors_take(config: ActorsConfig, energy: EnergyConfig, cluster: Cluster, expected: Any) -> None:
    assert actor_resources(config, energy, cluster) == expected


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

    monkeypatch.setattr("boltzray.molecules.batched.tiles._compiled", lambda _: broken)
    with pytest.raises(ValueError, match=r"energy.compile=true does not work here \(no compiler\): leave it false"):
        LocalEnergies(molecule, EnergyConfig(compile=True))


def drawn_and_moved(workers: Workers, folder: Path) -> tuple[np.ndarray, ...]:
    """Energies and densities of 40 proposals; log-weights, positions and densities of 16 of them after SMC."""
    folder.mkdir()
    config = SMCConfig(schedule="linear", n_steps=3, block_size=8, step_size=1e-6)
    drawn = Proposals.sample(workers, 40, 8, 0, folder)
    population, state = BlockPopulation.start(workers, drawn.blocks(np.arange(16)), 8, 0), SMCState.start(16, config)
    for _, after in smc_steps(population, config, 0, state):
        state = after
    x = np.concatenate([block["x"] for block in workers.get(population.blocks)])
    return drawn.energy, drawn.log_q, drawn.log_p, state.log_w, x, *population.scalars()


def test_samples_with_batched_energies_do_not_depend_on_the_actors(
    checkpoint: Path, target: Target, peptide: Peptide, tmp_path: Path
) -> None:
    """SNIS and SMC; and OpenMM weighs the same draws alike."""
    actors = start_actors(checkpoint, target, ActorsConfig(flow_replicas=2), BATCHED, CLUSTER)
    try:
        one, two = (drawn_and_moved(RayWorkers(actors.flows[:count]), tmp_path / str(count)) for count in (1, 2))
    finally:
        actors.stop()
    for mine, its in zip(one, two, strict=True):
        np.testing.assert_array_equal(mine, its)
    (part,) = (tmp_path / "1").glob("draws-*.npz")
    x_nm = load_part(part, "x")["x"].astype(np.float64) * models.load(checkpoint).scale_nm
    np.testing.assert_allclose(one[0], OpenMMEnergy(peptide).evaluate(x_nm, gradient=False).energy, rtol=1e-4)
