"""Planar groups of a flow that names them by place: frames are renamed, and draws under other names have no weight."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from boltzray import models
from boltzray.data.collate import Collator
from boltzray.finetuning.server import FinetuneServer, RoundTarget, save_round
from boltzray.models.hub import BUNDLED_FOLDER
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.planar_names import turned
from boltzray.sampling.energy_actors import EnergyConfig, LocalEnergies
from boltzray.sampling.flow_actors import FlowServer
from boltzray.sampling.sample import SampleJob, sample
from boltzray.sampling.sample_files import read_samples
from boltzray.sampling.target import Target


def with_order(folder: Path, order: str) -> Path:
    """The flow in the box, as if its frames had been in another order."""
    shutil.copytree(BUNDLED_FOLDER / "peptides-small", folder)
    description = json.loads((folder / "flow.json").read_text())
    del description["sha256"]
    (folder / "flow.json").write_text(json.dumps(description | {"atom_order": order}))
    assert models.load(folder).atom_order == order
    return folder


@pytest.fixture
def threads() -> Iterator[None]:
    """A server takes one thread, and leaves it so."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_draws_under_other_names_have_no_weight(tmp_path: Path) -> None:
    target = Target(pdb=Peptide.from_sequence("NR").to_pdb(), temperature_k=310.0)
    energies = partial(LocalEnergies, config=EnergyConfig())
    both, one = (FlowServer(str(with_order(tmp_path / o, o)), target, energies) for o in ("iupac", "named"))
    (x, all_names), (same, by_place) = both.draw(3, 0, 400), one.draw(3, 0, 400)
    assert np.array_equal(x, same)
    copies = turned(one.peptide.planar_groups, x)
    assert 4 < copies.sum() < 396
    assert np.isneginf(by_place["log_p"][copies]).all()
    assert np.array_equal(by_place["log_p"][~copies], all_names["log_p"][~copies])
    for name in ("log_q", "energy"):
        assert np.array_equal(by_place[name], all_names[name])
    ends = one.evaluate(torch.from_numpy(x[:40]))
    assert np.array_equal(ends.ok.numpy(), ~copies[:40])
    assert np.array_equal(torch.isneginf(ends.log_p).numpy(), copies[:40])


@pytest.mark.usefixtures("threads")
def test_a_server_of_many_peptides_knows_the_groups_of_each(tmp_path: Path) -> None:
    pdbs = [Peptide.from_sequence(sequence).to_pdb() for sequence in ("GG", "NR", "QA")]
    flow = models.load(with_order(tmp_path / "flow", "named"))
    save_round(tmp_path / "round", flow, RoundTarget(draw_k=310.0, target_k=310.0))
    server = FinetuneServer(
        str(tmp_path / "round"),
        Target(pdb=pdbs[0], temperature_k=310.0),
        partial(LocalEnergies, config=EnergyConfig()),
    )
    for pdb in pdbs:
        x, drawn = server.draw(3, 0, 200, pdb)
        copies = turned(Peptide.from_pdb(pdb).planar_groups, x)
        assert np.array_equal(np.isneginf(drawn["log_p"]), copies | ~np.isfinite(drawn["energy"]))
        assert copies.any() == (pdb != pdbs[0])


@pytest.mark.parametrize("order", ["iupac", "named"])
def test_a_report_counts_them(tmp_path: Path, home: Path, order: str) -> None:
    flow = with_order(tmp_path / "flow", order)
    job = SampleJob(sequence="NR", checkpoint=str(flow), sampler="snis", samples=300, data_dir="none", out="nr")
    found = read_samples(sample(job))[1][0].diagnostics
    assert found["n_failed"] < 3
    assert ("n_turned" in found) == (order == "named")


def test_frames_are_renamed_for_a_flow_that_asks_for_it() -> None:
    peptides = {s: Peptide.from_sequence(s) for s in ("NA", "AA", "AR")}
    rng = np.random.default_rng(0)
    names = ["NA", "AA", "AR", "NA", "AR", "AR"]
    frames = [rng.standard_normal((peptides[s].n_atoms, 3)).astype(np.float32) for s in names]  # turned by chance
    flow = models.Flow(
        models.FlowConfig(coordinates="internal", channels=16, head_dim=8, blocks=1, layers_per_block=1), 0.2
    )
    plain = Collator(flow, peptides)(names, frames).x
    flow.atom_order = "named"
    named = Collator(flow, peptides)(names, frames).x
    for s, before, after in zip(names, plain.numpy(), named.numpy(), strict=True):
        n, groups = peptides[s].n_atoms, peptides[s].planar_groups
        was = turned(groups, before[None, :n])[0]
        assert not turned(groups, after[None, :n])[0]
        assert np.array_equal(before, after) != was
        assert np.array_equal(np.sort(before, axis=0), np.sort(after, axis=0))
    assert any(
        turned(peptides[s].planar_groups, x[None, : peptides[s].n_atoms])[0]
        for s, x in zip(names, plain.numpy(), strict=True)
    )
