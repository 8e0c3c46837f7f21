"""A molecule of the user's: structure and bonds from a file, energy from a serialised System or force field files.

Shapes: N atoms, F frames. Units: nm.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openmm
from openmm import app, unit
from scipy.spatial import cKDTree

from .bonds import check_structure
from .constants import COVALENT_NM
from .forcefield import read_system_xml
from .graph_zmatrix import graph_tables
from .molecule import Molecule, build_topology
from .short_dynamics import check_whole, short_dynamics
from .structure_text import file_bytes

FloatArray = npt.NDArray[np.float64]

BONDED = 1.2  # of the sum of the covalent radii: atoms that are nearer are bonded
WHOLE_CHARGE = 0.01  # e: sums of charges that differ more from a whole number are of a wrong System
SOLVENT = {"HOH", "WAT", "SOL", "TIP3", "TIP3P", "SPC", "NA", "CL", "NA+", "CL-", "SOD", "CLA", "K", "K+", "POT"}


def read_molecule(
    structure: Path,
    *,
    system: Path | None = None,
    forcefield: Sequence[str] = (),
    name: str = "",
    temperature_k: float = 310.0,
    seed: int = 0,
    tell: Callable[[float], None] = lambda share: None,
) -> Molecule:
    """Read any molecule: its atoms from a PDB or mmCIF file, its energy from `system` or `forcefield`.

    `system`: a System as OpenMM's XmlSerializer writes it; `forcefield`: parameter files, by path or as OpenMM has them
    (`amber14-all.xml`). Bonds come from residue templates, CONECT records, the System, and distances. Usual bonds and
    angles are measured in short dynamics, which takes some seconds, of neural networks minutes: `tell` gets the share
    that is done.

    Raises: FileNotFoundError; ValueError of one line for a structure and a System that do not belong together, for
    several molecules, periodic boxes, constraints, and energies that are not finite.
    """
    if bool(system) == bool(forcefield):
        raise ValueError("give the energy: system=system.xml, or forcefield=[amber14-all.xml,implicit/obc2.xml]")
    topology, positions = _read_structure(structure)
    own = _deserialised(system) if system else None
    bonds = _bonds(topology, positions, own)
    topology = _one_molecule(topology, bonds, structure.name)
    check_structure(positions, topology, structure.name)
    source = system.name if system else ",".join(forcefield)
    own = own or _created(topology, forcefield)
    check_system(own, topology, source)
    own = _without_movers(own)
    frames = short_dynamics(own, positions, temperature_k, seed, source, tell)
    check_whole(frames, topology, source)
    elements = [atom.element.symbol for atom in topology.atoms()]
    return Molecule(
        sequence=file_name(name or structure.name.split(".")[0]),
        positions=positions.round(4),
        topology=topology,
        encodings={},
        orderings={},
        file_atoms=np.arange(len(positions)),
        system_xml=openmm.XmlSerializer.serialize(own),
        tables=graph_tables(elements, bonds, frames),
    )


def own_system(topology: app.Topology, files: Sequence[str]) -> str:
    """A serialised System of a topology: from a file that holds one, or from OpenMM's parameter files.

    Raises: FileNotFoundError; ValueError for one of another molecule, or that cannot be sampled.
    """
    whole = [Path(name) for name in files if Path(name).is_file() and b"<System" in Path(name).read_bytes()[:1000]]
    if whole and len(files) > 1:
        raise ValueError(f"{whole[0]} is a whole System: give it alone, or parameter files")
    system = _deserialised(whole[0]) if whole else _created(topology, files)
    check_system(system, topology, ",".join(Path(name).name for name in files))
    return openmm.XmlSerializer.serialize(_without_movers(system))


def parameter_files(names: Sequence[str], home: Path) -> list[str]:
    """Files below `home` where there are such, else names as they are: those that OpenMM brings."""
    return [str(path) if (path := home / Path(name).expanduser()).is_file() else name for name in names]


def file_name(text: str) -> str:
    """A name with letters, digits and hyphens alone, as files and tables have it. Raises: ValueError for nothing."""
    name = "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in text).split())
    if not name:
        raise ValueError(f"name={text!r} has no letter: give name=, of letters, digits and hyphens")
    return name


# --- structure ----------------------------------------------------------------------------------


def _read_structure(path: Path) -> tuple[app.Topology, FloatArray]:
    """Topology and positions (N, 3) of the first model of a file."""
    text = file_bytes(path).decode(errors="replace")
    kind = app.PDBxFile if any(s in (".cif", ".mmcif") for s in path.suffixes) else app.PDBFile
    try:
        found = kind(io.StringIO(text))
    except Exception as error:  # OpenMM's readers raise what comes: KeyError, IndexError, TypeError …
        raise ValueError(f"{path} cannot be read as a structure ({type(error).__name__}: {error})") from error
    positions = np.array(found.positions.value_in_unit(unit.nanometer), np.float64)
    if not len(positions):
        raise ValueError(f"{path} has no atoms")
    if not np.isfinite(positions).all():
        raise ValueError(f"{path} has coordinates that are not finite: repair them")
    if nameless := [atom.name for atom in found.topology.atoms() if atom.element is None]:
        raise ValueError(f"{path} has atoms without an element ({', '.join(nameless[:3])}): fill in columns 77 and 78")
    return found.topology, positions


def _bonds(topology: app.Topology, positions: FloatArray, system: openmm.System | None) -> list[tuple[int, int]]:
    """Bonds by templates and CONECT records, by the System where there is one, and by distance; each once, in order."""
    radius = np.array([COVALENT_NM.get(atom.element.symbol, 0.1) for atom in topology.atoms()])
    hydrogen = np.array([atom.element.symbol == "H" for atom in topology.atoms()])
    found = {tuple(sorted((a.index, b.index))) for a, b in topology.bonds()}
    near = cKDTree(positions).query_pairs(BONDED * 2 * radius.max())
    close = {(i, j) for i, j in near if np.linalg.norm(positions[i] - positions[j]) < BONDED * (radius[i] + radius[j])}
    if system is not None:  # a Urey-Bradley term joins atoms that are farther apart
        found |= {pair for pair in _harmonic(system) if pair in close}
    bonded = {i for pair in found for i in pair}
    for i, j in sorted(close - found):
        # A hydrogen has one bond: of its own it is near to more than one atom in crude structures.
        if not (hydrogen[i] and i in bonded) and not (hydrogen[j] and j in bonded):
            found.add((i, j))
            bonded |= {i, j}
    return sorted((int(a), int(b)) for a, b in found)


def _harmonic(system: openmm.System) -> set[tuple[int, int]]:
    pairs = set()
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            pairs |= {tuple(sorted(force.getBondParameters(k)[:2])) for k in range(force.getNumBonds())}
    return pairs


def _one_molecule(topology: app.Topology, bonds: Iterable[tuple[int, int]], source: str) -> app.Topology:
    """The topology with these bonds. Raises: ValueError for several molecules, naming the smaller ones."""
    atoms = list(topology.atoms())
    group = list(range(len(atoms)))

    def find(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    for a, b in bonds:
        group[find(a)] = find(b)
    sizes: dict[int, int] = {}
    for i in range(len(atoms)):
        sizes[find(i)] = sizes.get(find(i), 0) + 1
    if len(sizes) > 1:
        largest = max(sizes, key=lambda k: sizes[k])
        others = list(dict.fromkeys(atoms[i].residue.name for i in range(len(atoms)) if find(i) != largest))
        kind = "water or ions" if set(others) <= SOLVENT else "others"
        raise ValueError(
            f"{source} has {len(sizes)} molecules that no bond joins ({kind}: {', '.join(others[:5])}): give one "
            "molecule, without solvent"
        )
    residues = list(topology.residues())
    index = {residue: i for i, residue in enumerate(residues)}
    rows: list[list[Any]] = [[atom.name, atom.element.symbol, index[atom.residue]] for atom in atoms]
    return build_topology(rows, [[r.name, r.id] for r in residues], [list(pair) for pair in bonds])


# --- energy -------------------------------------------------------------------------------------


def _deserialised(path: Path) -> openmm.System:
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}: give system= a System that OpenMM's XmlSerializer wrote")
    return read_system_xml(path.read_text(errors="replace"), path.name)


def _created(topology: app.Topology, files: Sequence[str]) -> openmm.System:
    try:
        forcefield = app.ForceField(*files)
    except Exception as error:  # a file that is not there, or no XML
        raise ValueError(f"forcefield={','.join(files)} cannot be read ({_line(error)})") from error
    try:
        return forcefield.createSystem(topology, nonbondedMethod=app.NoCutoff, constraints=None)
    except Exception as error:
        reason = _line(error).partition(" For more information")[0].rstrip(".")
        raise ValueError(
            f"forcefield={','.join(files)} has no parameters for the molecule ({reason}): add a file that has them, or "
            "give system="
        ) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def check_system(system: openmm.System, topology: app.Topology, source: str) -> None:
    """Raises: ValueError for a System that is of another molecule, or that cannot be sampled."""
    n, atoms = system.getNumParticles(), list(topology.atoms())
    if n != len(atoms):
        raise ValueError(f"{source} has {n} particles, the structure {len(atoms)} atoms: give those of one molecule")
    if system.getNumConstraints():
        raise ValueError(
            f"{source} has {system.getNumConstraints()} constraints, of bonds that the flow draws: make the System "
            "with constraints=None, rigidWater=False"
        )
    if any(system.isVirtualSite(i) for i in range(n)):
        raise ValueError(f"{source} has virtual sites, which have no place of their own: use a model without them")
    for force in system.getForces():
        if "Barostat" in type(force).__name__ or force.usesPeriodicBoundaryConditions():
            raise ValueError(
                f"{source} is periodic ({force.getName()}): one molecule is sampled, in vacuum or implicit solvent; "
                "make the System with nonbondedMethod=NoCutoff"
            )
    for i, atom in enumerate(atoms):
        mass, usual = system.getParticleMass(i)._value, atom.element.mass._value
        light = atom.element.symbol == "H"
        if mass <= 0 or (light and mass > 4.1) or (not light and not -10 < mass - usual < 1.5):
            raise ValueError(
                f"particle {i} of {source} has a mass of {mass:g} Da, and atom {atom.name} there is "
                f"{atom.element.name}: the System is of another molecule, or its atoms are in another order"
            )
    _check_bonded(system, topology, source)
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            charge = sum(force.getParticleParameters(i)[0]._value for i in range(n))
            if abs(charge - round(charge)) > WHOLE_CHARGE:
                raise ValueError(f"the charges in {source} add up to {charge:.3f} e: a molecule has a whole number")


def _check_bonded(system: openmm.System, topology: app.Topology, source: str) -> None:
    """Raises: ValueError for a bond of the structure that the System does not have."""
    terms = _harmonic(system)
    for a, b in topology.bonds() if terms else ():
        if tuple(sorted((a.index, b.index))) not in terms:
            raise ValueError(
                f"{source} has no bond between atoms {a.index} and {b.index} ({a.name} and {b.name} of the structure): "
                "the System is of another molecule, or its atoms are in another order"
            )


def _without_movers(system: openmm.System) -> openmm.System:
    """Leave out what moves the centre of mass, which is no energy."""
    for k in reversed(range(system.getNumForces())):
        if isinstance(system.getForce(k), openmm.CMMotionRemover):
            system.removeForce(k)
    return system
