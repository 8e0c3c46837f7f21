"""Outcome of a simulation of one peptide: its reference trajectory with the record, and the page."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from boltzray.molecules.convergence import drift_of
from boltzray.molecules.ladder_mixing import ladder_time_ns, round_trips, swap_rates
from boltzray.molecules.mbar import ladder_log_weights
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.reference_record import Ladder, ReferenceRecord, StatesFrom
from boltzray.molecules.replica_exchange import LadderTrajectory, ladder_settings, load_ladder, walks_of
from boltzray.molecules.runs import MDConfig, load_trajectory
from boltzray.molecules.subsample import weighted_subsample
from boltzray.molecules.torsion_states import occupied, states_of
from boltzray.report.contents import Finding
from boltzray.report.simulation_contents import SimulationReport
from boltzray.report.simulation_page import write_simulation_page

from ..data.sources import Frames, held_out_frames, held_out_ns, write_reference

PAGES = "simulations"  # folder of the pages
REFERENCE_FRAMES = 10_000  # of a ladder's, by weight: as many as the published tables use
TICA_FRAMES = 20_000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Reference of one peptide: verdict on its convergence, notes for the user, and the files of its page."""

    text: str
    notes: list[str]
    page: list[Path]


def write_outcome(
    pdb: str,
    directories: list[str],
    out: Path,
    split: str,
    config: MDConfig,
    engine: str,
    rung: int,
    provenance: dict[str, str],
    page: bool,
) -> Outcome:
    """Write the runs of a peptide as reference of a split: replicas of plain MD, or ladders; and their page."""
    peptide = Peptide.from_pdb(pdb)
    if ladder_settings(Path(directories[0])):
        record, series, ladders = _ladder_reference(out, peptide, directories, split, config, engine, rung)
    else:
        record, series = _md_reference(out, peptide, directories, split, config, engine)
        ladders = []
    text = f"Not converged: {'; '.join(record.reasons)}." if record.reasons else "Converged."
    notes = []
    if ladders and split == "val" and held_out_frames(out, peptide.sequence):
        notes.append(f"{peptide.sequence}: what prepare held out is not part of the reference from replica exchange")
    paths = _write_page(out, peptide, record, series, ladders, text, config, provenance) if page else []
    return Outcome(text=f"{peptide.sequence}: {text}", notes=notes, page=paths)


def _md_reference(
    out: Path, peptide: Peptide, directories: list[str], split: str, config: MDConfig, engine: str
) -> tuple[ReferenceRecord, list[Frames]]:
    runs = [load_trajectory(directory) for directory in directories]
    trajectories, time_ns = list(runs), [len(x) * config.interval_ps / 1000 for x in runs]
    evaluations: int | None = sum(
        len(x) * config.steps_per_frame + config.warmup_steps + config.hot_steps for x in trajectories
    )
    if split == "val" and (others := held_out_frames(out, peptide.sequence)):
        trajectories += others
        time_ns += held_out_ns(out, peptide.sequence)
        evaluations = None  # nothing says how those were made
    record = write_reference(
        out,
        peptide,
        split,
        trajectories,
        forcefield=config.forcefield,
        temperature_k=config.temperature_k,
        engine=engine,
        time_ns=time_ns,
        energy_evaluations=evaluations,
    )
    return record, runs


def _ladder_reference(
    out: Path, peptide: Peptide, directories: list[str], split: str, config: MDConfig, engine: str, rung: int
) -> tuple[ReferenceRecord, list[Frames], list[LadderTrajectory]]:
    """Write ladders as reference at the temperature of `rung`.

    Frames of all rungs count with their MBAR weight; at most `REFERENCE_FRAMES` of them are written. TICA is fitted to
    walkers, which move continuously, at all temperatures.
    """
    ladders = [load_ladder(directory) for directory in directories]
    temperatures_k = ladders[0].temperatures_k
    log_weights, _ = ladder_log_weights(ladders, temperatures_k[rung])
    frames = [ladder.positions_nm.reshape(-1, *ladder.positions_nm.shape[2:]) for ladder in ladders]
    series = [ladder.positions_nm[:, rung] for ladder in ladders]
    flat = [part.ravel() for part in log_weights]
    rows, weights = weighted_subsample(np.exp(np.concatenate(flat)), REFERENCE_FRAMES)
    rows, weights = rows[weights > 0], weights[weights > 0]
    starts = np.cumsum([0, *map(len, frames)])
    kept = [frames[i][rows[(rows >= starts[i]) & (rows < starts[i + 1])] - starts[i]] for i in range(len(frames))]
    trips = int(round_trips(ladders)[-1])
    evaluations = sum(
        len(ladder.positions_nm) * config.steps_per_frame + len(ladder.walkers) + config.warmup_steps + config.hot_steps
        for ladder in ladders
    )
    record = write_reference(
        out,
        peptide,
        split,
        kept,
        forcefield=config.forcefield,
        temperature_k=temperatures_k[rung],
        engine=engine,
        time_ns=[len(ladder.positions_nm) * config.interval_ps / 1000 for ladder in ladders],
        energy_evaluations=evaluations * len(temperatures_k),
        log_weights=np.log(weights),
        states_from=StatesFrom(frames, flat, series),
        tica_runs=walks_of(ladders, TICA_FRAMES),
        ladder_drift=drift_of([ladder.energy_kT.mean(axis=1) for ladder in ladders]),  # MBAR takes all rungs
        ladder=Ladder(
            temperatures_k=temperatures_k,
            swap_rates=tuple(map(float, swap_rates(ladders))),
            round_trips=trips,
            round_trips_per_ns=trips / ladder_time_ns(ladders),
        ),
    )
    return record, series, ladders


def _write_page(
    out: Path,
    peptide: Peptide,
    record: ReferenceRecord,
    series: list[Frames],
    ladders: list[LadderTrajectory],
    text: str,
    config: MDConfig,
    provenance: dict[str, str],
) -> list[Path]:
    states = states_of(peptide)
    made = {
        "method": record.method,
        "engine": record.engine,
        "conditions": f"{record.forcefield} at {record.temperature_k:g} K",
        "simulated": f"{record.total_ns:g} ns in all",
        "energy evaluations": "unknown" if record.energy_evaluations is None else f"{record.energy_evaluations:,}",
        "reference": f"{record.frames} frames, effective {record.effective_frames:.0f}",
    }
    report = SimulationReport(
        peptide=peptide,
        headline=Finding(level="good" if record.converged else "warn", text=text),
        estimates=record.states,
        occupied=[occupied(states, x) for x in series],
        interval_ps=config.interval_ps,
        ladders=ladders,
        provenance=made | provenance,
    )
    (out / PAGES).mkdir(exist_ok=True)
    return write_simulation_page(out / PAGES / f"{peptide.sequence}.html", report)
