"""Write molecules that the published flows cannot take: NAME.pdb, NAME.xml (a System), and 20 ps of MD as a check.

    python benchmarks/any_molecule.py OUT_FOLDER [NAME …]

Caps in two force fields, a ring of four glycines, a disulphide, a doubly protonated histidine, a D-residue, and a
molecule that is no peptide. Built from the force fields that come with OpenMM and, for paracetamol, from GAFF2's
parameters in `paracetamol.xml` beside this file. Two minutes of one core for all, of which CHARMM36 takes some ten
seconds to be parsed.

Every System is without constraints, cutoff and box: what flows of internal coordinates need. Structures are
minimised; CONECT records are those bonds that no template has: rings, sulphur to sulphur, and residues without one.
Units: nm, kJ/mol.
"""

import argparse
import io
import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import openmm
from openmm import app, unit

from boltzray.molecules.build import build_structure

FloatArray = npt.NDArray[np.float64]
HERE = Path(__file__).parent
TEMPERATURE_K, FRICTION_PER_PS, STEP_PS = 310.0, 1.0, 0.001


class Molecule(NamedTuple):
    """A minimised molecule. Shape: positions (N, 3), in nm."""

    topology: app.Topology
    positions: FloatArray
    system: openmm.System


# --- the molecules ------------------------------------------------------------------------------


def capped_alanine() -> Molecule:
    """ACE-ALA-NME in AMBER's ff14SB with OBC2."""
    topology, positions = build_structure("ACE-A-NME")
    return minimised(topology, positions, system_of(topology, "amber14-all.xml", "implicit/obc2.xml"))


def capped_alanine_charmm() -> Molecule:
    """ACE-ALA-NME in CHARMM36 (CMAP, Urey-Bradley, harmonic impropers) with OBC2.

    To CHARMM a cap is a patch of its residue: the System is made from one residue with the same atoms. Of two
    templates that fit, ALAD is the protein force field's, AANM one of CGenFF's types.
    """
    topology, positions = build_structure("ACE-A-NME")
    single = app.Topology()
    residue = single.addResidue("ALAD", single.addChain())
    copies = [single.addAtom(f"{a.residue.name}{a.name}", a.element, residue) for a in topology.atoms()]
    for one, other in topology.bonds():
        single.addBond(copies[one.index], copies[other.index])
    system = system_of(single, "charmm36.xml", "implicit/obc2.xml", templates={residue: "ALAD"})
    return minimised(topology, positions, system)


def glycine_ring() -> Molecule:
    """Cyclo-(GGGG), the head bonded to the tail, in AMBER's ff14SB with GBn2: amides cis and trans in turn."""
    topology, _ = without(*build_structure("GGGG"), {(0, "H2"), (0, "H3"), (3, "OXT")})
    topology.addBond(atom_of(topology, 3, "C"), atom_of(topology, 0, "N"))
    return folded(topology, system_of(topology, "amber14-all.xml", "implicit/gbn2.xml"), seeds=(2, 5))


def bridged(sequence: str, *, cis: bool = False) -> Molecule:
    """A peptide whose first and last residues are bonded cysteines, charged ends, in ff14SB (CYX) with OBC2.

    `cis`: the first peptide bond. The ring of CC is free of strain with it; the trans one, 32 kJ/mol higher, is bent
    to ω = −140°. That of CAC is free of strain with trans bonds.
    """
    last = len(sequence) - 1
    topology, positions = without(*build_structure(sequence), {(0, "HG"), (last, "HG")})
    if cis:
        nitrogen = positions[atom_of(topology, 1, "N").index]
        axis = nitrogen - positions[atom_of(topology, 0, "C").index]
        axis /= np.linalg.norm(axis)
        beyond = [atom.index for atom in topology.atoms() if atom.residue.index > 0]
        arms = positions[beyond] - nitrogen
        positions[beyond] = nitrogen + 2 * (arms @ axis)[:, None] * axis - arms  # half a turn
    topology.addBond(atom_of(topology, 0, "SG"), atom_of(topology, last, "SG"))
    return minimised(topology, positions, system_of(topology, "amber14-all.xml", "implicit/obc2.xml"))


