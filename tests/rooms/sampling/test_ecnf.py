"""An ECNF through the platform's interface: the same draws in any server, steps of training, and its refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch

from boltzray import models
from boltzray.data.collate import Collator
from boltzray.evaluation.compare import CompareJob, _flows
from boltzray.finetuning.config import FinetuneJob
from boltzray.finetuning.finetune import finetune
from boltzray.models.augment import augment
from boltzray.models.config import GraphConfig
from boltzray.molecules import Peptide
from boltzray.sampling.energy_actors import EnergyConfig, LocalEnergies
from boltzray.sampling.flow_actors import FlowServer
from boltzray.sampling.sample import SampleJob, sample
from boltzray.sampling.target import Target
from boltzray.training.train import TrainJob
from boltzray.training.train_step import Learner, TrainConfig

MODEL = models.FlowConfig(channels=8, layers_per_block=2, graph=GraphConfig(longest=2))


@pytest.fixture
def checkpoint(home: Path) -> str:
    torch.manual_seed(0)
    models.save(models.Flow(MODEL, 0.17), home / "ecnf", {"step": 1})
    return str(home / "ecnf")


def test_servers_draw_the_same_bits(checkpoint: str) -> None:
    """Of a block, or of a shorter one with the same beginning; with finite weights."""
    target = Target(pdb=Peptide.from_sequence("GG").to_pdb(), temperature_k=310.0)
    energies = LocalEnergies(target.molecule, EnergyConfig())
    one, other = (FlowServer(checkpoint, target, lambda _: energies) for _ in range(2))
    (x, drawn), (again, redrawn) = one.draw(3, 5, 4), other.draw(3, 5, 2)
    assert np.array_equal(x[:2], again)
    assert np.array_equal(drawn["log_q"][:2], redrawn["log_q"])
    assert np.isfinite(drawn["log_q"]).all()
    with pytest.raises(ValueError, match="sampler=snis"):
        one.evaluate(torch.from_numpy(x))


def test_what_it_does_not_do_is_said_at_once(home: Path, checkpoint: str) -> None:
    with pytest.raises(ValueError, match="give sampler=snis"):
        sample(SampleJob(sequence="GG", checkpoint=checkpoint, out="a"))
    with pytest.raises(ValueError, match="learns by flow matching alone"):
        finetune(FinetuneJob(sequence="GG", checkpoint=checkpoint, out="b"))
    job = CompareJob(sequence="GG", checkpoint=checkpoint, methods=("smc",), out="c")
    with pytest.raises(ValueError, match="give sampler=snis"):
        _flows(job, Path(checkpoint), Peptide.from_sequence("GG"))
    with pytest.raises(ValueError, match=r"train\.energy_weight=0"):
        TrainJob(model=MODEL, train=TrainConfig(energy_weight=0.3))
    assert not (home / "a").exists()


def learner() -> Learner:
    torch.manual_seed(0)
    return Learner(
        models.Flow(MODEL, 0.17),
        TrainConfig(steps=40, batch=16, lr=1e-2, precision="float32"),
        device=torch.device("cpu"),
    )


def test_a_step_does_not_depend_on_who_computes_it() -> None:
    """In one batch, or in two parts after other random numbers: latents and times are made of the frames."""
    peptide, rng = Peptide.from_sequence("GG"), np.random.default_rng(0)
    frames = list(augment(np.repeat(peptide.positions[None], 16, 0), 0.17, rng))
    whole, parts = learner(), learner()
    collator = Collator(whole.flow, {"GG": peptide})
    halves = [collator(["GG"] * 8, half) for half in (frames[:8], frames[8:])]
    for step in range(3):
        statistics = whole.train_step([collator(["GG"] * 16, frames)])
        torch.rand(step + 1)
        others = parts.train_step(halves)
        for name, value in statistics.items():
            torch.testing.assert_close(others[name], value, rtol=1e-4, atol=0)
    assert parts.bad == 0
