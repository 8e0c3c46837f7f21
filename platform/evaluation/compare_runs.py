"""Conformations of one sampler at each budget, several times over; files that are there are not made again."""

from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import ray

from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.runs import MDConfig, load_trajectory
from boltzray.molecules.storage import read_json
from boltzray.molecules.subsample import weighted_subsample
from boltzray.samplers import SMCConfig, normalised, snis
from boltzray.samplers.importance_weights import Treatment

from ..runtime.actor_pool import fetch
from ..runtime.cluster import Cluster
from ..runtime.config import write_json
from ..runtime.progress import progress, say
from ..runtime.tracking import Tracker
from ..runtime.workers import Workers
from ..sampling.block_files import save_part
from ..sampling.energy_actors import EnergyConfig, batched
from ..sampling.population import Proposals
from ..sampling.sample_files import rows
from ..sampling.smc import Positions, SMCRun, run_smc_on_workers
from ..sampling.target import Target
from ..simulation.md_batches import MDReplica, run_batch

FS_PER_STEP = 1.0
MD_FRAMES = 100_000  # of a trajectory, at most
WARMUP_FRACTION = 0.1  # of a trajectory, discarded as warm-up; its energies still count
PILOT = 64  # particles, the fewest that SMC is run with; what they cost tells how many a budget pays for


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Cost of a finetuning, and the flow that it left in `checkpoint`."""

    method: str
    checkpoint: Path
    energies: int
    seconds: float

    @classmethod
    def read(cls, folder: Path) -> "Spent":
        """Read it from a folder of jobs/finetune.py. Raises: FileNotFoundError when it is not finished."""
        path = folder / "rounds.json"  # four keys of a file; the room that writes it builds on this one, so no import
        rounds = read_json(path) if path.exists() else []
        if not rounds or not rounds[-1].get("final") or not (folder / "checkpoint").exists():
            raise FileNotFoundError(f"{folder} has no finished finetuning: run jobs/finetune.py, or check finetuned=")
        last = rounds[-1]
        return cls(
            method=f"finetuned SNIS ({folder.name})",
            checkpoint=folder / "checkpoint",
            energies=int(last["energies"]) - int(last["n"]),  # the last draw is not learned from
            seconds=float(last["seconds"]),
        )


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Files to be made in folder/runs: `frames` conformations at each of `budgets`, in each of `repeats`."""

    folder: Path
    budgets: tuple[int, ...]
    repeats: int
    frames: int
    seed: int

    def path(self, method: str, budget: int, repeat: int) -> Path:
        name = "".join(c if c.isalnum() else "-" for c in method.lower()).strip("-")
        return self.folder / "runs" / f"{name}-{budget}-{repeat}.npz"

    def missing(self, method: str) -> list[tuple[int, int]]:
        """Budgets and repeats for which there is no file."""
        wanted = product(self.budgets, range(self.repeats))
        return [(b, r) for b, r in wanted if not self.path(method, b, r).exists()]

    def seed_of(self, repeat: int) -> int:
        return self.seed * 1000 + repeat

    def save(self, method: str, budget: int, repeat: int, **arrays: Any) -> None:
        path = self.path(method, budget, repeat)
        save_part(path, method=np.array(method), budget=np.int64(budget), repeat=np.int64(repeat), **arrays)


# --- molecular dynamics -------------------------------------------------------------------------


