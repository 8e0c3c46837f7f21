"""A run of molecular dynamics on disk: settings, warm-up and chunks, the same whichever engine makes them."""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .forcefield import DEFAULT_FORCEFIELD, check_forcefield
from .storage import BAD_ARCHIVE, DamagedFile, read_json, replacing

if TYPE_CHECKING:
    from .peptide import Peptide

Frames = npt.NDArray[np.float32]
State = tuple[Frames, Frames]  # positions nm, velocities nm/ps

# Of runs from before these could be chosen.
_EARLIER = {
    "engine": "openmm", "hot_ps": 0.0, "hot_temperature_k": 600.0, "hydrogen_mass_da": None, "start": "",
    "start_draws": 128,
}  # fmt: skip
MAX_HYDROGEN_DA = 4.0  # leaves the carbon of a methyl 3 Da
WARMUP_FRICTION_PER_PS = 5.0  # at least: at 0.3/ps what is left of the heat falls to a tenth in 8 ps only


@dataclass(frozen=True, kw_only=True)
class MDConfig:
    """Langevin dynamics (LangevinMiddle), a frame every `interval_ps`. Defaults: published training runs.

    All replicas start from one minimised structure, and `hot_ps` at `hot_temperature_k` before the warm-up lets them
    part; or each starts from one of `start_draws` of its own of the flow `start`, a checkpoint, chosen by weight.
    Until the first frame friction is at least `WARMUP_FRICTION_PER_PS`: heat, or the cold of a minimised structure,
    comes and goes at the rate of the friction.
    `hydrogen_mass_da` (3, say) slows the fastest vibrations for steps of 2 fs: averages of positions do not depend on
    masses, the kinetics does.
    """

    temperature_k: float = 310.0
    timestep_fs: float = 1.0
    friction_per_ps: float = 0.3
    warmup_ps: float = 50.0
    hot_ps: float = 0.0
    hot_temperature_k: float = 600.0
    interval_ps: float = 1.0
    frames_per_chunk: int = 100
    forcefield: str = DEFAULT_FORCEFIELD
    hydrogen_mass_da: float | None = None
    start: str = ""
    start_draws: int = 128

    def __post_init__(self) -> None:
        check_forcefield(self.forcefield)
        for name in ("temperature_k", "hot_temperature_k", "timestep_fs", "friction_per_ps", "interval_ps"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name}={getattr(self, name)}: give a positive number")
        for name in ("warmup_ps", "hot_ps"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name}={getattr(self, name)}: give zero or a positive number")
        if self.hydrogen_mass_da is not None and not 1.0 <= self.hydrogen_mass_da <= MAX_HYDROGEN_DA:
            raise ValueError(f"hydrogen_mass_da={self.hydrogen_mass_da}: give 1 to {MAX_HYDROGEN_DA:g}, or null")
        for name in ("frames_per_chunk", "start_draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give at least 1")
        if self.steps_per_frame < 1 or not np.isclose(self.steps_per_frame * self.timestep_fs, self.interval_ps * 1000):
            raise ValueError(
                f"interval_ps={self.interval_ps} is not a whole number of steps of {self.timestep_fs} fs: "
                "change interval_ps or timestep_fs"
            )

    @property
    def steps_per_frame(self) -> int:
        """Integration steps from one frame to the next."""
        return round(self.interval_ps * 1000 / self.timestep_fs)

    @property
    def warmup_steps(self) -> int:
        """Integration steps before the first frame, at its temperature."""
        return round(self.warmup_ps * 1000 / self.timestep_fs)

    @property
    def hot_steps(self) -> int:
        """Integration steps before these, at the higher temperature."""
        return round(self.hot_ps * 1000 / self.timestep_fs)

    @property
    def ps_per_chunk(self) -> float:
        """Simulated time of one chunk."""
        return self.interval_ps * self.frames_per_chunk

    def chunks(self, time_ps: float) -> int:
        """Number of chunks that make up at least `time_ps`. Raises: ValueError for no time."""
        if not 0 < time_ps < np.inf:
            raise ValueError(f"time_ps={time_ps}: give a positive simulation time")
        return int(np.ceil(time_ps / self.ps_per_chunk - 1e-9))


