"""Frames → padded tensors, and a thread that prepares items before they are needed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from boltzray.models.flow import Flow
from boltzray.models.tables import PeptideTables
from boltzray.molecules.planar_names import named_by_place

from .bucketing import Microbatch

T = TypeVar("T")


class CollatedBatch(NamedTuple):
    """Frames as a flow takes them.

    Shape: x (n, N, 3), zeros after the atoms of each; tables of 1 or n rows; energy_kT (n,), NaN where unknown;
    peptide (n,), which frames are of the same one.
    """

    x: Tensor
    tables: PeptideTables
    energy_kT: Tensor
    peptide: Tensor


class Collator:
    """Frames of any of the peptides → padded coordinates and tables.

    Atoms are put into the standard order, which is that of the tables: see `Peptide.iupac`. A batch of a single peptide
    gets one row of tables: its condition is then computed once, not once a frame. For a flow that asks for it, planar
    groups are named by where they stand in each frame.
    """

    def __init__(self, flow: Flow, peptides: Mapping[str, Any], *, pin: bool = False) -> None:
        self.index = {sequence: i for i, sequence in enumerate(peptides)}
        self.tables = flow.tables([peptide.iupac() for peptide in peptides.values()]).to("cpu")
        self.orders = [np.asarray(peptide.iupac_order, np.int64) for peptide in peptides.values()]
        self.sizes = self.tables.n_atoms.numpy()
        self.groups = [peptide.planar_groups if flow.atom_order == "named" else () for peptide in peptides.values()]
        self.pin = pin

    def __call__(self, sequences: Sequence[str], frames: Sequence[np.ndarray]) -> CollatedBatch:
        """Collate frames (N, 3) of the peptides named."""
        peptide = np.array([self.index[sequence] for sequence in sequences])
        flat = np.concatenate([frame.reshape(-1) for frame in frames])
        return self.batch(Microbatch(peptide, flat, np.full(len(peptide), np.nan, np.float32)))

    def batch(self, microbatch: Microbatch) -> CollatedBatch:
        """Pad to the longest frame."""
        peptide, flat, energy_kT = microbatch
        sizes = self.sizes[peptide]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        rows_of = np.concatenate([start + self.orders[p] for start, p in zip(starts, peptide, strict=True)])
        ordered = flat.reshape(-1, 3)[rows_of]  # a copy: what Ray hands out is read-only
        if (sizes == sizes[0]).all():
            x = ordered.reshape(len(sizes), sizes[0], 3)
        else:
            x = np.zeros((len(sizes), sizes.max(), 3), np.float32)
            x[np.arange(sizes.max()) < sizes[:, None]] = ordered
        for p in np.unique(peptide):
            if self.groups[p]:
                of_it = peptide == p
                x[of_it, : self.sizes[p]] = named_by_place(self.groups[p], x[of_it, : self.sizes[p]])
        one = (peptide == peptide[0]).all()
        rows = self.tables.rows(torch.from_numpy(np.asarray(peptide[:1] if one else peptide, np.int64)))
        rows = _map_tensors(rows, lambda t: t.long() if t.dtype == torch.int16 else t)
        tensors = [torch.from_numpy(np.array(array)) for array in (x, energy_kT, peptide)]
        if self.pin:
            rows, tensors = _map_tensors(rows, Tensor.pin_memory), [tensor.pin_memory() for tensor in tensors]
        return CollatedBatch(tensors[0], rows, *tensors[1:])


def _map_tensors(tables: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply `change` to every tensor of a dataclass, and of those in it."""

    def mapped(value: Any) -> Any:
        if isinstance(value, Tensor):
            return change(value)
        return _map_tensors(value, change) if is_dataclass(value) else value

    return replace(tables, **{f.name: mapped(getattr(tables, f.name)) for f in fields(tables)})
