"""Trajectories are read as other programs write them, whatever they are called; what is none is refused in one line."""

import json
from pathlib import Path

import h5py
import mdtraj
import numpy as np
import pytest

from boltzray.molecules.frame_file import FrameFile, Selection
from boltzray.molecules.references import load_reference
from boltzray.molecules.trajectories import frame_paths, read_frames

DATA = Path(__file__).parents[1] / "data"
PDB = DATA / "pdbs" / "test" / "AA.pdb"
N = 23


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return load_reference(DATA / "trajectories_subsampled" / "test" / "2AA" / "AA_subsampled.npz").positions_nm[:30]


def trajectory(frames: np.ndarray) -> mdtraj.Trajectory:
    """Frames every 0.2 ps in a box of 3 nm."""
    count = len(frames)
    return mdtraj.Trajectory(
        frames,
        mdtraj.load_topology(str(PDB)),
        time=np.arange(count) * 0.2,
        unitcell_lengths=np.full((count, 3), 3.0),
        unitcell_angles=np.full((count, 3), 90.0),
    )


def write_hdf5(path: Path, frames: np.ndarray, unit: str = "nanometers", order: list[int] | None = None) -> None:
    """What mdtraj and OpenMM's reporter of its kind write, for which they would need PyTables."""
    atoms = list(mdtraj.load_topology(str(PDB)).atoms)
    order = order or list(range(len(atoms)))
    residues = [
        {
            "index": r,
            "name": atoms[0].residue.name,
            "resSeq": r + 1,
            "atoms": [
                {"index": new, "name": atoms[old].name, "element": atoms[old].element.symbol}
                for new, old in enumerate(order)
                if atoms[old].residue.index == r
            ],
        }
        for r in range(2)
    ]
    with h5py.File(path, "w") as file:
        file["coordinates"] = frames[:, order]
        file["coordinates"].attrs["units"] = np.bytes_(unit)
        file["time"] = np.arange(len(frames), dtype=np.float32) * 2
        file["topology"] = [json.dumps({"chains": [{"index": 0, "residues": residues}], "bonds": []}).encode()]


def read(path: Path, file_atoms: np.ndarray | None = None) -> FrameFile:
    return read_frames(path, Selection("AA.pdb", N, N if file_atoms is None else 29, file_atoms))


@pytest.mark.parametrize(
    ("ending", "precise", "box", "timed"),
    [
        ("xtc", 6e-4, True, True),
        ("dcd", 1e-6, True, False),
        ("trr", 0, True, True),
        ("nc", 1e-6, True, True),
        ("lammpstrj", 1e-4, True, False),
        ("xyz", 1e-4, False, False),
        ("pdb", 1e-4, True, False),
        ("pdb.gz", 1e-4, True, False),
        ("gro", 6e-4, True, False),
    ],
)
def test_each_kind_in_a_folder_of_any_name(
    tmp_path: Path,
    frames: np.ndarray,
    ending: str,
    precise: float,
    box: bool,
    timed: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    plain = tmp_path / f"run.{ending}"
    trajectory(frames).save(str(plain))
    folder = tmp_path / "Läufe (2)"
    folder.mkdir()
    capfd.readouterr()
    for path in (plain, plain.replace(folder / f"run.{ending.upper()}")):
        if path.exists():
            found = read(path)
            assert np.abs(found.positions - frames).max() <= precise
            assert (found.box is not None) == box
            assert found.spacing_ps == (pytest.approx(0.2) if timed else None)
            assert (found.structure is not None) == (ending in ("pdb", "pdb.gz", "gro"))
    assert tuple(capfd.readouterr()) == ("", "")  # VMD's plugin for DCD talks


def test_hdf5_without_pytables(tmp_path: Path, frames: np.ndarray) -> None:
    write_hdf5(tmp_path / "a.h5", frames)
    found = read(tmp_path / "a.h5")
    assert np.array_equal(found.positions, frames)
    assert found.spacing_ps == 2.0
    assert found.structure is not None
    write_hdf5(tmp_path / "b.hdf5", frames * 10, unit="angstroms")
    np.testing.assert_allclose(read(tmp_path / "b.hdf5").positions, frames, atol=1e-6)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = frames
    with pytest.raises(ValueError, match="no 'coordinates'"):
        read(tmp_path / "other.h5")


@pytest.mark.parametrize("key", ["positions", "coords", "xyz", "positions_nm", "arr_0", "md"])
def test_any_key_of_an_npz(tmp_path: Path, frames: np.ndarray, key: str) -> None:
    np.savez(tmp_path / "x.npz", **{key: frames, "box": np.ones((30, 3, 3)), "note": np.array("text")})
    assert np.array_equal(read(tmp_path / "x.npz").positions, frames)


def test_arrays_of_several_shapes(tmp_path: Path, frames: np.ndarray) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, positions=frames, velocities=frames * 2)  # as our own simulations are
    assert np.array_equal(read(path).positions, frames)
    np.savez(path, a=frames, b=frames * 2)
    with pytest.raises(ValueError, match=r"several arrays of frames \(a, b\)"):
        read(path)
    np.savez(path, a=frames[:, :5], b=np.ones(3))
    with pytest.raises(ValueError, match=r"holds 5 atoms, AA.pdb has 23 atoms"):
        read(path)
    for shaped in (frames.reshape(30, -1), frames.astype(np.float64)):
        np.save(tmp_path / "x.npy", shaped)
        assert np.array_equal(read(tmp_path / "x.npy").positions, frames)
    np.save(tmp_path / "x.npy", frames[0])
    assert read(tmp_path / "x.npy").positions.shape == (1, N, 3)
    np.save(tmp_path / "x.npy", np.zeros(7))
    with pytest.raises(ValueError, match=r"shape \(7,\)"):
        read(tmp_path / "x.npy")


