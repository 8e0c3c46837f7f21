"""Roles of a peptide's runs, trained on or held out as reference: kept from command to command."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from boltzray.molecules.reference_record import read_record
from boltzray.molecules.references import conditions, load_reference

from ..data.sources import HELD_OUT, REFERENCES, Run, read_runs


def divide_runs(own: Sequence[str], known: Mapping[str, Run], hold_out: int) -> dict[str, str]:
    """Roles of a peptide's runs: those of this job, and others that were made with the same settings before.

    A run keeps the role that it has: what was held out is never trained on. Of new ones the last are held out, until
    `hold_out` are.
    """
    stem = own[0]  # the first has no number
    before = {
        name: run.role for name, run in known.items() if name in own or re.fullmatch(rf"{re.escape(stem)}_r\d+", name)
    }
    new = [name for name in own if name not in before]
    wanted = max(0, hold_out - sum(role == HELD_OUT for role in before.values()))
    return before | {name: HELD_OUT if i >= len(new) - wanted else "train" for i, name in enumerate(new)}


def check_untrained(out: Path, sequences: Sequence[str]) -> None:
    """Check that a folder does not train on these peptides. Raises: ValueError if it does."""
    if trained := {run.sequence for run in read_runs(out).values() if run.role == "train"} & set(sequences):
        raise ValueError(f"{out} trains on runs of {', '.join(sorted(trained))}: give another out= for a reference")


def check_references(
    out: Path, split: str, temperatures_k: Mapping[str, float], forcefield: str, ladders: bool
) -> None:
    """Check that no reference takes the place of one under other conditions, or plain MD's that of a ladder's.

    `temperatures_k`: of the references to be written, by peptide. Raises: ValueError.
    """
    for name, temperature_k in temperatures_k.items():
        for path in (out / REFERENCES / split).glob(f"*AA/{name}_subsampled.npz"):
            if not (found := load_reference(path)).is_at(forcefield, temperature_k):
                wanted = conditions(forcefield, temperature_k)
                raise ValueError(f"{path} is a reference in {found.conditions}: give another out= for one in {wanted}")
            if not ladders and (record := read_record(path)) and record.ladder:
                raise ValueError(
                    f"{path} is a reference by replica exchange, which this would replace: give another out="
                    f"{', or hold_out=0' if split == 'val' else ''}"
                )
