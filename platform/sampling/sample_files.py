"""Files of a folder of samples. They are written chunk by chunk: coordinates are never all in memory for it."""

import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.storage import check_seal, read_json, seal, sealing
from boltzray.molecules.subsample import weighted_subsample
from boltzray.molecules.trajectory_file import TrajectoryFormat, save_trajectory
from boltzray.samplers import Stage, generator, normalised, resample

from ..runtime.config import write_json
from .block_files import load_part

COLUMNS = ("log_weights", "energy_kT", "log_q")
ENSEMBLE_FRAMES = 1000
RESAMPLE_FOR_FILES = 16 + Stage.RESAMPLE  # a random stream of its own
SHARD_ROWS = 65_536
NPZ_MAX_BYTES = 2_000_000_000  # of coordinates; more are left in Parquet only
READ_ROWS = 100_000  # of those read at most so many, subsampled by weight


def finished(out: Path) -> bool:
    """Return True if a run has left all its results in `out`."""
    return (out / "sampling.json").exists()


def write_samples(
    out: Path,
    peptide: Peptide,
    sets: Sequence[Ensemble],
    seed: int,
    trajectory: TrajectoryFormat | Literal["none"] = "xtc",
) -> None:
    """Write `samples.npz` and `samples/` of the last set, `ensemble.*` resampled from it, the proposals apart.

    sampling.json is written last: where it is, the run is finished.
    """
    final = sets[-1]
    with sealing(out / "topology.pdb") as temporary:
        temporary.write_text(peptide.to_pdb())
    for one in sets:
        _save(out, "samples" if one is final else one.name.lower(), one, peptide.n_atoms)
    _write_trajectory(out, peptide, final, seed, trajectory)
    write_json(out / "sampling.json", {s.name: {"diagnostics": s.diagnostics, "steps": s.steps} for s in sets})


def add_trajectory(out: Path, seed: int, trajectory: TrajectoryFormat | Literal["none"]) -> None:
    """Write `ensemble.*` of a finished run in a format that it lacks."""
    if trajectory != "none" and not (out / f"ensemble.{trajectory}").exists():
        peptide, sets = read_samples(out)
        _write_trajectory(out, peptide, sets[-1], seed, trajectory)


def _write_trajectory(out: Path, peptide: Peptide, final: Ensemble, seed: int, trajectory: str) -> None:
    """Write at most `ENSEMBLE_FRAMES`, resampled by weight, of which each stands for as much as any other."""
    if trajectory == "none":
        return
    n = min(ENSEMBLE_FRAMES, len(final.log_weights))
    chosen = np.sort(resample(final.log_weights, n, generator(seed, RESAMPLE_FOR_FILES), "systematic"))
    save_trajectory(out / f"ensemble.{trajectory}", rows(final.chunks, chosen), peptide.topology)


def rows(chunks: Iterable[np.ndarray], index: np.ndarray) -> np.ndarray:
    """Conformations at ascending `index`, of which each may come more than once."""
    found, low = [], 0
    for chunk in chunks:
        here = index[(index >= low) & (index < low + len(chunk))]
        found.append(chunk[here - low])
        low += len(chunk)
    return np.concatenate(found)


def _columns(ensemble: Ensemble) -> dict[str, np.ndarray]:
    """Columns beside the positions, by name in files."""
    return {name: getattr(ensemble, name) for name in COLUMNS}


def _save(out: Path, name: str, ensemble: Ensemble, n_atoms: int) -> None:
    """Write `NAME/part-*.parquet`, and `NAME.npz` where that can be read at once."""
    n = len(ensemble.log_weights)
    shards = out / f".{name}"
    shutil.rmtree(shards, ignore_errors=True)
    with ExitStack() as stack:  # the .npz gets its name when all is written
        sinks: list[_Sink] = [stack.enter_context(_parquet(shards, ensemble))]
        if n * n_atoms * 12 <= NPZ_MAX_BYTES:
            temporary = stack.enter_context(sealing(out / f"{name}.npz"))
            sinks.append(stack.enter_context(_npz(temporary, ensemble, (n, n_atoms, 3))))
        for chunk in ensemble.chunks:
            for sink in sinks:
                sink.write(np.ascontiguousarray(chunk, np.float32))
    shutil.rmtree(out / name, ignore_errors=True)
    shards.rename(out / name)


class _Sink(Protocol):
    def write(self, chunk: np.ndarray) -> None: ...


class _Npz:
    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def write(self, chunk: np.ndarray) -> None:
        self.file.write(chunk.data)


