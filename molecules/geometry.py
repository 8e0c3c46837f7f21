"""Measure the usual bonds, angles and torsions of residues in molecular dynamics: makes geometry.json.

`python -m boltzray.molecules.geometry` (ten minutes on a core) measures each of the twenty as the first, the middle and
the last of a tripeptide; with `states`, in two minutes, what vocabulary 2 adds, into geometry_states.json. A flow of
internal coordinates needs the table that it was trained with: keep an old one beside the new one, which flows name by
its fingerprint.
"""

import json
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mdtraj
import numpy as np
import numpy.typing as npt

from .peptide import Peptide
from .residues import ONE_LETTER
from .runs import MDConfig, load_trajectory
from .stereo import iupac_names
from .storage import replacing
from .zmatrix import GEOMETRY, GEOMETRY_OF_STATES, build_z_matrix, circular_mean, permutation, place_in_chain

Table = dict[str, dict[str, list[float]]]
SCATTERED = math.pi / 3  # rad: a torsion that deviates more has no usual value
REPLICAS, TIME_PS = 24, 3.0
MD = MDConfig(friction_per_ps=3.0, warmup_ps=1.5, interval_ps=0.1, frames_per_chunk=30)


def measure(peptide: Peptide, positions_nm: npt.ArrayLike) -> Table:
    """Means, then deviations, of bond, angle and torsion of each atom, by place in the chain and atom name.

    Shape: positions_nm (F, N, 3). Units: nm, rad.
    """
    names = [(atom.residue.index, atom.name) for atom in peptide.topology.atoms()]
    bonds = [(bond[0].index, bond[1].index) for bond in peptide.topology.bonds()]
    z_matrix, _ = build_z_matrix(names, bonds)
    frames = np.asarray(positions_nm, np.float64)
    residues = [residue.name for residue in peptide.topology.residues()]
    own_names = permutation(names, iupac_names(residues, names, frames[0]))
    trajectory = mdtraj.Trajectory(frames[:, own_names], mdtraj.Topology.from_openmm(peptide.topology))
    chains = np.column_stack([np.arange(len(names)), z_matrix])
    measured = np.zeros((len(names), 3, 2))
    measured[:, :, 1] = 1
    for kind, compute in enumerate((mdtraj.compute_distances, mdtraj.compute_angles, mdtraj.compute_dihedrals)):
        rows = np.flatnonzero(z_matrix[:, kind] >= 0)
        for row, values in zip(rows, compute(trajectory, chains[rows, : kind + 2]).T, strict=True):
            mean, spread = circular_mean(values) if kind else (float(np.mean(values)), float(np.std(values)))
            if kind == 2 and spread > SCATTERED:
                mean = 0.0
            measured[row, kind, :] = mean, spread
    table: Table = {"first": {}, "middle": {}, "last": {}}
    for (residue, name), values_of in zip(names, measured, strict=True):
        place = place_in_chain(residue, names[-1][0] + 1)
        table[place][name] = [round(float(value), 5) for value in values_of.T.ravel()]
    return table


def simulated(peptide: Peptide, seed: int) -> npt.NDArray[np.float32]:
    """Frames (F, N, 3) of short dynamics, in nm: bonds and angles relax within a picosecond."""
    from .batched.dynamics import simulate
    from .batched.energy import BatchedEnergy

    energy = BatchedEnergy(peptide, MD.temperature_k).float()
    with tempfile.TemporaryDirectory() as folder:
        directories = [Path(folder) / str(i) for i in range(REPLICAS)]
        seeds = [seed * REPLICAS + i for i in range(REPLICAS)]
        for _ in simulate(energy, peptide, directories, MD, TIME_PS, seeds):
            pass
        return np.concatenate([load_trajectory(directory) for directory in directories])


# Chains of three, and what each of the three places tells of: ff14SB has no ASH and GLH at an end.
CHAINS_OF_STATES = {
    **{f"{name}-{name}-{name}": {"first": name, "middle": name, "last": name} for name in ("HID", "HIP")},
    **{f"ALA-{name}-ALA": {"middle": name} for name in ("ASH", "GLH")},
    "ACE-A-NME": {"first": "ACE", "last": "NME"},
}


def _rows(states: bool) -> Iterator[tuple[str, str, dict[str, list[float]]]]:
    """Residue, place in the chain, and its atoms' values."""
    chains = {letter * 3: dict.fromkeys(("first", "middle", "last"), n) for n, letter in sorted(ONE_LETTER.items())}
    for seed, (sequence, places) in enumerate((CHAINS_OF_STATES if states else chains).items()):
        peptide = Peptide.from_sequence(sequence)
        measured = measure(peptide, simulated(peptide, seed))
        print(sequence, flush=True)
        yield from ((residue, place, measured[place]) for place, residue in places.items())


def main() -> None:
    """Measure all residues and write the table."""
    states = "states" in sys.argv[1:]
    table: dict[str, Table] = {}
    for residue, place, atoms in _rows(states):
        table.setdefault(residue, {})[place] = atoms
    text = json.dumps(table, indent=1)
    # One atom a line: differences can be read.
    text = text.replace("[\n    ", "[").replace(",\n    ", ", ").replace("\n   ]", "]")
    with replacing(GEOMETRY_OF_STATES if states else GEOMETRY) as temporary:
        temporary.write_text(text + "\n")


if __name__ == "__main__":
    main()
