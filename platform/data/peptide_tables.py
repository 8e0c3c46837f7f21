"""Tables of the peptides of a data folder, as flows take them, and the order of the atoms of its frames."""

from dataclasses import dataclass, field, replace

import numpy as np

from boltzray.molecules.distance_limits import DistanceLimits
from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.planar_names import PlanarGroup
from boltzray.molecules.stereo import iupac_names, iupac_order

from ..runtime.tasks import in_tasks

PEPTIDES_A_TASK = 500


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Conditions of the frames of a folder; `geometry`: version of usual bonds and angles that a flow wants, if any."""

    temperature_k: float
    forcefield: str = DEFAULT_FORCEFIELD
    geometry: str | None = None


@dataclass(frozen=True)
class PeptideTable:
    """Tables of a peptide for a flow, small enough to send to every worker.

    They are of its atoms in the standard order: `x[:, iupac_order]` for frames x of the folder, whose atoms are `names`
    of `residues`. `internals`: tables of internal coordinates, by version of the usual geometry. `limits` of distances,
    in the order of the folder. `fixed_order`: of a molecule whose atoms are told by their place alone.
    """

    sequence: str
    n_atoms: int
    encodings: dict[str, np.ndarray]
    orderings: dict[str, np.ndarray]
    iupac_order: np.ndarray
    amber_order: np.ndarray | None = None
    residues: list[str] = field(default_factory=list)
    names: list[tuple[int, str]] = field(default_factory=list)
    internals: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    limits: DistanceLimits | None = None
    fixed_order: bool = False
    planar_groups: tuple[PlanarGroup, ...] = ()

    @classmethod
    def of(cls, given: Peptide, conditions: Conditions) -> "PeptideTable":
        """Make the tables."""
        peptide = given.iupac()
        return cls(
            sequence=peptide.sequence,
            n_atoms=peptide.n_atoms,
            encodings=_small(peptide.encodings),
            orderings=_small(peptide.orderings),
            iupac_order=given.iupac_order.astype(np.int16),
            amber_order=peptide.amber_order.astype(np.int16) if peptide.vocabulary == 1 else None,
            residues=[residue.name for residue in given.topology.residues()],
            names=[(atom.residue.index, atom.name) for atom in given.topology.atoms()],
            internals={conditions.geometry: _small(peptide.internal(conditions.geometry))}
            if conditions.geometry
            else {},
            limits=DistanceLimits.of(given, conditions.temperature_k, conditions.forcefield),
            fixed_order=given.own_forcefield is not None,
            planar_groups=given.planar_groups,
        )

    def ordered_by(self, frame_nm: np.ndarray) -> "PeptideTable":
        """Tell prochiral atoms by a frame (N, 3): simulations often start from other names than the PDB file has."""
        if self.fixed_order:
            return self
        order = iupac_order(self.residues, iupac_names(self.residues, self.names, frame_nm))
        return replace(self, iupac_order=order.astype(np.int16))

    def iupac(self) -> "PeptideTable":
        """Return itself: the tables are of the standard order."""
        return self

    def internal(self, geometry: str | None = None) -> dict[str, np.ndarray]:
        """Tables of internal coordinates: see `molecules.Peptide.internal`."""
        return self.internals[geometry or ""]


def _small(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Integers in two bytes."""
    return {k: v.astype(np.int16) if np.issubdtype(v.dtype, np.integer) else v for k, v in arrays.items()}


def peptides_of(pdbs: dict[str, str], conditions: Conditions) -> dict[str, PeptideTable]:
    """Tables of all peptides by sequence; of many as Ray tasks."""
    items = sorted(pdbs.items())
    calls = [(dict(items[i : i + PEPTIDES_A_TASK]), conditions) for i in range(0, len(items), PEPTIDES_A_TASK)]
    tables = in_tasks("read peptides", tabulate, calls) if len(calls) > 1 else [tabulate(*calls[0])]
    return {peptide.sequence: peptide for some in tables for peptide in some}


def tabulate(pdbs: dict[str, str], conditions: Conditions) -> list[PeptideTable]:
    """Tables of peptides from PDB texts by sequence."""
    found = []
    for sequence, text in pdbs.items():
        try:
            peptide = Peptide.from_pdb(text)
        except ValueError as error:
            raise ValueError(f"{sequence}.pdb: {error}") from error
        found.append(replace(PeptideTable.of(peptide, conditions), sequence=sequence))
    return found
