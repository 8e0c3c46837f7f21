"""A flow of the twenty residues goes on with caps and states of protonation: dynamics, training, draws."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import boltzray
from boltzray import models
from boltzray.data.collate import CollatedBatch
from boltzray.models.flow import Flow
from boltzray.models.vocabulary import train_added_only, widen
from boltzray.molecules import Peptide
from boltzray.molecules.energy import OpenMMEnergy
from boltzray.molecules.storage import read_json
from boltzray.molecules.zmatrix import geometry_version
from boltzray.runtime.config import parse, write_json
from boltzray.simulation.simulate import SimulateJob, simulate
from boltzray.training.train import TrainJob, train
from boltzray.training.train_step import Learner, TrainConfig

NAMES = ("ACE-G-NME", "GLY-HIP")
MODEL = {"channels": 16, "head_dim": 8, "blocks": 1, "layers_per_block": 1, "coordinates": "internal"}


@pytest.fixture(scope="module")
def trained(ray_cluster: None, module_home: Path) -> Path:
    models.save(Flow(models.FlowConfig(**MODEL), 0.2), module_home / "first", {"sequences": ["GG"]})  # type: ignore[arg-type]
    md = {"warmup_ps": 0.1, "interval_ps": 0.02, "frames_per_chunk": 10}
    settings = {"sequences": NAMES, "replicas": 4, "time_ns": 0.0002, "compile": "never", "md": md, "hold_out": 0}
    simulate(parse(SimulateJob, {**settings, "out": "data"}))
    train(_job())
    return module_home / "out"


def _job() -> TrainJob:
    settings = {
        "init": "first",
        "out": "out",
        "data": {"path": "data", "bucket_steps": 2},
        "model": {**MODEL, "vocabulary": 2},
        "train": {"steps": 4, "batch": 16, "precision": "float32", "energy_weight": 0.3},
        "validation": {"every": 0},
        "workers": {"workers": 1, "threads": 1},
    }
    return parse(TrainJob, settings)


def test_it_knows_what_it_was_trained_on_and_what_it_came_from(trained: Path) -> None:
    flow = models.load(trained / "checkpoint")
    assert (flow.config.vocabulary, flow.geometry) == (2, geometry_version(2))
    found = models.checkpoint.describe(trained / "checkpoint").provenance
    assert found["sequences"] == ["ACE-G-NME", "GG", "GLY-HIP"]


def test_it_draws_capped_and_charged_peptides_with_right_energies(trained: Path, module_home: Path) -> None:
    for name in ("ACE-A-NME", "HIP-ALA"):
        e = boltzray.sample(name, n=64, checkpoint=str(trained / "checkpoint"), data_dir="none")
        expected = OpenMMEnergy(Peptide.from_sequence(name), 310.0).evaluate(
            e.positions_nm.astype(float), gradient=False
        )
        alive = np.isfinite(e.energy_kT) & (e.energy_kT < 1e6)
        assert alive.any()
        np.testing.assert_allclose(e.energy_kT[alive], expected.energy[alive], rtol=1e-3, atol=0.05)


def test_a_file_of_a_state_is_taken_by_the_jobs_and_refused_by_flows_that_do_not_know_it(
    trained: Path, module_home: Path
) -> None:
    built = Peptide.from_sequence("HIP-ALA")
    lines = [line.replace("HIP", "HIS") for line in built.to_pdb().splitlines() if not line.startswith("REMARK")]
    (module_home / "mine.pdb").write_text("\n".join([*lines, ""]))
    e = boltzray.sample(pdb="mine.pdb", n=16, checkpoint=str(trained / "checkpoint"), data_dir="none")
    assert e.peptide.sequence == "HIP-ALA"
    with pytest.raises(ValueError, match=r"HIP-ALA has residues that a transferable flow of vocabulary 1 .*\(HIP\)"):
        boltzray.sample(pdb="mine.pdb", n=16, checkpoint="first", data_dir="none")


def test_a_run_that_an_earlier_version_began_goes_on(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its settings say nothing of a vocabulary: it has the first one, whatever model= says today."""
    begun = shutil.copytree(trained, trained.with_name("begun"))
    settings = read_json(begun / "train.json")
    assert settings.pop("model.vocabulary") == 2
    write_json(begun / "train.json", {**settings, "geometry": geometry_version()})
    train(replace(_job(), out="begun"))
    assert "already trained" in capsys.readouterr().out


def test_training_what_is_added_alone_keeps_all_else_to_the_last_bit() -> None:
    torch.manual_seed(0)
    old = Flow(models.FlowConfig(**MODEL), 0.2)  # type: ignore[arg-type]
    flow = widen(old, replace(old.config, vocabulary=2))
    begun = {name: value.clone() for name, value in flow.state_dict().items()}
    train_added_only(flow)
    config = TrainConfig(steps=3, batch=2, lr=0.1, added_only=True, precision="float32", ema=0.5)
    learner = Learner(flow, config, device=torch.device("cpu"))
    peptides = {name: Peptide.from_sequence(name) for name in ("AH", "ALA-HIP")}
    x = {k: torch.from_numpy(p.positions).float()[None].expand(2, -1, -1) / 0.2 for k, p in peptides.items()}

    def densities(of: Flow) -> dict[str, torch.Tensor]:
        return {k: of.log_prob(x[k], of.condition(p)).detach() for k, p in peptides.items()}

    before = densities(flow)
    unknown = torch.full((2,), torch.nan)
    for name in ("ALA-HIP", "AH", "ALA-HIP"):
        tables = flow.tables([peptides[name]])
        learner.train_step([CollatedBatch(x[name], tables, unknown, torch.zeros(2, dtype=torch.int64))])
    for trained in (flow, learner.averaged()):
        after = densities(trained)
        assert torch.equal(after["AH"], before["AH"])
        assert not torch.allclose(after["ALA-HIP"], before["ALA-HIP"], rtol=1e-4)
    changed = {name for name, value in flow.state_dict().items() if not torch.equal(value, begun[name])}
    assert changed == {"embedding.residue.weight"}  # its atoms have types of the first vocabulary


def test_added_only_is_of_a_flow_of_the_first_vocabulary(trained: Path) -> None:
    with pytest.raises(ValueError, match="give init=, or leave it out"):
        parse(TrainJob, {"train": {"added_only": True}})
    job = _job()
    with pytest.raises(ValueError, match="it knows vocabulary 2: leave it out"):
        train(replace(job, init="out/checkpoint", out="other", train=replace(job.train, added_only=True)))
