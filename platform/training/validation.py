"""Validation on held-out peptides, in a Ray task beside the training."""

import io
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import ray
import torch

from boltzray import models
from boltzray.models.augment import augment, normalise
from boltzray.models.flow import Flow
from boltzray.molecules.energy import OpenMMEnergy
from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.planar_names import named_by_place
from boltzray.molecules.reference_match import in_order_of
from boltzray.molecules.references import ReferenceTrajectory, load_reference
from boltzray.molecules.sequences import n_residues
from boltzray.molecules.storage import list_files, read_bytes
from boltzray.molecules.transport import wasserstein_1d
from boltzray.samplers import com_log_density, snis

from ..runtime.actor_pool import fetch
from ..runtime.progress import say
from ..runtime.tracking import Tracker, warn_on_error
from .checkpoints import keep_best, latest_step

FRAMES_AT_ONCE = 64  # that go through the flow


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Settings of the validation: `every` so many steps (0: never), on the newest checkpoint.

    `peptides` that have a reference in split `val` are scored by the likelihood of `frames` of it; `drawn` of them
    also by `draws` of the flow, weighted.
    """

    every: int = 2000
    peptides: int = 30
    frames: int = 200
    drawn: int = 2
    draws: int = 256
    num_cpus: float = 0.5
    num_gpus: float = 0.0

    def __post_init__(self) -> None:
        if min(self.every, self.peptides, self.frames, self.drawn) < 0 or (self.drawn and self.draws < 2):
            raise ValueError(
                "validation: every, peptides, frames and drawn cannot be negative, draws must be 2 or more"
            )


@dataclass(frozen=True)
class HeldOut:
    """A peptide with reference MD, as files."""

    sequence: str
    pdb: str
    reference: str


def held_out(folder: str, limit: int) -> list[HeldOut]:
    """At most `limit` peptides of split `val` that have a reference, evenly spaced, the short ones first."""
    pdbs = {PurePath(path).stem: path for path in list_files(folder, "pdbs/*/*.pdb")}
    references = list_files(folder, "trajectories_subsampled/val/*/*_subsampled.npz")
    found = {PurePath(path).stem.removesuffix("_subsampled"): path for path in references}
    names = sorted(found.keys() & pdbs.keys(), key=lambda name: (n_residues(name), name))
    picked = sorted({round(i) for i in np.linspace(0, len(names) - 1, min(limit, len(names)))})
    return [HeldOut(names[i], pdbs[names[i]], found[names[i]]) for i in picked]


def validate(flow: Flow, peptides: list[HeldOut], config: ValidationConfig, temperature_k: float) -> dict[str, float]:
    """Metrics of a flow: likelihood of held-out frames of each peptide; of some also ESS and energies of samples."""
    torch.set_num_threads(max(1, int(config.num_cpus)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    flow = flow.to(device).eval()
    spaced = {round(i) for i in np.linspace(0, len(peptides) - 1, min(config.drawn, len(peptides)))}
    metrics: dict[str, float] = {}
    likelihoods = []
    for i, item in enumerate(peptides):
        given = Peptide.from_pdb(read_bytes(item.pdb).decode())
        peptide = given if flow.atom_order == "file" else given.iupac()
        stored = load_reference(io.BytesIO(read_bytes(item.reference)))
        positions = _frames(in_order_of(peptide, stored, given), config.frames)
        if flow.atom_order == "named":
            positions = named_by_place(peptide.planar_groups, positions)
        likelihoods.append(negative_log_likelihood(flow, peptide, positions, i))
        metrics[f"val_nll_{item.sequence}"] = likelihoods[-1]
        if i in spaced:
            worth = importance(flow, peptide, positions, config.draws, temperature_k)
            if not stored.is_at(DEFAULT_FORCEFIELD, temperature_k):  # its energies are of another distribution
                worth.pop("energy_w2", None)
            metrics |= {f"val_{name}_{item.sequence}": value for name, value in worth.items()}
    metrics["val_nll"] = float(np.mean(likelihoods))
    return metrics


def _frames(reference: ReferenceTrajectory, k: int) -> np.ndarray:
    """At most k frames that count the same: from the first to the last, or resampled if they are weighted."""
    if reference.log_weights is not None:
        return reference.equally_weighted(k).positions_nm
    n = len(reference.positions_nm)
    return reference.positions_nm[np.linspace(0, n - 1, min(k, n)).astype(int)]


@torch.no_grad()
def negative_log_likelihood(flow: Flow, peptide: Peptide, positions_nm: np.ndarray, seed: int) -> float:
    """Mean over frames, per degree of freedom, in normalised coordinates; each frame in one random orientation."""
    x = torch.from_numpy(augment(positions_nm, flow.scale_nm, np.random.default_rng(seed), flow.config.center))
    device, c = next(flow.parameters()).device, flow.condition(peptide)
    total = sum(float(flow.log_prob(some.to(device), c).sum()) for some in x.split(FRAMES_AT_ONCE))
    return -total / x.numel()


def importance(
    flow: Flow, peptide: Peptide, positions_nm: np.ndarray, draws: int, temperature_k: float
) -> dict[str, float]:
    """ESS as a fraction of the samples, and W2 (kT) between energies of the reference and of the weighted samples."""
    energy = OpenMMEnergy(peptide, temperature_k)
    c, generator = flow.condition(peptide), torch.Generator().manual_seed(0)
    sizes = [min(FRAMES_AT_ONCE, draws - done) for done in range(0, draws, FRAMES_AT_ONCE)]
    samples = [flow.sample(c, size, generator) for size in sizes]
    x, log_q = (torch.cat(list(column)).cpu() for column in zip(*samples, strict=True))
    drawn = energy.evaluate(x.double().numpy() * flow.scale_nm, gradient=False)
    if not drawn.ok.any():
        return {"ess": 0.0}
    log_p = com_log_density(x, "gaussian")[0].double().numpy() - drawn.energy
    weighted = snis(x, log_q, log_p)
    reference = energy.evaluate(normalise(positions_nm, flow.scale_nm).astype(float) * flow.scale_nm, gradient=False)
    log_w = weighted.log_w.numpy()
    alive, w = drawn.ok & np.isfinite(log_w), np.exp(log_w - log_w[np.isfinite(log_w)].max())
    distance = wasserstein_1d(
        reference.energy[reference.ok], drawn.energy[alive], np.ones(int(reference.ok.sum())), w[alive], order=2
    )
    return {"ess": weighted.ess, "energy_w2": distance, "median_energy": float(np.median(drawn.energy))}


class Validator:
    """Validates the newest checkpoint of a run now and then, in a Ray task with resources of its own."""

    def __init__(
        self, out: Path, folder: str, config: ValidationConfig, temperature_k: float, tracker: Tracker
    ) -> None:
        self.out, self.config, self.temperature_k, self.tracker = out, config, temperature_k, tracker
        self.peptides = held_out(folder, config.peptides) if config.every else []
        self.running: Any = None
        self.subject: tuple[Flow, dict[str, Any]] | None = None
        self.done = int(tracker.latest().get("validated_step", 0)) if self.peptides else 0

    def poll(self) -> None:
        """Start a validation if it is time for one, or record one that has ended. Never raises, never waits."""
        with warn_on_error("validation"):
            if self.running is None:
                if self.peptides and latest_step(self.out) >= self.done + self.config.every:
                    self._start()
            elif ray.wait([self.running], timeout=0)[0]:
                self._record()

    def finish(self) -> None:
        """Validate the last checkpoint too, and wait for it."""
        with warn_on_error("validation"):
            if self.running is not None:
                self._record()
        with warn_on_error("validation"):
            if self.peptides and latest_step(self.out) > self.done:
                self._start()
                self._record()

    def _start(self) -> None:
        found = models.checkpoint.describe(self.out / "checkpoint").provenance
        self.done = int(found["step"])
        self.subject = models.load(self.out / "checkpoint"), found
        c = self.config
        task = ray.remote(num_cpus=c.num_cpus, num_gpus=c.num_gpus, max_retries=2)(validate)
        self.running = task.remote(self.subject[0], self.peptides, c, self.temperature_k)

    def _record(self) -> None:
        running, self.running = self.running, None
        assert self.subject is not None
        flow, found = self.subject
        metrics, step = fetch(running), int(found["step"])
        self.tracker.log({**metrics, "validated_step": step}, step=step)
        best = keep_best(self.out, flow, found, metrics["val_nll"])
        worth = "  ".join(f"{k.removeprefix('val_')} {v:.3g}" for k, v in metrics.items() if k.startswith("val_ess"))
        say(f"validated step {step}: NLL {metrics['val_nll']:.4f}{' (best so far)' * best}  {worth}")