def warming(config: MDConfig) -> MDConfig:
    """Dynamics of the hot part and of the warm-up: with friction enough to lose heat."""
    return replace(config, friction_per_ps=max(config.friction_per_ps, WARMUP_FRICTION_PER_PS))


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a run: chunks done and asked for, and the speed of the last one, of all replicas together."""

    chunks_done: int
    chunks_total: int
    ps_per_second: float


def run_name(sequence: str, config: MDConfig, replica: int = 0) -> str:
    """Directory name of a run: sequence, temperature (K), interval (ps), frames per chunk."""
    name = f"{sequence}_{config.temperature_k:g}_{config.interval_ps:g}_{config.frames_per_chunk}"
    return f"{name}_r{replica}" if replica else name


def load_trajectory(directory: str | Path) -> Frames:
    """All frames of a run, in order. Shape: (T, N, 3) float32. Units: nm.

    Raises: ValueError if there is no chunk, or one is missing in between, unreadable or another run's.
    """
    directory = Path(directory)
    count = len(list((directory / "chunks").glob("chunk_*.npz")))
    if not count:
        raise ValueError(f"no chunks under {directory}: simulate first, or check the path")
    absent = [i for i in range(count) if not chunk_path(directory, i).exists()]
    if absent:
        raise ValueError(f"chunk_{absent[0]}.npz is missing in {directory}: simulate again to fill the gap")
    warm = warmup_path(directory)
    before, frames = ending(load_state(warm)) if warm.exists() else "", []
    for index in range(count):
        arrays = read_arrays(chunk_path(directory, index))
        check_begins(directory, index, arrays, before)
        before = ending((arrays["positions"], arrays["velocities"]))
        frames.append(arrays["positions"])
    return np.concatenate(frames)


def record(
    directory: Path,
    peptide: "Peptide",
    config: MDConfig,
    seed: int,
    first_chunk: int | None,
    engine: str,
    versions: Mapping[str, str],
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write run.json, or compare with the one that is there; note what it runs with from `first_chunk` on.

    `more`: further settings, as JSON has them.

    Raises: ValueError if the directory holds a run with other settings.
    """
    atoms = " ".join(f"{a.residue.index}:{a.residue.name}:{a.name}" for a in peptide.topology.atoms())
    settings: dict[str, Any] = {
        "sequence": peptide.sequence,
        "atoms_sha256": hashlib.sha256(atoms.encode()).hexdigest(),
        "seed": seed,
        "engine": engine,
        **asdict(config),
        **(more or {}),
    }
    versions = {**versions, "numpy": np.__version__, "python": sys.version.split()[0]}
    path = directory / "run.json"
    history = []
    if path.exists():
        stored = read_json(path)
        try:
            found, history = {**_EARLIER, **stored["settings"]}, list(stored["versions"])
        except (TypeError, KeyError):
            raise DamagedFile(f"{path} is damaged: delete its folder, and simulate again") from None
        differing = [
            f"{name} was {found.get(name)} and is now {value}"
            for name, value in settings.items()
            if found.get(name) != value
        ]
        if differing:
            raise ValueError(
                f"{directory} holds another run ({'; '.join(differing)}): use the same settings or another directory"
            )
    if first_chunk is None or (history and history[-1]["versions"] == versions):
        return
    history.append({"from_chunk": first_chunk, "versions": versions})
    if first_chunk == 0 and not warmup_path(directory).exists():
        history[-1]["warmup_friction_per_ps"] = warming(config).friction_per_ps
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"settings": settings, "versions": history}, indent=2))


def chunk_path(directory: Path, index: int) -> Path:
    """Path of chunk `index`, whether it is there yet or not."""
    return directory / "chunks" / f"chunk_{index}.npz"


def warmup_path(directory: Path) -> Path:
    """Path of the frame from which chunk 0 starts."""
    return directory / "warmup.npz"


def start_path(directory: Path) -> Path:
    """Path of the positions (N, 3) in nm that the warm-up starts from, of a run that starts from a flow's draws."""
    return directory / "start.npz"


def load_start(directory: Path) -> Frames:
    """Positions (N, 3) in nm at `start_path`. Raises: ValueError if the file is missing or damaged."""
    path = start_path(directory)
    try:
        with np.load(path) as arrays:
            positions: Frames = arrays["positions"]
            return positions
    except BAD_ARCHIVE as error:
        raise ValueError(f"{path} cannot be read: delete it and simulate again") from error


def save_start(directory: Path, positions_nm: Frames) -> None:
    """Write positions (N, 3) in nm at `start_path`, whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(start_path(directory)) as temporary, temporary.open("wb") as file:
        np.savez(file, positions=positions_nm)


def path_before(directory: Path, index: int) -> Path:
    """The file with whose last frame chunk `index` starts."""
    return chunk_path(directory, index - 1) if index else warmup_path(directory)


def load_state(path: Path) -> State:
    """Positions and velocities. Raises: ValueError if the file is damaged."""
    arrays = read_arrays(path)
    try:
        return arrays["positions"], arrays["velocities"]
    except KeyError as error:
        raise ValueError(f"{path} cannot be read: delete it and simulate again") from error


def save_state(path: Path, state: State, begins: str = "") -> None:
    """Write positions and velocities; `begins`: the `ending` of the file with whose last frame they start."""
    write_arrays(path, {"positions": state[0], "velocities": state[1]}, begins)


def ending(state: State) -> str:
    """Fingerprint of the last frame of a file: those of other runs differ."""
    return fingerprint(state[0][-1], state[1][-1])


def fingerprint(*arrays: npt.NDArray[Any]) -> str:
    """SHA-256 of the bytes of arrays, its first 16 digits."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(array.tobytes())
    return found.hexdigest()[:16]


def check_begins(directory: Path, index: int, arrays: Mapping[str, npt.NDArray[Any]], before: str) -> None:
    """Check that chunk `index` starts where the file before it ended. Chunks of earlier versions do not say.

    Raises: ValueError.
    """
    if before and "begins" in arrays and str(arrays["begins"]) != before:
        raise ValueError(
            f"{chunk_path(directory, index)} does not start where {path_before(directory, index).name} ends: one of "
            "them is of another run; delete both and simulate again"
        )


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a chunk. Raises: ValueError if the file is damaged."""
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except BAD_ARCHIVE as error:
        raise ValueError(f"{path} cannot be read: delete it and simulate again") from error


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]], begins: str = "") -> None:
    """Write the arrays of a chunk, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    named = {**arrays, **({"begins": np.array(begins)} if begins else {})}
    with replacing(path) as temporary, temporary.open("wb") as file:  # a file: savez would change the name
        np.savez(file, **named)  # type: ignore[arg-type]
