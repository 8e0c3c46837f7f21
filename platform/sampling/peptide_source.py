"""The peptide that a job is about: named by its sequence, or by a file."""

from dataclasses import dataclass
from pathlib import Path

from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD
from boltzray.molecules.mirror import read_mirror_image
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.references import find_pdb
from boltzray.molecules.sequences import reading_note

from ..runtime.config import data_folder, results_home
from ..runtime.peptide_names import one_peptide
from ..runtime.progress import say


@dataclass(frozen=True, kw_only=True)
class PeptideSource:
    """`sequence`, or a PDB file. `data_dir`: where structures of known peptides are looked for.

    `sequence` becomes canonical: any way to write it, or a FASTA file with one, names the same peptide.
    Raises: ValueError unless exactly one of the two is given, or for a sequence that is not read.
    """

    sequence: str = ""
    pdb: str | None = None
    data_dir: str = "data"

    def __post_init__(self) -> None:
        if bool(self.sequence) == bool(self.pdb):
            raise ValueError("give a peptide, sequence=ARIP or pdb=FILE (and not both)")
        object.__setattr__(self, "sequence", one_peptide(self.sequence))

    @property
    def name(self) -> str:
        """The sequence, or the file's name without its ending: for names of folders."""
        return self.sequence or Path(str(self.pdb)).stem

    @property
    def file(self) -> Path | None:
        """The file that `pdb` names."""
        return results_home() / Path(self.pdb).expanduser() if self.pdb else None

    def load(self, forcefield: str = DEFAULT_FORCEFIELD) -> Peptide:
        """Read the file, or the one that lies with the data, or build the peptide from its sequence.

        Of a file of D-residues alone it is a `MirrorImage`, with the energy of `forcefield`.
        """
        if self.file:
            try:
                return Peptide.from_pdb(self.file, states=True)
            except ValueError as error:
                mirrored = read_mirror_image(self.file, forcefield) if "D-" in str(error) else None
                if mirrored is None:
                    raise
                return mirrored
        if note := reading_note(self.sequence):
            say(f"note: {note}")
        path = find_pdb(data_folder(self.data_dir), self.sequence)
        return Peptide.from_pdb(path) if path else Peptide.from_sequence(self.sequence)
