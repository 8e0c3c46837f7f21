"""A reference trajectory in the order of atoms of a peptide: matched by name and handedness, never by index.

Shapes: T frames, N atoms. Units: nm.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from openmm.app import Topology

from .bonds import bonds_of
from .observables import Tica
from .peptide import Peptide
from .references import ReferenceTrajectory
from .stereo import atom_map, atom_names

BOND_TOLERANCE = 0.25  # of the sum of the radii: C=O has 13 % less
CHECKED_FRAMES = 100


def in_order_of(
    peptide: Peptide, reference: ReferenceTrajectory, structure: Peptide | None = None
) -> ReferenceTrajectory:
    """The reference with frames and TICA in the peptide's order of atoms, and under its names.

    `structure`: the one that belongs to a file which does not name its atoms; the peptide itself, if there is none.
    Which of two prochiral atoms is which is seen in the first frame: names are exchanged in many files.
    Raises: ValueError for another molecule, or where the bonds of the frames are not those of the named atoms.
    """
    positions = reference.positions_nm
    finite = positions[np.isfinite(positions).all((1, 2)) & (reference.weights > 0)]
    if not len(finite):
        raise ValueError(f"no frame of it is finite{'' if reference.log_weights is None else ' and has a weight'}")
    if peptide.own_forcefield and reference.atoms:  # told by their places: a name says nothing of its handedness
        if list(reference.atoms) != atom_names(peptide):
            raise ValueError(f"its atoms are not those of {peptide.sequence}")
        check_bonds(finite, peptide.topology)
        return reference
    own = structure or peptide
    n_atoms = len(reference.atoms) or own.n_atoms
    if n_atoms != positions.shape[1] or n_atoms != peptide.n_atoms:
        raise ValueError(f"it has {positions.shape[1]} atoms a frame, {peptide.sequence} has {peptide.n_atoms}")
    frame = finite[0] - finite[0].mean(0)
    if reference.atoms:
        source = Peptide.from_pdb(_pdb(reference.atoms, frame), states=True)
    else:
        check_bonds(finite, own.topology)
        source = own.at(frame)
    index = atom_map(source, peptide)
    check_bonds(finite[:, index], peptide.topology)
    tica = reference.tica and reordered_tica(reference.tica, source.topology, peptide.topology, index)
    return replace(reference, positions_nm=positions[:, index], tica=tica, atoms=tuple(atom_names(peptide)))


def reordered_tica(tica: Tica, source: Topology, target: Topology, index: NDArray[np.int64]) -> Tica:
    """The same projection of frames in the target's order, `x_source[:, index]`.

    Its features are the distances of all C, N and S atoms, in pairs by their order, then angles by residue: of the two
    only the distances change places, to those of other atoms where `index` exchanges atoms.
    Raises: ValueError when the projection is of fewer features than distances.
    """
    ours, theirs = _heavy(target), _heavy(source)
    rank = np.full(source.getNumAtoms(), -1)
    rank[theirs] = np.arange(len(theirs))
    first, second = np.triu_indices(len(ours), 1)
    a, b = rank[index[ours[first]]], rank[index[ours[second]]]
    n = len(first)
    if len(tica.mean) < n:
        raise ValueError(f"its TICA has {len(tica.mean)} features, the peptide {n} distances alone")
    place = np.zeros((len(theirs), len(theirs)), np.int64)
    place[np.triu_indices(len(theirs), 1)] = np.arange(n)
    rows = np.concatenate([place[np.minimum(a, b), np.maximum(a, b)], np.arange(n, len(tica.mean))])
    return Tica(mean=tica.mean[rows], projection=tica.projection[rows])


def check_bonds(positions_nm: NDArray[np.floating], topology: Topology) -> None:
    """Check mean lengths of all bonds. Shape: (T, N, 3).

    Raises: ValueError naming the bond that is farthest from what its elements have.
    """
    bonds, usual = bonds_of(topology)
    chosen = np.linspace(0, len(positions_nm) - 1, min(CHECKED_FRAMES, len(positions_nm))).astype(int)
    frames = positions_nm[chosen].astype(np.float64)
    lengths = np.linalg.norm(frames[:, bonds[:, 0]] - frames[:, bonds[:, 1]], axis=-1).mean(0)
    off = np.abs(lengths / usual - 1)
    worst = int(off.argmax())
    if not off[worst] <= BOND_TOLERANCE:
        atoms = list(topology.atoms())
        one, two = (f"{a.residue.name}{a.residue.index + 1}-{a.name}" for a in (atoms[i] for i in bonds[worst]))
        raise ValueError(
            f"its bonds are not those of the peptide ({one} to {two}: {lengths[worst]:.3f} nm on average, "
            f"{usual[worst]:.3f} is usual): its atoms are in another order, or not in nm"
        )


def _heavy(topology: Topology) -> NDArray[np.int64]:
    """Indices of the atoms that TICA sees."""
    return np.array([a.index for a in topology.atoms() if a.element and a.element.symbol in ("C", "N", "S")])


def _pdb(atoms: Sequence[str], frame: NDArray[np.float32]) -> str:
    """PDB text of named atoms (`1 ALA CA`) at a frame (N, 3)."""
    lines = []
    for i, (name, xyz) in enumerate(zip(atoms, frame, strict=True), start=1):
        try:
            number, residue, atom = name.split()
        except ValueError:
            raise ValueError(f"atom {i} of it is called {name!r}: expected residue number, residue and name") from None
        label = atom if len(atom) > 3 else f" {atom}"
        element = atom.lstrip("0123456789")[:1]
        place = "".join(f"{10 * float(value):8.3f}" for value in xyz)
        where = f"{label:<4} {residue:>3} A{int(number):4d}    {place}"
        lines.append(f"ATOM  {i % 100_000:5d} {where}  1.00  0.00          {element:>2}")
    return "\n".join([*lines, "TER", "END", ""])
