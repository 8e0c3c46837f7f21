"""Quantities of frames against mdtraj, and against structures whose angles are set."""

from pathlib import Path

import mdtraj
import numpy as np
import pytest
from reports import FRAMES, PEPTIDE

from boltzray.molecules import Peptide
from boltzray.molecules.atom_lookup import AtomLookup
from boltzray.molecules.basins import Clusters, ramachandran_basins, read_basins
from boltzray.molecules.couplings import HA_HB, HN_HA, couplings
from boltzray.molecules.hydrogen_bonds import hydrogen_bonds
from boltzray.molecules.quantities import basin_quantities, own_quantity, standard_quantities


def names(sequence: str) -> list[str]:
    return [c.label for c in couplings(AtomLookup(Peptide.from_sequence(sequence)))]


def torsion(peptide: Peptide, *atoms: str) -> float:
    frame = mdtraj.Trajectory(peptide.positions[None].astype(np.float32), None)
    indices = [[AtomLookup(peptide).atom(atom) for atom in atoms]]
    return float(np.degrees(mdtraj.compute_dihedrals(frame, np.array(indices), periodic=False))[0, 0])


def test_couplings_of_amides_are_those_of_mdtraj() -> None:
    frames = mdtraj.Trajectory(FRAMES, mdtraj.Topology.from_openmm(PEPTIDE.topology))
    theirs = mdtraj.compute_J3_HN_HA(frames)[1][:, 0]
    ours = next(q for q in standard_quantities(PEPTIDE) if q.name == "³J(A2 HN,Hα)")
    np.testing.assert_allclose(ours.of(FRAMES), theirs, atol=1e-4)


def test_couplings_are_of_protons_that_there_are() -> None:
    """No HN of a proline or of a charged end; two Hα of glycine; one coupling of a methyl."""
    assert names("AP") == ["³J(A1 Hα,Hβ)", "³J(P2 Hα,Hβ2)", "³J(P2 Hα,Hβ3)"]
    assert names("VG") == ["³J(V1 Hα,Hβ)", "³J(G2 HN,Hα2)", "³J(G2 HN,Hα3)"]
    assert names("ACE-A-NME") == ["³J(A1 HN,Hα)", "³J(A1 Hα,Hβ)"]


@pytest.mark.parametrize(("residue", "alpha", "shift"), [("A", "HA", -60), ("G", "HA2", -60), ("G", "HA3", 60)])
def test_phi_stands_for_the_torsion_of_the_protons(residue: str, alpha: str, shift: float) -> None:
    peptide = Peptide.from_sequence(f"A{residue}")
    label = f"{residue}2"
    phi = torsion(peptide, "A1:C", f"{label}:N", f"{label}:CA", f"{label}:C")
    protons = torsion(peptide, f"{label}:H", f"{label}:N", f"{label}:CA", f"{label}:{alpha}")
    assert abs((protons - phi - shift + 180) % 360 - 180) < 15  # the amide's hydrogen is in its plane


def test_karplus_relations_are_the_published_ones() -> None:
    angle = np.radians([180.0, 60.0, 90.0])
    np.testing.assert_allclose(HN_HA(angle), [8.40 + 1.36 + 0.33, 2.10 - 0.68 + 0.33, 0.33], atol=1e-9)
    series = 5.83 - 1.37 * np.cos(angle) + 3.61 * np.cos(2 * angle)  # as Pérez et al. print it
    np.testing.assert_allclose(HA_HB(angle), series, atol=1e-9)


def test_shape_and_distances_are_those_of_mdtraj() -> None:
    topology = mdtraj.Topology.from_openmm(PEPTIDE.topology)
    frames = mdtraj.Trajectory(FRAMES[:20], topology)
    found = {q.name: q.of(FRAMES[:20]) for q in standard_quantities(PEPTIDE, ["A1:CA-A2:CA"])}
    pair = [[a.index for a in topology.atoms if a.name == "CA"]]
    np.testing.assert_allclose(found["A1:CA-A2:CA"], mdtraj.compute_distances(frames, pair)[:, 0], atol=1e-5)
    area = mdtraj.shrake_rupley(frames).sum(axis=1)
    np.testing.assert_allclose(found["solvent-accessible area"], area, rtol=0.03)  # fewer points on each sphere
    assert found["solvent-accessible area"].mean() == pytest.approx(area.mean(), rel=0.01)