def test_solvent_is_left_out_by_the_index_of_the_peptide(tmp_path: Path, frames: np.ndarray) -> None:
    water = np.random.default_rng(0).uniform(0, 3, (30, 6, 3)).astype(np.float32)
    system = np.concatenate([water[:, :3], frames, water[:, 3:]], axis=1)
    top = mdtraj.Topology()
    residue = top.add_residue("X", top.add_chain())
    for _ in range(29):
        top.add_atom("X", mdtraj.element.carbon, residue)
    for ending in ("dcd", "trr"):
        mdtraj.Trajectory(system, top).save(str(tmp_path / f"x.{ending}"))
    np.save(tmp_path / "x.npy", system)
    for ending in ("dcd", "trr", "npy"):
        path = tmp_path / f"x.{ending}"
        np.testing.assert_allclose(read(path, np.arange(3, 26)).positions, frames, atol=1e-6)
        with pytest.raises(ValueError, match=r"holds 29 atoms, AA.pdb has 23 atoms: give as pdb= the structure of the"):
            read(path)
    np.save(tmp_path / "alone.npy", frames)
    assert np.array_equal(read(tmp_path / "alone.npy", np.arange(3, 26)).positions, frames)


@pytest.mark.parametrize("ending", ["xtc", "trr", "dcd"])
def test_a_run_that_was_stopped_in_a_frame_keeps_the_whole_ones(
    tmp_path: Path, frames: np.ndarray, ending: str
) -> None:
    path = tmp_path / f"run.{ending}"
    trajectory(frames).save(str(path))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    found = read(path)
    assert 20 <= len(found.positions) <= 23
    np.testing.assert_allclose(found.positions, frames[: len(found.positions)], atol=6e-4)


def test_what_is_no_trajectory_is_refused_in_one_line(tmp_path: Path) -> None:
    for ending in ("xtc", "dcd", "trr", "nc", "lammpstrj", "xyz", "pdb", "gro", "h5", "npy", "npz"):
        for content in (b"junk", b"", b"\x00" * 500):
            path = tmp_path / f"junk.{ending}"
            path.write_bytes(content)
            with pytest.raises(ValueError, match=r"junk\.") as error:
                read(path)
            assert "\n" not in str(error.value)
    (tmp_path / "run.docx").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"no kind of trajectory.*give XTC, DCD"):
        read(tmp_path / "run.docx")


def test_paths_globs_and_lists(tmp_path: Path) -> None:
    for name in ("run1.xtc", "run10.xtc", "run2.xtc", "a [1].xtc"):
        (tmp_path / name).touch()

    def names(frames: str | tuple[str, ...]) -> list[str]:
        return [path.name for path in frame_paths(frames, tmp_path)]

    assert names("run*.xtc") == ["run1.xtc", "run2.xtc", "run10.xtc"]
    assert names(str(tmp_path / "run?.xtc")) == ["run1.xtc", "run2.xtc"]
    assert names(("run10.xtc", "run1.xtc")) == ["run10.xtc", "run1.xtc"]
    assert names("a [1].xtc") == ["a [1].xtc"]
    for absent, message in (("run*.dcd", "no file matches"), (("run1.xtc", "x.xtc"), "no file at")):
        with pytest.raises(FileNotFoundError, match=message):
            names(absent)
