"""Observables of conformations: backbone angles, TICA, chirality, clashes and bond lengths.

Shapes: T frames, N atoms, R residues, F features, C chiral centres. Lengths in nm, angles in radians.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mdtraj
import numpy as np
from numpy.typing import ArrayLike, NDArray
from openmm.app import Topology

Floats = NDArray[np.float64]

CHUNK = 512  # frames whose pair distances are held at once: 130 MB for the longest peptide
# Bondi radii; a hydrogen on N, O or S counts 0.05 because it may form a hydrogen bond.
RADII_NM = {"H": 0.11, "C": 0.17, "N": 0.155, "O": 0.152, "S": 0.18}
POLAR_HYDROGEN_NM = 0.05
CLASH_OVERLAP = 0.65  # closer than this fraction of the sum of the radii
BOND_TOLERANCE_NM = 0.03  # nine standard deviations of the softest bond at 310 K
TICA_LAG = 100  # frames, of the published analysis


def _trajectory(positions_nm: ArrayLike, topology: Topology) -> Any:
    positions = np.asarray(positions_nm, dtype=np.float32)
    n_atoms = topology.getNumAtoms()
    if positions.ndim != 3 or positions.shape[1:] != (n_atoms, 3):
        raise ValueError(f"positions of shape {positions.shape} do not fit the peptide; give (T, {n_atoms}, 3)")
    return mdtraj.Trajectory(positions, mdtraj.Topology.from_openmm(topology))


def dihedrals(positions_nm: ArrayLike, topology: Topology) -> tuple[Floats, Floats, Floats]:
    """Backbone angles φ, ψ, ω.

    Shape: (T, N, 3) -> three of (T, R - 1) for an uncapped peptide.
    Units: nm -> radians in (-π, π].
    """
    frames = _trajectory(positions_nm, topology)
    phi, psi, omega = (
        compute(frames, periodic=False)[1].astype(np.float64)
        for compute in (mdtraj.compute_phi, mdtraj.compute_psi, mdtraj.compute_omega)
    )
    return phi, psi, omega


# --- TICA ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tica:
    """A linear projection on slow coordinates: (features - mean) @ projection.

    Shape: mean (F,), projection (F, k).
    """

    mean: Floats
    projection: Floats


def tica_features(positions_nm: ArrayLike, topology: Topology) -> Floats:
    """Distances between all C, N and S atoms, then sine and cosine of φ, of ψ and of ω.

    Shape: (T, N, 3) -> (T, F); pairs are the upper triangle, row by row.
    """
    atoms = np.array([a.index for a in topology.atoms() if a.element and a.element.symbol in ("C", "N", "S")])
    first, second = np.triu_indices(len(atoms), 1)
    positions = np.asarray(positions_nm)
    distances = np.concatenate([_distances(x, atoms[first], atoms[second]) for x in _chunks(positions)])
    angles = [f(angle) for angle in dihedrals(positions, topology) for f in (np.sin, np.cos)]
    return np.concatenate([distances, *angles], axis=1)


def fit_tica(positions_nm: ArrayLike | list[Any], topology: Topology, lag: int = TICA_LAG, dim: int = 2) -> Tica:
    """Fit TICA on frames in order of time (T, N, 3), or on a list of such runs: reversible, scaled to a kinetic map.

    All frames have the same weight: so fitted, the golden TICA and the stored files come out again. With
    Koopman weights, which the published protocol names, they do not, and short runs lose most of their rank.

    Raises: ValueError when there are too few frames for the lag.
    Source: Pérez-Hernández et al. 2013; kinetic map: Noé & Clementi 2015.
    """
    from deeptime.decomposition import TICA  # a second to import, and needed only here

    runs: list[Any] = positions_nm if isinstance(positions_nm, list) else [positions_nm]
    features = [tica_features(run, topology) for run in runs]
    shortest = min(map(len, features))
    if shortest < 2 * lag:
        raise ValueError(f"TICA with lag {lag} needs {2 * lag} frames or more, got {shortest}; simulate longer")
    estimator = TICA(lagtime=lag, dim=dim)
    for run in features:
        estimator.partial_fit((run[:-lag], run[lag:]))
    model = estimator.fetch_model()
    return Tica(mean=model.mean_0, projection=model.instantaneous_coefficients[:, :dim])


def tica_lag(n_frames: int) -> int:
    """Lag in frames for `fit_tica`: the published one, or a tenth of a shorter run."""
    return max(1, min(TICA_LAG, n_frames // 10))


def project(tica: Tica, positions_nm: ArrayLike, topology: Topology) -> Floats:
    """Shape: (T, N, 3) -> (T, k).

    Raises: ValueError when the projection belongs to another peptide.
    """
    features = tica_features(positions_nm, topology)
    if features.shape[1] != len(tica.mean):
        raise ValueError(
            f"this TICA has {len(tica.mean)} features, the peptide {features.shape[1]}; load or fit its own"
        )
    return (features - tica.mean) @ tica.projection


# --- chirality ----------------------------------------------------------------------------------


def chiral_centres(topology: Topology) -> NDArray[np.int64]:
    """Carbons with four different substituents, each with three of its neighbours, heavy ones first.

    Shape: (C, 4): centre, then neighbours.
    Two substituents are the same when colour refinement (Morgan 1965) cannot tell them apart: so CA counts
    except in GLY, and CB in ILE and THR, while CB of VAL and CG of LEU do not.
    """
    elements, neighbours = _graph(topology)
    colours = [hash(e) for e in elements]
    for _ in range(len(colours)):
        refined = [hash((colours[i], *sorted(colours[j] for j in near))) for i, near in enumerate(neighbours)]
        done = len(set(refined)) == len(set(colours))
        colours = refined
        if done:
            break
    centres = [
        [i, *sorted(near, key=lambda j: (elements[j] == "H", j))[:3]]
        for i, near in enumerate(neighbours)
        if elements[i] == "C" and len({colours[j] for j in near}) == len(near) == 4
    ]
    return np.array(centres, dtype=np.int64).reshape(-1, 4)


def chirality_signs(positions_nm: ArrayLike, topology: Topology) -> NDArray[np.int8]:
    """Handedness of every chiral centre. Shape: (T, N, 3) -> (T, C), values -1, 0, 1."""
    positions, centres = np.asarray(positions_nm, dtype=np.float64), chiral_centres(topology)
    arms = positions[:, centres[:, 1:]] - positions[:, centres[:, :1]]
    volume = np.einsum("tci,tci->tc", arms[:, :, 0], np.cross(arms[:, :, 1], arms[:, :, 2]))
    return np.sign(volume).astype(np.int8)


def unmirror(
    positions_nm: NDArray[Any], topology: Topology, reference_signs: NDArray[np.int8]
) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.bool_]]:
    """Mirror back the frames in which every centre has the wrong sign.

    The energy does not see the mirror, so such a frame is a sound one of the other enantiomer.

    Shape: (T, N, 3), reference_signs (C,) -> positions (T, N, 3), mirrored (T,) and correct (T,), which
    says that at last every sign is right.
    """
    signs = chirality_signs(positions_nm, topology)
    mirrored = (signs == -reference_signs).all(axis=1) & (len(reference_signs) > 0)
    correct = (signs == reference_signs).all(axis=1) | mirrored
    return np.where(mirrored[:, None, None], -positions_nm, positions_nm), mirrored, correct


# --- sanity -------------------------------------------------------------------------------------


def clashes(positions_nm: ArrayLike, topology: Topology) -> NDArray[np.int64]:
    """Pairs of atoms, more than three bonds apart, that overlap. Shape: (T, N, 3) -> (T,) counts."""
    elements, neighbours = _graph(topology)
    near = np.eye(len(elements), dtype=bool)
    for _ in range(3):
        near |= np.array([near[[i, *js]].any(axis=0) for i, js in enumerate(neighbours)])
    first, second = np.nonzero(np.triu(~near, 1))
    polar = [
        e == "H" and any(elements[j] in ("N", "O", "S") for j in js) for e, js in zip(elements, neighbours, strict=True)
    ]
    radii = np.array([POLAR_HYDROGEN_NM if p else RADII_NM[e] for e, p in zip(elements, polar, strict=True)])
    limit = CLASH_OVERLAP * (radii[first] + radii[second])
    return np.concatenate(
        [(_distances(x, first, second) < limit).sum(axis=1) for x in _chunks(np.asarray(positions_nm))]
    )


def bond_outliers(
    positions_nm: ArrayLike, topology: Topology, reference_nm: ArrayLike, reference_weights: Floats | None = None
) -> NDArray[np.int64]:
    """Bonds that differ by over 0.03 nm from their mean length in the reference frames (one is enough).

    Shape: (T, N, 3), (M, N, 3), (M,) -> (T,) counts.
    """
    first, second = np.array([(a.index, b.index) for a, b in topology.bonds()]).T
    usual = _distances(np.asarray(reference_nm), first, second)
    expected = usual.mean(axis=0) if reference_weights is None else np.average(usual, axis=0, weights=reference_weights)
    lengths = _distances(np.asarray(positions_nm), first, second)
    return (np.abs(lengths - expected) > BOND_TOLERANCE_NM).sum(axis=1)


def _graph(topology: Topology) -> tuple[list[str], list[list[int]]]:
    elements = [a.element.symbol for a in topology.atoms()]
    neighbours: list[list[int]] = [[] for _ in elements]
    for a, b in topology.bonds():
        neighbours[a.index].append(b.index)
        neighbours[b.index].append(a.index)
    return elements, neighbours


def _distances(positions: NDArray[Any], first: NDArray[Any], second: NDArray[Any]) -> Floats:
    return np.linalg.norm(positions[:, first].astype(np.float64) - positions[:, second], axis=-1)


def _chunks(positions: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (positions[start : start + CHUNK] for start in range(0, max(len(positions), 1), CHUNK))
