"""Any molecule: its file, its z-matrix, its coordinates there and back, and input that cannot be."""

import math
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from boltzray.models.internal_coordinates import (
    InternalTables,
    latents_to_rigid,
    rigid_log_density,
    rigid_motion,
    rigid_to_latents,
    to_internal,
    to_positions,
)
from boltzray.molecules.energy import OpenMMEnergy, only_openmm
from boltzray.molecules.graph_zmatrix import graph_tables, internal_values
from boltzray.molecules.molecule import Molecule
from boltzray.molecules.own_molecule import file_name, read_molecule
from boltzray.molecules.peptide import Peptide

FILES = ("amber14-all.xml", "implicit/obc2.xml")

pytestmark = pytest.mark.usefixtures("short_dynamics")


def _system(topology: app.Topology, **settings: object) -> openmm.System:
    return app.ForceField(*FILES).createSystem(topology, **{"nonbondedMethod": app.NoCutoff} | settings)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """ACE-A-NME, and its System in another solvent than any of ours."""
    folder = tmp_path_factory.mktemp("molecule")
    peptide = Peptide.from_sequence("ACE-A-NME")
    (folder / "capped.pdb").write_text(peptide.to_pdb())
    (folder / "capped.xml").write_text(openmm.XmlSerializer.serialize(_system(peptide.topology)))
    return folder / "capped.pdb", folder / "capped.xml"


@pytest.fixture(scope="module")
def capped(files: tuple[Path, Path], short_dynamics: None) -> Molecule:
    return read_molecule(files[0], system=files[1])


@pytest.fixture(scope="module")
def proline(tmp_path_factory: pytest.TempPathFactory, short_dynamics: None) -> Molecule:
    """A molecule with rings, from force field files."""
    path = tmp_path_factory.mktemp("ring") / "rings.pdb"
    path.write_text(Peptide.from_sequence("PW").to_pdb())
    return read_molecule(path, forcefield=FILES)


def test_the_file_has_all_of_it(capped: Molecule, files: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "molecule.pdb"
    path.write_text(capped.to_pdb())
    read = Peptide.from_pdb(path)
    assert isinstance(read, Molecule)
    assert (read.sequence, read.geometry, read.system_xml) == ("capped", capped.geometry, capped.system_xml)
    assert np.array_equal(read.positions, capped.positions)
    assert [(a.index, b.index) for a, b in read.topology.bonds()] == [
        (a.index, b.index) for a, b in capped.topology.bonds()
    ]
    assert read.to_pdb() == capped.to_pdb()
    # Other programs read it as any PDB file.
    assert app.PDBFile(str(path)).topology.getNumBonds() == capped.topology.getNumBonds() == 21
    system = openmm.XmlSerializer.deserialize(files[1].read_text())
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(read.positions)
    expected = context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    found = OpenMMEnergy(read, 310.0, platform="Reference").evaluate(read.positions[None]).energy[0]
    assert found * 8.31446261815324e-3 * 310 == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["capped", "proline"])
def test_coordinates_there_and_back_with_the_jacobian(name: str, request: pytest.FixtureRequest) -> None:
    molecule: Molecule = request.getfixturevalue(name)
    generator = torch.Generator().manual_seed(0)
    noise = 0.003 * torch.randn((molecule.n_atoms, 3), generator=generator, dtype=torch.float64)
    x, t = (torch.from_numpy(molecule.positions) + noise)[None], InternalTables.of([molecule], molecule.geometry)
    n_atoms, present = torch.tensor([molecule.n_atoms]), t.present.flatten()
    assert int(t.present.sum()) == 3 * molecule.n_atoms - 6

    def coordinates(flat: torch.Tensor) -> torch.Tensor:
        x = flat.view(1, -1, 3)
        return torch.cat([to_internal(x, t)[0].flatten()[present], rigid_to_latents(rigid_motion(x, t), n_atoms)[0]])

    y, logdet = to_internal(x, t)
    rigid = rigid_motion(x, t)
    latents = rigid_to_latents(rigid, n_atoms)
    back, logdet_back = to_positions(y, latents_to_rigid(latents, n_atoms), t, 1.0)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=0)
    torch.testing.assert_close(logdet_back, logdet, atol=1e-9, rtol=0)
    jacobian = torch.autograd.functional.jacobian(coordinates, x.flatten())
    of_latents = -0.5 * latents.square().sum() - 3 * math.log(2 * math.pi)
    expected = logdet + rigid_log_density(rigid.center, n_atoms) - of_latents
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], expected[0], atol=1e-7, rtol=0)


