"""Progress of a finetuning: read from its folder once, then advanced together with the files."""

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from boltzray.molecules.storage import DamagedFile, check_seal, sealing

from .round_record import RoundRecord, read_records, write_records

LearnerState = dict[str, Any]  # what `Finetuner.state` gives


@dataclass
class RoundProgress:
    """Records of the rounds that were drawn, and the learner's state after the last step that was saved.

    `learner` is of the present round, or of the one before it where this one has taken no step yet; None before any.
    """

    folder: Path
    steps: int
    records: list[RoundRecord]
    learner: LearnerState | None

    @classmethod
    def read(cls, folder: Path, steps: int) -> "RoundProgress":
        """The progress of a run in `folder`, of `steps` optimiser steps a round, whenever it was stopped.

        Raises: DamagedFile: what was learned cannot be made again from what is left.
        """
        return cls(folder, steps, read_records(folder), _read_learner(_learner_path(folder)))

    @property
    def index(self) -> int:
        """The present round, which is also the number of rounds that have been learned."""
        return 0 if self.learner is None else int(self.learner["index"]) + self._between_rounds

    @property
    def step(self) -> int:
        """Optimiser steps that the present round has taken."""
        return 0 if self.learner is None or self._between_rounds else int(self.learner["step"])

    @property
    def _between_rounds(self) -> bool:
        """Return True if the learner's state is of the end of the round before the present one."""
        return self.learner is not None and bool(self.learner["step"] >= self.steps)

    @property
    def drawn(self) -> bool:
        """Return True if the present round has its record."""
        return len(self.records) > self.index

    def weights(self) -> dict[str, torch.Tensor] | None:
        """The flow's weights that the present round begins with, as long as no step of it has replaced them here."""
        return self.learner["flow"] if self.learner is not None and self._between_rounds else None

    def add_record(self, record: RoundRecord) -> None:
        """Append to rounds.json."""
        self.records.append(record)
        write_records(self.folder, self.records)

    def save_learner(self, learner: LearnerState) -> None:
        """Write learner.pt; with the last step of a round the next one becomes the present."""
        with sealing(_learner_path(self.folder)) as temporary:
            torch.save(learner, temporary)
        self.learner = learner


def _learner_path(folder: Path) -> Path:
    return folder / "run" / "learner.pt"


def _read_learner(path: Path) -> LearnerState | None:
    if not path.exists():
        return None
    check_seal(path)
    try:
        state: LearnerState = torch.load(path, weights_only=True)
    except (RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise DamagedFile(f"{path} is damaged ({str(error).splitlines()[0]}): give another out=") from None
    return state
