"""The buffer of a round: proposals or SMC particles, their diagnostics, and what each term learns from them."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from boltzray.models.losses import OBJECTIVES, ObjectiveConfig
from boltzray.molecules.transport import wasserstein_1d
from boltzray.samplers import SMCState, SMCStep, generator, resample, smc_steps, snis, treat
from boltzray.samplers.importance_weights import Treatment
from boltzray.samplers.types import FloatArray

from ..runtime.progress import progress
from ..sampling.block_files import load_part
from ..sampling.population import Proposals
from ..sampling.smc_checkpoint import last_checkpoint, save_checkpoint
from .config import FinetuneJob
from .executors import Executor
from .train_step import TermData

REPLICATES = 100
CHOOSE = 42  # stage of the random stream that resamples a buffer


class Buffer(NamedTuple):
    """Conformations on disk; the log importance weight of any target h is log h(x) + `neg_log_proposal`.

    Shape: (n,) each. `log_q` is the flow's, `log_p` log π̃. `energies`: evaluations that filled it.
    """

    paths: Sequence[Path]
    log_q: FloatArray
    log_p: FloatArray
    neg_log_proposal: FloatArray
    energies: int


def anneals(job: FinetuneJob) -> bool:
    """Return True where particles of SMC fill a buffer."""
    return job.sampler == "smc" and job.objective.buffered


def fill_buffer(job: FinetuneJob, executor: Executor, drawn: Proposals, seed: int, folder: Path) -> Buffer:
    """Fill the buffer of a peptide's round with its proposals, or with particles annealed from them."""
    if anneals(job):
        return _anneal(job, executor, drawn, seed, folder)
    return Buffer(drawn.paths, drawn.log_q, drawn.log_p, -drawn.log_q, len(drawn.log_q))


def _anneal(job: FinetuneJob, executor: Executor, drawn: Proposals, seed: int, folder: Path) -> Buffer:
    """Run SMC until λ is 1, or the next step would exceed the buffer's energies; weights do the rest of the way."""
    limit, config, n, power = job.plan.share, job.smc, job.smc_particles, job.objective.power
    cost, began = config.evaluations_per_step * n, time.monotonic()
    found = last_checkpoint(folder)
    if found is None:
        population, steps = executor.start(drawn, n, seed), list[SMCStep]()
        change = population.scalars()[0] - drawn.log_q[:n]  # the two passes differ in the last digits
        state = SMCState.start(n, config, np.where(np.isfinite(change), change, 0.0))
        save_checkpoint(folder, population, state, steps, 0.0)
    else:
        population, state, steps = executor.load(found.paths, seed), found.state, found.steps
    path, saved = smc_steps(population, config, seed, state), began
    with progress("SMC", limit, n + state.n_evaluations) as update:
        while state.lam < 1.0 and n + state.n_evaluations + cost <= limit:
            record, state = next(path)
            steps.append(record)
            update(n + state.n_evaluations, f"step {record.step}  λ {record.lam:.2e}  ESS {record.ess:.2f}")
            if time.monotonic() - saved >= job.checkpoint_s:
                save_checkpoint(folder, population, state, steps, 0.0)
                saved = time.monotonic()
    save_checkpoint(folder, population, state, steps, 0.0)
    final = last_checkpoint(folder)
    assert final is not None
    log_q, tilted = population.scalars()
    with np.errstate(invalid="ignore"):
        gamma = (1.0 - state.lam) * log_q + (state.lam * tilted if state.lam else 0.0)
    log_p = (tilted - (1.0 - power) * log_q) / power
    return Buffer(final.paths, log_q, log_p, state.log_w - gamma, n + state.n_evaluations)


def term_data(buffer: Buffer, objective: ObjectiveConfig, treatment: Treatment, seed: int) -> dict[str, TermData]:
    """Rows of the buffer, and their weights, that each term learns from. Raises: ValueError if all weights are zero."""
    usable = np.flatnonzero(
        np.isfinite(buffer.log_p) & np.isfinite(buffer.neg_log_proposal) & np.isfinite(buffer.log_q)
    )
    result = {}
    for name in objective.active:
        reads, power = OBJECTIVES[name].reads, OBJECTIVES[name].power
        if reads == "drawn":
            result[name] = TermData(usable, None)
        elif reads in ("weighted", "resampled"):
            log_h = power * buffer.log_p[usable] + (1.0 - power) * buffer.log_q[usable]
            log_w = treat(log_h + buffer.neg_log_proposal[usable], treatment)
            if reads == "resampled":
                chosen = resample(log_w, len(buffer.log_p), generator(seed, CHOOSE), "systematic")
                result[name] = TermData(usable[chosen], None)
            else:
                weight = np.exp(log_w - log_w.max())
                kept = weight > 0
                result[name] = TermData(usable[kept], weight[kept] / weight[kept].mean())
    return result


def effective_draws(terms: Mapping[str, TermData]) -> float:
    """Independent draws that the weights of a buffer amount to, of the term that has fewest (inf without a buffer)."""
    found = [np.inf]
    for rows, weight in terms.values():
        each = np.unique(rows, return_counts=True)[1].astype(float) if weight is None else weight
        found.append(each.sum() ** 2 / np.square(each).sum())
    return float(min(found))


def _ess_error(log_w: FloatArray) -> float:
    """Standard deviation of the ESS over bootstrap replicates of the weights: before and after are compared by it."""
    weight = np.where(np.isfinite(log_w), np.exp(log_w - log_w[np.isfinite(log_w)].max()), 0.0)
    stream = np.random.default_rng(0)
    replicas = (weight[stream.integers(len(weight), size=len(weight))] for _ in range(REPLICATES))
    scaled = (r / r.max() for r in replicas if r.any())  # or squares of what one large weight has left would vanish
    return float(np.std([r.sum() ** 2 / (len(r) * np.square(r).sum()) for r in scaled]))


def conformations(paths: Sequence[Path]) -> np.ndarray:
    """All x (n, N, 3) of parts on disk, normalised."""
    return np.concatenate([load_part(path, "x")["x"] for path in paths])


def importance_diagnostics(drawn: Proposals, treatment: Treatment, reference_kt: np.ndarray | None) -> dict[str, Any]:
    """Diagnostics of a flow by its own draws: ESS, k̂, and W2 of energies in kT to those of reference MD.

    Raises: ValueError if all weights are zero.
    """
    result = snis(None, drawn.log_q, drawn.log_p, treatment)
    log_w, distance = result.log_w.numpy(), None
    if reference_kt is not None:
        alive = np.isfinite(log_w) & np.isfinite(drawn.energy)
        weight = np.exp(log_w[alive] - log_w[alive].max())
        distance = wasserstein_1d(reference_kt, drawn.energy[alive], np.ones(len(reference_kt)), weight, order=2)
    return {
        "n": result.n,
        "ess": result.ess,
        "ess_error": _ess_error(drawn.log_p - drawn.log_q),
        "k_hat": result.k_hat,
        "max_weight_share": result.max_weight_share,
        "n_failed": result.n_failed,
        "energy_w2": distance,
    }