def test_rings_are_closed_by_an_angle(proline: Molecule) -> None:
    """Each atom that closes a ring has its angle to the other atom that it is bonded to."""
    t, bonds = proline.tables, {frozenset((a.index, b.index)) for a, b in proline.topology.bonds()}
    place = np.argsort(t["placement"])
    for row, (p, g, _) in enumerate(t["z_matrix"]):
        earlier = [j for j in range(proline.n_atoms) if frozenset((row, j)) in bonds and place[j] < place[row]]
        assert p < 0 or p in earlier
        if len(earlier) > 1:
            assert g in earlier
    # proline's ring, and two of tryptophan: each atom that closes one has two bonds to earlier ones
    assert (
        sum((t["z_matrix"][:, 1] >= 0) & [frozenset((i, g)) in bonds for i, g in enumerate(t["z_matrix"][:, 1])]) == 3
    )


def test_atoms_in_a_row_place_nothing() -> None:
    """But-2-yne: four carbons in a line, and hydrogens that must not hang on a torsion about it."""
    z = np.array([0.0, 0.147, 0.267, 0.414])
    methyl = [[0.103 * math.cos(k * 2 * math.pi / 3), 0.103 * math.sin(k * 2 * math.pi / 3)] for k in range(3)]
    x = [[0, 0, zz] for zz in z] + [[a, b, -0.036] for a, b in methyl] + [[a, b, 0.45] for a, b in methyl]
    bonds = [(0, 1), (1, 2), (2, 3), (0, 4), (0, 5), (0, 6), (3, 7), (3, 8), (3, 9)]
    frames = np.array(x) + np.random.default_rng(0).normal(0, 0.003, (50, 10, 3))
    t = graph_tables(["C"] * 4 + ["H"] * 6, bonds, frames)
    values = internal_values(frames, t["z_matrix"])
    angles = values[..., 1][:, t["z_matrix"][:, 1] >= 0]
    assert angles.min() > math.radians(10)
    assert angles.max() < math.radians(170)
    assert sorted(t["placement"]) == list(range(10))


def test_what_turns_is_measured_around_the_circle(capped: Molecule) -> None:
    names = [atom.name for atom in capped.topology.atoms()]
    t = capped.tables
    turning = {names[i] for i in np.flatnonzero(t["rotatable"])}
    assert {"H1", "HB1"} <= turning  # methyl groups
    peptide_bond = [i for i, n in enumerate(names) if n == "H" and t["rotatable"][i]]
    assert not peptide_bond
    assert (t["scale"][t["z_matrix"] >= 0] > 0).all()


def test_names_of_files() -> None:
    assert file_name("my drug (v2).sdf") == "my-drug-v2-sdf"
    with pytest.raises(ValueError, match="has no letter"):
        file_name("…")


def _refused(files: tuple[Path, Path], tmp_path: Path, text: str | None = None, **given: object) -> str:
    pdb = files[0]
    if text is not None:
        pdb = tmp_path / "other.pdb"
        pdb.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read_molecule(pdb, **given)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_systems_that_cannot_be(files: tuple[Path, Path], tmp_path: Path) -> None:
    peptide = Peptide.from_pdb(files[0])

    def written(system: openmm.System) -> Path:
        path = tmp_path / "system.xml"
        path.write_text(openmm.XmlSerializer.serialize(system))
        return path

    def told(system: openmm.System) -> str:
        return _refused(files, tmp_path, system=written(system))

    constrained = app.ForceField(*FILES).createSystem(peptide.topology, constraints=app.HBonds)
    assert "12 constraints" in told(constrained)
    assert "constraints=None" in told(constrained)
    periodic = _system(peptide.topology)
    periodic.addForce(openmm.MonteCarloBarostat(1.0, 300.0))
    assert "is periodic (MonteCarloBarostat)" in told(periodic)
    assert "has 23 particles, the structure 22 atoms" in told(_system(Peptide.from_sequence("AA").topology))
    heavier = _system(peptide.topology)
    heavier.setParticleMass(0, 12.0)
    assert "particle 0" in told(heavier)
    charged = _system(peptide.topology)
    force = next(f for f in charged.getForces() if isinstance(f, openmm.NonbondedForce))
    charge, *others = force.getParticleParameters(1)
    force.setParticleParameters(1, charge + 0.4 * unit.elementary_charge, *others)
    assert "add up to 0.400 e" in told(charged)
    assert "no file at" in _refused(files, tmp_path, system=tmp_path / "nothing.xml")
    (tmp_path / "text.xml").write_text("<System")
    assert "no serialised OpenMM object" in _refused(files, tmp_path, system=tmp_path / "text.xml")
    assert "give the energy" in _refused(files, tmp_path)
    assert "no parameters" in _refused(files, tmp_path, forcefield=("tip3p.xml",))
    assert "cannot be read" in _refused(files, tmp_path, forcefield=("nothing.xml",))


