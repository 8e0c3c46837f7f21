"""Frames → padded tensors, made ahead of the step that needs them."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from queue import Empty, Full, Queue
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from boltzray.models.flow import Flow
from boltzray.models.tables import PeptideTables

from .bucketing import Microbatch

T = TypeVar("T")
AHEAD = 2  # batches


class Collator:
    """Frames of any of the peptides → padded coordinates and tables.

    A batch of a single peptide gets one row of tables: its condition is then computed once, not once a frame.
    """

    def __init__(self, flow: Flow, peptides: Mapping[str, Any], *, pin: bool = False) -> None:
        self.index = {sequence: i for i, sequence in enumerate(peptides)}
        self.tables = flow.tables(list(peptides.values())).to("cpu")
        self.sizes = self.tables.n_atoms.numpy()
        self.pin = pin

    def __call__(self, sequences: Sequence[str], frames: Sequence[np.ndarray]) -> tuple[Tensor, PeptideTables]:
        """Frames (N, 3) of the peptides named."""
        peptide = np.array([self.index[sequence] for sequence in sequences])
        return self.batch(Microbatch(peptide, np.concatenate([frame.reshape(-1) for frame in frames])))

    def batch(self, part: Microbatch) -> tuple[Tensor, PeptideTables]:
        """Padded to the longest frame of the part."""
        sizes = self.sizes[part.peptide]
        if (sizes == sizes[0]).all():
            x = part.x.reshape(len(sizes), sizes[0], 3).copy()  # what Ray hands out is read-only
        else:
            x = np.zeros((len(sizes), sizes.max(), 3), np.float32)
            x[np.arange(sizes.max()) < sizes[:, None]] = part.x.reshape(-1, 3)
        one = (part.peptide == part.peptide[0]).all()
        rows = self.tables.rows(torch.from_numpy(np.asarray(part.peptide[:1] if one else part.peptide, np.int64)))
        tensor, rows = torch.from_numpy(x), _changed(rows, lambda t: t.long() if t.dtype == torch.int16 else t)
        return (tensor.pin_memory(), _changed(rows, Tensor.pin_memory)) if self.pin else (tensor, rows)


def _changed(tables: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`change` applied to every tensor of a dataclass, and of those in it."""

    def changed(value: Any) -> Any:
        return change(value) if isinstance(value, Tensor) else _changed(value, change) if is_dataclass(value) else value

    return replace(tables, **{f.name: changed(getattr(tables, f.name)) for f in fields(tables)})


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """The same items, made in a thread of their own, a few ahead; it ends when the iterator is closed."""
    queue: Queue[tuple[bool, Any]] = Queue(AHEAD)
    closed = threading.Event()

    def give(item: tuple[bool, Any]) -> bool:
        while not closed.is_set():
            try:
                queue.put(item, timeout=0.5)
                return True
            except Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not give((True, item)):
                    return
            give((False, None))
        except BaseException as error:
            give((False, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            more, item = queue.get()
            if not more:
                if item is not None:
                    raise item
                return
            yield item
    finally:
        closed.set()
        try:
            while True:
                queue.get_nowait()
        except Empty:
            pass
