"""Replica exchange next to plain MD: replica-steps a second, and shares of states with the energies that they cost.

    OMP_NUM_THREADS=1 python benchmarks/replica_exchange.py throughput AA ARIP
    python jobs/simulate.py sequences=[AA] split=test out=outputs/md
    python jobs/simulate.py sequences=[AA] split=test method=remd out=outputs/remd
    python benchmarks/replica_exchange.py agreement AA --md outputs/md --remd outputs/remd
    python benchmarks/replica_exchange.py references AA --remd outputs/remd

`agreement` reads what the references say of themselves (SEQ_reference.json) and adds importance sampling of a flow.
The energies for ± 0.3 % are those of such a standard error, as if it fell with their root. Prints
Markdown.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from boltzray import models
from boltzray.molecules import BatchedEnergy, Peptide
from boltzray.molecules.batched.dynamics import Noise, Replicas, generator, langevin_step, thermal_velocities
from boltzray.molecules.batched.exchange import LangevinRows, walk
from boltzray.molecules.reference_record import ReferenceRecord, read_record
from boltzray.molecules.references import find_reference
from boltzray.molecules.runs import MDConfig
from boltzray.molecules.torsion_states import occupied, states_of
from boltzray.samplers import com_log_density, snis

LADDER_K = (310.0, 386.3, 481.5, 600.0)
STEPS_PER_ATTEMPT, ATTEMPTS, ROUNDS = 100, 10, 5
WANTED = 0.003


def throughput(sequence: str, rows: int) -> str:
    """Plain and exchanged dynamics of as many rows, by turns on one core."""
    torch.set_num_threads(1)
    peptide = Peptide.from_sequence(sequence)
    energy, ladders = BatchedEnergy(peptide).float(), rows // len(LADDER_K)
    energy.compile()
    x = torch.from_numpy(peptide.positions).float().repeat(rows, 1, 1)
    start = Replicas(x, thermal_velocities(energy, torch.randn(x.shape)))
    noise, step = Noise([generator(i, 0) for i in range(rows)], x), langevin_step(energy, 1.0, 0.3)
    rungs = torch.tensor(LADDER_K, dtype=torch.float64)
    dynamics = LangevinRows(energy, MDConfig(), rungs.repeat(ladders), [generator(i, 1) for i in range(rows)])

    def plain() -> None:
        state = start
        for _ in range(ATTEMPTS):
            for each in noise.draw(STEPS_PER_ATTEMPT):
                state = step(state, each)

    def exchanged() -> None:
        uniforms = [generator(i, 2) for i in range(ladders)]
        walkers = torch.arange(len(rungs)).repeat(ladders, 1)
        walk(
            dynamics, start, walkers, rungs, uniforms,
            frames=2, attempts_per_frame=ATTEMPTS // 2, steps_per_attempt=STEPS_PER_ATTEMPT,
        )  # fmt: skip

    seconds: dict[str, list[float]] = {"plain": [], "exchanged": []}
    for i in range(ROUNDS + 1):
        for name, run in (("plain", plain), ("exchanged", exchanged)):
            began = time.process_time()
            run()
            if i:  # the first round compiles
                seconds[name].append(time.process_time() - began)
    rate = {name: rows * STEPS_PER_ATTEMPT * ATTEMPTS / np.median(found) for name, found in seconds.items()}
    ratios = np.array(seconds["plain"]) / np.array(seconds["exchanged"])
    return f"| {sequence} | {rows} | {rate['plain']:,.0f} | {rate['exchanged']:,.0f} | {np.median(ratios):.3f} |"


def record(data: Path, sequence: str) -> ReferenceRecord | None:
    path = find_reference(data, sequence)
    return None if path is None else read_record(path)


def flow_shares(flow: models.Flow, peptide: Peptide, draws: int) -> tuple[dict[str, tuple[float, float]], int]:
    """Weighted shares and standard errors (delta method) of the states, and the energies that they cost."""
    x, log_q = flow.sample(flow.condition(peptide), draws, torch.Generator().manual_seed(0))
    positions = (x * flow.scale_nm).double()
    found = BatchedEnergy(peptide, 310.0).evaluate(positions, gradient=False)
    result = snis(None, log_q, torch.where(found.ok, com_log_density(x, "gaussian")[0] - found.energy, -torch.inf))
    w = np.exp(result.log_w.numpy() - result.log_w.max().item())
    w /= w.sum()
    states = states_of(peptide)
    inside = occupied(states, positions.numpy())
    shares = w @ inside
    errors = np.sqrt((w[:, None] ** 2 * (inside - shares) ** 2).sum(0))
    return {s.label: (a, b) for s, a, b in zip(states, shares, errors, strict=True)}, draws


def agreement(sequence: str, md: Path, remd: Path, flow: models.Flow, longest: int, draws: int, least: float) -> None:
    one, two = record(md, sequence), record(remd, sequence)
    peptide = Peptide.from_sequence(sequence)
    three, cost = flow_shares(flow, peptide, draws) if len(sequence) <= longest else ({}, 0)
    known = {name: {s.label: s for s in found.states} if found else {} for name, found in (("md", one), ("remd", two))}
    for state in states_of(peptide):
        label = state.label
        cells = []
        for name, found in (("md", one), ("remd", two)):
            s = known[name].get(label)
            if s is None or found is None or found.energy_evaluations is None:
                cells += ["–", "–"]
                continue
            needed = found.energy_evaluations * (s.error / WANTED) ** 2
            cells += [f"{100 * s.share:.2f} ± {100 * s.error:.2f}", f"{needed / 1e6:,.1f}" if s.error else "–"]
        share, error = three.get(label, (np.nan, np.nan))
        shares = [known[name][label].share for name in known if label in known[name]] + [share]
        if not any(least < s < 1 - least for s in shares):
            continue
        drawn = f"{100 * share:.2f} ± {100 * error:.2f}" if label in three else "–"
        needed = f"{cost * (error / WANTED) ** 2 / 1e6:.3f}" if label in three else "–"
        print("|", " | ".join([sequence, label, *cells, drawn, needed]), "|", flush=True)


def references(data: Path, sequences: list[str], least: float) -> None:
    """Two tables: how references were made and have converged, and shares of their states."""
    found = [r for sequence in sequences if (r := record(data, sequence))]
    print("| peptide | rungs | ns | 10⁶ energies | swaps, % | round trips/ns | effective frames | converged |")
    print("|---|---|---|---|---|---|---|---|")
    for r in found:
        ladder, energies = r.ladder, (r.energy_evaluations or 0) / 1e6
        rates = [round(100 * rate) for rate in ladder.swap_rates] if ladder else []
        swaps = f"{min(rates)}–{max(rates)} | {ladder.round_trips_per_ns:.0f}" if ladder else "– | –"
        text = "yes" if r.converged else f"no: {'; '.join(r.reasons)}"
        rungs = len(ladder.temperatures_k) if ladder else 1
        print(
            f"| {r.sequence} | {rungs} | {r.runs} × {rungs} × {r.time_ns[0]:g} | {energies:.0f} | {swaps} "
            f"| {r.effective_frames:,.0f} | {text} |"
        )
    print("\n| peptide | state | share, % | 95 % interval | R̂ | effective frames |\n|---|---|---|---|---|---|")
    for r in found:
        for s in r.states:
            if least < s.share < 1 - least or (not s.visits and not s.label.startswith("ω")):
                r_hat = "–" if np.isnan(s.r_hat) else f"{s.r_hat:.3f}"
                print(
                    f"| {r.sequence} | {s.label} | {100 * s.share:.2f} ± {100 * s.error:.2f} "
                    f"| {100 * s.low:.2f} to {100 * s.high:.2f} | {r_hat} | {s.effective_frames:,.0f} |"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("throughput", "agreement", "references"))
    parser.add_argument("sequences", nargs="+")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--md", type=Path)
    parser.add_argument("--remd", type=Path)
    parser.add_argument("--flow", default="boltzray://peptides-small")
    parser.add_argument("--longest", type=int, default=2, help="residues that the flow knows")
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--least", type=float, default=0.002, help="states rarer than this by all methods are left out")
    options = parser.parse_args()
    if options.what == "throughput":
        print("| peptide | rows | plain MD, replica-steps/s | replica exchange | ratio |\n|---|---|---|---|---|")
        for sequence in options.sequences:
            print(throughput(sequence, options.rows), flush=True)
        return
    if options.what == "references" and options.remd:
        references(options.remd, options.sequences, options.least)
        return
    if not (options.md and options.remd):
        parser.error("agreement needs --md and --remd, references needs --remd: data folders of jobs/simulate.py")
    flow = models.load(options.flow)
    print("| peptide | state | plain MD, % | 10⁶ energies for ± 0.3 % | replica exchange, % | 10⁶ | flow, % | 10⁶ |")
    print("|---|---|---|---|---|---|---|---|")
    for sequence in options.sequences:
        agreement(sequence, options.md, options.remd, flow, options.longest, options.draws, options.least)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
