"""The peptide that a job is about: named by its sequence, or by a file."""

from dataclasses import dataclass
from pathlib import Path

from boltzray.molecules.peptide import Peptide, check_sequence
from boltzray.molecules.references import find_pdb

from ..runtime.config import data_folder, results_home


@dataclass(frozen=True, kw_only=True)
class PeptideSource:
    """One-letter codes in `sequence`, or a PDB file. `data_dir`: where structures of known peptides are looked for.

    Raises: ValueError unless exactly one of the two is given.
    """

    sequence: str = ""
    pdb: str | None = None
    data_dir: str = "data"

    def __post_init__(self) -> None:
        if bool(self.sequence) == bool(self.pdb):
            raise ValueError("give a peptide, sequence=ARIP or pdb=FILE (and not both)")

    @property
    def name(self) -> str:
        """The sequence, or the file's name without its ending: for names of folders."""
        return self.sequence or Path(str(self.pdb)).stem

    @property
    def file(self) -> Path | None:
        """The file that `pdb` names."""
        return results_home() / Path(self.pdb).expanduser() if self.pdb else None

    def load(self) -> Peptide:
        """Read the file, or the one that lies with the data, or build the peptide from its sequence.

        The same peptide to the last bit as `Peptide.from_pdb` makes of its text, which is what actors are sent.
        """
        if self.pdb:
            return Peptide.from_pdb(results_home() / self.pdb)
        sequence = check_sequence(self.sequence)
        path = find_pdb(data_folder(self.data_dir), sequence)
        if path:
            return Peptide.from_pdb(path)
        # A built peptide lists its bonds in another order than a parsed one, and energies are summed in that order.
        return Peptide.from_pdb(Peptide.from_sequence(sequence).to_pdb())
