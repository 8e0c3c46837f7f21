"""SMC over blocks on workers against `run_smc`, with a density in closed form: the same bits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from torch import Tensor

from boltzray.runtime.actor_pool import RayWorkers
from boltzray.runtime.workers import LocalWorkers, Workers
from boltzray.samplers import Endpoints, SMCConfig, SMCState, run_smc, smc_steps
from boltzray.sampling.block_files import PART_ROWS, part_path, save_part
from boltzray.sampling.flow_actors import BlockServer
from boltzray.sampling.population import BlockPopulation, Proposals
from boltzray.sampling.smc_checkpoint import last_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("ray_cluster")
N, SEED = 150, 7


class Gaussian(BlockServer):
    """Proposal N(0, 1), target N(0.5, 0.3²) where x₀ > −1; elsewhere nothing can be evaluated."""

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def evaluate(self, x: Tensor) -> Endpoints:
        ok = x[:, 0, 0] > -1.0
        shift = x.double() - 0.5
        log_p = torch.where(ok, -0.5 * shift.square().sum((1, 2)) / 0.09, torch.nan)
        return Endpoints(-0.5 * x.double().square().sum((1, 2)), log_p, -x, (-shift / 0.09).to(x), ok)


@pytest.fixture(scope="module")
def servers(ray_cluster: None) -> Any:
    started = [ray.remote(Gaussian).options(num_cpus=0, max_restarts=-1).remote() for _ in range(3)]
    yield started
    for actor in started:
        ray.kill(actor)


@pytest.fixture(scope="module")
def threads() -> Any:
    """As many of them, in this process."""
    before = torch.get_num_threads()
    workers = LocalWorkers(Gaussian, 3)
    yield workers
    workers.close()
    torch.set_num_threads(before)


@pytest.fixture
def kinds(servers: Any, threads: Workers) -> dict[str, Workers]:
    return {"actors": RayWorkers(servers), "one actor": RayWorkers(servers[:1]), "threads": threads}


def proposals() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((N, 4, 3)).astype(np.float32))


def config(kernel: Any, scheme: Any) -> SMCConfig:
    step = {"mala": 0.02, "hmc": 0.1, "ula": 0.01}[kernel]
    return SMCConfig(kernel=kernel, step_size=step, block_size=32, resampling=scheme, n_leapfrog=3, moves_per_step=2)


@pytest.mark.parametrize(
    ("kernel", "scheme", "kind"),
    [
        ("mala", "systematic", "one actor"),
        ("mala", "multinomial", "threads"),
        ("hmc", "residual", "actors"),
        ("ula", "stratified", "actors"),
        ("ula", "stratified", "threads"),
    ],
)
def test_any_workers_give_the_bits_of_one_process(
    tmp_path: Path, kinds: dict[str, Workers], kernel: Any, scheme: Any, kind: str
) -> None:
    workers = kinds[kind]
    chosen = config(kernel, scheme)
    whole = run_smc(proposals(), Gaussian().evaluate, chosen, SEED)
    assert sum(step.resampled for step in whole.steps) >= 2
    assert whole.n_failed > 0
    blocks = (part.numpy() for part in proposals().split(32))
    population = BlockPopulation.start(workers, blocks, 32, SEED)
    state, steps = SMCState.start(N, chosen), []
    for record, after in smc_steps(population, chosen, SEED, state):
        state = after
        steps.append(record)
    assert steps == whole.steps
    assert np.array_equal(state.log_w, whole.log_w.numpy())
    for mine, its in zip(population.scalars(), (whole.log_q, whole.log_p), strict=True):
        assert np.array_equal(mine, its.numpy())
    save_checkpoint(tmp_path, population, state, steps, 1.0)
    found = last_checkpoint(tmp_path)
    assert found is not None
    assert found.steps == steps
    for other in kinds.values():  # each kind goes on with what another has saved
        loaded = BlockPopulation.load(other, found.paths, 32, SEED)
        assert np.array_equal(np.concatenate([block["x"] for block in other.get(loaded.blocks)]), whole.x.numpy())
        assert np.array_equal(loaded.log_q, population.log_q)


def test_blocks_of_chosen_proposals(tmp_path: Path) -> None:
    """Rows of several files, some twice, in blocks of the usual size."""
    x = np.random.default_rng(0).standard_normal((5000, 1, 3)).astype(np.float32)
    paths = [part_path(tmp_path, 0), part_path(tmp_path, 1)]
    for path, part in zip(paths, (x[:PART_ROWS], x[PART_ROWS:]), strict=True):
        scalars = {name: np.zeros(len(part)) for name in ("log_q", "log_p", "energy")}
        save_part(path, x=part, **scalars, seconds=np.float64(0.0))
    rows = np.sort(np.random.default_rng(1).integers(0, 5000, 700))
    blocks = list(Proposals(paths, 256).blocks(rows))
    assert [len(block) for block in blocks] == [256, 256, 188]
    assert np.array_equal(np.concatenate(blocks), x[rows])
