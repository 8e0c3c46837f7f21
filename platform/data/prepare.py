"""Data folders made of what there is: tars written again as columns, or trajectories of one molecule of your own."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD, FORCEFIELDS, OWN
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.references import published_split
from boltzray.molecules.trajectories import frame_paths

from ..runtime.cluster import ClusterConfig
from ..runtime.config import results_folder, results_home
from ..runtime.folder_lock import LOCK
from ..runtime.progress import say
from ..runtime.run_folder import holding
from .catalogue import folder_temperature
from .columnar_copy import write_columnar_copy
from .own_frames import OwnFrames, listed
from .sources import Source, folder_forcefield, read_sources


@dataclass(frozen=True, kw_only=True)
class PrepareJob:
    """Write a data folder `out`, for `data.path=` of training, or add to it.

    Either `source`, a data folder or URL with tars: the same frames in the same order, as columns. Or `pdb`, one
    molecule, caps and all, and `frames` of it: a file, a glob, or a list of them, each one trajectory.
    `hold_out`: the last fraction of each, which is not trained on but becomes the reference trajectory.
    `temperature_k`, `forcefield`: of the simulation; unless given, those of the folder, or of the published data.
    """

    source: str = ""
    pdb: str = ""
    frames: str | tuple[str, ...] = ""
    hold_out: float = 0.0
    temperature_k: float | None = None
    forcefield: str = ""
    out: str = ""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        if not self.out or bool(self.source) == bool(self.pdb) or bool(self.pdb) != bool(self.frames):
            raise ValueError("give out=, the folder to write, and source=, a folder with tars, or pdb= and frames=")
        if self.source and (self.hold_out or self.temperature_k or self.forcefield):
            raise ValueError("hold_out, temperature_k and forcefield are of pdb= and frames=: a source has its own")
        if not 0 <= self.hold_out <= 0.9:
            raise ValueError(f"hold_out={self.hold_out}: give the fraction of frames to hold out, such as 0.2")
        if self.temperature_k is not None and not 0 < self.temperature_k < float("inf"):
            raise ValueError(f"temperature_k={self.temperature_k}: give the temperature of the simulation in kelvin")


def prepare(job: PrepareJob) -> Path:
    """Run `job`, or go on with it; returns the folder."""
    return write_columnar_copy(job.source, job.out, job.cluster) if job.source else _take_in(job)


def _take_in(job: PrepareJob) -> Path:
    """Frames of one molecule → tars of the public layout, beside those that the folder has from elsewhere."""
    home = results_home()
    pdb, paths = home / Path(job.pdb).expanduser(), frame_paths(job.frames, home)
    with holding(results_folder(job.out)) as out:
        try:
            temperature_k, forcefield = _conditions(job, out)
            own = OwnFrames(
                pdb=pdb, paths=paths, temperature_k=temperature_k, forcefield=forcefield, hold_out=job.hold_out
            )
            peptide, added = own.take_in(out)
        except BaseException:
            if all(path.name == LOCK for path in out.iterdir()):
                shutil.rmtree(out)
            raise
        _note(job, own, peptide, added)
        _conclude(job, out, peptide, added)
    return out


def _conditions(job: PrepareJob, out: Path) -> tuple[float, str]:
    """Temperature and force field of the frames. Raises: ValueError when the folder has others."""
    temperature_k, forcefield = folder_temperature(str(out)), folder_forcefield(out)
    if forcefield is None:  # no frames yet
        return float(job.temperature_k or temperature_k), job.forcefield or DEFAULT_FORCEFIELD
    if job.temperature_k and job.temperature_k != temperature_k:
        raise ValueError(f"{out} holds frames at {temperature_k:g} K, not {job.temperature_k:g} K: give another out=")
    if job.forcefield and job.forcefield != forcefield:
        raise ValueError(f"{out} holds frames in {forcefield}, not in {job.forcefield}: give another out=")
    return temperature_k, forcefield


def _note(job: PrepareJob, own: OwnFrames, peptide: Peptide, added: dict[str, Source]) -> None:
    """Tell the user what to know of the frames that were taken in."""
    if split := published_split(peptide.sequence):
        say(
            f"note: {peptide.sequence} is in the published {split} set; a flow that is trained on it cannot be "
            "compared with published numbers on it"
        )
    assumed = [] if job.temperature_k else [(f"{own.temperature_k:g} K", "temperature_k=")]
    assumed += [] if job.forcefield else [(own.forcefield, "forcefield=")]
    if assumed:
        values, keys = (" and ".join(words) for words in zip(*assumed, strict=True))
        say(f"note: the frames are taken to be of {values}: {keys} {'say' if len(assumed) == 2 else 'says'} otherwise")
    if own.forcefield not in FORCEFIELDS and not own.forcefield.startswith(OWN):
        say(
            f"note: forcefield={own.forcefield} is recorded and could not be checked: samples are weighted in "
            f"{' or '.join(FORCEFIELDS)}"
        )
    if not any(source.held_out for source in added.values()):
        say(
            "note: nothing is held out, so there is nothing to validate or to compare with: hold_out=0.2 keeps the "
            "last fifth of each file for that"
        )


def _conclude(job: PrepareJob, out: Path, peptide: Peptide, added: dict[str, Source]) -> None:
    """Tell the user what the folder holds, and the next command."""
    sequence = peptide.sequence
    held_out = sum(source.held_out for source in added.values())
    frames = sum(source.frames for source in added.values()) - held_out
    spacings = sorted({source.spacing_ps for source in added.values() if source.spacing_ps})
    every = f", one every {' or '.join(f'{spacing:g}' for spacing in spacings)} ps," if spacings else ""
    table = read_sources(out)
    earlier = sorted({s.file for name, s in table.sources.items() if name not in added}) if table else []
    beside = f", beside those of {listed(earlier)}" if earlier else ""
    simulated = ", and simulated ones" if any(out.glob("md/*/run.json")) else ""
    files = listed([source.file for source in added.values()])
    counts = f"{frames} frames of {sequence} to train on{every} and {held_out} held out"
    say(f"{counts} from {files}{beside}{simulated}: {out}")
    # A flow of residues outside the vocabularies is of one molecule.
    model = f" model=single_ace_aaa_nme model.system={sequence} model.system_atoms={peptide.n_atoms}"
    known = "" if peptide.encodings else model
    say(f"next: python jobs/train.py{known} data.path={job.out}")