def test_pickled_code_does_not_run(files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A System of OpenMM may hold pickled Python; here it would write a file."""
    witness = tmp_path / "it-ran"
    force = openmm.PythonForce(_Zero(witness))
    system = _system(Peptide.from_pdb(files[0]).topology)
    system.addForce(force)
    path = tmp_path / "python.xml"
    path.write_text(openmm.XmlSerializer.serialize(system))
    assert "has a PythonForce" in _refused(files, tmp_path, system=path)
    assert not witness.exists()
    monkeypatch.setenv("BOLTZRAY_TRUST_PYTHON", "1")
    molecule = read_molecule(files[0], system=path)
    assert witness.exists()
    assert only_openmm(molecule)
    found = OpenMMEnergy(molecule, 310.0).evaluate(molecule.positions[None])
    assert found.ok.all()
    monkeypatch.delenv("BOLTZRAY_TRUST_PYTHON")
    with pytest.raises(ValueError, match="has a PythonForce"):
        OpenMMEnergy(molecule, 310.0)


class _Zero:
    """A potential that is zero, and leaves a file where it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__dict__ = state
        self.witness.touch()

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        return 0.0, np.zeros_like(state.getPositions(asNumpy=True)._value)


def test_structures_that_cannot_be(files: tuple[Path, Path], tmp_path: Path) -> None:
    lines = files[0].read_text().splitlines()
    atoms = [line for line in lines if line.startswith(("ATOM", "HETATM"))]
    water = "HETATM   23  O   HOH A   4      20.000  20.000  20.000  1.00  0.00           O"
    told = _refused(files, tmp_path, "\n".join([*atoms, water, "END"]), system=files[1])
    assert "2 molecules that no bond joins (water or ions: HOH)" in told
    swapped = [*atoms[:3], atoms[4], atoms[3], *atoms[5:]]
    told = _refused(files, tmp_path, "\n".join([*swapped, "END"]), system=files[1])
    assert "another order" in told
    assert "cannot be read as a structure" in _refused(files, tmp_path, "nothing", system=files[1])


def test_a_damaged_molecule_file_is_told(capped: Molecule) -> None:
    text = capped.to_pdb()
    lines = text.splitlines()
    with pytest.raises(ValueError, match="damaged molecule file"):
        Peptide.from_pdb("\n".join([lines[0], *lines[2:]]))
    first = next(i for i, line in enumerate(lines) if line.startswith("HETATM"))
    with pytest.raises(ValueError, match="coordinates of 21 atoms, the molecule in its remarks has 22"):
        Peptide.from_pdb("\n".join([*lines[:first], *lines[first + 1 :]]))
    with pytest.raises(ValueError, match="another z-matrix of capped"):
        capped.internal("0123")


def test_another_force_field_is_refused(capped: Molecule) -> None:
    with pytest.raises(ValueError, match="brings its own energy"):
        OpenMMEnergy(capped, 310.0, forcefield="amber99sbildn-obc")
    with pytest.raises(ValueError, match="the System of another molecule file"):
        OpenMMEnergy(Peptide.from_sequence("AA"), 310.0, forcefield="system-01234567")


class _Spring:
    """A potential in nm whose forces are `factor` times its slope."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        x = state.getPositions(asNumpy=True)._value
        return float(1e4 * (x**2).sum()), -2e4 * self.factor * x


@pytest.mark.parametrize(("factor", "right"), [(1.0, True), (0.1, False), (-1.0, False)])
def test_forces_that_are_not_the_slope_of_the_energy_are_refused(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, right: bool
) -> None:
    """As those of OpenMM-ML 1.8 for ANI, in kJ/mol/Å (`findings/openmmml_ani_forces.sh`)."""
    monkeypatch.setenv("BOLTZRAY_TRUST_PYTHON", "1")
    system = _system(Peptide.from_pdb(files[0]).topology)
    system.addForce(openmm.PythonForce(_Spring(factor)))
    path = tmp_path / "spring.xml"
    path.write_text(openmm.XmlSerializer.serialize(system))
    if right:
        assert read_molecule(files[0], system=path).n_atoms == 22
    else:
        assert "are not the slope of its energy" in _refused(files, tmp_path, system=path)


def test_a_molecule_that_comes_apart_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    """One bond is a repulsion: its atoms part within the short dynamics."""
    system = _system(Peptide.from_pdb(files[0]).topology)
    bonds = next(force for force in system.getForces() if isinstance(force, openmm.HarmonicBondForce))
    one, other, *_ = bonds.getBondParameters(0)
    bonds.setBondParameters(0, one, other, 1.0, 1000.0)
    path = tmp_path / "apart.xml"
    path.write_text(openmm.XmlSerializer.serialize(system))
    assert "comes apart in short dynamics with apart.xml" in _refused(files, tmp_path, system=path)


def test_a_molecule_is_in_no_vocabulary(capped: Molecule, proline: Molecule) -> None:
    assert capped.vocabulary == proline.vocabulary == 0
