"""Conformations of one sampler at each budget, several times over; whatever is on disk already is not made again."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import ray

from boltzray.molecules.peptide import Peptide
from boltzray.molecules.runs import MDConfig, load_trajectory
from boltzray.molecules.subsample import weighted_subsample
from boltzray.samplers import SMCConfig, normalised, snis
from boltzray.samplers.importance_weights import Treatment

from ..data.md_batches import MDReplica, run_batch
from ..runtime.actor_pool import fetch
from ..runtime.cluster import Cluster
from ..runtime.config import write_json
from ..runtime.progress import progress, say
from ..runtime.tracking import Tracker
from ..sampling.energy_actors import EnergyConfig, Molecule, batched
from ..sampling.flow_actors import Target
from ..sampling.ray_population import Proposals
from ..sampling.sample_files import SampleSet, rows
from ..sampling.smc import Positions, SMCRun, run_smc_on_actors
from ..sampling.smc_checkpoint import save_part

FS_PER_STEP = 1.0
MD_FRAMES = 100_000  # of a trajectory, at most
WARMUP_SHARE = 0.1  # of a trajectory is left out, but counts
PILOT = 64  # particles, the fewest that SMC is run with; what they cost tells how many a budget pays for


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a finetuning has cost, and the flow that it left in `checkpoint`."""

    method: str
    checkpoint: Path
    energies: int
    seconds: float

    @classmethod
    def read(cls, folder: Path) -> "Spent":
        """From a folder of jobs/finetune.py. Raises: FileNotFoundError when it is not finished."""
        path = folder / "rounds.json"  # four keys of a file; the room that writes it builds on this one, so no import
        rounds = json.loads(path.read_text()) if path.exists() else []
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
    """What is to be made: `frames` conformations at each of `budgets` in each of `repeats`, as files in folder/runs."""

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


def _md_config(draws: RunPlan) -> MDConfig:
    """Frames close enough for the smallest budget, as far as the largest allows it."""
    steps = max(1, draws.budgets[0] // 100, -(-draws.budgets[-1] // MD_FRAMES))
    frames = max(1, min(1000, draws.budgets[-1] // steps // 10))
    return MDConfig(timestep_fs=FS_PER_STEP, warmup_ps=0.0, interval_ps=steps / 1000, frames_per_chunk=frames)


def simulate_all(draws: RunPlan, peptide: Peptide, resources: Cluster) -> None:
    """One trajectory a repeat, as long as the largest budget, all side by side in one batch in a Ray task."""
    config, time_ps = _md_config(draws), draws.budgets[-1] * FS_PER_STEP / 1000
    runs = tuple(
        MDReplica(
            peptide.sequence, r, peptide.to_pdb(), peptide.n_atoms, str(draws.folder / "md" / str(r)), draws.seed_of(r)
        )
        for r in range(draws.repeats)
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
        write_json(draws.folder / "md" / "speed.json", float(np.median(speeds)))


def md_at(draws: RunPlan, peptide: Peptide, slow: Any) -> None:
    """The first part of each trajectory, without its warm-up; `slow` gives the slowest coordinate of conformations.

    A repeat's seconds are its share of the batch.
    """
    config = _md_config(draws)
    energy = batched(Molecule(peptide.to_pdb(), config.temperature_k), EnergyConfig())
    ps_per_second = json.loads((draws.folder / "md" / "speed.json").read_text())
    for repeat in range(draws.repeats):
        trajectory = load_trajectory(draws.folder / "md" / str(repeat))
        for budget in draws.budgets:
            frames = trajectory[: budget // config.steps_per_frame]
            frames = frames[int(WARMUP_SHARE * len(frames)) :]
            frames = frames[weighted_subsample(np.ones(len(frames)), draws.frames)[0]]
            draws.save(
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


def importance_at(
    draws: RunPlan, flows: Sequence[Any], scale_nm: float, treatment: Treatment, before: Spent | None
) -> None:
    """SNIS with the first draws of as many as the largest budget pays for; of a finetuned flow, with what is left."""
    method, energies = (before.method, before.energies) if before else ("SNIS", 0)
    for repeat in range(draws.repeats):
        missing = [b for b, r in draws.missing(method) if r == repeat and b - energies >= PILOT]
        if not missing:
            continue
        folder = _made(draws, draws.path(method, draws.budgets[-1], repeat).stem)
        drawn = Proposals.draw(
            flows, draws.budgets[-1] - energies, SMCConfig().block_size, draws.seed_of(repeat), folder
        )
        seconds = drawn.seconds * len(flows) / len(drawn.log_q)
        for budget in missing:
            n = budget - energies
            result = snis(None, drawn.log_q[:n], drawn.log_p[:n], treatment)
            _save_weighted(
                draws,
                (method, budget, repeat),
                Positions(drawn.paths, scale_nm),
                result.log_w.numpy(),
                drawn.energy[:n],
                effective=result.ess * n,
                energies=float(budget),
                seconds=seconds * n + (before.seconds if before else 0.0),
            )


def anneal_at(
    draws: RunPlan, flows: Sequence[Any], scale_nm: float, config: SMCConfig, target: Target, tracker: Tracker
) -> None:
    """SMC with as many particles as the budget pays for. The pilot that tells the price of one is not counted."""
    anneal_some = partial(_anneal, draws, flows, scale_nm, config, target, tracker)
    try:
        pilot = anneal_some(PILOT, draws.seed_of(draws.repeats), "smc-pilot")
    except RuntimeError as error:
        say(f"note: SMC is left out, it does not arrive: {error}")
        return
    price = pilot.diagnostics["n_evaluations"] / PILOT + 1
    for budget, repeat in draws.missing("SMC"):
        n = int(budget / price)
        if n < PILOT:
            continue
        done = anneal_some(n, draws.seed_of(repeat), draws.path("smc", budget, repeat).stem)
        found = done.diagnostics
        _save_weighted(
            draws,
            ("SMC", budget, repeat),
            done.chunks,
            done.log_weights,
            done.energy_kt,
            effective=min(found["ess"] * n, found["n_roots"]),
            energies=found["n_evaluations"] + n,
            seconds=found["seconds"] * min(len(flows), -(-n // config.block_size)),
        )


def _anneal(
    draws: RunPlan,
    flows: Sequence[Any],
    scale_nm: float,
    config: SMCConfig,
    target: Target,
    tracker: Tracker,
    n: int,
    seed: int,
    name: str,
) -> SampleSet:
    folder = _made(draws, name)
    drawn = Proposals.draw(flows, n, config.block_size, seed, folder)
    annealing = SMCRun(config=config, n=n, seed=seed, folder=folder, checkpoint_s=30.0)
    with Tracker.open("compare", folder, {"particles": n, "seed": seed}, parent=tracker) as child:
        return run_smc_on_actors(annealing, drawn, flows, target, scale_nm, child)


def _made(draws: RunPlan, name: str) -> Path:
    folder = draws.folder / "draws" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _save_weighted(
    draws: RunPlan, key: tuple[str, int, int], chunks: Any, log_weights: np.ndarray, energy: np.ndarray, **facts: Any
) -> None:
    chosen, weights = weighted_subsample(normalised(log_weights), draws.frames)
    with np.errstate(divide="ignore"):
        log_w = np.log(weights)
    positions = rows(chunks, chosen)
    method, budget, repeat = key
    draws.save(method, budget, repeat, positions_nm=positions, log_weights=log_w, energy_kT=energy[chosen], **facts)
