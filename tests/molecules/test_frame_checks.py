"""Each fault of frames that come from elsewhere is named with its cause, mended, or left out; sound frames pass."""

from pathlib import Path

import numpy as np
import pytest

from boltzray.molecules.frame_checks import CheckedFrames, check_frames
from boltzray.molecules.frame_file import FrameFile
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.references import load_reference

DATA = Path(__file__).parents[1] / "data"
FRAMES = 300


@pytest.fixture(scope="module", params=["AA", "ARIP"])
def case(request: pytest.FixtureRequest) -> tuple[Peptide, np.ndarray]:
    """A peptide as its simulation has it, and frames of that."""
    path = next(DATA.glob(f"trajectories_subsampled/test/*/{request.param}_subsampled.npz"))
    frames = load_reference(path).positions_nm[:FRAMES]
    peptide = Peptide.from_pdb(Peptide.from_pdb(DATA / "pdbs" / "test" / f"{request.param}.pdb").to_pdb(frames[0]))
    return peptide, frames


def check(peptide: Peptide, frames: np.ndarray, box: np.ndarray | None = None, **options: object) -> CheckedFrames:
    found = FrameFile(path=Path("run.npy"), positions=frames, box=box)
    return check_frames(found, peptide, "top.pdb", **{"temperature_k": 310.0, "forcefield": "amber14-obc1"} | options)


