"""Finetuning of one flow to several peptides: a shared budget, the same bits wherever it runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow.csv import read_csv
from safetensors.torch import load_file

from boltzray import models
from boltzray.finetuning.config import FinetuneJob, OptimizerConfig
from boltzray.finetuning.finetune import finetune
from boltzray.finetuning.round_record import read_records
from boltzray.finetuning.train_step import Finetuner, RoundData, RoundSpec, TermData
from boltzray.models.losses import ObjectiveConfig
from boltzray.models.parts import Parts
from boltzray.molecules import Peptide
from boltzray.molecules.energy_batch import EnergyBatch
from boltzray.runtime.config import parse
from boltzray.samplers import generator
from boltzray.sampling import population
from boltzray.sampling.energy_actors import EnergyConfig, LocalEnergies, Molecule
from boltzray.sampling.flow_actors import ActorsConfig
from tests.interrupts import stop_after

MANY = {"sequence": "", "sequences": ("AA", "AC", "GP"), "validation": ("AL",), "validation_draws": 40}


@pytest.fixture
def many(job: FinetuneJob, monkeypatch: pytest.MonkeyPatch) -> FinetuneJob:
    monkeypatch.setattr("boltzray.finetuning.rounds.LEAST_EFFECTIVE", 1)  # of a flow that knows nothing
    return replace(job, **MANY, peptides_a_step=2, objective=ObjectiveConfig(terms={"self_improve": 1.0}, teacher=0.1))


def same_flows(one: Path, two: Path) -> None:
    """Rounds and weights of two finetunings of several peptides."""
    first, second = (load_file(out / "checkpoint" / "model.safetensors") for out in (one, two))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    first_rounds, second_rounds = ([replace(r, seconds=0.0) for r in read_records(out)] for out in (one, two))
    assert first_rounds == second_rounds


def test_one_flow_learns_from_several_peptides(
    many: FinetuneJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The budget is shared, peptides that it does not learn from are drawn besides, and a stopped run goes on."""
    evaluated: dict[str, int] = {}

    class Counting(LocalEnergies):
        def __init__(self, molecule: Molecule, config: EnergyConfig) -> None:
            super().__init__(molecule, config)
            self.name = molecule.peptide.sequence

        def ask(self, x_nm: np.ndarray, *, gradient: bool) -> Any:
            evaluated[self.name] = evaluated.get(self.name, 0) + len(x_nm)
            return super().ask(x_nm, gradient=gradient)

    with monkeypatch.context() as patch:
        patch.setattr("boltzray.sampling.flow_actors.LocalEnergies", Counting)
        out = finetune(many)
    assert evaluated == {"AA": 121, "AC": 120, "GP": 120, "AL": 120}  # one to get ready
    first, *_, last = read_records(out)
    assert [r.energies for r in read_records(out)] == [120, 240, 360]
    assert list(first.peptides) == list(MANY["sequences"])
    assert list(first.validation) == ["AL"]
    assert first.ess == pytest.approx(np.mean([one["ess"] for one in first.peptides.values()]))
    assert first.judged == (first.validation["AL"]["ess"], first.validation["AL"]["ess_error"])
    assert (first.n, last.final, last.learning["skipped_steps"]) == (120, True, 0)
    table = read_csv(out / "peptides.csv")
    assert table["peptide"].to_pylist() == ["AA", "AC", "GP", "AL"]
    assert table["role"].to_pylist() == ["learned"] * 3 + ["validation"]
    assert table["ess_after"].to_pylist()[-1] == pytest.approx(last.validation["AL"]["ess"])
    assert (out / "peptides.png").exists()
    assert models.checkpoint.describe(out / "checkpoint").provenance["finetune"]["sequence"] == "AA,AC,GP"
    capsys.readouterr()
    finetune(many)
    assert "already finetuned" in capsys.readouterr().out

    with monkeypatch.context() as patch:
        stop_after(patch, population, "_save_proposals", 6)  # two of four peptides of the second round
        with pytest.raises(KeyboardInterrupt):
            finetune(replace(many, out="b"))
    same_flows(out, finetune(replace(many, out="b")))


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    "change",
    [
        {"objective": ObjectiveConfig(terms={"reverse_kl": 0.3, "log_variance": 0.1}), "budget": 600},
        pytest.param(
            {"objective": ObjectiveConfig(terms={"alpha2": 1.0}), "sampler": "smc", "smc_particles": 33, "budget": 900},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["draws of each step", "smc"],
)
def test_several_peptides_have_the_same_bits_on_actors_and_threads(many: FinetuneJob, change: dict[str, Any]) -> None:
    here = replace(many, **change)
    out = finetune(here)
    threads = replace(here, out="b", in_process=False, actors=ActorsConfig(flow_replicas=2, in_process=True))
    same_flows(out, finetune(threads))
    actors = replace(here, out="c", in_process=False, actors=ActorsConfig(flow_replicas=2, in_process=False))
    same_flows(out, finetune(actors))


def test_a_step_averages_the_gradients_of_its_peptides(flow_folder: Path) -> None:
    """A step of two peptides has the mean of the gradients of each, whatever the number of threads."""
    flow = models.load(flow_folder)
    spec = RoundSpec(
        objective=ObjectiveConfig(terms={"forward_kl": 1.0}), optimizer=OptimizerConfig(precision="float32"), index=0,
        rounds=1, steps=2, batch=16, seed=0, temperature_ratio=1.0, teacher="", peptides=2,
    )  # fmt: skip
    data = []
    for name in ("AA", "GP"):
        peptide = Peptide.from_sequence(name).iupac()
        x = (flow.sample(flow.condition(peptide), 8, torch.Generator().manual_seed(0))[0]).detach().numpy()
        one = TermData(np.zeros(1, int), np.ones(1))  # the same row all the time: nothing is left to chance
        data.append(RoundData(peptide.to_pdb(), x, np.zeros(8), np.zeros(8), None, {"forward_kl": one}, None))

    def learner(of: list[RoundData], threads: int) -> Finetuner:
        return Finetuner(models.load(flow_folder), None, of, spec, None, Parts(threads))  # type: ignore[arg-type]

    def gradients(of: list[RoundData], threads: int = 1) -> list[torch.Tensor]:
        found = learner(of, threads)
        found.advance()
        return [p.grad for p in found.parameters if p.grad is not None]

    norms = []
    for of in (data[:1], data[1:]):
        found = learner(of, 1)
        (gradient, statistics) = found._gradients(0, {"forward_kl": found._batch("forward_kl", 0, 8, generator(0, 40))})
        norms.append((gradient, float(statistics["loss"])))
    both = learner(data, 1)
    both.advance()
    assert both.latest["loss"] == pytest.approx((norms[0][1] + norms[1][1]) / 2, rel=1e-6)
    total = torch.sqrt(sum((((a + b) / 2) ** 2).sum() for a, b in zip(norms[0][0], norms[1][0], strict=True)))
    assert both.latest["grad_norm"] == pytest.approx(float(total), rel=1e-5)
    for one, two in zip(gradients(data), gradients(data, 2), strict=True):
        assert torch.equal(one, two)


def test_peptides_without_weights_are_left_out_and_named(
    many: FinetuneJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One whose draws have no energies teaches nothing; where none has any, the run says so."""

    class Failing(LocalEnergies):
        names = ("AC",)

        def __init__(self, molecule: Molecule, config: EnergyConfig) -> None:
            super().__init__(molecule, config)
            self.fails = molecule.peptide.sequence in self.names

        def ask(self, x_nm: np.ndarray, *, gradient: bool) -> Any:
            found = super().ask(x_nm, gradient=gradient)
            bad = np.full_like(found.energy, np.inf)
            return EnergyBatch(bad, found.gradient, np.zeros_like(found.ok)) if self.fails else found

    monkeypatch.setattr("boltzray.sampling.flow_actors.LocalEnergies", Failing)
    finetune(many)
    assert "learns from 2 of 3 peptides: the weights of AC amount to fewer than 1 draws" in capsys.readouterr().out
    Failing.names = ("AA", "AC", "GP")
    with pytest.raises(FloatingPointError, match="nothing to learn from"):
        finetune(replace(many, out="b"))


def test_validation_compares_draws_from_the_same_latents(many: FinetuneJob) -> None:
    """A flow that hardly changes keeps the weights of validation to three digits; what it learns from is drawn anew."""
    still = replace(many, optimizer=OptimizerConfig(lr=1e-12), rounds=1, budget=240)
    first, last = read_records(finetune(still))
    assert last.validation["AL"]["k_hat"] == pytest.approx(first.validation["AL"]["k_hat"], rel=1e-3)
    assert last.peptides["AC"]["k_hat"] != pytest.approx(first.peptides["AC"]["k_hat"], rel=1e-3)


def test_a_ladder_of_temperatures_has_nothing_to_compare_with(many: FinetuneJob) -> None:
    """Before any learning it draws where it is hot: no figure shows that beside the end."""
    out = finetune(replace(many, objective=ObjectiveConfig(terms={"anneal": 1.0}), rounds=1, budget=240))
    table = read_csv(out / "peptides.csv")
    assert table["ess_before"].to_pylist() == [None] * 4
    assert all(value is not None for value in table["ess_after"].to_pylist())
    assert not (out / "peptides.png").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sequence": "AA", "sequences": ["AC"]}, "not both"),
        ({"sequence": "AA", "validation": ["AC"]}, "several peptides: give sequences="),
        ({"sequences": ["AA", "AC"], "validation": ["AC"]}, "AC: a peptide that is learned from cannot validate"),
        ({"sequences": ["AA", "AC"], "budget": 300}, "give budget=320 or more"),
        ({"sequences": ["AA", "AC"], "peptides_a_step": 0}, "from 1 to batch=128"),
        ({"sequences": ["AA", "AC"], "validation": ["AL"], "validation_draws": 8}, "validation_draws=8 must be 32"),
        ({"sequences": ["AA", "AC"], "energy": {"engine": "openmm"}}, "leave energy=openmm out"),
        ({"sequences": ["AA", "AC"], "energy": {"compile": True}}, "energy.compile=true"),
        (
            {"sequences": ["AA", "AC", "GP"], "batch": 4, "objective": {"terms": {"log_variance": 1.0}}},
            "batch= 2 or more for each peptide",
        ),
    ],
)
def test_wrong_peptides_are_refused_with_the_fix(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(FinetuneJob, values)
