"""SMC over workers: from the proposals' blocks to weighted particles, going on from its last checkpoint."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from boltzray.molecules.ensemble import Ensemble
from boltzray.samplers import (
    SMCConfig,
    SMCState,
    SMCStep,
    choose_start,
    com_log_density,
    ess,
    log_z_error,
    smc_steps,
)

from ..runtime.progress import Update, progress, say
from ..runtime.tracking import Tracker, warn_on_error
from ..runtime.workers import Workers
from .block_files import load_part
from .population import BlockPopulation, Proposals
from .smc_checkpoint import last_checkpoint, save_checkpoint
from .smc_log import StepLog
from .target import Target


@dataclass(frozen=True, kw_only=True)
class SMCRun:
    """One SMC run: `n` particles, its folder, a checkpoint every `checkpoint_s` seconds."""

    config: SMCConfig
    n: int
    seed: int
    folder: Path
    checkpoint_s: float

    def run(self, proposals: Proposals, workers: Workers, tracker: Tracker) -> tuple[SMCState, list[SMCStep], float]:
        """Anneal `n` of the proposals; the particles are left in the last checkpoint."""
        population, state, steps, before = self._begin(proposals, workers)
        began = saved = time.monotonic()
        with StepLog(tracker, "smc") as log, progress("SMC", 1.0, _progress(state.lam)) as update:
            for record, after in smc_steps(population, self.config, self.seed, state):
                state = after
                steps.append(record)
                log.add(record, particles=self.n * self.config.moves_per_step)
                _show(update, record)
                if state.lam == 1.0 or time.monotonic() - saved >= self.checkpoint_s:
                    save_checkpoint(self.folder, population, state, steps, before + time.monotonic() - began)
                    saved = time.monotonic()
        return state, steps, before + time.monotonic() - began

    def _begin(self, proposals: Proposals, workers: Workers) -> tuple[BlockPopulation, SMCState, list[SMCStep], float]:
        block_size = self.config.block_size
        found = last_checkpoint(self.folder)
        if found:
            say(f"SMC goes on after step {found.state.step}, λ {found.state.lam:.2e}")
            population = BlockPopulation.load(workers, found.paths, block_size, self.seed)
            return population, found.state, found.steps, found.seconds
        log_ratio = proposals.log_ratio
        start = choose_start(log_ratio, self.n, self.config, self.seed)
        if start.lam:
            say(f"SMC starts at λ {start.lam:.2e}, with {self.n} of {len(log_ratio)} draws chosen by weight")
        population = BlockPopulation.start(workers, proposals.blocks(start.rows), block_size, self.seed)
        state = start.state(log_ratio, proposals.log_q, *population.scalars(), self.config)
        return population, state, [], 0.0


class Positions:
    """Conformations in block files, in nm, a file at a time; it can be gone through again."""

    def __init__(self, paths: Sequence[Path], scale_nm: float) -> None:
        self.paths, self.scale_nm = paths, scale_nm

    def __iter__(self) -> Iterator[np.ndarray]:
        for path in self.paths:
            yield load_part(path, "x")["x"] * np.float32(self.scale_nm)


def run_smc_on_workers(
    smc: SMCRun, proposals: Proposals, workers: Workers, target: Target, scale_nm: float, tracker: Tracker
) -> Ensemble:
    """Run SMC, and return its weighted particles at λ = 1."""
    state, steps, seconds = smc.run(proposals, workers, tracker)
    final = last_checkpoint(smc.folder)
    assert final is not None  # the last step is always kept
    energy, log_q = [], []
    for path in final.paths:
        part = load_part(path, "x", "log_q", "log_p")
        com = com_log_density(torch.from_numpy(part["x"]), target.com, target.temperature_ratio)[0].numpy()
        energy.append(com - part["log_p"])  # −log π̃ less the centre of mass: needs no new evaluation
        log_q.append(part["log_q"])
    diagnostics = {
        "n": smc.n,
        "ess": ess(state.log_w),
        "log_z": steps[-1].log_z,
        "log_z_error": log_z_error(state.log_w, state.eve, state.n_proposals),
        "n_roots": steps[-1].n_roots,
        "n_failed": sum(step.n_failed for step in steps),
        "n_evaluations": state.n_evaluations,
        "n_steps": len(steps),
        "seconds": seconds,
    }
    say(
        f"annealed: {diagnostics['n_steps']} steps, {diagnostics['n_roots']} distinct ancestors of {smc.n} particles, "
        f"{diagnostics['n_evaluations']} energies"
    )
    with warn_on_error("logging to MLflow"):
        tracker.log({f"smc_{k}": v for k, v in diagnostics.items()}, step=len(steps))
    return Ensemble(
        name="SMC",
        chunks=Positions(final.paths, scale_nm),
        log_weights=state.log_w,
        energy_kT=np.concatenate(energy),
        log_q=np.concatenate(log_q),
        diagnostics=diagnostics,
        steps=[step._asdict() for step in steps],
    )


def _progress(lam: float) -> float:
    """Fraction of the path that is done: half of an adaptive path's steps go by in log λ, half in √λ."""
    decades = 10.0
    logarithm = np.clip(1 + np.log10(max(lam, 1e-300)) / decades, 0.0, 1.0)
    return float(logarithm + np.sqrt(lam)) / 2


def _show(update: Update, record: SMCStep) -> None:
    update(
        _progress(record.lam),
        f"step {record.step}  λ {record.lam:.2e}  ESS {record.ess:.2f}  acceptance {record.acceptance:.2f}  "
        f"ancestors {record.n_roots}",
    )
