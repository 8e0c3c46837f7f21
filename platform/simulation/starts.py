"""Structures that replicas start from: draws of a flow, chosen by weight."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray

from boltzray import models
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.runs import MDConfig, save_start, start_path, warmup_path
from boltzray.samplers import bins_com_log_density, resampling
from boltzray.samplers.importance_weights import ess, normalised, treat

from ..runtime.actor_pool import fetch
from ..runtime.config import results_home
from ..runtime.progress import progress, say
from ..sampling.atom_order import OrderedPeptide
from ..sampling.energy_actors import EnergyConfig, LocalEnergies
from ..sampling.flow_actors import FlowServer
from ..sampling.population import log_ratio
from ..sampling.target import Target, trained_at_k
from .md_batches import MDReplica

BLOCK = 512  # draws at once
FEW = 0.5  # replicas that are different draws, as a share: below it the user is told


class Starts(NamedTuple):
    """Outcome for one peptide: ESS of its draws, as a fraction, and how many different ones its replicas start from."""

    sequence: str
    ess: float
    distinct: int
    replicas: int


def choose_starts(replicas: Sequence[MDReplica], config: MDConfig, on_gpu: bool) -> list[Starts]:
    """Write the starting structures of replicas that have none yet, a task for each peptide."""
    checkpoint = models.locate(config.start, results_home())
    models.checkpoint.outline(checkpoint)  # what is wrong with it is said before tasks start
    missing: dict[str, list[MDReplica]] = {}
    for replica in replicas:
        folder = Path(replica.directory)
        if not start_path(folder).exists() and not warmup_path(folder).exists():
            missing.setdefault(replica.sequence, []).append(replica)
    task: Any = ray.remote(num_cpus=1, num_gpus=int(on_gpu), max_retries=3)(draw_starts)
    running = [task.remote(checkpoint, group, config) for group in missing.values()]
    found: list[Starts] = []
    with progress("draw starts", len(running)) as update:
        while running:
            (done,), running = ray.wait(running, num_returns=1)
            found.append(fetch(done))
            update(len(found), f"{found[-1].sequence}: ESS {found[-1].ess:.3f}")
    for starts in found:
        if starts.distinct < FEW * starts.replicas:
            say(
                f"note: the {starts.replicas} replicas of {starts.sequence} start from {starts.distinct} different "
                f"draws (ESS {starts.ess:.4f}): raise md.start_draws, or md.warmup_ps, in which they part"
            )
    return found


def draw_starts(checkpoint: Path, replicas: Sequence[MDReplica], config: MDConfig) -> Starts:
    """Draw `config.start_draws` conformations for each replica, and write those that the weights of all choose.

    Weights are truncated, and resampling is systematic: few replicas start from the same draw.
    Source: sampling importance resampling, Rubin 1988; truncation, Ionides 2008.
    """
    first = replicas[0]
    ordered = OrderedPeptide.of(Peptide.from_pdb(first.pdb), models.checkpoint.outline(checkpoint))
    target = Target(
        pdb=ordered.peptide.to_pdb(), temperature_k=config.temperature_k, trained_at_k=trained_at_k(checkpoint),
        forcefield=config.forcefield,
    )  # fmt: skip
    server = FlowServer(str(checkpoint), target, partial(LocalEnergies, config=EnergyConfig()))
    n = len(replicas) * config.start_draws
    blocks = [server.draw(first.seed, k, min(BLOCK, n - low)) for k, low in enumerate(range(0, n, BLOCK))]
    drawn = {name: np.concatenate([scalars[name] for _, scalars in blocks]) for name in blocks[0][1]}
    found = log_ratio(drawn["log_p"], drawn["log_q"])
    if "center" in drawn:
        found = found + bins_com_log_density(drawn["center"], ordered.peptide.n_atoms).log_density
    weights = normalised(treat(found, "truncate"))
    rows = resampling.systematic(weights, len(replicas), np.random.default_rng(first.seed))
    chosen = np.concatenate([x for x, _ in blocks])[rows] * np.float32(server.flow.scale_nm)
    for replica, positions_nm in zip(replicas, ordered.positions_as_given(chosen), strict=True):
        save_start(Path(replica.directory), positions_nm)
    return Starts(first.sequence, ess(found), len(np.unique(rows)), len(replicas))
