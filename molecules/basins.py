"""Basins of a peptide: sets of its conformations whose shares, and free energies, are asked for.

A group of basins holds each conformation once at most; what is in none is left as "other".

Shapes: T frames. Angles in degrees.
Source: Ramachandran regions: Best, Buchete & Hummer 2008 (Biophys. J. 95, L07), without the corners of β beyond ±180°,
which the periodic windows here contain; left-handed: `torsion_states`.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
from numpy.typing import NDArray

from .bond_torsions import heavy_torsions
from .torsion_states import Atoms, HasStates, TorsionState, occupied, states_of

Bools = NDArray[np.bool_]

PHI_REGIONS = {"αR": ((-160, -20), (-120, 50)), "β": ((-180, -90), (50, 240)), "PPII": ((-90, -20), (50, 240))}
LEFT = (0, 120)
ASCII = {"phi": "φ", "psi": "ψ", "omega": "ω", "chi1": "χ1", "chi2": "χ2"}
OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class Basin:
    """A region of a group: all windows, one a torsion, must hold."""

    group: str
    label: str
    windows: tuple[TorsionState, ...]

    def holds(self, positions_nm: NDArray[Any]) -> Bools:
        """Frames (T, N, 3) that are in it, (T,)."""
        return np.asarray(occupied(self.windows, positions_nm).all(axis=1))


def torsions_of(peptide: HasStates) -> dict[str, Atoms]:
    """Torsions that have states, by name, such as φ(A2)."""
    return {state.label.split(" ")[0]: state.atoms for state in states_of(peptide)}


def ramachandran_basins(peptide: HasStates) -> list[Basin]:
    """List named regions of each residue: αR, β, PPII and left-handed where it has φ and ψ.

    Uncapped ends have one of the two: of φ the left-handed side, of ψ α and β.
    """
    torsions = torsions_of(peptide)
    places = dict.fromkeys(name[2:-1] for name in torsions if name[0] in "φψ")
    return [basin for place in places for basin in _of_residue(place, torsions)]


def _of_residue(place: str, torsions: Mapping[str, Atoms]) -> Iterator[Basin]:
    phi, psi = f"φ({place})", f"ψ({place})"
    if phi in torsions and psi in torsions:
        for name, (of_phi, of_psi) in PHI_REGIONS.items():
            yield _basin(place, name, {phi: of_phi, psi: of_psi}, torsions)
        yield _basin(place, "left, φ > 0", {phi: LEFT}, torsions)
    elif phi in torsions:
        yield _basin(phi, "right, φ < 0", {phi: (LEFT[1], 360)}, torsions)
        yield _basin(phi, "left, φ > 0", {phi: LEFT}, torsions)
    else:
        yield _basin(psi, "α", {psi: (-120, 50)}, torsions)
        yield _basin(psi, "β, PPII", {psi: (50, 240)}, torsions)


def _basin(group: str, label: str, windows: Mapping[str, Sequence[float]], torsions: Mapping[str, Atoms]) -> Basin:
    found = tuple(
        TorsionState(label=name, atoms=torsions[name], low_deg=float(low), high_deg=float(high))
        for name, (low, high) in windows.items()
    )
    return Basin(group=group, label=label, windows=found)


def read_basins(path: Path, peptide: HasStates) -> list[Basin]:
    """Read basins of a YAML or JSON file: `{C7eq: {"phi(A2)": [-160, -20], "psi(A1)": [50, 240]}, C7ax: …}`.

    Windows are in degrees on the circle, low to high, which may be over 180. Raises: ValueError of one line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"no file at {path}: check basins=") from None
    found = json.loads(text) if path.suffix == ".json" else _yaml(text, path)
    torsions = torsions_of(peptide)
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{path} names no basins: write {{NAME: {{'φ(A2)': [-160, -20]}}}}")
    return [_checked(str(label), windows, torsions, path) for label, windows in found.items()]


def _yaml(text: str, path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None


def _checked(label: str, windows: Any, torsions: Mapping[str, Atoms], path: Path) -> Basin:
    if not isinstance(windows, dict) or not windows:
        raise ValueError(f"{path}: basin {label} has no windows: write {{'φ(A2)': [-160, -20]}}")
    named = {re.sub(r"^[a-z]+\d?", lambda m: ASCII.get(m[0], m[0]), str(key)): value for key, value in windows.items()}
    for name, window in named.items():
        if name not in torsions:
            raise ValueError(f"{path}: basin {label} has {name}, the peptide {', '.join(torsions)}")
        numbers = isinstance(window, list) and len(window) == 2 and all(isinstance(x, int | float) for x in window)
        if not numbers or not 0 < window[1] - window[0] <= 360:
            raise ValueError(f"{path}: {name} of basin {label} is {window}: give [LOW, HIGH] in degrees, LOW < HIGH")
    return _basin("basins", label, named, torsions)


class Clusters:
    """Basins found by k-means on sine and cosine of all φ and ψ, in order of weight.

    Fitted to frames (T, N, 3) with weights (T,). Source: k-means++ of scikit-learn, ten starts of one seed.
    """

    def __init__(self, peptide: HasStates, positions_nm: NDArray[Any], weights: NDArray[Any], k: int) -> None:
        from sklearn.cluster import KMeans

        torsions = {name: atoms for name, atoms in torsions_of(peptide).items() if name[0] in "φψ"}
        torsions = torsions or dict(heavy_torsions(peptide.topology))
        if not torsions:
            raise ValueError(f"basins=kmeans:{k}: nothing turns in {peptide.sequence}")
        self.names, self._atoms = list(torsions), np.array(list(torsions.values()))
        features = self._features(positions_nm)
        if k > len(np.unique(features[weights > 0].round(3), axis=0)):
            raise ValueError(f"basins=kmeans:{k}: there are fewer different conformations; ask for fewer")
        self._model = KMeans(k, n_init=10, random_state=0).fit(features, sample_weight=weights)
        shares = np.bincount(self._model.labels_, weights=weights, minlength=k)
        self._rank = np.argsort(np.argsort(-shares, kind="stable"))
        self.k = k

    def _features(self, positions_nm: NDArray[Any]) -> NDArray[np.float64]:
        frames: Any = mdtraj.Trajectory(np.asarray(positions_nm, np.float32), None)
        angles = mdtraj.compute_dihedrals(frames, self._atoms, periodic=False).astype(np.float64)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    def labels(self) -> list[str]:
        """Number of each cluster, with the angles of its centre."""
        centres = self._model.cluster_centers_[np.argsort(self._rank)]
        half = centres.shape[1] // 2
        angles = np.degrees(np.arctan2(centres[:, :half], centres[:, half:]))
        return [
            f"{i}: " + ", ".join(f"{name} {angle:.0f}°" for name, angle in zip(self.names, row, strict=True))
            for i, row in enumerate(angles, start=1)
        ]

    def member(self, positions_nm: NDArray[Any]) -> NDArray[np.int64]:
        """Cluster (T,) of each frame, from 0."""
        rank: NDArray[np.int64] = self._rank[self._model.predict(self._features(positions_nm))]
        return rank
