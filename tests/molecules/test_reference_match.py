"""References in the order of a peptide's atoms: by name and handedness, refused where they are of something else."""

from pathlib import Path

import numpy as np
import pytest

from boltzray.molecules import OpenMMEnergy, Peptide
from boltzray.molecules.metrics import METRICS, compare
from boltzray.molecules.observables import Tica, fit_tica, project, tica_features
from boltzray.molecules.reference_match import check_bonds, in_order_of, reordered_tica
from boltzray.molecules.references import ReferenceTrajectory, find_pdb, find_reference, load_reference
from boltzray.molecules.stereo import atom_names

FRAMES = 200


def stored(data: Path, sequence: str) -> tuple[Peptide, ReferenceTrajectory]:
    pdb, path = find_pdb(data, sequence), find_reference(data, sequence)
    assert pdb is not None
    assert path is not None
    reference = load_reference(path)
    # Names as the frames have them: in the PDB file hydrogens of a methyl group may go the other way round.
    return Peptide.from_pdb(Peptide.from_pdb(pdb).to_pdb(reference.positions_nm[0])), reference


def reordered(peptide: Peptide, seed: int, exchanged: tuple[tuple[str, str], ...] = ()) -> tuple[Peptide, np.ndarray]:
    """The peptide of a file with the atoms of each residue in random order and names exchanged; `x[:, order]`."""
    lines = [line for line in peptide.to_pdb().splitlines() if line.startswith(("ATOM", "HETATM"))]
    source = np.random.default_rng(seed)
    order = sorted(range(len(lines)), key=lambda i: (int(lines[i][22:26]), source.random()))
    names = dict(exchanged) | {b: a for a, b in exchanged}
    written = []
    for i in order:
        name = lines[i][12:16].strip()
        new = names.get(name, name)
        written.append(f"{lines[i][:12]}{new if len(new) > 3 else ' ' + new:<4}{lines[i][16:]}")
    return Peptide.from_pdb("\n".join([*written, "TER", "END"])), np.array(order)


@pytest.mark.parametrize("sequence", ["AA", "DG", "ARIP"])
@pytest.mark.parametrize("exchanged", [(), (("HB2", "HB3"), ("HA2", "HA3"), ("HG2", "HG3"), ("HD2", "HD3"))])
def test_frames_and_tica_in_any_order_and_naming(
    data: Path, sequence: str, exchanged: tuple[tuple[str, str], ...]
) -> None:
    """Prochiral names are exchanged in many files: frames go to the atoms that stand there."""
    own, reference = stored(data, sequence)
    exchanged = exchanged if sequence != "AA" else ()  # methyl groups have these names, too
    if sequence == "ARIP":
        exchanged = tuple(pair for pair in exchanged if pair[0] not in ("HG2", "HD2"))  # ILE has HG21, HD11 …
    other, order = reordered(own, 3, exchanged)
    found = in_order_of(other, reference, own)
    assert found.atoms == tuple(atom_names(other))
    np.testing.assert_array_equal(found.positions_nm, reference.positions_nm[:, order])
    assert reference.tica is not None
    assert found.tica is not None
    expected = project(reference.tica, reference.positions_nm[:FRAMES], own.topology)
    np.testing.assert_allclose(project(found.tica, found.positions_nm[:FRAMES], other.topology), expected, atol=1e-9)
    back = in_order_of(own, found)  # the file names its atoms now
    np.testing.assert_array_equal(back.positions_nm, reference.positions_nm)
    assert back.tica is not None
    np.testing.assert_array_equal(back.tica.projection, reference.tica.projection)