def histidinium() -> Molecule:
    """AHA, its histidine with hydrogens on both nitrogens (HIP), charged ends, in AMBER's ff14SB with OBC2."""
    topology, positions = build_structure("AHA")
    modeller = app.Modeller(topology, positions * unit.nanometer)
    random.seed(0)  # Modeller places hydrogens by it
    modeller.addHydrogens(variants=[None, "HIP", None], platform=openmm.Platform.getPlatformByName("Reference"))
    topology, positions = modeller.topology, nm(modeller.positions)
    return minimised(topology, positions, system_of(topology, "amber14-all.xml", "implicit/obc2.xml"))


def d_alanine() -> Molecule:
    """A-(D-Ala)-A, charged ends, in AMBER's ff14SB with OBC1, which have no handedness; its residue is DAL."""
    topology, positions = build_structure("AAA")
    residue = list(topology.residues())[1]
    residue.name = "DAL"
    at = {atom.name: atom.index for atom in residue.atoms()}
    centre = positions[at["CA"]]
    normal = np.cross(positions[at["N"]] - centre, positions[at["C"]] - centre)
    normal /= np.linalg.norm(normal)
    side = [index for name, index in at.items() if name == "HA" or name[1:2] == "B"]
    positions[side] -= 2 * ((positions[side] - centre) @ normal)[:, None] * normal
    return minimised(topology, positions, system_of(topology, "amber14-all.xml", "implicit/obc1.xml"))


def paracetamol() -> Molecule:
    """Paracetamol in GAFF2 with AM1-BCC charges and OBC2."""
    file = str(HERE / "paracetamol.xml")
    template = app.ForceField(file)._templates["UNL"]
    topology = app.Topology()
    residue = topology.addResidue("UNL", topology.addChain("A"))
    atoms = [topology.addAtom(atom.name, atom.element, residue) for atom in template.atoms]
    for one, other in template.bonds:
        topology.addBond(atoms[one], atoms[other])
    return folded(topology, system_of(topology, file, "implicit/obc2.xml"), seeds=(5, 8))


MOLECULES: dict[str, Callable[[], Molecule]] = {
    "ace_ala_nme_amber14": capped_alanine,
    "ace_ala_nme_charmm36": capped_alanine_charmm,
    "cyclo_gggg": glycine_ring,
    "disulphide_cc": partial(bridged, "CC", cis=True),
    "disulphide_cac": partial(bridged, "CAC"),
    "histidinium_aha": histidinium,
    "d_alanine_aaa": d_alanine,
    "paracetamol": paracetamol,
}


# --- building -----------------------------------------------------------------------------------


def system_of(
    topology: app.Topology, *files: str, templates: dict[app.topology.Residue, str] | None = None
) -> openmm.System:
    """System of all pairs, without constraints and without a remover of drift."""
    settings = {"nonbondedMethod": app.NoCutoff, "constraints": None, "rigidWater": False, "removeCMMotion": False}
    return app.ForceField(*files).createSystem(topology, residueTemplates=templates or {}, **settings)


def nm(positions: unit.Quantity) -> FloatArray:
    """Positions without their unit."""
    return np.array(positions.value_in_unit(unit.nanometer), np.float64)


def atom_of(topology: app.Topology, residue: int, name: str) -> app.topology.Atom:
    """The atom of that name of a residue, counted from 0."""
    return next(a for a in topology.atoms() if a.residue.index == residue and a.name == name)


def without(
    topology: app.Topology, positions: FloatArray, names: set[tuple[int, str]]
) -> tuple[app.Topology, FloatArray]:
    """Topology and positions (N, 3) without the named atoms, each of which must be there."""
    modeller = app.Modeller(topology, positions * unit.nanometer)
    modeller.delete([atom_of(topology, residue, name) for residue, name in names])
    return modeller.topology, nm(modeller.positions)


def context_of(system: openmm.System, positions: FloatArray, groups: int = -1) -> openmm.Context:
    """Context whose minimisation knows these groups of forces alone, on the platform that is the same everywhere."""
    integrator = openmm.VerletIntegrator(STEP_PS)
    integrator.setIntegrationForceGroups(groups)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    return context


def energy_of(molecule: Molecule) -> float:
    """Potential energy of a molecule. Units: kJ/mol."""
    state = context_of(molecule.system, molecule.positions).getState(energy=True)
    return float(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))


