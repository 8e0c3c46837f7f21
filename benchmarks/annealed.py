"""Anneal draws of a flow for peptides that it has never seen: how many ancestors are left, and at what cost.

    python benchmarks/annealed.py boltzray://peptides-small --published 4 --draws 8192
    python benchmarks/annealed.py FLOW GCDE ARIP --smc hmc --data outputs/references

512 particles, chosen by weight out of `--draws` (512: the first ones, from λ = 0). Ancestors are distinct draws from
which the particles at the end descend. With `--data`, peptides that have a reference there are compared with it, next
to the distance of its own halves (energies in kT). Prints Markdown.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np

import boltzray
from boltzray.evaluation.reference import load_reference_ensemble
from boltzray.molecules.metrics import compare, noise_floor
from boltzray.molecules.references import published_sequences
from boltzray.report.contents import Reference
from boltzray.samplers import HMC, SMCConfig

PARTICLES = 512
NEEDED = 50  # ancestors, to call a run a success
SMC = {"mala": SMCConfig(), "hmc": HMC}
COLUMNS = ("λ₀", "steps", "energies", "ancestors", "log Z", "±", "energy W₂", "halves", "s")


def row(arguments: argparse.Namespace, sequence: str) -> list[float]:
    result = boltzray.sample(
        sequence,
        PARTICLES,
        checkpoint=arguments.checkpoint,
        sampler="smc",
        samples=arguments.draws,
        smc=asdict(SMC[arguments.smc]),
        seed=arguments.seed,
        actors={"in_process": True},
    )
    d, steps = result.diagnostics, result.steps or []
    distances = [np.nan, np.nan]
    if arguments.data:
        reference, *_ = load_reference_ensemble(result.peptide, arguments.data, result.temperature_k)
        if reference:
            distances = against(reference, result)
    numbers = [d["n_steps"], d["n_evaluations"], d["n_roots"], d["log_z"], d["log_z_error"]]
    return [steps[0]["lam"] if steps else np.nan, *numbers, *distances, d["seconds"]]


def against(reference: Reference, result: boltzray.Ensemble) -> list[float]:
    """Energy W2 to the reference, and of the reference's own halves."""
    tica = reference.tica
    assert tica is not None
    common = (reference.energy_kT, result.peptide, tica)
    floor = noise_floor(
        reference.positions_nm,
        *common,
        log_weights=reference.log_weights,
        run_lengths=reference.run_lengths,
        only=("energy_w2",),
    )
    found = compare(
        reference.positions_nm,
        result.positions_nm,
        reference.energy_kT,
        result.energy_kT,
        result.peptide,
        tica,
        result.log_weights,
        reference_log_weights=reference.log_weights,
        only=("energy_w2",),
    )
    return [found["energy_w2"], floor["energy_w2"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("peptides", nargs="*")
    parser.add_argument("--published", type=int, help="residues: all published test peptides of that length")
    parser.add_argument("--draws", type=int, default=8192)
    parser.add_argument("--smc", choices=SMC, default="mala")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    names = [*arguments.peptides, *(published_sequences("test", arguments.published) if arguments.published else ())]
    if not names:
        parser.error("give peptides, or --published 4")
    print(f"| peptide | {' | '.join(COLUMNS)} |\n|{'---|' * (1 + len(COLUMNS))}", flush=True)
    rows = []
    for sequence in names:
        rows.append(row(arguments, sequence))
        print(f"| {sequence} | {' | '.join('–' if np.isnan(v) else f'{v:.4g}' for v in rows[-1])} |", flush=True)
    ancestors = np.array(rows)[:, COLUMNS.index("ancestors")]
    enough = 100 * (ancestors >= NEEDED).mean()
    print(f"\n{NEEDED} ancestors or more: {enough:.0f} % of {len(rows)} peptides; median {np.median(ancestors):.0f}")


if __name__ == "__main__":
    main()
