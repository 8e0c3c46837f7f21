"""One optimiser step, without Ray."""

import copy
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from boltzray.data.collate import Collator
from boltzray.data.prefetch import prefetch
from boltzray.models import Flow, FlowConfig
from boltzray.molecules import Peptide
from boltzray.training.train_step import FAR, Learner, TrainConfig, log_weight_spread

MODEL = FlowConfig(channels=16, head_dim=8, blocks=2, layers_per_block=1)


@pytest.fixture(scope="module")
def peptides(data: Path) -> dict[str, Peptide]:
    return {s: Peptide.from_pdb(data / "pdbs" / "train" / f"{s}.pdb") for s in ("GP", "YT")}


def learner(seed: int = 0, **config: object) -> Learner:
    torch.manual_seed(seed)
    settings = {"steps": 20, "batch": 4, "lr": 1e-2, "precision": "float32", **config}
    return Learner(Flow(MODEL, 0.2), TrainConfig(**settings), device=torch.device("cpu"))


def frames(peptides: dict[str, Peptide], names: list[str], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((peptides[name].n_atoms, 3)).astype(np.float32) for name in names]


def run(one: Learner, collator: Collator, peptides: dict[str, Peptide], seeds: range) -> list[float]:
    names = ["GP", "YT", "GP", "GP"]
    return [float(one.train_step([collator(names, frames(peptides, names, seed))])["loss"]) for seed in seeds]


def test_the_loss_is_per_degree_of_freedom_of_all_frames(peptides: dict[str, Peptide]) -> None:
    one = learner()
    collator, names = Collator(one.flow, peptides), ["GP", "YT", "YT"]
    batch = frames(peptides, names)
    total = 0.0
    with torch.no_grad():
        for name, frame in zip(names, batch, strict=True):
            total += float(one.flow.log_prob(torch.from_numpy(frame)[None], one.flow.condition(peptides[name])))
    dof = sum(frame.size for frame in batch)
    assert float(one.train_step([collator(names, batch)])["loss"]) == pytest.approx(-total / dof, rel=1e-5)


def test_a_batch_of_one_peptide_needs_one_row_of_tables(peptides: dict[str, Peptide]) -> None:
    one = learner()
    collator = Collator(one.flow, peptides)
    x, tables, *_ = collator(["GP"] * 3, frames(peptides, ["GP"] * 3))
    assert x.shape == (3, peptides["GP"].n_atoms, 3)
    assert tables.orderings.shape[1:] == (1, peptides["GP"].n_atoms)
    mixed, both, *_ = collator(["GP", "YT"], frames(peptides, ["GP", "YT"]))
    assert mixed.shape[:2] == both.atom_type.shape == (2, peptides["YT"].n_atoms)


