"""Sample a peptide with a bundled flow that has never seen it, then finetune the flow to it."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from boltzray.molecules.storage import read_json

from .evaluation.evaluate import SampleJob, sample_and_report
from .finetuning.config import FinetuneJob
from .finetuning.finetune import finetune_and_report
from .runtime.cluster import ClusterConfig, cluster
from .runtime.config import write_json
from .runtime.progress import duration, say
from .simulation.simulate import SimulateJob, simulate


@dataclass(frozen=True, kw_only=True)
class QuickstartJob:
    """MD to compare with, samples of the flow as it comes, and of the flow finetuned to the peptide."""

    sequence: str = "DG"
    simulate: SimulateJob
    sample: SampleJob
    finetune: FinetuneJob
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


def quickstart(job: QuickstartJob) -> None:
    """Run all; each part is resumed, or skipped when it is done."""
    started = time.monotonic()
    with cluster(job.cluster):
        say("\n1/3  a little molecular dynamics, to compare with")
        simulate(job.simulate)
        say(f"\n2/3  {job.sequence}, which the flow has never seen: draws, weights, annealing")
        before = sample_and_report(job.sample)
        say(f"\n3/3  finetuning to {job.sequence}")
        after = finetune_and_report(job.finetune)
    _table(before, after)
    say(f"\ndone in {duration(time.monotonic() - started)}")
    for name, path in [
        ("report, as it comes", before / "report.html"),
        ("report, finetuned", after / "report.html"),
        ("ensemble", before / "ensemble.xtc"),
        ("flow, finetuned", after / "checkpoint"),
    ]:
        say(f"  {name:<20} {path}")
    say("\nnext:")
    for command, what in [
        (
            "python jobs/sample.py sequence=LE",
            "another peptide; those of five residues and more want the public weights",
        ),
        ("python jobs/finetune.py sequence=LE budget=100000", "with more energies"),
        ("make tutorial", "MD, training, sampling of your own flow"),
        ("make ui", "everything that was run, in MLflow"),
    ]:
        say(f"  {command:<52} {what}")


def _table(before: Path, after: Path) -> None:
    """Print the three ensembles side by side, and write them to quickstart.json."""
    first, last = (read_json(folder / "metrics.json") for folder in (before, after))
    rows = {
        "flow as it comes, weighted": first["SNIS"],
        "the same, annealed (SMC)": first["SMC"],
        "finetuned flow, weighted": last["SNIS"],
    }
    write_json(before.parent / "quickstart.json", rows)
    say(f"\n{'':<28}{'ESS':>8}{'k̂':>8}{'energy W2':>12}{'torus W2':>11}")
    for name, row in rows.items():
        k_hat = row["diagnostics"].get("k_hat")
        cells = [f"{row['diagnostics']['ess']:8.3f}", f"{k_hat:8.2f}" if k_hat is not None else f"{'–':>8}"]
        cells += [f"{row['metrics'][key]:{width}.2f}" for key, width in (("energy_w2", 12), ("torus_w2", 11))]
        say(f"{name:<28}{''.join(cells)}")