def wrapped(frames: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Put each atom into the box, as a program that knows no molecules does; the molecule starts in its corner."""
    inverse = np.linalg.inv(box)
    return np.einsum("tni,ij->tnj", np.einsum("tni,ij->tnj", frames.astype(np.float64), inverse) % 1, box)


def test_sound_frames_pass_untouched_and_without_a_word(case: tuple[Peptide, np.ndarray]) -> None:
    peptide, frames = case
    found = check(peptide, frames)
    assert found.positions.tobytes() == frames.tobytes()
    assert (found.notes, found.left_out) == ((), {})


def test_angstrom_become_nm(case: tuple[Peptide, np.ndarray]) -> None:
    peptide, frames = case
    found = check(peptide, frames * 10)
    np.testing.assert_allclose(found.positions, frames, rtol=3e-7)
    assert [note for note in found.notes if "Å" in note] == list(found.notes)
    for factor in (0.1, 3.7, 18.9):
        with pytest.raises(ValueError, match="times as long as they should be: positions are scaled"):
            check(peptide, frames * factor)


@pytest.mark.parametrize(
    "box", [np.diag([3.0, 3.5, 4.0]), np.array([[4.0, 0, 0], [0.9, 3.8, 0], [-1.1, 1.2, 3.6]])], ids=["cuboid", "skew"]
)
@pytest.mark.parametrize("unit", [1, 10])
def test_a_molecule_broken_over_the_box_is_made_whole(
    case: tuple[Peptide, np.ndarray], box: np.ndarray, unit: int
) -> None:
    peptide, frames = case
    broken = wrapped(frames, box)
    broken[7] = frames[7]  # one that is whole
    found = check(peptide, broken * unit, np.repeat(box[None], FRAMES, axis=0) * unit)
    moved = found.positions - frames
    np.testing.assert_allclose(moved, np.repeat(moved[:, :1], frames.shape[1], axis=1), atol=2e-6)
    assert any("were broken over the periodic box, and were made whole" in note for note in found.notes)


def test_a_broken_molecule_without_a_box_is_refused(case: tuple[Peptide, np.ndarray]) -> None:
    peptide, frames = case
    for count in (FRAMES, 12):  # few frames, too: they are the extended ones
        broken = frames.astype(np.float64)
        broken[:count] = wrapped(frames[:count], np.eye(3) * 5)
        with pytest.raises(ValueError, match=r"broken over the edges of a periodic box in .* no box to mend"):
            check(peptide, broken)


def test_atoms_in_another_order_or_of_another_molecule(case: tuple[Peptide, np.ndarray]) -> None:
    peptide, frames = case
    n = frames.shape[1]
    rng = np.random.default_rng(0)
    exchanged = np.arange(n)
    exchanged[[4, n - 1]] = exchanged[[n - 1, 4]]  # two heavy atoms
    for order in (rng.permutation(n), np.arange(n)[::-1], np.roll(np.arange(n), 1), exchanged):
        with pytest.raises(ValueError, match=r"have wrong lengths in every frame \(.*nm\): its atoms are in another"):
            check(peptide, frames[:, order])


def test_frames_that_were_never_written(case: tuple[Peptide, np.ndarray]) -> None:
    peptide, frames = case
    with pytest.raises(ValueError, match=r"all atoms at one point .* in every frame: it was written before"):
        check(peptide, np.zeros_like(frames))
    some = frames.copy()
    some[-20:] = 0
    found = check(peptide, some)
    assert np.array_equal(found.positions, frames[:-20])
    assert found.left_out == {"all atoms at one point (zeros)": 20}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_frames_that_are_not_finite_are_left_out_and_named(case: tuple[Peptide, np.ndarray], value: float) -> None:
    peptide, frames = case
    bad = frames.copy()
    bad[[17, 40], 3, 1] = value
    found = check(peptide, bad)
    assert np.array_equal(found.positions, np.delete(frames, [17, 40], axis=0))
    assert "2 of 300 frames left out: NaN or infinite positions (the first: frame 17)" in found.notes
    for count, which in ((FRAMES // 5, "60 of 300 frames"), (FRAMES, "every frame")):
        bad[:count] = value
        with pytest.raises(ValueError, match=f"NaN or infinite positions in {which}"):
            check(peptide, bad)


def test_a_step_that_failed_is_left_out(case: tuple[Peptide, np.ndarray]) -> None:
    peptide, frames = case
    bad = frames.copy()
    bad[5] += np.random.default_rng(0).normal(0, 0.3, bad[5].shape).astype(np.float32)
    found = check(peptide, bad)
    assert np.array_equal(found.positions, np.delete(frames, 5, axis=0))
    assert found.left_out == {"bonds that are torn or crushed": 1}


def test_a_mirror_image_is_refused(case: tuple[Peptide, np.ndarray]) -> None:
    peptide, frames = case
    with pytest.raises(ValueError, match=r"CA of .*: it is the mirror image"):
        check(peptide, frames * np.array([1, 1, -1], np.float32))
    some = frames.copy()
    some[9] *= -1
    assert check(peptide, some).left_out == {"a centre that has turned over": 1}


def test_prochiral_atoms_come_in_the_order_of_the_pdb(case: tuple[Peptide, np.ndarray]) -> None:
    peptide, frames = case
    names = [(atom.residue.index, atom.name) for atom in peptide.topology.atoms()]
    pair = [names.index((1, "HB2")), names.index((1, "HB3"))]
    residue = {"AA": "ALA", "ARIP": "ARG"}[peptide.sequence]
    exchanged = frames.copy()
    exchanged[:, pair] = frames[:, pair[::-1]]
    found = check(peptide, exchanged)
    (note,) = found.notes
    assert f"were exchanged: HB2 of {residue} 2, HB3 of {residue} 2" in note
    assert np.array_equal(found.positions, frames)


def constrained(peptide: Peptide, frames: np.ndarray) -> np.ndarray:
    """Set each X-H bond to one length, as constraints do."""
    x = frames.astype(np.float64)
    for a, b in peptide.topology.bonds():
        for hydrogen, heavy in ((a, b), (b, a)):
            if hydrogen.element.symbol == "H":
                arm = x[:, hydrogen.index] - x[:, heavy.index]
                length = np.linalg.norm(arm, axis=-1, keepdims=True)
                x[:, hydrogen.index] = x[:, heavy.index] + arm / length * length.mean()
    return x.astype(np.float32)


@pytest.mark.parametrize("unit", [1, 10])
def test_few_digits_are_noted_whatever_the_file(case: tuple[Peptide, np.ndarray], unit: int) -> None:
    peptide, frames = case
    notes = check(peptide, np.round(frames, 3) * unit).notes
    assert [note for note in notes if note.startswith("positions are rounded to 0.001 nm")]
    assert not [note for note in check(peptide, np.round(frames, 4) * unit).notes if "rounded" in note]


@pytest.mark.parametrize("rounded", [False, True])
def test_constraints_are_noted(case: tuple[Peptide, np.ndarray], rounded: bool) -> None:
    peptide, frames = case
    stiff = constrained(peptide, frames)
    found = check(peptide, np.round(stiff, 3) if rounded else stiff)
    assert [note for note in found.notes if note.startswith("X-H bonds have one length")]
    assert not any("energy of bonds" in note for note in found.notes)


def test_another_temperature_or_force_field_is_noted(case: tuple[Peptide, np.ndarray]) -> None:
    peptide, frames = case
    (note,) = check(peptide, frames, temperature_k=600.0).notes
    assert "the energy of bonds is 0.5" in note
    assert check(peptide, frames, forcefield="charmm36").notes == ()  # not ours: nothing to compare with


def test_copies_are_noted(case: tuple[Peptide, np.ndarray]) -> None:
    peptide, frames = case
    (note,) = check(peptide, np.concatenate([frames, frames[:7]])).notes
    assert note.startswith("7 of 307 frames are copies")
