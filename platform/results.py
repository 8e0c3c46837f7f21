"""What `sample` leaves in its folder, and how it is read again."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np

from molecules.peptide import Peptide
from samplers import Stage, generator, resample

from .config import write_json

ENSEMBLE_FRAMES = 1000
RESAMPLE_FOR_FILES = 16 + Stage.RESAMPLE  # a stream of its own


@dataclass(frozen=True, kw_only=True)
class SampleSet:
    """Weighted conformations from one sampler.

    Shape: positions_nm (n, N, 3); log_weights, energy_kt, log_q (n,). `steps` is SMC's path.
    """

    name: str
    positions_nm: np.ndarray
    log_weights: np.ndarray
    energy_kt: np.ndarray
    log_q: np.ndarray
    diagnostics: dict[str, float]
    steps: list[dict[str, Any]] | None = None


def write_samples(out: Path, peptide: Peptide, sets: Sequence[SampleSet], seed: int) -> None:
    """`samples.npz` of the last set, `ensemble.xtc` drawn from it by weight with `topology.pdb`, the proposals apart.

    samples.npz is written last: where it stands, the run is finished.
    """
    final = sets[-1]
    (out / "topology.pdb").write_text(peptide.to_pdb())
    n = min(ENSEMBLE_FRAMES, len(final.log_weights))
    chosen = np.sort(resample(final.log_weights, n, generator(seed, RESAMPLE_FOR_FILES), "systematic"))
    topology = mdtraj.Topology.from_openmm(peptide.topology)
    temporary = out / ".ensemble.xtc"
    mdtraj.Trajectory(final.positions_nm[chosen], topology).save_xtc(str(temporary))
    temporary.replace(out / "ensemble.xtc")
    write_json(out / "sampling.json", {s.name: {"diagnostics": s.diagnostics, "steps": s.steps} for s in sets})
    for sample_set in sets[:-1]:
        _save(out / f"{sample_set.name.lower()}.npz", sample_set)
    _save(out / "samples.npz", final)


def _save(path: Path, sample_set: SampleSet) -> None:
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        np.savez(
            file,
            positions_nm=sample_set.positions_nm.astype(np.float32),
            log_weights=sample_set.log_weights,
            energy_kT=sample_set.energy_kt,
            log_q=sample_set.log_q,
            sampler=np.array(sample_set.name),
        )
    temporary.replace(path)


def read_samples(out: Path) -> tuple[Peptide, list[SampleSet]]:
    """Everything in a results folder, the final set last.

    Raises: FileNotFoundError when there is no finished run.
    """
    if not (out / "samples.npz").exists():
        raise FileNotFoundError(
            f"no samples.npz in {out}: sample first (python jobs/sample.py sequence=…), or check the path"
        )
    details = json.loads((out / "sampling.json").read_text())
    files = [path for path in (out / "snis.npz", out / "samples.npz") if path.exists()]
    sets = []
    for path in files:
        with np.load(path) as arrays:
            name = str(arrays["sampler"])
            sets.append(
                SampleSet(
                    name=name,
                    positions_nm=arrays["positions_nm"],
                    log_weights=arrays["log_weights"],
                    energy_kt=arrays["energy_kT"],
                    log_q=arrays["log_q"],
                    **details[name],
                )
            )
    return Peptide.from_pdb(out / "topology.pdb"), sets
