"""The file `SEQ_reference.json` beside a reference trajectory: how it was made, and whether it has converged."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .convergence import MIN_RUNS, Drift, StateEstimate, estimate_states, kish
from .storage import replacing, sha256
from .torsion_states import HasStates, occupied, states_of

MAX_R_HAT, MIN_EFFECTIVE_FRAMES = 1.05, 100.0
MIN_SHARE = 0.005  # of a state, or of all others, to be judged
MAX_UNSEEN = 0.01  # share that a state may have which no run has entered
MIN_DRIFT_KT = 0.1  # of mean energies that is worth a word
REASONS = 3  # states that are named
PACKAGES = ("boltzray", "openmm", "torch", "numpy")
_ODD = {math.inf: "inf", -math.inf: "-inf"}  # JSON has no ∞ and no NaN, which is null here


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Mixing of a ladder of replica exchange: rates between neighbours, and trips of all walkers to the top and back.

    `round_trips_per_ns`: of simulated time of one rung.
    """

    temperatures_k: tuple[float, ...]
    swap_rates: tuple[float, ...]
    round_trips: int
    round_trips_per_ns: float


class StatesFrom(NamedTuple):
    """All frames of K ladders, of which a trajectory has some: of all rungs with log-weights, and of one in time.

    Shape: K of (F R, N, 3), of (F R,), and of (F, N, 3).
    """

    runs_nm: Sequence[NDArray[np.float32]]
    log_weights: Sequence[NDArray[np.float64]]
    series_nm: Sequence[NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class ReferenceRecord:
    """Origin of a reference trajectory, its states, and reasons why it has not converged (none if it has).

    `runs`: independent ones, of `time_ns` each, `total_ns` in all with all rungs; NaN where a file did not say it, as
    `energy_evaluations` are then None. `effective_frames`: Kish's, of the weights. `npz_sha256`: of the trajectory.
    """

    sequence: str
    engine: str
    forcefield: str
    temperature_k: float
    method: Literal["md", "replica exchange"]
    runs: int
    time_ns: tuple[float, ...]
    total_ns: float
    energy_evaluations: int | None
    frames: int
    effective_frames: float
    states: tuple[StateEstimate, ...]
    ladder: Ladder | None = None
    converged: bool
    reasons: tuple[str, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    npz_sha256: str

    def is_of(self, npz: Path) -> bool:
        """Return True if this is the trajectory that the record was written for."""
        return sha256(npz) == self.npz_sha256

    def write(self, npz: Path) -> None:
        """Write the record beside a trajectory, whole or not at all."""
        with replacing(record_path(npz)) as temporary:
            text = json.dumps(_plain(asdict(self)), indent=1, ensure_ascii=False, allow_nan=False)
            temporary.write_text(text, encoding="utf-8")


def record_path(npz: Path) -> Path:
    """Return where the record of a trajectory is: `SEQ_reference.json` beside `SEQ_subsampled.npz`."""
    return npz.with_name(f"{npz.stem.removesuffix('_subsampled')}_reference.json")


def read_record(npz: Path) -> ReferenceRecord | None:
    """Read the record beside a trajectory; None where there is none. Ask `is_of` before it is believed.

    Raises: ValueError for a damaged file.
    """
    path = record_path(npz)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        states = tuple(_made(StateEstimate, state) for state in values["states"])
        ladder = None if values["ladder"] is None else _made(Ladder, values["ladder"])
        return _made(ReferenceRecord, values | {"states": states, "ladder": ladder})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no record of a reference ({error}): remove it, or simulate again") from None


def record_of(
    npz: Path,
    peptide: HasStates,
    positions_nm: NDArray[np.float32],
    *,
    forcefield: str,
    temperature_k: float,
    engine: str,
    time_ns: Sequence[float],
    log_weights: ArrayLike | None = None,
    run_lengths: Sequence[int] = (),
    states_from: StatesFrom | None = None,
    energy_evaluations: int | None = None,
    ladder: Ladder | None = None,
    energy_drift: Drift | None = None,
) -> ReferenceRecord:
    """Make the record of a trajectory that has been written, of K independent runs.

    `time_ns`: of each run; of one rung for a ladder. `energy_drift`: of the runs' energies in kT, where it is known.

    Shape: positions_nm (T, N, 3), log_weights (T,), run_lengths and time_ns (K,).
    """
    states = states_of(peptide)
    labels = [state.label for state in states]
    if states_from is None:
        found = estimate_states(labels, occupied(states, positions_nm), log_weights, run_lengths)
    else:
        found = estimate_states(
            labels,
            np.concatenate([occupied(states, run) for run in states_from.runs_nm]),
            np.concatenate(states_from.log_weights),
            [len(run) for run in states_from.runs_nm],
            [occupied(states, run) for run in states_from.series_nm],
        )
    runs = len(run_lengths) or 1
    reasons = [*drifting(energy_drift), *unconverged(found, runs)]
    return ReferenceRecord(
        sequence=peptide.sequence,
        engine=engine,
        forcefield=forcefield,
        temperature_k=temperature_k,
        method="md" if ladder is None else "replica exchange",
        runs=runs,
        time_ns=tuple(map(float, time_ns)),
        total_ns=float(sum(time_ns)) * (len(ladder.temperatures_k) if ladder else 1),
        energy_evaluations=energy_evaluations,
        frames=len(positions_nm),
        effective_frames=kish(log_weights, len(positions_nm)),
        states=tuple(found),
        ladder=ladder,
        converged=not reasons,
        reasons=tuple(reasons),
        versions=_versions(),
        npz_sha256=sha256(npz),
    )


# --- the rule -----------------------------------------------------------------------------------


def drifting(energy: Drift | None) -> list[str]:
    """A reason why runs are not at equilibrium: their energies go on in one direction."""
    if energy is None or abs(energy.rise) < MIN_DRIFT_KT or not energy.certain:
        return []
    change = f"{'rise' if energy.rise > 0 else 'fall'} by {abs(energy.rise):.2g} ± {energy.error:.1g} kT"
    return [f"energies {change} from the first half of the runs to the second: they began before equilibrium"]


def unconverged(states: Sequence[StateEstimate], runs: int | None) -> list[str]:
    """Reasons why a reference has not converged, worst states first; none if it has.

    It has if each state whose share may lie between 0.5 % and 99.5 %, by its interval, has R̂ ≤ 1.05 and 100 effective
    frames, if one that no run has entered can have 1 % at most (but for cis amides, which no such run would find), and
    there are four independent runs (None: their number is unknown, and not judged). Source: Vehtari et al. 2021,
    section 4, who ask for four chains, R̂ < 1.01 and 400 effective draws of any quantity; of shares 100 suffice for 5 %
    absolute.
    """
    reasons = []
    if runs is not None and runs < MIN_RUNS:
        reasons.append(f"{runs} independent run{'s' * (runs != 1)}, at least {MIN_RUNS} are needed")
    judged = [s for s in states if s.visits and s.high >= MIN_SHARE and s.low <= 1 - MIN_SHARE and 0 < s.share < 1]
    apart = sorted((s for s in judged if not s.r_hat <= MAX_R_HAT), key=lambda s: -_known(s.r_hat))
    few = sorted((s for s in judged if not s.effective_frames >= MIN_EFFECTIVE_FRAMES), key=_effective)
    if apart:
        found = _named([f"{s.label}: {_r_hat(s.r_hat)}" for s in apart])
        reasons.append(f"R̂ above {MAX_R_HAT:g} ({found})")
    if few:
        found = _named([f"{s.label}: {s.effective_frames:.3g}" for s in few])
        reasons.append(f"fewer than {MIN_EFFECTIVE_FRAMES:.0f} effective frames ({found})")
    unseen = [s for s in states if not s.visits and s.high > MAX_UNSEEN and not s.label.startswith("ω")]
    if unseen:
        found = _named([f"{s.label}: up to {100 * s.high:.3g} %" for s in unseen])
        reasons.append(f"never visited, and not known to be rare ({found})")
    return reasons


def _known(r_hat: float) -> float:
    return math.inf if math.isnan(r_hat) else r_hat


def _r_hat(value: float) -> str:
    return "unknown" if math.isnan(value) else "∞" if math.isinf(value) else f"{value:.4g}"


def _effective(state: StateEstimate) -> float:
    return state.effective_frames


def _named(states: list[str]) -> str:
    more = f" and {len(states) - REASONS} more" if len(states) > REASONS else ""
    return ", ".join(states[:REASONS]) + more


# --- files --------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Values as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return _ODD.get(value)
    return value


def _made(kind: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass of such values. Raises: ValueError, TypeError or KeyError for what does not fit."""
    found = {}
    for one in fields(kind):
        value = values[one.name]
        if one.type is float:
            value = math.nan if value is None else float(value)
        elif one.type in (int, str, bool) and type(value) is not one.type:
            raise TypeError(f"{one.name}: {value!r}")
        elif one.type in (tuple[float, ...], tuple[str, ...]):
            convert = float if one.type == tuple[float, ...] else str
            value = tuple(math.nan if x is None else convert(x) for x in value)
        found[one.name] = value
    return kind(**found)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
