"""Quantities that a chemist reports of an ensemble: shares of basins and rotamers, distances, shape, couplings.

Each is a function of frames; what to make of its values with weights is `boltzray.samplers.weighted_average`.

Shapes: T frames, N atoms. Units: nm, Hz.
"""

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
from numpy.typing import NDArray
from openmm.app import Topology

from .atom_lookup import AtomLookup
from .basins import OTHER, Basin, Clusters
from .couplings import Coupling, couplings
from .hydrogen_bonds import hydrogen_bonds
from .observables import CHUNK
from .peptide import Peptide
from .torsion_states import HasStates, occupied, states_of

Values = NDArray[Any]
SPHERE_POINTS = 240  # on each atom: areas of frames are within 3 % of those of mdtraj's 960, their mean within 0.5 %


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantity:
    """A quantity of single frames. `unit`: empty for a share, which `of` gives as booleans.

    `group`: kind of it, the heading of its rows. `partition`: shares of one of these are of states that exclude each
    other, between which there are free energies; empty for none.
    """

    name: str
    group: str
    unit: str
    of: Callable[[Values], Values]
    partition: str = ""


def standard_quantities(peptide: HasStates, distances: Sequence[str] = (), *, area: bool = True) -> list[Quantity]:
    """List rotamers, cis bonds, distances, radius of gyration, area (unless not), hydrogen bonds and ³J couplings.

    `distances`: of pairs of atoms, as A1:CA-A3:CA, besides that of the ends.
    """
    atoms = AtomLookup(peptide)
    return [
        *_rotamers(peptide),
        *_distances(atoms, distances),
        *_shape(peptide.topology, area),
        *(Quantity(name=bond.label, group="hydrogen bonds", unit="", of=bond.holds) for bond in hydrogen_bonds(atoms)),
        *(Quantity(name=c.label, group="³J couplings", unit="Hz", of=partial(_coupling, c)) for c in couplings(atoms)),
    ]


def basin_quantities(basins: Sequence[Basin]) -> list[Quantity]:
    """Shares of basins, and of what is in none of a group."""
    found = []
    for group in dict.fromkeys(basin.group for basin in basins):
        members = [basin for basin in basins if basin.group == group]
        several = len({basin.group for basin in basins}) > 1 or group != "basins"
        prefix = f"{group} " if several else ""
        found += [
            Quantity(name=prefix + b.label, group="basins", unit="", of=b.holds, partition=group) for b in members
        ]
        rest = partial(_in_none, members)
        found.append(Quantity(name=prefix + OTHER, group="basins", unit="", of=rest, partition=group))
    return found


def cluster_quantities(clusters: Clusters) -> list[Quantity]:
    """Shares of the clusters of a k-means."""
    return [
        Quantity(name=label, group="basins", unit="", of=partial(_in_cluster, clusters, i), partition="clusters")
        for i, label in enumerate(clusters.labels())
    ]


def own_quantity(name: str, function: Callable[[Any], Any], peptide: Peptide) -> Quantity:
    """A user's function of an `mdtraj.Trajectory`, which gives one number or boolean a frame; `function.unit` names it.

    It is tried on the peptide's own conformation. Raises: ValueError for what it raises, or what it returns instead.
    """

    def values(positions_nm: Values) -> Values:
        try:
            found = np.asarray(function(_trajectory(positions_nm, peptide.topology)))
        except Exception as error:
            line = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(line.filename).name} line {line.lineno}"
            raise ValueError(f"observable {name} raised {type(error).__name__}: {error} ({where})") from error
        if found.shape != (len(positions_nm),) or found.dtype.kind not in "biuf":
            raise ValueError(
                f"observable {name} gave {found.dtype} of shape {found.shape} for {len(positions_nm)} frames: return "
                "one number or boolean for each frame of the trajectory"
            )
        return found

    share = values(peptide.positions[None]).dtype == bool
    unit = "" if share else str(getattr(function, "unit", "1"))
    return Quantity(name=name, group="own", unit=unit, of=values)


def _trajectory(positions_nm: Values, topology: Topology) -> Any:
    return mdtraj.Trajectory(np.asarray(positions_nm, np.float32), mdtraj.Topology.from_openmm(topology))


def _in_none(basins: Sequence[Basin], positions_nm: Values) -> Values:
    return ~np.any([basin.holds(positions_nm) for basin in basins], axis=0)


def _in_cluster(clusters: Clusters, index: int, positions_nm: Values) -> Values:
    return clusters.member(positions_nm) == index


def _rotamers(peptide: HasStates) -> Iterator[Quantity]:
    for state in states_of(peptide):
        torsion = state.label.split(" ")[0]
        if torsion[0] in "χω":

            def holds(positions_nm: Values, state: Any = state) -> Values:
                return occupied([state], positions_nm)[:, 0]

            group = "rotamers" if torsion[0] == "χ" else "peptide bonds"
            yield Quantity(
                name=state.label, group=group, unit="", of=holds, partition=torsion if torsion[0] == "χ" else ""
            )


def _distances(atoms: AtomLookup, pairs: Sequence[str]) -> Iterator[Quantity]:
    backbone = [residue for residue in atoms.residues if {"N", "CA", "C"} <= residue.keys()]
    if len(backbone) > 1:
        yield _distance("end to end, N to C", backbone[0]["N"], backbone[-1]["C"])
    for pair in pairs:
        first, dash, second = pair.partition("-")
        if not dash:
            raise ValueError(f"distances: {pair!r}: write two atoms, as A1:CA-A3:CA")
        yield _distance(pair, atoms.atom(first.strip()), atoms.atom(second.strip()))


def _distance(name: str, first: int, second: int) -> Quantity:
    def values(positions_nm: Values) -> Values:
        return np.linalg.norm(positions_nm[:, first].astype(np.float64) - positions_nm[:, second], axis=1)

    return Quantity(name=name, group="distances", unit="nm", of=values)


def _shape(topology: Topology, area: bool) -> Iterator[Quantity]:
    masses = np.array([atom.element.mass._value for atom in topology.atoms()])

    def radius(positions_nm: Values) -> Values:
        return np.asarray(mdtraj.compute_rg(_trajectory(positions_nm, topology), masses=masses))

    yield Quantity(name="radius of gyration", group="shape", unit="nm", of=radius)
    if area:
        yield Quantity(name="solvent-accessible area", group="shape", unit="nm²", of=partial(_area, topology))


def _area(topology: Topology, positions_nm: Values) -> Values:
    """Shrake & Rupley's, with a probe of 0.14 nm."""
    parts = [positions_nm[start : start + CHUNK] for start in range(0, len(positions_nm), CHUNK)]
    areas = [mdtraj.shrake_rupley(_trajectory(part, topology), n_sphere_points=SPHERE_POINTS) for part in parts]
    return np.concatenate([area.sum(axis=1) for area in areas]) if areas else np.empty(0)


def _coupling(coupling: Coupling, positions_nm: Values) -> Values:
    frames: Any = mdtraj.Trajectory(np.asarray(positions_nm, np.float32), None)
    angles = mdtraj.compute_dihedrals(frames, np.array(coupling.torsions), periodic=False)
    return coupling.of(angles.astype(np.float64))
