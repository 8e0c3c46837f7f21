"""Settings of `analyze`, checked."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator

from boltzray.molecules.constants import PUBLISHED_K
from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD

from ..runtime.peptide_names import one_peptide

NAMED = "ramachandran"
KMEANS = "kmeans:"


def _as_list(given: Any) -> Any:
    """One text where a list is expected."""
    return [given] if isinstance(given, str) else given


Texts = Annotated[tuple[str, ...], BeforeValidator(_as_list)]


@dataclass(frozen=True, kw_only=True)
class AnalyzeJob:
    """Average observables of one peptide, with errors: of folders of samples, reference MD, or own trajectories.

    `samples`: results folders of `sample` or `finetune`. Or `sequence`, whose reference MD in `data_dir` is analysed
    alone. Or `pdb` and `frames`: a file, a glob or a list, each an independent run, with `weights`, a file of
    log-weights. Reference MD under the same conditions is put beside samples and trajectories.
    `free_energy`: two folders instead, between whose targets the difference of the free energy is asked for.
    `reweight`: of samples, another force field to put weighted averages of beside: its name, a System, a molecule file
    of jobs/fit.py, or parameter files of OpenMM.
    `basins`: named regions of φ and ψ (`ramachandran`), `kmeans:N`, or a YAML or JSON file of windows.
    `distances`: pairs of atoms, as A1:CA-A3:CA. `observable`: own functions of an `mdtraj.Trajectory`, as my.py:f.
    """

    samples: Texts = ()
    sequence: str = ""
    pdb: str = ""
    frames: Texts = ()
    weights: str = ""
    free_energy: Texts = ()
    reweight: Texts = ()
    basins: str = NAMED
    distances: Texts = ()
    observable: Texts = ()
    temperature_k: float = PUBLISHED_K
    forcefield: str = DEFAULT_FORCEFIELD
    data_dir: str = "data"
    out: str = ""

    def __post_init__(self) -> None:
        given = [name for name in ("samples", "sequence", "pdb", "free_energy") if getattr(self, name)]
        if len(given) != 1 or bool(self.pdb) != bool(self.frames):
            raise ValueError(
                "give one of samples=[outputs/sample/AA], sequence=AA (its reference MD), pdb=FILE with frames=FILES, "
                "free_energy=[FOLDER_A,FOLDER_B]"
            )
        if self.weights and not self.frames:
            raise ValueError("weights= are those of frames=: folders of samples have their own")
        if self.reweight and not self.samples:
            raise ValueError("reweight= is of samples=, which know their energies: give a results folder")
        if self.free_energy and len(self.free_energy) != 2:
            raise ValueError(f"free_energy={list(self.free_energy)}: give two folders, [A,B] for F(B) − F(A)")
        object.__setattr__(self, "sequence", one_peptide(self.sequence))
        if not 0 < self.temperature_k < math.inf:
            raise ValueError(f"temperature_k={self.temperature_k}: give the temperature of the frames in kelvin")
