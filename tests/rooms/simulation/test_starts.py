"""Replicas that start from a flow's draws: which ones, in whose order, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from boltzray import models
from boltzray.molecules import OpenMMEnergy, Peptide
from boltzray.molecules.references import find_reference, load_reference
from boltzray.molecules.runs import MDConfig, load_start, start_path
from boltzray.simulation.md_batches import MDReplica
from boltzray.simulation.simulate import SimulateJob, simulate
from boltzray.simulation.starts import draw_starts
from tests.naming import written

FLOW = "boltzray://peptides-small"
MD = MDConfig(warmup_ps=0.05, interval_ps=0.01, frames_per_chunk=4, start=FLOW, start_draws=8)
JOB = SimulateJob(sequences=("GG",), time_ns=0.00004, replicas=3, hold_out=1, out="data", md=MD)


def replicas(pdb: str, folder: Path, n: int) -> list[MDReplica]:
    peptide = Peptide.from_pdb(pdb)
    return [MDReplica(peptide.sequence, i, pdb, peptide.n_atoms, str(folder / str(i)), seed=5) for i in range(n)]


def test_starts_have_the_energies_of_the_target_and_not_those_of_the_draws(data: Path, tmp_path: Path) -> None:
    """The mean energy of MD, in whatever order the file has the atoms, of a flow whose bonds are a fifth too hot."""
    flow = models.load(FLOW)
    with torch.no_grad():
        flow.get_parameter("network.bond.down.bias")[-flow.config.components :] += 0.1  # logarithms of deviations
    hot = models.save(flow, tmp_path / "hot")
    path = find_reference(data, "AA")
    assert path is not None
    peptide = Peptide.from_sequence("AA")
    energy = OpenMMEnergy(peptide, 310.0)
    expected = energy.evaluate(load_reference(path).positions_nm[::40], False).energy
    means = {}
    for reordered in (False, True):
        pdb = written(peptide, "charmm", reordered=reordered)
        own = replicas(pdb, tmp_path / str(reordered), 48)
        found = draw_starts(hot, own, replace(MD, start_draws=32))
        assert 0.02 < found.ess < 1.0
        assert 24 <= found.distinct <= 48
        x = np.stack([load_start(Path(replica.directory)) for replica in own])
        given = Peptide.from_pdb(pdb)
        values = OpenMMEnergy(given, 310.0).evaluate(x, False).energy
        means[reordered] = values.mean()
        error = np.hypot(values.std(), expected.std() / 5) / np.sqrt(48)
        assert abs(values.mean() - expected.mean()) < 4 * error
    assert means[False] == pytest.approx(means[True], abs=1e-3)
    drawn, _ = flow.sample(flow.condition(peptide), 1024, torch.Generator().manual_seed(0))
    raw = energy.evaluate(drawn.numpy() * flow.scale_nm, False).energy
    assert raw.mean() > expected.mean() + 4 * raw.std() / 32


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("engine", ["batched", "openmm"])
def test_each_replica_starts_from_a_draw_and_a_run_goes_on_from_the_same(engine: str, home: Path) -> None:
    job = replace(JOB, engine=engine)
    out = simulate(job)
    folders = sorted((out / "md").iterdir())
    starts = [load_start(folder) for folder in folders]
    assert len({start.tobytes() for start in starts}) == 3
    whole = {str(path): path.read_bytes() for path in out.glob("md/*/*.np?")}
    for folder in folders:
        (folder / "warmup.npz").unlink()
    start_path(folders[0]).unlink()
    for path in out.glob("md/*/chunks/*"):
        path.unlink()
    simulate(job)
    assert {str(path) for path in out.glob("md/*/*.np?")} == set(whole)
    for folder, start in zip(folders[1:], starts[1:], strict=True):
        assert load_start(folder).tobytes() == start.tobytes(), "what is there stays"
        assert (folder / "warmup.npz").read_bytes() == whole[str(folder / "warmup.npz")]
    start_path(folders[1]).write_bytes(b"")
    (folders[1] / "warmup.npz").unlink()
    (folders[1] / "chunks" / "chunk_0.npz").unlink()
    with pytest.raises(Exception, match=r"start\.npz cannot be read: delete it and simulate again"):
        simulate(job)
    with pytest.raises(ValueError, match="start was boltzray://peptides-small and is now"):
        simulate(replace(job, md=replace(MD, start="")))


def test_what_is_no_flow_and_ladders_are_refused(home: Path) -> None:
    with pytest.raises(ValueError, match=r"md\.start is of method=md"):
        replace(JOB, method="remd")
    with pytest.raises(ValueError, match="start_draws=0: give at least 1"):
        replace(MD, start_draws=0)
