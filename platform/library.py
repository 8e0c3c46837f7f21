"""BoltzRay from Python: the work of the jobs, with ensembles and arrays as results.

Small work is done in this process. What is larger, or where `RAY_ADDRESS` names a cluster, runs on Ray; the results are
the same bits. Without `out` nothing is kept and nothing is tracked; with it, it is the job's folder of results, which a
call that was interrupted goes on from.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from boltzray.models.hub import DEFAULT_CHECKPOINT
from boltzray.molecules.constants import PUBLISHED_K
from boltzray.molecules.energy_batch import EnergyBatch
from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD
from boltzray.molecules.peptide import Peptide

from .ensemble import Ensemble, load
from .runtime.config import parse, results_home
from .runtime.environment import prepare
from .runtime.tracking import untracked

LIBRARY_DRAWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """A finetuned flow: its last weighted draws (None of several peptides), its folder `checkpoint`, all rounds."""

    ensemble: Ensemble | None
    checkpoint: Path
    rounds: list[dict[str, Any]]


def sample(
    sequence: str = "",
    n: int = LIBRARY_DRAWS,
    *,
    pdb: str | Path | None = None,
    checkpoint: str | Path = DEFAULT_CHECKPOINT,
    temperature_k: float = PUBLISHED_K,
    sampler: Literal["snis", "smc"] = "snis",
    seed: int = 0,
    out: str | Path | None = None,
    **settings: Any,
) -> Ensemble:
    """Draw `n` conformations of a peptide with a flow, and weigh them; with `sampler="smc"`, anneal them.

    The peptide is named by `sequence`, or by a file `pdb`. `settings`: further keys of `SampleJob`, groups as
    dictionaries, such as `actors={"in_process": True}` or `smc={"kernel": "mala"}`.
    SMC has `n` particles, chosen by weight out of four times as many draws unless `samples` says another number.
    Raises: ValueError of one line for wrong settings, or a peptide that the flow cannot take.
    """
    from .sampling.sample import SampleJob
    from .sampling.sample import sample as run

    settings.setdefault("trajectory", "none" if out is None else "xtc")
    number = {"samples": 4 * n, "smc_particles": n} if sampler == "smc" else {"samples": n}
    with _folder(out) as folder:
        values = {
            "sequence": sequence,
            "pdb": None if pdb is None else str(pdb),
            **number,
            "checkpoint": str(checkpoint),
            "temperature_k": temperature_k,
            "sampler": sampler,
            "seed": seed,
            "out": str(folder),
        }
        return load(run(parse(SampleJob, values | settings)))


def finetune(
    sequence: str | Sequence[str] = "",
    budget: int = 20_000,
    *,
    out: str | Path,
    pdb: str | Path | None = None,
    checkpoint: str | Path = DEFAULT_CHECKPOINT,
    temperature_k: float = PUBLISHED_K,
    seed: int = 0,
    **settings: Any,
) -> Finetuned:
    """Finetune a flow to a peptide, or a list of them, within `budget` energies; the flow is left in `out`/checkpoint.

    `settings`: further keys of `FinetuneJob`. Raises: ValueError for wrong settings; FloatingPointError if it diverges.
    """
    from .finetuning.config import FinetuneJob
    from .finetuning.finetune import finetune as run

    prepare()
    named = {"sequence": sequence} if isinstance(sequence, str) else {"sequences": list(sequence)}
    values: dict[str, Any] = named | {"pdb": None if pdb is None else str(pdb), "checkpoint": str(checkpoint)}
    values |= {"budget": budget, "temperature_k": temperature_k, "seed": seed, "out": str(out)} | settings
    rounds: list[dict[str, Any]] = []
    job = parse(FinetuneJob, values)
    folder = run(job, rounds.append)
    ensemble = None if job.sequences else load(folder)
    return Finetuned(ensemble=ensemble, checkpoint=folder / "checkpoint", rounds=rounds)


def simulate(sequences: str | list[str], time_ns: float = 1.0, *, out: str | Path = "data", **settings: Any) -> Path:
    """Run molecular dynamics of peptides on Ray; returns the data folder, with shards to train on and references.

    `settings`: further keys of `SimulateJob`, such as `replicas=8`, `split="test"`.
    """
    from .simulation.simulate import SimulateJob
    from .simulation.simulate import simulate as run

    prepare()
    names = [sequences] if isinstance(sequences, str) else list(sequences)
    return run(parse(SimulateJob, {"sequences": names, "time_ns": time_ns, "out": str(out)} | settings))


def energy(
    peptide: str | Peptide | Ensemble,
    positions_nm: npt.ArrayLike | None = None,
    *,
    temperature_k: float | None = None,
    forcefield: str | None = None,
    gradient: bool = False,
) -> EnergyBatch:
    """Evaluate conformations (B, N, 3) in nm: `.energy` (B,) in kT, `.gradient` (B, N, 3) in kT/nm or None, `.ok` (B,).

    Of an ensemble, its own conformations, temperature and force field unless others are given. The atoms are in the
    order of `peptide.topology`. Failures are values: energy +inf and `ok` False.
    """
    from .sampling.energy_actors import evaluator

    kelvin, field = PUBLISHED_K, DEFAULT_FORCEFIELD
    if isinstance(peptide, Ensemble):
        kelvin, field = peptide.temperature_k, peptide.forcefield
        positions_nm = peptide.positions_nm if positions_nm is None else positions_nm
        peptide = peptide.peptide
    if isinstance(peptide, str):
        peptide = Peptide.from_sequence(peptide)
    kelvin = kelvin if temperature_k is None else temperature_k
    if positions_nm is None:
        raise ValueError("give positions_nm, conformations (B, N, 3) in nm")
    # In the standard order, as samples have theirs: Amber's impropers depend on the order of equal atoms.
    evaluate, _ = evaluator(peptide.iupac(), kelvin, forcefield=forcefield or field)
    x = np.asarray(positions_nm, np.float64)
    if x.ndim != 3 or x.shape[1:] != (peptide.n_atoms, 3):
        raise ValueError(f"positions_nm have shape {x.shape}: give (B, {peptide.n_atoms}, 3)")
    batch = evaluate(x[:, peptide.iupac_order], gradient)
    if batch.gradient is None:
        return batch
    return EnergyBatch(batch.energy, batch.gradient[:, np.argsort(peptide.iupac_order)], batch.ok)


@contextmanager
def _folder(out: str | Path | None) -> Iterator[Path]:
    """Give the folder of results, or one that ends with the call."""
    prepare()
    if out is not None:
        yield results_home() / Path(out).expanduser()
        return
    with tempfile.TemporaryDirectory(prefix="boltzray-") as temporary, untracked():
        yield Path(temporary)
