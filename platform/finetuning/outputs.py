"""Results of a finetuning: the final draw, the provenance of its flow, and a line on the quality of each round."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from boltzray import models
from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.storage import replacing
from boltzray.samplers import snis

from ..report.figures_finetuning import plot_peptides
from ..runtime.config import display_path, fingerprint, write_json
from ..runtime.progress import duration
from ..runtime.tables import write_table
from ..sampling.atom_order import OrderedPeptide
from ..sampling.population import Proposals
from ..sampling.sample import snis_diagnostics
from ..sampling.sample_files import write_samples
from ..sampling.smc import Positions
from ..sampling.target import Target
from .config import FinetuneJob
from .round_record import RoundRecord

FIGURE = "peptides.png"
PEPTIDES = "peptides.csv"  # of a finetuning to several; written when all else is


def write_final_samples(
    out: Path, job: FinetuneJob, ordered: OrderedPeptide, drawn: Proposals, scale_nm: float, seconds: float
) -> None:
    """Write the final draw, of out/checkpoint, as `jobs/sample.py` leaves its own."""
    checkpoint = out / "checkpoint"
    result = snis(None, drawn.log_q, drawn.log_p, job.weights)
    final = Ensemble(
        name="SNIS",
        chunks=Positions(drawn.paths, scale_nm),
        log_weights=result.log_w.numpy(),
        energy_kT=drawn.energy,
        log_q=drawn.log_q,
        diagnostics=snis_diagnostics(result) | drawn.diagnostics | {"seconds": seconds},
    )
    settings = {"temperature_k": job.temperature_k, "checkpoint": display_path(checkpoint)}
    settings |= {"weights_sha256": models.checkpoint.fingerprint(checkpoint), "seed": job.seed}
    write_json(out / "sample.json", settings)
    write_samples(out, ordered.given, ordered.as_given([final]), seed=job.seed)


def write_table_of_peptides(out: Path, records: Sequence[RoundRecord]) -> None:
    """Write each peptide's quality before and after finetuning, as a figure and, last of all, a table.

    Before, a ladder of temperatures draws at its highest: there is nothing to compare then, and no figure.
    """
    first, last, rows = records[0], records[-1], list[dict[str, Any]]()
    comparable = first.on_target and first.draw_k == last.draw_k
    for role in ("learned", "validation"):
        before, after = ((r.validation if role == "validation" else r.peptides) for r in (first, last))
        for name in before:
            row: dict[str, Any] = {"peptide": name, "role": role}
            for when, found in (("before", before[name] if comparable else {}), ("after", after[name])):
                row |= {f"{key}_{when}": found.get(key) for key in ("n", "ess", "ess_error", "k_hat")}
            rows.append(row)
    if comparable:
        with replacing(out / FIGURE) as temporary:
            temporary.write_bytes(plot_peptides(rows).png())
    write_table(out / PEPTIDES, rows)


def provenance(
    job: FinetuneJob, parent: Path, target: Target, sequences: Sequence[str], record: RoundRecord
) -> dict[str, Any]:
    """Provenance of the flow that was given, and of its finetuning until the round of `record`."""
    before = models.checkpoint.describe(parent).provenance if parent.is_dir() else {}
    return {
        **before,
        "temperature_k": target.trained_at_k,  # what its latents' unit variance stands for
        "finetune": {
            "parent": display_path(parent),
            "parent_sha256": models.checkpoint.fingerprint(parent),
            "sequence": ",".join(sequences),
            "temperature_k": job.temperature_k,
            "objective": asdict(job.objective),
            "optimizer": asdict(job.optimizer),
            "budget": job.budget,
            "rounds": record.round,
            "energies": record.energies,
            "ess": record.ess,
            **record.validation_means,
            "settings": fingerprint(job),
        },
    }


def described(record: RoundRecord, job: FinetuneJob) -> str:
    """Format a round as a line: quality of the flow, energies spent, time left."""
    n, rounds = record.round, job.plan.rounds
    parts = [f"after {n} of {rounds} rounds" if n else "before finetuning", quality(record)]
    if record.validation:
        parts.append(f"validation ESS {percent(*record.judged)}")
    if not record.on_target:
        parts.append(f"drawn at {record.draw_k:.0f} K for {record.target_k:.0f} K")
    parts.append(f"{record.energies} of {job.budget} energies")
    if n and not record.final:
        parts.append(f"about {duration(record.seconds / n * (rounds - n))} left")
    return "  ".join(parts)


def quality(record: RoundRecord) -> str:
    """Format the diagnostics of the flow's draws."""
    parts = [f"ESS {percent(record.ess, record.ess_error)}"]
    if record.k_hat is not None:
        parts.append(f"k̂ {record.k_hat:.2f}")
    if record.energy_w2 is not None:
        parts.append(f"energy W₂ {record.energy_w2:.3g} kT")
    return "  ".join(parts)


def percent(ess: float, error: float) -> str:
    """Format an ESS and its error."""
    return f"{100 * ess:.3g} ± {100 * error:.2g} %"
