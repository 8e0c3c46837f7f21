"""Atoms of a peptide by residue and IUPAC name, as people write them: A2:CA.

Indices are in the peptide's own order of atoms, whatever names its file has.
"""

from functools import cached_property

from .torsion_states import HasStates, residue_labels


class AtomLookup:
    """Indices of atoms by name, residue by residue. `labels`: A1, A2, …, and the names of caps."""

    def __init__(self, peptide: HasStates) -> None:
        order, standard = [int(i) for i in peptide.iupac_order], peptide.iupac().topology
        self.labels = residue_labels(standard, peptide.sequence)
        self.residues: list[dict[str, int]] = [
            {atom.name: order[atom.index] for atom in residue.atoms()} for residue in standard.residues()
        ]
        self.names = [str(residue.name) for residue in standard.residues()]
        self._bonds = [(order[a.index], order[b.index]) for a, b in standard.bonds()]
        self._elements: dict[int, str] = {order[a.index]: a.element.symbol for a in standard.atoms()}

    def atom(self, name: str) -> int:
        """Index of an atom such as A2:CA, or 2:CA. Raises: ValueError naming the atoms that there are."""
        label, _, atom = name.partition(":")
        number = {place: i for i, place in enumerate(self.labels)}
        number |= {place[1:]: i for i, place in enumerate(self.labels) if place[1:].isdigit()}
        if label not in number:
            raise ValueError(f"{name!r}: there is no residue {label}; write one of {', '.join(self.labels)}, as A1:CA")
        residue = self.residues[number[label]]
        if atom not in residue:
            raise ValueError(f"{name!r}: {label} has the atoms {', '.join(residue)}")
        return residue[atom]

    def name(self, index: int) -> str:
        """Label and name of an atom, as `atom` reads it."""
        return next(
            f"{label}:{name}"
            for label, residue in zip(self.labels, self.residues, strict=True)
            for name, i in residue.items()
            if i == index
        )

    def element(self, index: int) -> str:
        """Chemical symbol of an atom."""
        return self._elements[index]

    @cached_property
    def neighbours(self) -> dict[int, set[int]]:
        """Atoms bonded to each atom."""
        found: dict[int, set[int]] = {i: set() for i in self._elements}
        for a, b in self._bonds:
            found[a].add(b)
            found[b].add(a)
        return found
