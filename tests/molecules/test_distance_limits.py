"""Distances that frames may have: real ones have them, damaged ones do not."""

import json
from pathlib import Path

import numpy as np
import pytest

from boltzray.molecules import Peptide
from boltzray.molecules.columns import IMPLAUSIBLE, leave_out, read_frames
from boltzray.molecules.distance_limits import TABLE, DistanceLimits, _distances, _name, derive
from boltzray.molecules.dynamics import minimised
from boltzray.molecules.references import load_reference
from boltzray.molecules.runs import MDConfig
from boltzray.molecules.shards import write_shards
from boltzray.molecules.tars import Frame, ShardContent
from tests.naming import written

SEEN = 0.99  # of damage by more than FAR
FAR = 0.05  # nm


@pytest.fixture(scope="module")
def real(data: Path) -> dict[str, tuple[Peptide, np.ndarray]]:
    """Frames of MD at 310 K that nothing has gone over."""
    pdbs = {path.stem: Peptide.from_pdb(path) for path in data.glob("pdbs/*/*.pdb")}
    shards = sorted(data.glob("webdatasets/*/*.tar"))
    frames: dict[str, list[np.ndarray]] = {}
    for path in shards:
        for frame in read_frames(path, {s: p.n_atoms for s, p in pdbs.items()}).frames:
            frames.setdefault(frame.sequence, []).append(frame.positions)
    found = {sequence: np.stack(x) for sequence, x in frames.items()}
    for path in data.glob("trajectories_subsampled/*/*/*.npz"):
        found[path.name.split("_")[0]] = load_reference(path).positions_nm
    return {sequence: (pdbs[sequence], x.astype(np.float32)) for sequence, x in found.items()}


def settled(sequence: str) -> Peptide:
    """A peptide of bonds and angles that MD has: those of built structures are usual ones of other places."""
    peptide = Peptide.from_sequence(sequence)
    return peptide.at(minimised(peptide, MDConfig()))


def test_real_frames_are_within_the_limits(real: dict[str, tuple[Peptide, np.ndarray]]) -> None:
    assert sum(len(x) for _, x in real.values()) > 5000
    broken = {sequence: int(DistanceLimits.of(peptide).broken(x).sum()) for sequence, (peptide, x) in real.items()}
    assert sum(broken.values()) <= 2, f"one in 30,000 has a distance in the far tail: {broken}"


def test_flipped_bits_that_move_an_atom_are_seen(real: dict[str, tuple[Peptide, np.ndarray]]) -> None:
    rng, seen, moved = np.random.default_rng(0), 0, 0
    for peptide, x in real.values():
        flipped = x[rng.integers(0, len(x), 1200)].copy()
        rows, columns = np.arange(len(flipped)), rng.integers(0, 3 * peptide.n_atoms, len(flipped))
        before = flipped.reshape(len(flipped), -1)[rows, columns]
        bits = np.uint32(1) << rng.integers(0, 32, len(flipped)).astype(np.uint32)
        flipped.reshape(len(flipped), -1).view(np.uint32)[rows, columns] ^= bits
        with np.errstate(over="ignore", invalid="ignore"):
            far = ~(np.abs(flipped.reshape(len(flipped), -1)[rows, columns] - before) <= FAR)
        broken = DistanceLimits.of(peptide).broken(flipped)
        seen, moved = seen + int((broken & far).sum()), moved + int(far.sum())
    assert moved > 2000
    assert seen >= SEEN * moved, (seen, moved)


def test_hot_frames_and_other_force_fields_have_more_room(real: dict[str, tuple[Peptide, np.ndarray]]) -> None:
    peptide, x = real["AA"]
    wide = x * np.float32(1.08)  # all distances alike; those of other families differ by as much here and there
    assert DistanceLimits.of(peptide).broken(wide).mean() > 0.2
    assert not DistanceLimits.of(peptide, forcefield="charmm36").broken(wide).any()
    noisy = x + np.random.default_rng(0).normal(0, 0.003, x.shape).astype(np.float32)
    cold, hot = (DistanceLimits.of(peptide, temperature_k).broken(noisy).mean() for temperature_k in (310.0, 900.0))
    assert hot < 0.1 * cold