def minimised(topology: app.Topology, positions: FloatArray, system: openmm.System) -> Molecule:
    """Molecule at the minimum next to these positions: bonds and angles first, which pull rings shut.

    Raises: ValueError if that turns a residue's handedness, or leaves a bond torn.
    """
    hand = handedness(topology, positions)
    bonded = (openmm.HarmonicBondForce, openmm.HarmonicAngleForce, openmm.PeriodicTorsionForce)
    for force in system.getForces():
        force.setForceGroup(0 if isinstance(force, bonded) else 1)
    for groups in (1, -1):
        context = context_of(system, positions, groups)
        openmm.LocalEnergyMinimizer.minimize(context, tolerance=0.1)
        positions = nm(context.getState(positions=True).getPositions())
    for force in system.getForces():
        force.setForceGroup(0)
    if not np.array_equal(handedness(topology, positions), hand) or longest_bond(topology, positions) > 0.23:
        raise ValueError("minimisation turned a residue or left a bond torn: start from other positions")
    return Molecule(topology, positions, system)


def folded(topology: app.Topology, system: openmm.System, seeds: Sequence[int]) -> Molecule:
    """Molecule at the lowest of the minima that random starts lead to; for one without stereocentres.

    `seeds`: those of twelve that led lowest, so that two starts do.
    """
    found = []
    for seed in seeds:
        start = np.random.default_rng(seed).normal(scale=0.2, size=(topology.getNumAtoms(), 3))
        with suppress(ValueError):  # tangled, as some are
            found.append(minimised(topology, start, system))
    if not found:
        raise ValueError("each of the random starts is tangled: give other seeds")
    return min(found, key=energy_of)


# --- what they look like ------------------------------------------------------------------------


def handedness(topology: app.Topology, positions: FloatArray) -> npt.NDArray[np.int64]:
    """+1 for each L-residue with a CB, −1 for each D-residue: the sign of (N-CA)×(C-CA)·(CB-CA)."""
    signs = []
    for residue in topology.residues():
        at = {atom.name: positions[atom.index] for atom in residue.atoms()}
        if {"N", "CA", "C", "CB"} <= at.keys():
            n, c, cb = (at[name] - at["CA"] for name in ("N", "C", "CB"))
            signs.append(np.sign(np.cross(n, c) @ cb))
    return np.array(signs, np.int64)


def bonds_of(topology: app.Topology) -> npt.NDArray[np.int64]:
    """Bonds (B, 2), the lower index first."""
    return np.array(sorted(sorted((a.index, b.index)) for a, b in topology.bonds()), np.int64)


def longest_bond(topology: app.Topology, positions: FloatArray) -> float:
    """Length of the longest bond. Shape: positions (N, 3). Units: nm."""
    bonds = bonds_of(topology)
    return float(np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1).max())


def heavy_torsions(topology: app.Topology) -> npt.NDArray[np.int64]:
    """One torsion (T, 4) of heavy atoms about each bond that has one."""
    heavy = [atom.element.symbol != "H" for atom in topology.atoms()]
    near: list[list[int]] = [[] for _ in heavy]
    pairs = [(int(i), int(j)) for i, j in bonds_of(topology) if heavy[i] and heavy[j]]
    for i, j in pairs:
        near[i].append(j)
        near[j].append(i)
    ends = ((i, j, [k for k in near[i] if k != j], [k for k in near[j] if k != i]) for i, j in pairs)
    return np.array([(a[0], i, j, d[0]) for i, j, a, d in ends if a and d], np.int64)


def torsions_of(positions: FloatArray, index: npt.NDArray[np.int64]) -> FloatArray:
    """Torsions (..., T) of positions (..., N, 3). Units: °, in (−180, 180]."""
    a, b, c, d = (positions[..., index[:, k], :] for k in range(4))
    axis = (c - b) / np.linalg.norm(c - b, axis=-1, keepdims=True)
    before, after = np.cross(b - a, c - b), np.cross(c - b, d - c)
    return np.asarray(np.degrees(np.arctan2((np.cross(before, after) * axis).sum(-1), (before * after).sum(-1))))


def peptide_bonds(topology: app.Topology) -> npt.NDArray[np.int64]:
    """ω of each peptide bond (W, 4): CA-C-N-CA, with CH3 or C of a cap."""
    at = [{atom.name: atom.index for atom in residue.atoms()} for residue in topology.residues()]
    names = [(a.residue.index, a.name, b.residue.index, b.name) for a, b in topology.bonds()]
    links = [(i, k) if one == "C" else (k, i) for i, one, k, other in names if i != k and {one, other} == {"C", "N"}]
    before = [at[i].get("CA", at[i].get("CH3")) for i, _ in links]
    after = [at[k].get("CA", at[k].get("C")) for _, k in links]
    rows = [(a, at[i]["C"], at[k]["N"], d) for (i, k), a, d in zip(links, before, after, strict=True)]
    return np.array(rows, np.int64).reshape(-1, 4)


