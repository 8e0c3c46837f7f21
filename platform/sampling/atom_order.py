"""Atoms as a flow takes them, in the standard order under IUPAC's names; results in the order of the user's file."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from boltzray.models.flow import Flow
from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.mirror import MirrorImage
from boltzray.molecules.peptide import Peptide


@dataclass(frozen=True)
class OrderedPeptide:
    """A peptide as it was `given`, and as the flow takes it: what is drawn does not depend on the order of a file.

    Of a mirror image the flow takes the L-peptide; `sign`: what its coordinates are multiplied with, −1 then.
    """

    given: Peptide
    peptide: Peptide
    order: np.ndarray
    sign: float = 1.0

    @classmethod
    def of(cls, given: Peptide, flow: Flow) -> "OrderedPeptide":
        """Order the atoms for `flow`. Raises: ValueError for a peptide that it cannot take."""
        left = given.left if isinstance(given, MirrorImage) else given
        peptide = left if flow.atom_order == "file" else left.iupac()
        flow.tables([peptide])
        order = np.arange(given.n_atoms) if peptide is left else np.argsort(left.iupac_order)
        return cls(given, peptide, order, 1.0 if left is given else -1.0)

    def as_given(self, ensembles: Sequence[Ensemble]) -> list[Ensemble]:
        """Ensembles of the flow in the order of the given peptide."""
        if self.peptide is self.given:
            return list(ensembles)
        return [replace(one, chunks=_Reordered(one.chunks, self)) for one in ensembles]

    def positions_as_given(self, positions: np.ndarray) -> np.ndarray:
        """Positions (B, N, 3) of the flow in the order, and with the handedness, of the given peptide."""
        return positions if self.peptide is self.given else np.float32(self.sign) * positions[:, self.order]


class _Reordered:
    """Conformations with their atoms in another order, a chunk at a time; they can be gone through again."""

    def __init__(self, chunks: Iterable[np.ndarray], ordered: OrderedPeptide) -> None:
        self.chunks, self.ordered = chunks, ordered

    def __iter__(self) -> Iterator[np.ndarray]:
        for chunk in self.chunks:
            yield self.ordered.positions_as_given(chunk)