def _md_config(plan: RunPlan) -> MDConfig:
    """Frames close enough for the smallest budget, as far as the largest allows it."""
    steps = max(1, plan.budgets[0] // 100, -(-plan.budgets[-1] // MD_FRAMES))
    frames = max(1, min(1000, plan.budgets[-1] // steps // 10))
    return MDConfig(timestep_fs=FS_PER_STEP, warmup_ps=0.0, interval_ps=steps / 1000, frames_per_chunk=frames)


def simulate_all(plan: RunPlan, peptide: Peptide, resources: Cluster) -> None:
    """Run one trajectory a repeat, as long as the largest budget, all side by side in one batch in a Ray task."""
    config, time_ps = _md_config(plan), plan.budgets[-1] * FS_PER_STEP / 1000
    runs = tuple(
        MDReplica(
            peptide.sequence, r, peptide.to_pdb(), peptide.n_atoms, str(plan.folder / "md" / str(r)), plan.seed_of(r)
        )
        for r in range(plan.repeats)
    )
    task: Any = ray.remote(num_cpus=1, num_gpus=int(resources.gpus > 0), num_returns="streaming")(run_batch)
    speeds = []
    with progress("MD", config.chunks(time_ps)) as update:
        for reference in task.remote(runs, "batched", False, config, time_ps, "auto"):
            state = fetch(reference)
            if isinstance(state, str):
                say(f"note: {state}")
                continue
            speeds.append(state.ps_per_second)
            update(state.chunks_done, f"{state.ps_per_second:.1f} ps/s")
    if speeds:
        write_json(plan.folder / "md" / "speed.json", float(np.median(speeds)))


def md_at(plan: RunPlan, peptide: Peptide, slow: Any) -> None:
    """Save the first part of each trajectory at each budget, without its warm-up.

    `slow` gives the slowest coordinate of conformations. A repeat's seconds are those of the batch over the repeats.
    """
    config = _md_config(plan)
    energy = batched(peptide, config.temperature_k, EnergyConfig())
    ps_per_second = read_json(plan.folder / "md" / "speed.json")
    for repeat in range(plan.repeats):
        trajectory = load_trajectory(plan.folder / "md" / str(repeat))
        for budget in plan.budgets:
            frames = trajectory[: budget // config.steps_per_frame]
            frames = frames[int(WARMUP_FRACTION * len(frames)) :]
            frames = frames[weighted_subsample(np.ones(len(frames)), plan.frames)[0]]
            plan.save(
                "MD",
                budget,
                repeat,
                positions_nm=frames,
                log_weights=np.zeros(len(frames)),
                energy_kT=energy.evaluate_arrays(frames, gradient=False).energy,
                effective=effective_frames(slow(frames)),
                energies=float(budget),
                seconds=budget * FS_PER_STEP / 1000 / ps_per_second,
            )


def effective_frames(series: np.ndarray) -> float:
    """Independent frames that would give the mean of a time series (T,) as well. Source: Vehtari et al. 2021."""
    from arviz.stats import ess  # slow to import

    if len(series) < 8 or np.ptp(series) == 0:
        return 1.0
    return float(np.clip(ess(series[None], method="mean"), 1.0, len(series)))


# --- flows --------------------------------------------------------------------------------------


def importance_at(plan: RunPlan, workers: Workers, scale_nm: float, treatment: Treatment, spent: Spent | None) -> None:
    """Save SNIS at each budget, less what a finetuned flow has spent, of the first proposals of the largest one."""
    method, energies = (spent.method, spent.energies) if spent else ("SNIS", 0)
    for repeat in range(plan.repeats):
        missing = [b for b, r in plan.missing(method) if r == repeat and b - energies >= PILOT]
        if not missing:
            continue
        folder = _folder(plan, plan.path(method, plan.budgets[-1], repeat).stem)
        proposals = Proposals.sample(
            workers, plan.budgets[-1] - energies, SMCConfig().block_size, plan.seed_of(repeat), folder
        )
        seconds = proposals.seconds * workers.count / len(proposals.log_q)
        for budget in missing:
            n = budget - energies
            result = snis(None, proposals.log_q[:n], proposals.log_p[:n], treatment)
            _save_weighted(
                plan,
                (method, budget, repeat),
                Positions(proposals.paths, scale_nm),
                result.log_w.numpy(),
                proposals.energy[:n],
                effective=result.ess * n,
                energies=float(budget),
                seconds=seconds * n + (spent.seconds if spent else 0.0),
            )


def anneal_at(
    plan: RunPlan, workers: Workers, scale_nm: float, config: SMCConfig, target: Target, tracker: Tracker
) -> None:
    """Save SMC at each budget, with as many particles as that pays for.

    The price of a particle is not known before: a pilot tells it, whose energies are not counted.
    """
    run = partial(_run_smc, plan, workers, scale_nm, config, target, tracker)
    try:
        pilot = run(PILOT, plan.seed_of(plan.repeats), "smc-pilot")
    except RuntimeError as error:
        say(f"note: SMC is left out, it does not arrive: {error}")
        return
    price = pilot.diagnostics["n_evaluations"] / PILOT
    for budget, repeat in plan.missing("SMC"):
        n = int(budget / price)
        if n < PILOT:
            continue
        done = run(n, plan.seed_of(repeat), plan.path("smc", budget, repeat).stem)
        found = done.diagnostics
        _save_weighted(
            plan,
            ("SMC", budget, repeat),
            done.chunks,
            done.log_weights,
            done.energy_kT,
            effective=min(found["ess"] * n, found["n_roots"]),
            energies=found["n_evaluations"],
            seconds=found["seconds"] * min(workers.count, -(-n // config.block_size)),
        )


def _run_smc(
    plan: RunPlan,
    workers: Workers,
    scale_nm: float,
    config: SMCConfig,
    target: Target,
    tracker: Tracker,
    n: int,
    seed: int,
    name: str,
) -> Ensemble:
    folder = _folder(plan, name)
    proposals = Proposals.sample(workers, n, config.block_size, seed, folder)
    smc = SMCRun(config=config, n=n, seed=seed, folder=folder, checkpoint_s=30.0)
    with Tracker.open("compare", folder, {"particles": n, "seed": seed}, parent=tracker) as child:
        return run_smc_on_workers(smc, proposals, workers, target, scale_nm, child)


def _folder(plan: RunPlan, name: str) -> Path:
    folder = plan.folder / "draws" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _save_weighted(
    plan: RunPlan, key: tuple[str, int, int], chunks: Any, log_weights: np.ndarray, energy: np.ndarray, **facts: Any
) -> None:
    chosen, weights = weighted_subsample(normalised(log_weights), plan.frames)
    with np.errstate(divide="ignore"):
        log_w = np.log(weights)
    positions = rows(chunks, chosen)
    method, budget, repeat = key
    plan.save(method, budget, repeat, positions_nm=positions, log_weights=log_w, energy_kT=energy[chosen], **facts)
