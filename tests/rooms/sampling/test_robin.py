"""Robin through the rooms: the same weights on any number of actors, learning from them, and what is refused."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boltzray import models
from boltzray.finetuning.config import FinetuneJob
from boltzray.finetuning.finetune import finetune
from boltzray.finetuning.round_record import read_records
from boltzray.models.losses import ObjectiveConfig
from boltzray.models.robin import RobinFlow
from boltzray.molecules import Peptide
from boltzray.runtime.workers import LocalWorkers
from boltzray.samplers import SMCConfig, bins_com_log_density, ess, snis
from boltzray.sampling.energy_actors import EnergyConfig, LocalEnergies
from boltzray.sampling.flow_actors import ActorsConfig, FlowServer
from boltzray.sampling.population import Proposals
from boltzray.sampling.sample import SampleJob, sample
from boltzray.sampling.sample_files import read_samples
from boltzray.sampling.target import Target

N, SEED, BLOCK = 40, 3, 16


@pytest.fixture(scope="session")
def robin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny flow over bins, as the published one: frames at the origin, atoms in AMBER's order."""
    torch.manual_seed(0)
    config = models.FlowConfig(
        coordinates="binned", channels=16, head_dim=8, blocks=1, layers_per_block=1, bins=64, temperature=0.9,
        max_atoms=40, center="zero",
    )  # fmt: skip
    return models.save(models.Flow(config, 0.3), tmp_path_factory.mktemp("robin") / "checkpoint", {"step": 1})


def expected(robin: Path, target: Target) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log π̃ without the term of the centre of mass, log q, and that term, in this process."""
    threads = torch.get_num_threads()
    server = FlowServer(str(robin), target, partial(LocalEnergies, config=EnergyConfig()))
    blocks = [server.draw(SEED, i, min(BLOCK, N - low)) for i, low in enumerate(range(0, N, BLOCK))]
    log_p, log_q, center = (np.concatenate([b[name] for _, b in blocks]) for name in ("log_p", "log_q", "center"))
    torch.set_num_threads(threads)
    assert isinstance(server.flow, RobinFlow)
    x, bins = torch.from_numpy(np.concatenate([x for x, _ in blocks])), server.flow.bins
    np.testing.assert_allclose(bins.centers(bins.tokens(x)).double().mean(1), center, atol=1e-6)
    return log_p, log_q, bins_com_log_density(center, server.peptide.n_atoms).log_density


def job(robin: Path, target: Target, home: Path, **changed: Any) -> SampleJob:
    (home / "AA.pdb").write_text(target.pdb)
    settings: dict[str, Any] = {
        "pdb": str(home / "AA.pdb"), "checkpoint": str(robin), "out": "a", "sampler": "snis", "samples": N,
        "seed": SEED, "smc": SMCConfig(block_size=BLOCK), "data_dir": "none", "weights": "none",
    }  # fmt: skip
    return SampleJob(**(settings | changed))


def test_weights_on_actors(robin: Path, target: Target, home: Path, ray_cluster: None) -> None:
    """All draws decide the spread of the centre of mass, whichever of two actors made them."""
    standard = Target(pdb=Peptide.from_pdb(target.pdb).iupac().to_pdb(), temperature_k=310.0)
    log_p, log_q, term = expected(robin, standard)
    out = sample(job(robin, target, home, actors=ActorsConfig(flow_replicas=2, in_process=False)))
    _, (found,) = read_samples(out)
    np.testing.assert_array_equal(found.log_q, log_q)
    np.testing.assert_array_equal(found.log_weights, log_p + term - log_q)
    assert found.diagnostics["ess"] == ess(log_p + term - log_q)
    assert found.diagnostics["ess_without_com"] == ess(log_p - log_q)
    public = sample(job(robin, target, home, out="b", com="none"))
    _, (bare,) = read_samples(public)
    np.testing.assert_array_equal(bare.log_weights, snis(None, log_q, log_p, "none").log_w.numpy())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sampler": "smc", "smc_particles": 8}, "SMC moves along the gradient of log q.*give sampler=snis"),
        ({"com": "radial"}, "give com=gaussian, or none"),
        ({"pdb": None, "sequence": "WWWW"}, "WWWW has .* atoms, and this flow knows places for 40"),
        ({"pdb": None, "sequence": "ACE-A-NME"}, "without caps"),
    ],
)
def test_refused(robin: Path, target: Target, home: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        sample(job(robin, target, home, **changed))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("terms", [{"self_improve": 1.0}, {"forward_kl": 1.0}])
def test_it_learns_from_its_weighted_draws(robin: Path, home: Path, terms: dict[str, float]) -> None:
    objective = ObjectiveConfig(terms=terms, teacher=1.0 if "self_improve" in terms else 0.0)
    settings: dict[str, Any] = {
        "sequence": "AA", "checkpoint": str(robin), "budget": 192, "rounds": 2, "steps": 3, "batch": 8,
        "smc": SMCConfig(block_size=16), "data_dir": "none", "in_process": True,
    }  # fmt: skip
    out = finetune(FinetuneJob(objective=objective, out="a", **settings))
    before, after = models.load(robin).state_dict(), models.load(out / "checkpoint").state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert [r.energies for r in read_records(out)] == [64, 128, 192]
    for name in ("reverse_kl", "log_variance", "anneal"):
        with pytest.raises(ValueError, match=f"objective {name} needs draws that move smoothly"):
            finetune(FinetuneJob(objective=ObjectiveConfig(terms={name: 1.0}), out=name, **settings | {"budget": 640}))


def test_all_draws_decide_the_spread(robin: Path, target: Target, tmp_path: Path) -> None:
    """Blocks of two threads, in files: what the driver reads is what one process makes at once."""
    log_p, log_q, term = expected(robin, target)
    threads = torch.get_num_threads()
    energies = partial(LocalEnergies, config=EnergyConfig())
    workers = LocalWorkers(partial(FlowServer, str(robin), target, energies), 2)
    try:
        drawn = Proposals.sample(workers, N, BLOCK, SEED, tmp_path)
    finally:
        workers.close()
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(drawn.log_q, log_q)
    np.testing.assert_array_equal(drawn.log_p, log_p + term)
    assert drawn.diagnostics["ess_without_com"] == ess(log_p - log_q)
