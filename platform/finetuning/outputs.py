"""What a finetuning leaves: where its flow comes from, the final draw, and a line on how good each round was."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from boltzray import models
from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.peptide import Peptide
from boltzray.samplers import snis

from ..runtime.config import display_path, fingerprint, write_json
from ..runtime.progress import duration
from ..sampling.ray_population import Proposals
from ..sampling.sample import snis_diagnostics
from ..sampling.sample_files import write_samples
from ..sampling.smc import Positions
from ..sampling.target import Target
from .config import FinetuneJob


def leave_draws(
    out: Path, job: FinetuneJob, peptide: Peptide, drawn: Proposals, scale_nm: float, seconds: float
) -> None:
    """The final draw from out/checkpoint, as `jobs/sample.py` leaves its own."""
    checkpoint = out / "checkpoint"
    result = snis(None, drawn.log_q, drawn.log_p, job.weights)
    final = Ensemble(
        name="SNIS",
        chunks=Positions(drawn.paths, scale_nm),
        log_weights=result.log_w.numpy(),
        energy_kT=drawn.energy,
        log_q=drawn.log_q,
        diagnostics=snis_diagnostics(result) | {"seconds": seconds},
    )
    settings = {"temperature_k": job.temperature_k, "checkpoint": display_path(checkpoint)}
    settings |= {"weights_sha256": models.checkpoint.fingerprint(checkpoint), "seed": job.seed}
    write_json(out / "sample.json", settings)
    write_samples(out, peptide, [final], seed=job.seed)


def provenance(
    job: FinetuneJob, parent: Path, target: Target, peptide: Peptide, entry: dict[str, Any]
) -> dict[str, Any]:
    """That of the flow that was given, and how it was finetuned until the round of `entry`."""
    before = models.checkpoint.describe(parent)["provenance"] if parent.is_dir() else {}
    return {
        **before,
        "temperature_k": target.trained_at_k,  # what its latents' unit variance stands for
        "finetune": {
            "parent": display_path(parent),
            "parent_sha256": models.checkpoint.fingerprint(parent),
            "sequence": peptide.sequence,
            "temperature_k": job.temperature_k,
            "objective": asdict(job.objective),
            "optimizer": asdict(job.optimizer),
            "budget": job.budget,
            "rounds": entry["round"],
            "energies": entry["energies"],
            "ess": entry["ess"],
            "settings": fingerprint(job),
        },
    }


def described(entry: dict[str, Any], job: FinetuneJob) -> str:
    """A round in a line: how good the flow was, what has been spent, what is left."""
    n = entry["round"]
    parts = [f"after {n} of {job.n_rounds} rounds" if n else "before finetuning", quality(entry)]
    if entry["draw_k"] != entry["target_k"]:
        parts.append(f"drawn at {entry['draw_k']:.0f} K for {entry['target_k']:.0f} K")
    parts.append(f"{entry['energies']} of {job.budget} energies")
    if n and not entry["final"]:
        parts.append(f"about {duration(entry['seconds'] / n * (job.n_rounds - n))} left")
    return "  ".join(parts)


def quality(entry: dict[str, Any]) -> str:
    """How good the flow was, by its draws."""
    parts = [f"ESS {100 * entry['ess']:.3g} ± {100 * entry['ess_error']:.2g} %"]
    if entry["k_hat"] is not None:
        parts.append(f"k̂ {entry['k_hat']:.2f}")
    if entry["energy_w2"] is not None:
        parts.append(f"energy W₂ {entry['energy_w2']:.3g} kT")
    return "  ".join(parts)