# --- files, and MD ------------------------------------------------------------------------------


def to_pdb(molecule: Molecule) -> str:
    """PDB file with a CONECT record for each bond that is not in its residues' templates."""
    topology = molecule.topology
    bare = app.Topology()
    chain = bare.addChain("A")
    for residue in topology.residues():
        copy = bare.addResidue(residue.name, chain)
        for atom in residue.atoms():
            bare.addAtom(atom.name, atom.element, copy)
    bare.createStandardBonds()
    known = {tuple(bond) for bond in bonds_of(bare).tolist()}
    text = io.StringIO()
    app.PDBFile.writeFile(topology, molecule.positions * unit.nanometer, text, keepIds=True)
    lines = [line for line in text.getvalue().splitlines() if line[:6].strip() not in ("REMARK", "CONECT", "END")]
    serial = {int(i): int(line[6:11]) for i, line in enumerate(x for x in lines if x[:6] in ("ATOM  ", "HETATM"))}
    partners: dict[int, list[int]] = {}
    for one, other in (bond for bond in bonds_of(topology).tolist() if tuple(bond) not in known):
        partners.setdefault(serial[one], []).append(serial[other])
        partners.setdefault(serial[other], []).append(serial[one])
    records = [f"CONECT{i:5d}" + "".join(f"{j:5d}" for j in sorted(partners[i])) for i in sorted(partners)]
    return "\n".join([*lines, *records, "END", ""])


def simulate(molecule: Molecule, picoseconds: float = 20.0, frames: int = 100) -> FloatArray:
    """Frames (T, N, 3) of Langevin dynamics from the minimum, at 310 K and 1 fs."""
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE_K, FRICTION_PER_PS, STEP_PS)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(molecule.system, integrator, openmm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    context.setPositions(molecule.positions)
    context.setVelocitiesToTemperature(TEMPERATURE_K, 1)
    found = []
    for _ in range(frames):
        integrator.step(round(picoseconds / STEP_PS / frames))
        found.append(nm(context.getState(positions=True).getPositions()))
    return np.array(found)


def check_dynamics(molecule: Molecule, frames: FloatArray) -> str:
    """One line on the frames (T, N, 3).

    Raises: ValueError for a bond that tears, a residue that turns, or torsions that stand still.
    """
    topology = molecule.topology
    longest = max(longest_bond(topology, frame) for frame in frames)
    hand = handedness(topology, molecule.positions)
    turned = any(not np.array_equal(handedness(topology, frame), hand) for frame in frames)
    torsions = torsions_of(frames, heavy_torsions(topology))
    centred = (torsions - torsions[:1] + 180) % 360 - 180
    widest = float(np.ptp(centred, axis=0).max())
    if longest > 0.25 or turned or not widest > 20 or not np.isfinite(frames).all():
        raise ValueError(f"longest bond {longest:.3f} nm, residue turned: {turned}, widest torsion {widest:.0f}°")
    cis = (np.abs(torsions_of(frames, peptide_bonds(topology))) < 90).any(axis=0)
    return f"bonds up to {longest:.3f} nm, widest torsion {widest:.0f}°, peptide bonds ever cis: {int(cis.sum())}"


def write(names: Iterable[str], folder: Path) -> None:
    """Write the named molecules, and print what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        start = time.perf_counter()
        molecule = MOLECULES[name]()
        (folder / f"{name}.pdb").write_text(to_pdb(molecule))
        (folder / f"{name}.xml").write_text(openmm.XmlSerializer.serialize(molecule.system))
        forces = " ".join(force.getName().removesuffix("Force") for force in molecule.system.getForces())
        omega = torsions_of(molecule.positions, peptide_bonds(molecule.topology))
        print(f"{name}: {molecule.topology.getNumAtoms()} atoms; {forces}")
        print(f"  {energy_of(molecule):.2f} kJ/mol at the minimum; ω {' '.join(f'{w:.0f}' for w in omega)}")
        print(
            f"  20 ps: {check_dynamics(molecule, simulate(molecule))}; {time.perf_counter() - start:.0f} s", flush=True
        )


def main() -> None:
    """Write all molecules, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(MOLECULES))
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in MOLECULES]:
        parser.error(f"unknown molecule {unknown[0]}: use {', '.join(MOLECULES)}")
    write(options.names or MOLECULES, options.folder)


if __name__ == "__main__":
    main()
