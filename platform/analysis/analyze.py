"""Observables of ensembles next to reference MD: a table, figures, a page; and free energies between two of them."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from boltzray.molecules.basins import Clusters, ramachandran_basins, read_basins
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.quantities import (
    Quantity,
    basin_quantities,
    cluster_quantities,
    own_quantity,
    standard_quantities,
)
from boltzray.molecules.references import conditions
from boltzray.molecules.subsample import normalised_weights
from boltzray.molecules.trajectories import frame_paths

from ..report.observable_rows import FrameSet, observable_rows
from ..runtime.config import data_folder, display_path, results_folder, results_home
from ..runtime.progress import progress, say
from ..runtime.run_folder import holding
from .config import KMEANS, NAMED, AnalyzeJob
from .free_energy import free_energy_rows
from .outputs import Analysis, write_analysis, write_free_energies
from .reweighting import reweight
from .sources import SampleFolder, named_peptide, own_frames, reference_set

__all__ = ["AnalyzeJob", "analyze"]


def analyze(job: AnalyzeJob) -> Path:
    """Run `job`; returns the page, or the table of free energies, that it wrote."""
    if job.free_energy:
        first, second = (SampleFolder.read(data_folder(path)) for path in job.free_energy)
        differences = free_energy_rows(first, second)
        with holding(results_folder(job.out or f"outputs/analyze/{first.peptide.sequence}-free-energy")) as out:
            return write_free_energies(out, job, first, second, differences)
    analysis = _collected(job)
    quantities = _quantities(job, analysis.peptide, analysis.sets)
    with progress("observables", len(quantities)) as update:
        rows = observable_rows(analysis.sets, quantities, update)
    with holding(results_folder(analysis.out)) as out:
        return write_analysis(out, job, analysis, rows)


def _collected(job: AnalyzeJob) -> Analysis:
    """Conformations of all sources, and where results go by default."""
    data = data_folder(job.data_dir)
    if job.samples:
        folders = [SampleFolder.read(data_folder(path)) for path in job.samples]
        peptide, first = folders[0].peptide, folders[0]
        if job.reweight:
            folders = [in_other_force_field(folder, job.reweight) for folder in folders]
        sets = [s for f in folders for s in f.sets(peptide, f"{f.path.name} " if len(folders) > 1 else "")]
        said = conditions(first.forcefield, first.temperature_k)
        if any((f.temperature_k, f.forcefield) != (first.temperature_k, first.forcefield) for f in folders):
            said = "; ".join(f"{f.path.name}: {conditions(f.forcefield, f.temperature_k)}" for f in folders)
        reference = reference_set(peptide, data, first.temperature_k, first.forcefield)
        out = str(first.path) if len(folders) == 1 else f"outputs/analyze/{peptide.sequence}"
        names = ", ".join(display_path(f.path) for f in folders)
    elif job.sequence:
        peptide, sets = named_peptide(job.sequence, data), []
        reference = reference_set(peptide, data, job.temperature_k, job.forcefield, judge=False)
        if reference is None:
            raise ValueError(f"sequence={job.sequence}: no reference MD below {data}: see the note above")
        said = conditions(job.forcefield, job.temperature_k)
        out, names = f"outputs/analyze/{peptide.sequence}", display_path(data)
    else:
        home = results_home()
        pdb, paths = home / Path(job.pdb).expanduser(), frame_paths(job.frames, home)
        peptide = Peptide.from_pdb(pdb, states=True)
        weights = home / Path(job.weights).expanduser() if job.weights else None
        sets = [own_frames(peptide, pdb, paths, weights, job.temperature_k, job.forcefield)]
        reference = reference_set(peptide, data, job.temperature_k, job.forcefield)
        said = conditions(job.forcefield, job.temperature_k)
        out, names = f"outputs/analyze/{pdb.stem}", ", ".join(display_path(path) for path in paths)
    sound = [s.sound(peptide) for s in (*sets, *([reference] if reference else []))]
    if empty := [s.name for s in sound if not len(s.positions_nm)]:
        raise ValueError(f"{' and '.join(empty)}: no conformation has a weight and finite positions")
    return Analysis(peptide=peptide, sets=tuple(sound), conditions=said, out=job.out or out, sources=names)


def in_other_force_field(folder: SampleFolder, given: tuple[str, ...]) -> SampleFolder:
    """The folder with its last ensemble in another force field, too; says what that is worth."""
    found = reweight(folder.ensembles[-1], folder.peptide, folder.temperature_k, given)
    say(f"{display_path(folder.path)}: {found.ensemble.name}: {found}")
    return replace(folder, ensembles=(*folder.ensembles, found.ensemble))


def _quantities(job: AnalyzeJob, peptide: Peptide, sets: tuple[FrameSet, ...]) -> list[Quantity]:
    own = [own_quantity(text, _function(text), peptide) for text in job.observable]
    return [*_basins(job, peptide, sets), *standard_quantities(peptide, job.distances), *own]


def _basins(job: AnalyzeJob, peptide: Peptide, sets: tuple[FrameSet, ...]) -> list[Quantity]:
    """Named, clustered or read; clusters are those of the reference, or else of the last set."""
    if job.basins == NAMED:
        return basin_quantities(ramachandran_basins(peptide))
    if not job.basins.startswith(KMEANS):
        return basin_quantities(read_basins(results_home() / Path(job.basins).expanduser(), peptide))
    k = job.basins.removeprefix(KMEANS)
    if not k.isdigit() or int(k) < 2:
        raise ValueError(f"basins={job.basins}: give the number of clusters, such as kmeans:4")
    fitted = next((s for s in sets if s.reference), sets[-1])
    weights = normalised_weights(fitted.log_weights, len(fitted.positions_nm))
    return cluster_quantities(Clusters(peptide, fitted.positions_nm, weights, int(k)))


def _function(text: str) -> Callable[[Any], Any]:
    """The function that FILE.py:NAME names. Raises: ValueError, FileNotFoundError."""
    file, _, name = text.rpartition(":")
    path = results_home() / Path(file).expanduser()
    if not file or path.suffix != ".py":
        raise ValueError(f"observable={text}: write FILE.py:FUNCTION")
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}: check observable=")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(function := getattr(module, name, None)):
        raise ValueError(f"observable={text}: {path.name} has no function {name}")
    found: Callable[[Any], Any] = function
    return found