def test_hydrogen_bonds_are_those_of_mdtraj() -> None:
    """Of a strand that is bent until its ends meet; mdtraj counts each hydrogen and oxygen by itself."""
    peptide = Peptide.from_sequence("DG")
    rng = np.random.default_rng(0)
    x = peptide.positions + rng.normal(scale=0.08, size=(300, *peptide.positions.shape))
    bonds = hydrogen_bonds(AtomLookup(peptide))
    topology = mdtraj.Topology.from_openmm(peptide.topology)
    compared = 0
    for bond in bonds:
        inside = bond.holds(x)
        for t in range(0, 300, 10):
            frame = mdtraj.Trajectory(x[t : t + 1].astype(np.float32), topology)
            theirs = {tuple(row) for row in mdtraj.baker_hubbard(frame, freq=0.0, periodic=False).tolist()}
            ours = {(bond.donor, h, a) for h in bond.hydrogens for a in bond.acceptors}
            assert inside[t] == bool(ours & theirs)
            compared += bool(ours & theirs)
    assert compared > 5


@pytest.mark.parametrize("sequence", ["AA", "ACE-AGP-NME", "KDE"])
def test_basins_of_a_residue_hold_each_frame_once(sequence: str) -> None:
    peptide = Peptide.from_sequence(sequence)
    rng = np.random.default_rng(0)
    x = (peptide.positions + rng.normal(scale=0.1, size=(200, *peptide.positions.shape))).astype(np.float32)
    quantities = basin_quantities(ramachandran_basins(peptide))
    for group in {q.partition for q in quantities}:
        inside = np.stack([q.of(x) for q in quantities if q.partition == group])
        assert (inside.sum(axis=0) == 1).all(), group


def test_clusters_are_numbered_by_weight_and_keep_their_frames() -> None:
    weights = np.ones(len(FRAMES))
    clusters = Clusters(PEPTIDE, FRAMES, weights, 3)
    members = clusters.member(FRAMES)
    assert (np.diff(np.bincount(members, minlength=3)) <= 0).all()
    np.testing.assert_array_equal(clusters.member(FRAMES[:50]), members[:50])
    assert clusters.labels()[0].startswith("1: ψ(A1)")


def test_basins_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "basins.yaml"
    path.write_text('left: {"phi(A2)": [0, 120]}\nalpha: {"φ(A2)": [-160, -20], "psi(A1)": [-120, 50]}\n')
    left, alpha = read_basins(path, PEPTIDE)
    state = next(q for q in basin_quantities(ramachandran_basins(PEPTIDE)) if q.name.startswith("φ(A2) left"))
    np.testing.assert_array_equal(left.holds(FRAMES), state.of(FRAMES))
    assert 0 < alpha.holds(FRAMES).mean() < 1
    for text, message in [
        ("left: 3", "has no windows"),
        ('left: {"phi(A7)": [0, 120]}', "has φ\\(A7\\), the peptide"),
        ('left: {"phi(A2)": [120, 0]}', "LOW < HIGH"),
        ("[", "no YAML"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_basins(path, PEPTIDE)


def test_atoms_have_the_names_that_people_write() -> None:
    atoms = AtomLookup(PEPTIDE)
    assert atoms.atom("A2:CA") == atoms.atom("2:CA")
    assert atoms.name(atoms.atom("A2:CA")) == "A2:CA"
    with pytest.raises(ValueError, match="no residue A3"):
        atoms.atom("A3:CA")
    with pytest.raises(ValueError, match="A1 has the atoms"):
        atoms.atom("A1:CX")


def test_own_functions_give_a_value_a_frame() -> None:
    share = own_quantity("f", lambda t: t.xyz[:, 0, 0] > 0, PEPTIDE)
    assert share.of(FRAMES[:5]).dtype == bool
    assert share.unit == ""
    assert own_quantity("f", lambda t: t.xyz[:, 0, 0], PEPTIDE).unit == "1"  # no share, though between 0 and 1
    with pytest.raises(ValueError, match="one number or boolean for each frame"):
        own_quantity("f", lambda t: t.xyz, PEPTIDE)
    with pytest.raises(ValueError, match=r"observable f raised KeyError: 'x' \(test_quantities.py line \d+\)"):
        own_quantity("f", lambda t: {}["x"], PEPTIDE)
    with pytest.raises(ValueError, match="observable f raised TypeError"):
        own_quantity("f", lambda t, u: t, PEPTIDE)
