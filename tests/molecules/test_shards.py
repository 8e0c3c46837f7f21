"""Shards: what is written is read back, and nothing in a file can stop a run."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from boltzray.molecules.observables import Tica
from boltzray.molecules.references import (
    find_pdb,
    find_reference,
    load_reference,
    published_split,
    save_reference,
    sequences_with_reference,
)
from boltzray.molecules.shards import FRAMES, read_manifest, shard_sizes, write_shards
from boltzray.molecules.tars import Problem, read_shard

DATA = Path(__file__).parents[1] / "data"
SHARDS = [DATA / FRAMES / name for name in ("0000.tar", "0001.tar")]
ATOMS = {"AF": 33, "FS": 34, "GP": 24, "KE": 40, "NV": 33, "RQ": 44, "YT": 38}


def _trajectories(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {s: rng.normal(size=(t, n, 3)).astype(np.float32) for s, t, n in (("AA", 57, 23), ("GP", 44, 24))}


def _tar_of(path: Path, members: list[tuple[str, bytes]], format: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, payload in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(payload), 1700000000.5
            tar.addfile(info, io.BytesIO(payload))
    return path


def test_real_shards_read_as_tarfile_reads_them() -> None:
    for path in SHARDS:
        content = read_shard(path, ATOMS)
        assert content.problems == []
        with tarfile.open(path) as tar:
            members = [(m.name, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
        assert [f"{f.key}.bin" for f in content.frames] == [name for name, _ in members]
        assert all(f.positions.tobytes() == payload for f, (_, payload) in zip(content.frames, members, strict=True))


def test_round_trip_shuffled_with_manifest(tmp_path: Path) -> None:
    trajectories = _trajectories()
    paths = write_shards(tmp_path, trajectories, seed=1, frames_per_shard=30)
    assert [p.name for p in paths] == ["0000.tar", "0001.tar", "0002.tar", "0003.tar"]
    assert list(shard_sizes(tmp_path)) == [str(path) for path in paths]
    contents = [read_shard(p, {"AA": 23, "GP": 24}) for p in paths]
    frames = [f for c in contents for f in c.frames]
    assert sorted(f.key for f in frames) == sorted(
        f"{s}_{i:06d}" for s, x in trajectories.items() for i in range(len(x))
    )
    for frame in frames:
        assert np.array_equal(frame.positions, trajectories[frame.sequence][int(frame.key.split("_")[1])])
    assert {f.sequence for f in contents[0].frames} == {"AA", "GP"}
    shards = json.loads((tmp_path / FRAMES / "manifest.json").read_text())["shards"]
    assert [shards[p.name]["samples"] for p in paths] == [len(c.frames) for c in contents]
    assert_as_the_manifest_says(tmp_path)


def assert_as_the_manifest_says(data_dir: Path) -> None:
    for name, facts in read_manifest(data_dir).items():
        content = (data_dir / FRAMES / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (facts["bytes"], facts["sha256"])


def test_same_seed_same_bytes_and_iterables(tmp_path: Path) -> None:
    whole = write_shards(tmp_path / "a", _trajectories(), seed=1, frames_per_shard=64)
    parts = {s: iter([x[:10], x[10:]]) for s, x in _trajectories().items()}
    chunked = write_shards(tmp_path / "b", parts, seed=1, frames_per_shard=64)
    assert [p.read_bytes() for p in whole] == [p.read_bytes() for p in chunked]
    other = write_shards(tmp_path / "c", _trajectories(), seed=2, frames_per_shard=64)
    assert whole[0].read_bytes() != other[0].read_bytes()


def test_writing_again_replaces_ours_and_leaves_others_alone(tmp_path: Path) -> None:
    write_shards(tmp_path, _trajectories(), seed=1, frames_per_shard=10)
    write_shards(tmp_path, _trajectories(5), seed=1, frames_per_shard=80)
    assert [Path(path).name for path in shard_sizes(tmp_path)] == ["0000.tar", "0001.tar"]
    assert_as_the_manifest_says(tmp_path)
    assert not list((tmp_path / FRAMES).glob("*.tmp"))
    (tmp_path / FRAMES / "0007.tar").write_bytes(b"theirs")
    with pytest.raises(ValueError, match=r"0007\.tar"):
        write_shards(tmp_path, _trajectories(), seed=1, frames_per_shard=10)
    assert (tmp_path / FRAMES / "0007.tar").read_bytes() == b"theirs"


def test_each_bad_member_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    good, nan = np.ones((23, 3), "<f4"), np.full((23, 3), np.nan, "<f4")
    bad = [
        ("AA_000001.bin", good.tobytes()[:-1]),
        ("AA_000002.bin", good.tobytes()[:-12]),
        ("AA_000003.bin", b""),
        ("WW_000004.bin", good.tobytes()),
        ("AA_000005.bin", nan.tobytes()),
        ("../AA_000006.bin", good.tobytes()),
        ("/etc/AA_000007.bin", good.tobytes()),
        ("AA_000008.txt", good.tobytes()),
        ("AA\n_000009.bin", good.tobytes()),
    ]
    members = [pair for i, b in enumerate(bad) for pair in ((f"AA_1{i:05d}.bin", good.tobytes()), b)]
    content = read_shard(_tar_of(tmp_path / "x.tar", members), {"AA": 23})
    assert [f.key for f in content.frames] == [f"AA_1{i:05d}" for i in range(len(bad))]
    assert len(content.problems) == len(bad)
    for (name, _), problem in zip(bad, content.problems, strict=True):
        assert (problem.shard, problem.member, problem.frames) == ("x.tar", ascii(name), 1)
        assert str(problem) == f"x.tar: {name!a}: {problem.reason}"
        assert "\n" not in str(problem)
        assert Problem.parse(str(problem)) == problem
    assert [p.name for p in tmp_path.iterdir()] == ["x.tar"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_dialect(tmp_path: Path, format: int) -> None:
    payload = np.ones((23, 3), "<f4").tobytes()
    long = "AA_" + "0" * (90 if format == tarfile.USTAR_FORMAT else 150) + ".bin"
    content = read_shard(_tar_of(tmp_path / "x.tar", [("./AA_1.bin", payload), (long, payload)], format), {"AA": 23})
    assert content.problems == []
    assert [f.key for f in content.frames] == ["AA_1", long[:-4]]


@pytest.mark.parametrize("content", [b"", b"no tar", b"\0" * 100, bytes(range(256)) * 40])
def test_no_tar_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "0000.tar"
    path.write_bytes(content)
    frames, problems = read_shard(path, ATOMS)
    assert frames == []
    assert [problem.shard for problem in problems] == ["0000.tar"]
    assert Problem.parse(str(problems[0])) == problems[0]


def test_lines_about_problems_that_are_on_disk_are_understood() -> None:
    """As earlier versions wrote them, and as bad_data.txt, data.json and training checkpoints hold them."""
    for line, problem in {
        "a.tar: 'GP: it\\'s_1.bin': unknown sequence X": ("a.tar", "'GP: it\\'s_1.bin'", "unknown sequence X", 1),
        "a.tar: no tar header at byte 512: not a tar": ("a.tar", "", "no tar header at byte 512: not a tar", 1),
        "a.tar: 40 of 100 frames missing": ("a.tar", "", "40 of 100 frames missing", 40),
        "anything": ("", "", "anything", 1),
    }.items():
        assert Problem.parse(line) == problem
        assert str(Problem.parse(line)) == line
    assert Problem.missing("a.tar", 100, 60) == Problem.parse("a.tar: 40 of 100 frames missing")


def test_truncation_at_every_kind_of_place_is_reported(tmp_path: Path) -> None:
    data = SHARDS[0].read_bytes()
    rng, end = np.random.default_rng(0), len(data.rstrip(b"\0"))
    cuts = [*rng.integers(0, end, 80), *(512 * rng.integers(1, end // 512, 40))]
    path = tmp_path / "cut.tar"
    whole = [f.key for f in read_shard(SHARDS[0], ATOMS).frames]
    for cut in cuts:
        path.write_bytes(data[:cut])
        frames, problems = read_shard(path, ATOMS)
        assert problems, cut
        assert [f.key for f in frames] == whole[: len(frames)]


def test_mutations_never_raise_and_cost_only_what_they_hit(tmp_path: Path) -> None:
    original = SHARDS[0]
    data, whole = original.read_bytes(), read_shard(original, ATOMS)
    keys = {f.key for f in whole.frames}
    rng, path = np.random.default_rng(1), tmp_path / "mutated.tar"
    for _ in range(120):
        mutated = bytearray(data)
        kind, at = rng.integers(4), int(rng.integers(len(data.rstrip(b"\0"))))
        if kind == 0:  # one byte anywhere
            mutated[at] ^= int(rng.integers(1, 256))
        elif kind == 1:  # one byte of a header
            mutated[at // 512 * 512 + int(rng.integers(160))] ^= int(rng.integers(1, 256))
        elif kind == 2:  # a block of noise
            mutated[at : at + 600] = rng.bytes(600)
        else:  # a hole
            mutated[at : at + 2048] = bytes(2048)
        path.write_bytes(mutated[: len(data)])
        frames, problems = read_shard(path, ATOMS)
        assert {f.key for f in frames} <= keys
        lost = len(whole.frames) - len(frames)
        assert lost <= 5
        assert bool(problems) or lost == 0
        assert all(problem.shard == "mutated.tar" and "\n" not in str(problem) for problem in problems)


def test_folder_without_shards_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="webdatasets") as error:
        shard_sizes(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "trajectories",
    [
        {},
        {"AA": np.zeros((0, 23, 3))},
        {"AA": np.full((2, 23, 3), np.nan)},
        {"A_A": np.zeros((2, 23, 3))},
        {"AA": np.zeros(3)},
    ],
)
def test_bad_trajectories_are_refused(tmp_path: Path, trajectories: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"frames|letters|positions"):
        write_shards(tmp_path, trajectories, seed=0, frames_per_shard=10)


# --- references ---------------------------------------------------------------------------------


def test_reference_files(tmp_path: Path) -> None:
    path = find_reference(DATA, "ARIP")
    assert path is not None
    stored = load_reference(path)
    positions, tica = stored.positions_nm, stored.tica
    assert (stored.atoms, stored.forcefield, stored.temperature_k) == ((), "amber14-obc1", 310.0)
    assert tica is not None
    assert (positions.shape, tica.mean.shape, tica.projection.shape) == ((419, 70, 3), (369,), (369, 2))
    copy = tmp_path / "trajectories_subsampled" / "val" / "4AA" / "ARIP_subsampled.npz"
    save_reference(copy, positions, Tica(mean=tica.mean, projection=tica.projection))
    assert find_reference(tmp_path, "ARIP") == copy
    again, tica_again = load_reference(copy).positions_nm, load_reference(copy).tica
    assert tica_again is not None
    assert np.array_equal(again, positions)
    assert np.array_equal(tica_again.projection, tica.projection)


def test_reference_without_tica_and_broken_ones(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, positions=np.zeros((5, 23, 3)))
    assert load_reference(path).tica is None
    for content in (b"", b"junk", path.read_bytes()[:100]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a reference trajectory"):
            load_reference(path)


def test_looking_up_sequences() -> None:
    assert find_pdb(DATA, "AL") == DATA / "pdbs" / "val" / "AL.pdb"
    assert find_pdb(DATA, "WW") is None
    assert find_reference(DATA, "WW") is None


def test_references_of_capped_peptides_are_found_under_either_length(tmp_path: Path) -> None:
    """Caps count as no residues, and used to count as letters."""
    for name, folders in (("ACE-A-NME", ("9AA", "1AA")), ("ACE-AAAA-NME", ("12AA", "4AA"))):
        for folder in folders:  # the one that is right is looked for first
            path = tmp_path / "trajectories_subsampled" / "val" / folder / f"{name}_subsampled.npz"
            path.parent.mkdir(parents=True)
            path.touch()
            assert find_reference(tmp_path, name) == path
    (tmp_path / "trajectories_subsampled" / "val" / "3AA").mkdir()
    (tmp_path / "trajectories_subsampled" / "val" / "3AA" / "AAA_subsampled.npz").touch()
    assert sequences_with_reference(tmp_path, "val") == ["ACE-A-NME", "AAA", "ACE-AAAA-NME"]
    with pytest.raises(ValueError, match="letters"):
        find_pdb(DATA, "../AL")
    assert [published_split(s) for s in ("AA", "AL", "GP")] == ["test", "val", None]
