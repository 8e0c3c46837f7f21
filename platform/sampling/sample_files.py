"""What `sample` leaves in its folder, and how it is read again; nothing here holds all coordinates at once to write."""

import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

import mdtraj
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from boltzray.molecules.peptide import Peptide
from boltzray.molecules.subsample import weighted_subsample
from boltzray.samplers import Stage, generator, normalised, resample

from ..runtime.config import write_json

ENSEMBLE_FRAMES = 1000
RESAMPLE_FOR_FILES = 16 + Stage.RESAMPLE  # a stream of its own
SHARD_ROWS = 65_536
NPZ_MAX_BYTES = 2_000_000_000  # of coordinates; more are left in Parquet only
READ_ROWS = 100_000  # of those, the ones that stand for all


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleSet:
    """Weighted conformations from one sampler.

    Shape: chunks are (…, N, 3) in nm, n rows in all; log_weights, energy_kt, log_q (n,). `steps` is SMC's path.
    """

    name: str
    chunks: Iterable[np.ndarray]
    log_weights: np.ndarray
    energy_kt: np.ndarray
    log_q: np.ndarray
    diagnostics: dict[str, float]
    steps: list[dict[str, Any]] | None = None

    @cached_property
    def positions_nm(self) -> np.ndarray:
        """All conformations (n, N, 3), in memory."""
        return np.concatenate(list(self.chunks))

    def scalars(self) -> dict[str, np.ndarray]:
        """The columns beside the positions, under the names they have in files."""
        return {"log_weights": self.log_weights, "energy_kT": self.energy_kt, "log_q": self.log_q}


def finished(out: Path) -> bool:
    """Whether a run has left all its results in `out`."""
    return (out / "sampling.json").exists()


def write_samples(out: Path, peptide: Peptide, sets: Sequence[SampleSet], seed: int) -> None:
    """`samples.npz` and `samples/` of the last set, `ensemble.xtc` drawn from it by weight, the proposals apart.

    sampling.json is written last: where it stands, the run is finished.
    """
    final = sets[-1]
    (out / "topology.pdb").write_text(peptide.to_pdb())
    n = min(ENSEMBLE_FRAMES, len(final.log_weights))
    chosen = np.sort(resample(final.log_weights, n, generator(seed, RESAMPLE_FOR_FILES), "systematic"))
    for sample_set in sets:
        _save(out, "samples" if sample_set is final else sample_set.name.lower(), sample_set, peptide.n_atoms)
    temporary = out / ".ensemble.xtc"
    topology = mdtraj.Topology.from_openmm(peptide.topology)
    mdtraj.Trajectory(rows(final.chunks, chosen), topology).save_xtc(str(temporary))
    temporary.replace(out / "ensemble.xtc")
    write_json(out / "sampling.json", {s.name: {"diagnostics": s.diagnostics, "steps": s.steps} for s in sets})


def rows(chunks: Iterable[np.ndarray], index: np.ndarray) -> np.ndarray:
    """The conformations at ascending `index`, of which each may come more than once."""
    found, low = [], 0
    for chunk in chunks:
        here = index[(index >= low) & (index < low + len(chunk))]
        found.append(chunk[here - low])
        low += len(chunk)
    return np.concatenate(found)


def _save(out: Path, name: str, sample_set: SampleSet, n_atoms: int) -> None:
    """`NAME/part-*.parquet`, and `NAME.npz` where that can be read at once."""
    n = len(sample_set.log_weights)
    shards, archive = out / f".{name}", out / f".{name}.npz"
    shutil.rmtree(shards, ignore_errors=True)
    with ExitStack() as stack:
        columns: list[_Column] = [stack.enter_context(_parquet(shards, sample_set))]
        if n * n_atoms * 12 <= NPZ_MAX_BYTES:
            columns.append(stack.enter_context(_npz(archive, sample_set, (n, n_atoms, 3))))
        for chunk in sample_set.chunks:
            for column in columns:
                column.write(np.ascontiguousarray(chunk, np.float32))
    shutil.rmtree(out / name, ignore_errors=True)
    shards.rename(out / name)
    if archive.exists():
        archive.replace(out / f"{name}.npz")