def test_limits_follow_the_atoms_whatever_their_order_and_names(real: dict[str, tuple[Peptide, np.ndarray]]) -> None:
    for style, reordered in (("gromacs", True), ("charmm", False)):
        built = settled("KE")
        given = Peptide.from_pdb(written(built, style, reordered=reordered))
        one, two = DistanceLimits.of(given), DistanceLimits.of(built)
        assert sorted(zip(one.least[:, 0], one.largest[:, 0], strict=True)) == sorted(
            zip(two.least[:, 0], two.largest[:, 0], strict=True)
        )
        assert not one.broken(given.positions[None].astype(np.float32)).any()
        torn = given.positions.astype(np.float32).copy()
        torn[3] += 0.1
        assert one.broken(torn[None]).all()


def test_caps_have_limits_of_their_bonds() -> None:
    peptide = settled("ACE-A-NME")
    limits, x = DistanceLimits.of(peptide), peptide.positions.astype(np.float32)
    assert set(limits.pairs.ravel().tolist()) == set(range(peptide.n_atoms))
    assert not limits.broken(x[None]).any()
    for atom in range(peptide.n_atoms):
        torn = x.copy()
        torn[atom, 0] = -3.4e37
        assert limits.broken(torn[None]).all()


def test_the_table_is_of_the_force_field() -> None:
    table = json.loads(TABLE.read_text())
    for sequence in ("AWA", "PA", "AR"):
        for name, mean, spread in _distances(Peptide.from_sequence(sequence)):
            least, largest, widest = table[name]
            assert least - 2e-4 <= mean <= largest + 2e-4
            assert spread <= widest + 1e-4
            assert largest - least < 0.03, name


@pytest.mark.slow
def test_the_whole_table_is_of_the_force_field() -> None:
    table, found = json.loads(TABLE.read_text()), derive()
    assert found.keys() == table.keys()
    for name, row in found.items():
        assert row == pytest.approx(table[name], abs=1e-3), name  # where a minimum is flat, processors differ


@pytest.mark.parametrize("name", ["ACE-A-NME", "ALA-HIP-ALA", "ALA-HID", "ACE-GLH-NME", "PRO-ASH-PRO"])
def test_caps_and_states_of_protonation_have_rows_of_their_own(name: str) -> None:
    """A neutral acid's C-O is 0.011 nm longer than a charged one's: limits of the usual residues would refuse it."""
    peptide = settled(name)
    noise = np.random.default_rng(0).normal(0, 0.002, (50, *peptide.positions.shape))
    frames = (peptide.positions + noise).astype(np.float32)
    assert not DistanceLimits.of(peptide).broken(frames).any()
    table = json.loads(TABLE.read_text())
    named = peptide.iupac()
    for one, other in named.topology.bonds():
        assert _name(one, other) in table


def test_what_is_left_out_is_named_and_copies_count_once() -> None:
    peptide = settled("AA")
    x = peptide.positions.astype(np.float32)
    torn = x.copy()
    torn[5, 1] = np.float32(1e30)
    frames = [Frame(key, "AA", frame) for key, frame in (("AA_1", x), ("AA_2", torn), ("AA_1", x), ("AA_3", x))]
    found = leave_out(ShardContent(list(frames), []), "0000.tar", {"AA": DistanceLimits.of(peptide)})
    assert [frame.key for frame in found.frames] == ["AA_1", "AA_3"]
    assert [str(problem) for problem in found.problems] == [
        f"0000.tar: 'AA_2': {IMPLAUSIBLE}",
        "0000.tar: 'AA_1': given twice",
    ]


def test_every_flipped_bit_is_seen_with_a_manifest(tmp_path: Path) -> None:
    peptide = Peptide.from_sequence("AA")
    (path,) = write_shards(tmp_path, {"AA": np.repeat(peptide.positions[None], 20, 0)}, seed=0, frames_per_shard=100)
    sha256 = json.loads((path.parent / "manifest.json").read_text())["shards"]["0000.tar"]["sha256"]
    sound, rng = path.read_bytes(), np.random.default_rng(0)
    assert len(read_frames(path, {"AA": 23}, sha256=sha256).frames) == 20
    for at in rng.integers(0, len(sound), 200):
        damaged = bytearray(sound)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        (problem,) = read_frames(path, {"AA": 23}, sha256=sha256).problems
        assert "its bytes are not those that were written" in str(problem)
