"""The ensemble of a peptide in Python: averages with intervals, other formats, a folder on disk, a cell of a notebook.

Shapes: n conformations, N atoms. Units: nm, kT, K.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from boltzray.molecules import storage
from boltzray.molecules.constants import PUBLISHED_K
from boltzray.molecules.ensemble import Ensemble as SamplerEnsemble
from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD, forcefield_of
from boltzray.molecules.peptide import Peptide
from boltzray.samplers import generator, resample
from boltzray.samplers.rng import Stage
from boltzray.samplers.types import FloatArray
from boltzray.samplers.weighted_average import Average, weighted_average

from .runtime.config import results_folder, results_home, write_json
from .sampling.sample_files import COLUMNS, read_samples, write_samples

RESAMPLE = 48 + Stage.RESAMPLE  # a random stream of its own
Values = npt.ArrayLike | Callable[[Any], npt.ArrayLike]


class Histogram(NamedTuple):
    """Densities (bins,) between edges (bins + 1,), with intervals; `usable` (bins,) as of `Average`."""

    edges: FloatArray
    density: FloatArray
    low: FloatArray
    high: FloatArray
    usable: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ensemble(SamplerEnsemble):
    """Weighted conformations of a `peptide` at a temperature, as `boltzray.sample` and `boltzray.load` return them.

    `positions_nm` (n, N, 3), in the order of `peptide.topology`; `weights` (n,), of sum 1, and `log_weights`;
    `energy_kT`, `log_q` (n,); `diagnostics` by name.
    """

    peptide: Peptide
    temperature_k: float = PUBLISHED_K
    forcefield: str = DEFAULT_FORCEFIELD

    def __len__(self) -> int:
        return len(self.log_weights)

    # --- averages -------------------------------------------------------------------------------

    def values(self, f: Values) -> FloatArray:
        """Values (n,) of `f`: a function of positions (n, N, 3) in nm, or an array. Raises: ValueError for others."""
        found = np.asarray(f(self.positions_nm) if callable(f) else f)
        if found.shape != (len(self),):
            raise ValueError(f"f gives an array of shape {found.shape}: give one value a conformation, ({len(self)},)")
        return found

    def average(self, f: Values, *, level: float = 0.95, seed: int = 0) -> Average:
        """Average of `f` (see `values`), of booleans the share that is true, with its interval and k̂.

        Warns, and says so in `usable`, where the weights do not settle it.
        """
        found = weighted_average(
            self.values(f), self.log_weights, effective=self.independent_draws, level=level, seed=seed
        )
        if not found.usable:
            warnings.warn(f"this average is not to be trusted: {found.reason}", stacklevel=2)
        return found

    def histogram(
        self,
        f: Values,
        bins: int | npt.ArrayLike = 50,
        range: tuple[float, float] | None = None,
        *,
        level: float = 0.95,
    ) -> Histogram:
        """Weighted histogram of `f` with an interval a bin, its arguments as of `numpy.histogram`.

        The density is that of all weight, also of what lies outside `range`.
        """
        values = self.values(f)
        kept = values[self.weights > 0]
        edges = np.histogram_bin_edges(kept, bins, range)
        inside = np.searchsorted(edges, values, side="right") - 1
        inside[values == edges[-1]] = len(edges) - 2
        shares = [
            weighted_average(inside == k, self.log_weights, effective=self.independent_draws, level=level)
            for k in np.arange(len(edges) - 1)
        ]
        widths = np.diff(edges)
        density, low, high = (np.array([getattr(s, key) for s in shares]) / widths for key in ("value", "low", "high"))
        usable = np.array([share.usable for share in shares])
        if not usable.all():
            warnings.warn(f"{(~usable).sum()} of {len(usable)} bins are not to be trusted", stacklevel=2)
        return Histogram(edges, density, low, high, usable)

    def resample(self, n: int, *, seed: int = 0) -> "Ensemble":
        """Draw `n` conformations by their weights; they count the same, and some come more than once."""
        chosen = np.sort(resample(self.log_weights, n, generator(seed, RESAMPLE), "systematic"))
        columns = {name: getattr(self, name)[chosen] for name in COLUMNS if getattr(self, name) is not None}
        return replace(
            self,
            chunks=[self.positions_nm[chosen]],
            **columns | {"log_weights": np.zeros(n)},
            diagnostics={},
            steps=None,
        )

    def reweighted(self, forcefield: str | Sequence[str]) -> "Ensemble":
        """Return the same conformations with the weights of another force field, at the same temperature.

        `forcefield`: the name of one, a System as XML, a molecule file, or parameter files of OpenMM. `diagnostics` has
        `ess`, `k_hat` and `delta_f_kT`, F(new) − F(old), with its error. Warns where the two are too different.
        """
        from .analysis.reweighting import reweight

        given = [forcefield] if isinstance(forcefield, str) else list(forcefield)
        found = reweight(self, self.peptide, self.temperature_k, given)
        if found.is_doubtful:
            warnings.warn(f"the two force fields are too different: {found}", stacklevel=2)
        difference = {"delta_f_kT": found.difference.value, "delta_f_error": found.difference.error}
        shape = {} if found.k_hat is None else {"k_hat": found.k_hat}
        new = found.ensemble
        assert isinstance(new, Ensemble)
        name = new.name.rpartition(" → ")[2]
        return replace(new, forcefield=name, diagnostics=new.diagnostics | {"ess": found.ess} | shape | difference)

    # --- other formats --------------------------------------------------------------------------

    def to_mdtraj(self) -> Any:
        """All conformations as an `mdtraj.Trajectory`. It has no weights: average with `weights`, or resample first."""
        import mdtraj

        return mdtraj.Trajectory(self.positions_nm, mdtraj.Topology.from_openmm(self.peptide.topology))

    def to_mdanalysis(self) -> Any:
        """All conformations as an `MDAnalysis.Universe`, without weights. Raises: ImportError if that is missing."""
        try:
            import MDAnalysis
            from MDAnalysis.coordinates.memory import MemoryReader
        except ImportError as error:
            raise ImportError("MDAnalysis is not installed: pip install MDAnalysis") from error
        return MDAnalysis.Universe(self.peptide.topology, 10 * self.positions_nm, format=MemoryReader)  # Å

    def save(self, folder: str | Path) -> Path:
        """Write what `boltzray sample` leaves, but for the report: samples.npz, Parquet, a trajectory, the topology."""
        out = results_folder(str(folder))
        write_json(out / "sample.json", {"temperature_k": self.temperature_k, "forcefield": self.forcefield})
        write_samples(out, self.peptide, [self], seed=0)
        return out

    # --- judgement ------------------------------------------------------------------------------

    @cached_property
    def verdict(self) -> list[tuple[str, str]]:
        """Conclusion, then what it rests on, the worst first: (`good`, `warn` or `bad`, a sentence)."""
        from .report.contents import Report
        from .report.verdict import headline, verdict

        report = Report(peptide=self.peptide, ensembles=[self], temperature_k=self.temperature_k)
        findings = verdict(report)
        return [(f.level, f.text) for f in [headline(report, findings), *findings]]

    def __repr__(self) -> str:
        ess = f", {self.effective_draws:.0f} effective" if len(self) else ""
        (_, headline), *findings = self.verdict
        reservations = [text for level, text in findings if level != "good"]
        return (
            f"<Ensemble of {self.peptide.sequence} at {self.temperature_k:g} K: {len(self)} conformations of "
            f"{self.peptide.n_atoms} atoms{ess}. {' '.join([headline, *reservations])}>"
        )

    def _repr_html_(self) -> str:
        from .report.cell import cell

        return cell(self, self.peptide, self.temperature_k, self.verdict)


def with_peptide(found: SamplerEnsemble, peptide: Peptide, temperature_k: float, forcefield: str) -> Ensemble:
    """Add the peptide, and take the positions into memory."""
    return Ensemble(
        **{name: getattr(found, name) for name in ("name", *COLUMNS, "diagnostics", "metrics", "steps")},
        chunks=[found.positions_nm],
        peptide=peptide,
        temperature_k=temperature_k,
        forcefield=forcefield_of(peptide, forcefield),
    )


def load(folder: str | Path) -> Ensemble:
    """Read the ensemble that `boltzray sample`, `finetune` or `Ensemble.save` left in a folder: the last sampler's.

    Of one that is too large for an .npz, 100,000 conformations. Raises: FileNotFoundError; DamagedFile.
    """
    out = results_home() / Path(folder).expanduser()
    peptide, sets = read_samples(out)
    settings = storage.read_json(out / "sample.json") if (out / "sample.json").exists() else {}
    temperature_k = float(settings.get("temperature_k", PUBLISHED_K))
    return with_peptide(sets[-1], peptide, temperature_k, str(settings.get("forcefield", DEFAULT_FORCEFIELD)))