@contextmanager
def _npz(path: Path, ensemble: Ensemble, shape: tuple[int, ...]) -> Iterator[_Npz]:
    """Open an .npz for positions chunk by chunk: np.savez wants all of them at once, and gives the same file."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, values in {**_columns(ensemble), "sampler": np.array(ensemble.name)}.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, values)
        with archive.open("positions_nm.npy", "w", force_zip64=True) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            yield _Npz(file)


def _column(values: np.ndarray) -> pa.Array:
    """As `pa.array`, which imports pandas: a third of a second."""
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(values.dtype), values.size, [None, pa.py_buffer(np.ascontiguousarray(values))]
    )


def _tensors(values: np.ndarray) -> pa.Array:
    """As `pa.FixedShapeTensorArray.from_numpy_ndarray`."""
    shape = values.shape[1:]
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(values.dtype), shape, permutation=list(range(len(shape))))
    flat = pa.FixedSizeListArray.from_arrays(_column(values), int(np.prod(shape)))
    return pa.ExtensionArray.from_storage(kind, flat)


class _Parquet:
    """Shards of `SHARD_ROWS`: `positions_nm` are tensors to PyArrow and Ray Data, flat lists to pandas."""

    def __init__(self, folder: Path, columns: Mapping[str, np.ndarray], sampler: str) -> None:
        folder.mkdir(parents=True)
        self.folder, self.columns, self.sampler = folder, columns, sampler
        self.row = 0
        self.writer: pq.ParquetWriter | None = None

    def write(self, chunk: np.ndarray) -> None:
        here = slice(self.row, self.row + len(chunk))
        columns = {"positions_nm": _tensors(chunk)} | {k: _column(values[here]) for k, values in self.columns.items()}
        table = pa.Table.from_arrays(list(columns.values()), names=list(columns))
        if self.row // SHARD_ROWS != (self.row - 1) // SHARD_ROWS or self.writer is None:
            self.close()
            self.path = self.folder / f"part-{self.row // SHARD_ROWS:05d}.parquet"
            self.writer = pq.ParquetWriter(self.path, table.schema.with_metadata({"sampler": self.sampler}))
        self.writer.write_table(table.replace_schema_metadata({"sampler": self.sampler}))
        self.row += len(chunk)

    def close(self) -> None:
        if self.writer:
            self.writer.close()
            seal(self.path)
        self.writer = None


@contextmanager
def _parquet(folder: Path, ensemble: Ensemble) -> Iterator[_Parquet]:
    shards = _Parquet(folder, _columns(ensemble), ensemble.name)
    try:
        yield shards
    finally:
        shards.close()


def read_samples(out: Path) -> tuple[Peptide, list[Ensemble]]:
    """Read all ensembles of a results folder, the final one last.

    Of one too large for an .npz, `READ_ROWS` rows (`molecules.subsample.weighted_subsample`).
    Raises: FileNotFoundError when there is no finished run; DamagedFile when a file is not what was written.
    """
    if not finished(out):
        if (out / "run").is_dir():
            raise FileNotFoundError(f"the run in {out} has not ended: give its command again, which goes on")
        raise FileNotFoundError(
            f"no sampling.json in {out}: sample first (python jobs/sample.py sequence=…), or check the path"
        )
    details = read_json(out / "sampling.json")
    check_seal(out / "topology.pdb")
    sets = []
    for name in ("snis", "samples"):
        if not sample_paths(out, name):
            continue
        arrays = _read(out, name)
        sampler, positions = str(arrays.pop("sampler")), arrays.pop("positions_nm")
        sets.append(Ensemble(name=sampler, chunks=[positions], **arrays, **details[sampler]))
    return Peptide.from_pdb(out / "topology.pdb"), sets


def check_samples(out: Path) -> None:
    """Check that all files of a finished run are what was written. Raises: DamagedFile, FileNotFoundError."""
    read_json(out / "sampling.json")
    check_seal(out / "topology.pdb")
    for name in ("snis", "samples"):
        for path in [out / f"{name}.npz", *sorted((out / name).glob("part-*.parquet"))]:
            if path.exists():
                check_seal(path)
    if not sample_paths(out, "samples"):
        raise FileNotFoundError(f"{out} lacks its samples")


def sample_paths(out: Path, name: str) -> list[Path]:
    """Files of one ensemble that `read_samples` reads: the .npz, or the shards where there is none."""
    path = out / f"{name}.npz"
    return [path] if path.exists() else sorted((out / name).glob("part-*.parquet"))


def _read(out: Path, name: str) -> dict[str, Any]:
    paths = sample_paths(out, name)
    for path in paths:
        check_seal(path)
    if paths[0].suffix == ".npz":
        return load_part(paths[0], "positions_nm", "sampler", *COLUMNS)
    table = pq.read_table(paths, columns=list(COLUMNS))
    columns = {column: table[column].to_numpy() for column in COLUMNS}
    chosen, weights = weighted_subsample(normalised(columns.pop("log_weights")), READ_ROWS)
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)
    tensors = (pq.read_table(path, columns=["positions_nm"])["positions_nm"].combine_chunks() for path in paths)
    positions = rows((tensor.to_numpy_ndarray() for tensor in tensors), chosen)
    sampler = pq.read_schema(paths[0]).metadata[b"sampler"].decode()
    kept = {column: values[chosen] for column, values in columns.items()}
    return {"positions_nm": positions, "sampler": sampler, "log_weights": log_weights, **kept}
