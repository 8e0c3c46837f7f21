"""Peptides as padded integer tensors: all that a flow needs to know of them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

ENCODINGS = ("atom_type", "aa_type", "aa_pos")


class PeptideLike(Protocol):
    """What is asked of a peptide: `molecules.Peptide` has it, and so has any pair of dicts."""

    @property
    def sequence(self) -> str: ...
    @property
    def encodings(self) -> dict[str, np.ndarray]: ...
    @property
    def orderings(self) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class PeptideTables:
    """P peptides padded to N atoms.

    Shape: atom_type, aa_type, aa_pos (P, N), 0 = padding; seq_len, n_atoms (P,); orderings (K, P, N), where
    padded positions keep their own index.
    """

    atom_type: Tensor
    aa_type: Tensor
    aa_pos: Tensor
    seq_len: Tensor
    n_atoms: Tensor
    orderings: Tensor

    @classmethod
    def of(cls, peptides: Sequence[PeptideLike], ordering_names: Sequence[str]) -> "PeptideTables":
        """Tables of `peptides` for a flow whose blocks visit atoms in the orderings named.

        Raises: ValueError when a peptide has atoms outside the vocabulary, and so no encoding.
        """
        for peptide in peptides:
            if not peptide.encodings:
                raise ValueError(
                    f"{peptide.sequence} has residues that a transferable flow does not know: "
                    "use a peptide of the 20 standard amino acids, or a single-system model"
                )
        length = max(len(p.encodings["atom_type"]) for p in peptides)

        def padded(values: np.ndarray) -> np.ndarray:
            return np.pad(values, (0, length - len(values)))

        def ordering(values: np.ndarray) -> np.ndarray:
            return np.concatenate([values, np.arange(len(values), length)])

        encodings = {
            name: torch.from_numpy(np.stack([padded(p.encodings[name]) for p in peptides])) for name in ENCODINGS
        }
        orderings = np.stack([[ordering(p.orderings[name]) for p in peptides] for name in ordering_names])
        return cls(
            **encodings,
            seq_len=torch.tensor([int(p.encodings["seq_len"][0]) for p in peptides]),
            n_atoms=torch.tensor([len(p.encodings["atom_type"]) for p in peptides]),
            orderings=torch.from_numpy(orderings),
        )

    def rows(self, index: Tensor) -> "PeptideTables":
        """Peptides `index`, padded no longer than the longest among them."""
        n = int(self.n_atoms[index].max())
        return PeptideTables(
            atom_type=self.atom_type[index, :n],
            aa_type=self.aa_type[index, :n],
            aa_pos=self.aa_pos[index, :n],
            seq_len=self.seq_len[index],
            n_atoms=self.n_atoms[index],
            orderings=self.orderings[:, index, :n],
        )

    def to(self, device: torch.device | str) -> "PeptideTables":
        return PeptideTables(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})