class _Column(Protocol):
    def write(self, chunk: np.ndarray) -> None: ...


class _Npz:
    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def write(self, chunk: np.ndarray) -> None:
        self.file.write(chunk.data)


@contextmanager
def _npz(path: Path, sample_set: SampleSet, shape: tuple[int, ...]) -> Iterator[_Npz]:
    """Takes positions chunk by chunk, as np.savez would have written them at once."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, values in {**sample_set.scalars(), "sampler": np.array(sample_set.name)}.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, values)
        with archive.open("positions_nm.npy", "w", force_zip64=True) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            yield _Npz(file)


class _Parquet:
    """Shards of `SHARD_ROWS`: `positions_nm` are tensors to PyArrow and Ray Data, flat lists to pandas."""

    def __init__(self, folder: Path, columns: Mapping[str, np.ndarray], sampler: str) -> None:
        folder.mkdir(parents=True)
        self.folder, self.columns, self.sampler = folder, columns, sampler
        self.row = 0
        self.writer: pq.ParquetWriter | None = None

    def write(self, chunk: np.ndarray) -> None:
        here = slice(self.row, self.row + len(chunk))
        arrays = {"positions_nm": pa.FixedShapeTensorArray.from_numpy_ndarray(chunk)}
        table = pa.table(arrays | {name: values[here] for name, values in self.columns.items()})
        if self.row // SHARD_ROWS != (self.row - 1) // SHARD_ROWS or self.writer is None:
            self.close()
            path = self.folder / f"part-{self.row // SHARD_ROWS:05d}.parquet"
            self.writer = pq.ParquetWriter(path, table.schema.with_metadata({"sampler": self.sampler}))
        self.writer.write_table(table.replace_schema_metadata({"sampler": self.sampler}))
        self.row += len(chunk)

    def close(self) -> None:
        if self.writer:
            self.writer.close()
        self.writer = None


@contextmanager
def _parquet(folder: Path, sample_set: SampleSet) -> Iterator[_Parquet]:
    shards = _Parquet(folder, sample_set.scalars(), sample_set.name)
    try:
        yield shards
    finally:
        shards.close()


def read_samples(out: Path) -> tuple[Peptide, list[SampleSet]]:
    """Everything in a results folder, the final set last.

    Of sets too large for an .npz, the rows that stand for all by weight (`molecules.metrics.weighted_subsample`).
    Raises: FileNotFoundError when there is no finished run.
    """
    if not finished(out):
        raise FileNotFoundError(
            f"no sampling.json in {out}: sample first (python jobs/sample.py sequence=…), or check the path"
        )
    details = json.loads((out / "sampling.json").read_text())
    sets = []
    for name in ("snis", "samples"):
        if not (out / f"{name}.npz").exists() and not (out / name).exists():
            continue
        columns = _read(out, name)
        sampler = str(columns["sampler"])
        sets.append(
            SampleSet(
                name=sampler,
                chunks=[columns["positions_nm"]],
                log_weights=columns["log_weights"],
                energy_kt=columns["energy_kT"],
                log_q=columns["log_q"],
                **details[sampler],
            )
        )
    return Peptide.from_pdb(out / "topology.pdb"), sets


def _read(out: Path, name: str) -> dict[str, Any]:
    if (out / f"{name}.npz").exists():
        with np.load(out / f"{name}.npz") as arrays:
            return dict(arrays)
    names = ("log_weights", "energy_kT", "log_q")
    paths = sorted((out / name).glob("part-*.parquet"))
    table = pq.read_table(paths, columns=list(names))
    columns = {column: table[column].to_numpy() for column in names}
    chosen, weights = weighted_subsample(normalised(columns["log_weights"]), READ_ROWS)
    with np.errstate(divide="ignore"):
        thinned = {"log_weights": np.log(weights), **{k: columns[k][chosen] for k in names[1:]}}
    tensors = (pq.read_table(path, columns=["positions_nm"])["positions_nm"].combine_chunks() for path in paths)
    positions = rows((tensor.to_numpy_ndarray() for tensor in tensors), chosen)
    sampler = pq.read_schema(paths[0]).metadata[b"sampler"].decode()
    return {"positions_nm": positions, "sampler": sampler, **thinned}