def test_features_are_those_of_the_same_pairs(data: Path) -> None:
    own, reference = stored(data, "ARIP")
    other, order = reordered(own, 5)
    frames = reference.positions_nm[:50]
    n = tica_features(frames, own.topology).shape[1]
    all_of_them = Tica(mean=np.zeros(n), projection=np.eye(n))
    moved = reordered_tica(all_of_them, own.topology, other.topology, order)
    np.testing.assert_allclose(
        project(moved, frames[:, order], other.topology), tica_features(frames, own.topology), atol=1e-12
    )
    with pytest.raises(ValueError, match="3 features"):
        reordered_tica(Tica(mean=np.zeros(3), projection=np.eye(3)), own.topology, other.topology, order)


def test_metrics_do_not_see_order_or_prochiral_names(data: Path) -> None:
    own, reference = stored(data, "DG")
    positions = reference.positions_nm[:FRAMES]
    tica, drawn = fit_tica(positions, own.topology, lag=20), reference.positions_nm[-FRAMES:]
    other, order = reordered(own, 0, (("HB2", "HB3"), ("HA2", "HA3")))
    small = ReferenceTrajectory(positions_nm=positions, tica=tica)
    metrics = []
    for peptide, frames in ((own, drawn), (other, drawn[:, order])):
        # In the standard order: Amber's improper torsions depend on the order of equal atoms, by 0.6 kT here.
        found, energy = in_order_of(peptide, small, own), OpenMMEnergy(peptide.iupac())
        assert found.tica is not None
        orders = (x[:, peptide.iupac_order] for x in (found.positions_nm, frames))
        kt = [energy.evaluate(x, gradient=False).energy for x in orders]
        metrics.append(compare(found.positions_nm, frames, *kt, peptide, found.tica))
    assert set(METRICS) <= metrics[0].keys()
    for name, value in metrics[0].items():
        assert metrics[1][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_a_capped_peptide(golden: Path) -> None:
    own = Peptide.from_pdb(golden / "ace_a_nme.pdb")
    other, order = reordered(own, 1)
    frames = own.positions[None].astype(np.float32)
    found = in_order_of(other, ReferenceTrajectory(positions_nm=frames, atoms=tuple(atom_names(own))))
    np.testing.assert_array_equal(found.positions_nm, frames[:, order])


def test_what_does_not_fit_is_refused(data: Path) -> None:
    own, reference = stored(data, "AA")
    other, _ = reordered(own, 2)
    dg, of_dg = stored(data, "DG")
    positions = reference.positions_nm
    with pytest.raises(ValueError, match="its atoms are in another order, or not in nm"):
        in_order_of(other, reference)
    for scale in (0.1, 10.0):
        with pytest.raises(ValueError, match="usual"):
            check_bonds(scale * positions, own.topology)
    with pytest.raises(ValueError, match="it has 23 atoms a frame, DG has"):
        in_order_of(dg, reference)
    named = ReferenceTrajectory(positions_nm=of_dg.positions_nm, atoms=tuple(atom_names(dg)))
    with pytest.raises(ValueError, match="atoms a frame, AA has 23"):
        in_order_of(own, named)
    with pytest.raises(ValueError, match="finite"):
        in_order_of(own, ReferenceTrajectory(positions_nm=np.full_like(positions, np.nan)))
    with pytest.raises(ValueError, match="expected residue number, residue and name"):
        in_order_of(own, ReferenceTrajectory(positions_nm=positions, atoms=("CA",) * 23))


@pytest.mark.parametrize("name", ["ACE-A-NME", "GLY-HIP-ALA", "ACE-ASH-NME"])
def test_references_of_caps_and_states_of_protonation(name: str) -> None:
    peptide = Peptide.from_sequence(name)
    frames = peptide.positions + 0.001 * np.random.default_rng(0).normal(size=(6, peptide.n_atoms, 3))
    other, order = reordered(peptide, 1) if "-A-" in name else (peptide, np.arange(peptide.n_atoms))
    own = tuple(atom_names(other))
    reference = ReferenceTrajectory(positions_nm=frames[:, order].astype(np.float32), tica=None, atoms=own)
    found = in_order_of(peptide, reference)
    np.testing.assert_allclose(found.positions_nm, frames, atol=1e-6)
