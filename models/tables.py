"""Peptides as padded integer tensors, as flows take them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from boltzray.molecules.residues import PUBLIC_RESIDUES, RESIDUE_INDEX

from .config import FlowConfig
from .internal_coordinates import InternalTables

ENCODINGS = ("atom_type", "aa_type", "aa_pos")


class PeptideLike(Protocol):
    """A peptide as flows take it, such as `molecules.Peptide`.

    Only a single-system flow reads `n_atoms`, only one of internal coordinates `internal`, only one over bins
    `amber_order`.
    """

    @property
    def sequence(self) -> str: ...
    @property
    def n_atoms(self) -> int: ...
    @property
    def encodings(self) -> dict[str, np.ndarray]: ...
    @property
    def orderings(self) -> dict[str, np.ndarray]: ...
    @property
    def amber_order(self) -> np.ndarray | None: ...
    def internal(self, geometry: str | None = None) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class PeptideTables:
    """P peptides padded to N atoms.

    Shape: atom_type, aa_type, aa_pos (P, N), 0 = padding; seq_len, n_atoms (P,); orderings (K, P, N), where
    padded positions keep their own index. Of a single system: encodings of zeros, orderings of tokens (K, P, T).
    `internal`: z-matrices, if the flow has internal coordinates.
    """

    atom_type: Tensor
    aa_type: Tensor
    aa_pos: Tensor
    seq_len: Tensor
    n_atoms: Tensor
    orderings: Tensor
    internal: InternalTables | None = None

    @classmethod
    def of(
        cls,
        peptides: Sequence[PeptideLike],
        ordering_names: Sequence[str],
        *,
        geometry: str | None = None,
        vocabulary: int = 1,
    ) -> "PeptideTables":
        """Tables of `peptides` for a flow whose blocks visit atoms in the orderings named.

        `geometry`: version of the usual bonds and angles, for a flow of internal coordinates. `vocabulary`: the flow's.

        Raises: ValueError when a peptide has residues outside the vocabulary.
        """
        for peptide in peptides:
            _check_residues(peptide, vocabulary)
        length = max(len(p.encodings["atom_type"]) for p in peptides)

        def padded(values: np.ndarray) -> np.ndarray:
            return np.pad(values, (0, length - len(values)))

        def ordering(peptide: PeptideLike, name: str) -> np.ndarray:
            values = np.arange(0) if name == "identity" else np.asarray(_visited(peptide, name))
            return np.concatenate([values, np.arange(len(values), length)])

        encodings: dict[str, Any] = {
            name: torch.from_numpy(np.stack([padded(p.encodings[name]) for p in peptides])) for name in ENCODINGS
        }
        orderings = np.array([[ordering(p, name) for p in peptides] for name in ordering_names], np.int64)
        return cls(
            **encodings,
            seq_len=torch.tensor([int(p.encodings["seq_len"][0]) for p in peptides]),
            n_atoms=torch.tensor([len(p.encodings["atom_type"]) for p in peptides]),
            orderings=torch.from_numpy(orderings.reshape(len(ordering_names), len(peptides), length)),
            internal=InternalTables.of(peptides, geometry) if geometry else None,
        )

    @classmethod
    def of_system(
        cls, peptides: Sequence[PeptideLike], config: FlowConfig, *, geometry: str | None = None
    ) -> "PeptideTables":
        """Tables of the one peptide that a single-system flow knows, as often as it is given; `geometry` as in `of`.

        Raises: ValueError for any other peptide, or another z-matrix of it.
        """
        known = config.system or "a peptide that its file does not name"
        for peptide in peptides:
            names = (peptide.sequence.upper(), config.system.upper() or peptide.sequence.upper())
            if names[0] != names[1] or peptide.n_atoms != config.system_atoms:
                raise ValueError(
                    f"this flow knows {known} ({config.system_atoms} atoms) alone, not {peptide.sequence} "
                    f"({peptide.n_atoms} atoms): give that peptide, or a transferable flow"
                )
        p = len(peptides)
        none = torch.zeros((p, config.system_atoms), dtype=torch.int64)
        order = torch.arange(config.system_tokens).expand(p, -1)
        orderings = [order.flip(-1) if name.endswith("_flip") else order for name in config.ordering_names]
        return cls(
            atom_type=none,
            aa_type=none,
            aa_pos=none,
            seq_len=torch.zeros(p, dtype=torch.int64),
            n_atoms=torch.full((p,), config.system_atoms),
            orderings=torch.stack(orderings) if orderings else order.new_zeros(0, *order.shape),
            internal=InternalTables.of(peptides, geometry) if geometry else None,
        )

    def with_atom_types(self, types: Sequence[int]) -> "PeptideTables":
        """The same with these types, from 1, of the atoms of all peptides."""
        return replace(self, atom_type=torch.tensor(types).expand(self.atom_type.shape))

    def rows(self, index: Tensor) -> "PeptideTables":
        """Peptides `index`, padded no longer than the longest among them."""
        n = int(self.n_atoms[index].max())
        tokens = n * self.orderings.shape[-1] // self.atom_type.shape[-1]
        return PeptideTables(
            atom_type=self.atom_type[index, :n],
            aa_type=self.aa_type[index, :n],
            aa_pos=self.aa_pos[index, :n],
            seq_len=self.seq_len[index],
            n_atoms=self.n_atoms[index],
            orderings=self.orderings[:, index, :tokens],
            internal=self.internal and self.internal.rows(index, n),
        )

    def to(self, device: torch.device | str) -> "PeptideTables":
        """The same on `device`, without waiting for the copy."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "internal"}
        moved: dict[str, Any] = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        return PeptideTables(**moved, internal=self.internal and self.internal.to(device))


def _check_residues(peptide: PeptideLike, vocabulary: int) -> None:
    if not peptide.encodings:
        raise ValueError(
            f"{peptide.sequence} has residues that a transferable flow does not know: give checkpoint= a "
            "single-system model of it, or a peptide of the 20 standard amino acids without caps"
        )
    added = sorted(set(peptide.encodings["aa_type"].tolist()) - set(range(PUBLIC_RESIDUES + 1)))
    if added and vocabulary == 1:
        names = {index: name for name, index in RESIDUE_INDEX.items()}
        raise ValueError(
            f"{peptide.sequence} has residues that a transferable flow of vocabulary 1 does not know "
            f"({', '.join(names[i] for i in added)}): give checkpoint= a single-system model of it, or a flow of "
            "vocabulary 2, or a peptide of the 20 standard amino acids without caps"
        )


def _visited(peptide: PeptideLike, name: str) -> np.ndarray:
    """The order named, of a peptide's atoms."""
    if name != "amber":
        return peptide.orderings[name]
    order = peptide.amber_order
    assert order is not None  # a peptide with encodings has one
    return order
