"""Representative conformations of a weighted ensemble, and the viewer that turns them in the page."""

import base64
import gzip
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
from scipy.cluster.vq import kmeans, vq

from boltzray.molecules.bond_torsions import conformation_angles
from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.observables import chirality_signs, unmirror
from boltzray.molecules.subsample import systematic_rows, weighted_subsample

from .contents import HasChain
from .plotting import Floats

STATES = 4
MAX_CLUSTERED = 5_000
STARTS = 20  # of k-means, of which the best counts
ASSETS = Path(__file__).with_name("assets")


@dataclass(frozen=True, kw_only=True, eq=False)
class Conformer:
    """One of the states of an ensemble, with the fraction of its weight.

    Shape: positions_nm (N, 3), superposed on those of the other states.
    """

    fraction: float
    energy_kT: float
    positions_nm: Floats


def conformers(ensemble: Ensemble, peptide: HasChain) -> list[Conformer]:
    """Cluster by backbone angles, or all torsions of what has none; of each give one near its middle, heavy ones first.

    Empty when no conformation has a weight.
    """
    usable = (ensemble.weights > 0) & np.isfinite(ensemble.positions_nm).all(axis=(1, 2))
    candidates = np.flatnonzero(usable & np.isfinite(ensemble.energy_kT))
    if not len(candidates):
        return []
    kept, weights = weighted_subsample(ensemble.weights[candidates].astype(np.float64), MAX_CLUSTERED)
    candidates = candidates[kept]
    signs = chirality_signs(peptide.positions[None], peptide.topology)[0]
    positions = unmirror(ensemble.positions_nm[candidates].astype(np.float64), peptide.topology, signs)[0]
    angles = conformation_angles(positions, peptide.topology)
    circles = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    if not circles.shape[1]:  # nothing turns: one cluster
        circles = np.zeros((len(positions), 1))
    heavy = weights > 1e-6 * weights.max()  # the others would only be clusters of nothing
    positions, circles, weights, candidates = positions[heavy], circles[heavy], weights[heavy], candidates[heavy]
    k = min(STATES, len(np.unique(circles.round(3), axis=0)))
    # SciPy's, whose import costs nothing here, knows no weights: of frames that are repeated by theirs.
    centres, _ = kmeans(circles[systematic_rows(weights, MAX_CLUSTERED)], k, iter=STARTS, rng=0)
    labels, _ = vq(circles, centres)
    found = []
    for number in np.unique(labels):
        members = np.flatnonzero(labels == number)
        likely = members[weights[members] >= np.median(weights[members])]
        row = likely[np.square(circles[likely] - centres[number]).sum(1).argmin()]
        found.append((float(weights[members].sum() / weights.sum()), int(row)))
    found.sort(reverse=True)
    superposed = _superposed(positions[[row for _, row in found]], peptide)
    return [
        Conformer(fraction=fraction, energy_kT=float(ensemble.energy_kT[candidates[row]]), positions_nm=x)
        for (fraction, row), x in zip(found, superposed, strict=True)
    ]


def bonds(peptide: HasChain) -> list[tuple[int, int]]:
    """Pairs of bonded atoms, by index."""
    return [(bond[0].index, bond[1].index) for bond in peptide.topology.bonds()]


def elements(peptide: HasChain) -> list[str]:
    """Element symbol of each atom."""
    return [atom.element.symbol for atom in peptide.topology.atoms()]


def _superposed(positions: Floats, peptide: HasChain) -> Floats:
    """Turn the first along its long axes, and superpose the others on its backbone. Shape: (k, N, 3)."""
    backbone = [atom.index for atom in peptide.topology.atoms() if atom.name in ("N", "CA", "C")]
    if len(backbone) < 3:  # of no peptide
        backbone = [i for i, symbol in enumerate(elements(peptide)) if symbol != "H"]
    centred = positions - positions[:, backbone].mean(axis=1, keepdims=True)
    axes = np.linalg.svd(centred[0] - centred[0].mean(0), full_matrices=False)[2]
    centred[0] = centred[0] @ (axes.T * [1, 1, np.linalg.det(axes)])
    states = mdtraj.Trajectory(centred, mdtraj.Topology.from_openmm(peptide.topology))
    return np.asarray(states.superpose(states[0], atom_indices=backbone).xyz, np.float64)


# --- for the page -------------------------------------------------------------------------------


def viewer_data(found: list[Conformer], peptide: HasChain) -> str:
    """Return JSON for the script of the page, safe within HTML. Units: Å."""
    states = [
        {
            "label": f"{100 * c.fraction:.0f} %",
            "xyz": (10 * c.positions_nm).round(2).ravel().tolist(),
        }
        for c in found
    ]
    data: dict[str, Any] = {"elements": elements(peptide), "bonds": bonds(peptide), "states": states}
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


@cache
def viewer_code() -> str:
    """Return 3Dmol.js with its licence, gzipped, as base64: a quarter of a megabyte less in every page."""
    licence = (ASSETS / "3Dmol-LICENSE.txt").read_text(encoding="utf-8").replace("*/", "* /")
    code = (ASSETS / "3Dmol-min.js").read_text(encoding="utf-8")
    return base64.b64encode(gzip.compress(f"/*\n{licence}\n*/\n{code}".encode(), 9, mtime=0)).decode()