def test_training_lowers_the_loss(peptides: dict[str, Peptide]) -> None:
    one = learner(steps=60)
    losses = run(one, Collator(one.flow, peptides), peptides, range(60))
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_restored_learner_goes_on_as_if_nothing_had_happened(peptides: dict[str, Peptide], optimizer: str) -> None:
    one = learner(optimizer=optimizer)
    collator = Collator(one.flow, peptides)
    run(one, collator, peptides, range(5))
    state = copy.deepcopy(one.state())
    expected = run(one, collator, peptides, range(5, 10))
    two = learner(seed=1, optimizer=optimizer)
    two.load_state(state)
    assert run(two, collator, peptides, range(5, 10)) == expected
    for a, b in zip(one.averaged().parameters(), two.averaged().parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(peptides: dict[str, Peptide], optimizer: str) -> None:
    one = learner(max_bad_steps=3, optimizer=optimizer)
    collator, names = Collator(one.flow, peptides), ["GP"]
    run(one, collator, peptides, range(2))
    before = copy.deepcopy(one.flow.state_dict())
    bad = frames(peptides, names)
    bad[0][3, 1] = np.nan
    one.train_step([collator(names, bad)])
    assert all(torch.equal(value, before[name]) for name, value in one.flow.state_dict().items())
    assert int(one.bad) == 1
    one.check()
    run(one, collator, peptides, range(2, 3))
    assert int(one.bad_in_a_row) == 0
    for _ in range(3):
        one.train_step([collator(names, bad)])
    with pytest.raises(FloatingPointError, match=r"3 steps in a row .* lower train\.lr"):
        one.check()


def test_muon_turns_matrices_of_layers_and_adamw_the_rest_at_a_tenth(peptides: dict[str, Peptide]) -> None:
    """A step of Muon is nearly orthogonal, whatever the gradient's size; both follow the schedule."""
    one = learner(optimizer="muon", weight_decay=0.0)
    collator = Collator(one.flow, peptides)
    run(one, collator, peptides, range(3))  # at the start the last projection is zero, and so are gradients before it
    matrix, other = one.flow.blocks[0].layers[0].attention.qkv.weight, one.flow.blocks[0].proj_in.weight
    before, others_before = matrix.detach().clone(), other.detach().clone()
    rate = one.optimizer.param_groups[0]["lr"]
    assert one.optimizer.param_groups[1]["lr"] == pytest.approx(rate / 10)
    run(one, collator, peptides, range(3, 4))
    moved = (matrix.detach() - before) / (0.2 * rate * max(matrix.shape) ** 0.5)
    singular = torch.linalg.svdvals(moved)
    assert singular.median() > 0.6
    assert singular.max() < 1.3
    assert 0 < float((other.detach() - others_before).abs().max()) < 0.2 * rate  # AdamW's steps are about its rate
    assert one.optimizer.param_groups[1]["lr"] == pytest.approx(one.optimizer.param_groups[0]["lr"] / 10)
    assert one.optimizer.param_groups[0]["lr"] < rate  # past the warm-up
    with pytest.raises(ValueError, match="choose adamw or muon"):
        TrainConfig(optimizer="sgd")


def test_microbatches_add_up_to_the_batch(peptides: dict[str, Peptide]) -> None:
    """The same loss, gradient and weights, whether a batch is taken at once or in microbatches of different lengths."""
    names = ["GP", "GP", "YT", "GP", "YT"]
    batch = frames(peptides, names)
    one, two = learner(), learner()
    collator = Collator(one.flow, peptides)
    for _ in range(3):
        whole = one.train_step([collator(names, batch)])
        accumulated = two.train_step([collator(names[:2], batch[:2]), collator(names[2:], batch[2:])])
        for name, value in whole.items():
            assert float(accumulated[name]) == pytest.approx(float(value), rel=1e-5)
    for a, b in zip(one.flow.parameters(), two.flow.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_items_are_prefetched_and_errors_arrive() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(10):
            made.append(i)
            yield i
        raise ValueError("the stream broke")

    stream = prefetch(items())
    assert next(stream) == 0
    deadline = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert 4 <= len(made) <= 5
    with pytest.raises(ValueError, match="the stream broke"):
        list(stream)


def test_activations_may_be_computed_twice(peptides: dict[str, Peptide]) -> None:
    one, two = learner(), learner(checkpointing=True)
    collator = Collator(one.flow, peptides)
    assert run(two, collator, peptides, range(3)) == pytest.approx(run(one, collator, peptides, range(3)), rel=1e-5)


@pytest.mark.slow
def test_a_compiled_step_computes_the_same(peptides: dict[str, Peptide]) -> None:
    one, two = learner(), learner(compile=True)
    collator = Collator(one.flow, peptides)
    assert run(two, collator, peptides, range(3)) == pytest.approx(run(one, collator, peptides, range(3)), rel=1e-4)
    for a, b in zip(one.averaged().parameters(), two.averaged().parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-3)


def test_the_average_of_a_short_run_is_as_good_as_its_last_weights(peptides: dict[str, Peptide]) -> None:
    """With an average that reaches over a thousand steps, twenty would be mostly their start."""
    one, names = learner(ema=0.999), ["GP", "YT"]
    collator = Collator(one.flow, peptides)
    narrow = [[0.3 * frame for frame in frames(peptides, names, seed)] for seed in range(21)]

    def loss(flow: Flow) -> float:
        x, tables, *_ = collator(names, narrow[-1])
        with torch.no_grad():
            return -float(flow.log_prob(x, flow.conditioning(tables)).mean())

    start = loss(one.flow)
    for batch in narrow[:-1]:
        one.train_step([collator(names, batch)])
    last, averaged = loss(one.flow), loss(one.averaged())
    assert last < start - 10.0
    assert averaged < start - 0.8 * (start - last)


def test_the_energy_term_is_the_variance_of_log_weights_about_each_peptides_mean() -> None:
    rng = torch.Generator().manual_seed(0)
    log_w = 0.5 * torch.randn(40_000, generator=rng, dtype=torch.float64)
    peptide = torch.arange(len(log_w)) // 4  # four frames of each: without n/(n - 1) it would be 3/4 of this
    spread = log_weight_spread(log_w, peptide)
    assert float(spread.mean()) == pytest.approx(0.5 * 0.5**2, rel=0.03)
    torch.testing.assert_close(log_weight_spread(log_w + 100.0 * peptide, peptide), spread, atol=1e-6, rtol=0)
    mixed = torch.randperm(len(log_w), generator=rng)
    torch.testing.assert_close(log_weight_spread(log_w[mixed], peptide[mixed]), spread[mixed])


def test_frames_without_a_weight_and_far_ones_do_not_decide_the_energy_term() -> None:
    log_w = torch.tensor([0.0, torch.nan, 1.0, torch.inf, 7.0, 300.0, -300.0], requires_grad=True)
    spread = log_weight_spread(log_w, torch.tensor([0, 0, 0, 1, 2, 3, 3]))
    far = 2 * FAR * (300.0 - 0.5 * FAR)  # of two frames, each far from their mean
    torch.testing.assert_close(spread, torch.tensor([0.25, 0.0, 0.25, 0.0, 0.0, far, far]))
    spread.sum().backward()
    assert log_w.grad is not None
    torch.testing.assert_close(log_w.grad, torch.tensor([-1.0, 0.0, 1.0, 0.0, 0.0, 2 * FAR, -2 * FAR]))


def test_a_flow_that_is_told_energies_comes_closer_to_them(peptides: dict[str, Peptide]) -> None:
    """Frames of a density that is known: normal about a structure; its energy tells what few frames do not."""
    names, spreads = ["GP"] * 16, {}
    for weight in (0.0, 1.0):
        one = learner(steps=80, lr=3e-3, energy_weight=weight)
        collator, rng = Collator(one.flow, peptides), np.random.default_rng(0)
        for _ in range(80):
            noise = rng.standard_normal((len(names), peptides["GP"].n_atoms, 3)).astype(np.float32)
            batch = collator(names, list(noise))
            centred = batch.x - batch.x.mean(1, keepdim=True)
            batch = batch._replace(energy_kT=0.5 * centred.square().sum((1, 2)))
            statistics = one.train_step([batch])
        assert ("log_w_spread" in statistics) == bool(weight)
        with torch.no_grad():
            log_q = one.flow.log_prob(batch.x, one.flow.condition(peptides["GP"]))
            log_p = -0.5 * batch.x.square().sum((1, 2))
            spreads[weight] = float((log_p - log_q).std())
    assert spreads[1.0] < 0.7 * spreads[0.0], spreads


def test_frames_of_unknown_energy_train_as_if_none_were_asked_for(peptides: dict[str, Peptide]) -> None:
    with_term, without = learner(energy_weight=0.3), learner()
    losses = [run(one, Collator(one.flow, peptides), peptides, range(3)) for one in (with_term, without)]
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match=r"energy_weight=-1.0: give 0, or a positive number"):
        TrainConfig(energy_weight=-1.0)
