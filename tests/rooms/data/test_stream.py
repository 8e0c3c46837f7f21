"""The stream of training batches: complete, reproducible, continued where it stopped, the same for any workers."""

import io
import random
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import ray

from boltzray.data.catalogue import Catalogue, DataConfig, inspect_data, list_folder
from boltzray.data.stream import BatchServer, StepMicrobatches, batches
from boltzray.data.windows import BatchPlan, StreamState, windows
from boltzray.molecules import OpenMMEnergy, Peptide
from boltzray.molecules.shards import write_shards
from boltzray.molecules.tars import Problem, read_shard

pytestmark = pytest.mark.usefixtures("ray_cluster")
CHOSEN = ("GP", "FS", "YT")
PLAN = BatchPlan(batch=64, seed=3, shards_per_window=1, bucket_steps=4)
START = StreamState()


@pytest.fixture(scope="module")
def found(data: Path) -> Catalogue:
    """A data set, read by Ray Data although it is small."""
    found = inspect_data(DataConfig(sequences=CHOSEN), str(data))
    assert found.small
    return replace(found, small=False)


def stream(
    found: Catalogue, stop: int, start: int = 0, *, position: StreamState = START, plan: BatchPlan = PLAN
) -> list[StepMicrobatches]:
    """Steps `start` to `stop` - 1 of a single worker that begins at `position`."""
    return list(islice(batches(BatchServer(found, plan, 1, position, []), 0, start, plan, position), stop - start))


def frames(found: Catalogue, batch: StepMicrobatches) -> Iterator[tuple[str, np.ndarray]]:
    """(sequence, normalised (N, 3)) of every frame of a batch."""
    for microbatch in batch.microbatches:
        sizes = [found.peptides[p].n_atoms for p in microbatch.peptide]
        for peptide, x in zip(microbatch.peptide, np.split(microbatch.x, np.cumsum(sizes)[:-1] * 3), strict=True):
            yield found.sequences[peptide], x.reshape(-1, 3)


def marks(found: Catalogue, batch: StepMicrobatches) -> Counter:
    """What identifies each frame: pair distances tell frames apart whatever their orientation."""
    return Counter(
        (name, *(round(float(np.linalg.norm(x[0] - x[i])), 3) for i in range(1, 12)))
        for name, x in frames(found, batch)
    )


def same(one: StepMicrobatches, two: StepMicrobatches) -> bool:
    return len(one.microbatches) == len(two.microbatches) and all(
        np.array_equal(a.peptide, b.peptide) and np.array_equal(a.x, b.x)
        for a, b in zip(one.microbatches, two.microbatches, strict=True)
    )


def test_frames_come_with_their_energies_if_asked(found: Catalogue, data: Path) -> None:
    """Those of OpenMM, for the frame that each stands beside after shuffling, turning and sorting."""
    pdbs = {s: (data / "pdbs" / "train" / f"{s}.pdb").read_text() for s in found.sequences}
    told = replace(found, structures=ray.put(pdbs))
    first, second = stream(told, 2, plan=replace(PLAN, energies=True))
    assert same(first, stream(found, 1)[0]), "the frames are those of a stream without energies"
    assert np.isnan(stream(found, 1)[0].microbatches[0].energy_kT).all()
    reference = {s: OpenMMEnergy(Peptide.from_pdb(pdb), 310.0) for s, pdb in pdbs.items()}
    for batch in (first, second):
        energies = np.concatenate([microbatch.energy_kT for microbatch in batch.microbatches])
        expected = [reference[s].evaluate(x[None] * found.scale_nm, False).energy[0] for s, x in frames(found, batch)]
        np.testing.assert_allclose(energies, expected, atol=0.02)
        assert np.std(energies) > 1.0


def test_the_catalogue_knows_the_data(found: Catalogue, data: Path) -> None:
    assert found.sequences == sorted(CHOSEN)
    assert found.problems == []
    assert found.temperature_k == 310.0
    everything = inspect_data(DataConfig(), f"file://{data}")  # through fsspec
    assert 0 < found.n_frames < everything.n_frames
    trained = sorted(path.stem for path in data.glob("pdbs/train/*.pdb"))
    assert everything.sequences == trained, "PDBs of validation and test are there, and are not trained on"
    assert 0.1 < found.scale_nm < 0.4
    assert found.fingerprint != everything.fingerprint
    assert everything.fingerprint == inspect_data(DataConfig(), str(data)).fingerprint
    assert all(shard.startswith("file://") for shard in everything.shards)
    assert len(stream(replace(everything, scale_nm=found.scale_nm), 2)) == 2


def test_a_sample_of_many_shards_is_inspected(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "pdbs", tmp_path / "pdbs")
    folder = tmp_path / "webdatasets" / "single_frames"
    folder.mkdir(parents=True)
    source = (data / "webdatasets" / "single_frames" / "0000.tar").read_bytes()
    for i in range(9):
        (folder / f"{i:04d}.tar").write_bytes(source)
    found = inspect_data(DataConfig(inspected_shards=4), str(tmp_path))
    assert not found.exact
    one = len(read_shard(folder / "0000.tar", ray.get(found.known).n_atoms).frames)
    assert found.n_frames == 9 * one
    assert found.expected == [one] * 8 + [0]
    # A tar that ends between two members has no other sign.
    with tarfile.open(folder / "0004.tar", "w") as short, tarfile.open(folder / "0000.tar") as whole:
        for member in whole.getmembers()[:-40]:
            short.addfile(member, whole.extractfile(member))
    with pytest.raises(ValueError, match=r"0004\.tar: 40 of \d+ frames missing"):
        inspect_data(DataConfig(inspected_shards=9), str(tmp_path))


@pytest.fixture
def copied(data: Path, tmp_path: Path) -> Path:
    """The data, its frames written again as a job of ours does: with a manifest."""
    shutil.copytree(data / "pdbs", tmp_path / "pdbs")
    sizes = {path.stem: Peptide.from_pdb(path).n_atoms for path in data.glob("pdbs/*/*.pdb")}
    frames: dict[str, list[np.ndarray]] = {}
    for path in sorted(data.glob("webdatasets/*/*.tar")):
        for frame in read_shard(path, sizes).frames:
            frames.setdefault(frame.sequence, []).append(frame.positions)
    write_shards(tmp_path, {s: np.stack(x) for s, x in frames.items()}, seed=0, frames_per_shard=1000)
    return tmp_path


def flip(path: Path, value: float) -> None:
    """Put a value in place of one coordinate of a shard."""
    content = bytearray(path.read_bytes())
    content[512 * 11 + 24 : 512 * 11 + 28] = np.float32(value).tobytes()
    path.write_bytes(content)


def test_a_flipped_bit_is_named_and_does_not_change_the_scale(copied: Path) -> None:
    """One coordinate of thousands of frames at −3.4·10³⁷ nm made σ 4·10³⁴ nm, and nothing was said."""
    sound = inspect_data(DataConfig(), str(copied))
    first, *_ = sorted(copied.glob("webdatasets/*/*.tar"))
    flip(first, -3.4e37)
    with pytest.raises(ValueError, match=r"0000\.tar: damaged: its bytes are not those that were written"):
        inspect_data(DataConfig(), str(copied))
    found = inspect_data(DataConfig(verify=False), str(copied))
    (problem,) = found.problems
    assert "a bond or an angle that is torn or crushed" in str(problem)
    assert (found.scale_nm, found.n_frames) == (sound.scale_nm, sound.n_frames - 1)
    (copied / "webdatasets" / "single_frames" / "manifest.json").unlink()
    assert inspect_data(DataConfig(), str(copied)).problems == [problem]


def test_a_shard_that_changes_after_it_was_inspected_is_seen(copied: Path) -> None:
    found = inspect_data(DataConfig(), str(copied))
    for path in copied.glob("webdatasets/*/*.tar"):
        flip(path, 0.3)
    (batch,) = stream(found, 1)
    assert "its bytes are not those that were written" in batch.failure


def test_windows_hold_every_shard_once_an_epoch() -> None:
    plan = replace(PLAN, shards_per_window=2)
    whole = list(islice(windows(5, plan, START), 9))
    for epoch in range(3):
        assert sorted(i for e, _, shards in whole if e == epoch for i in shards) == [0, 1, 2, 3, 4]
    assert whole[0][2] + whole[1][2] != whole[3][2] + whole[4][2]
    assert list(islice(windows(5, plan, StreamState(0, 1, 1, 0)), 5)) == whole[4:]


def test_continued_batches_are_the_same(found: Catalogue) -> None:
    steps = found.n_frames // PLAN.batch + 6  # into the second epoch
    whole = stream(found, steps)
    assert {batch.start.epoch for batch in whole} == {0, 1}
    for stopped in (5, 8, steps - 2):
        position = whole[stopped - 1].start
        rest = stream(found, steps, stopped, position=position)
        assert all(same(a, b) for a, b in zip(whole[stopped:], rest, strict=True))


def test_small_data_are_read_here_to_the_same_bits(found: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = found.n_frames // PLAN.batch + 6
    whole = stream(found, steps)
    monkeypatch.setattr("ray.data.from_items", None)
    here = stream(replace(found, small=True), steps)
    assert all(same(a, b) and a.start == b.start for a, b in zip(whole, here, strict=True))


@pytest.mark.parametrize("constant", ["frames", "atoms"])
@pytest.mark.parametrize("bucket_steps", [1, 4])
def test_batches_do_not_depend_on_the_number_of_workers(found: Catalogue, bucket_steps: int, constant: str) -> None:
    plan = replace(PLAN, bucket_steps=bucket_steps, constant=constant, accumulate=2)
    alone = [marks(found, batch) for batch in stream(found, 8, plan=plan)]
    server = BatchServer(found, plan, 3, START, [])
    ranks = [batches(server, rank, 0, plan, START) for rank in range(3)]
    for expected in alone:
        of_ranks = [next(rank) for rank in ranks]
        assert sum((marks(found, batch) for batch in of_ranks), Counter()) == expected
        counts = [sum(len(microbatch.peptide) for microbatch in batch.microbatches) for batch in of_ranks]
        assert max(counts) - min(counts) <= 1
        assert all(len(batch.microbatches) == 2 for batch in of_ranks)


def test_an_epoch_shows_each_frame_once(found: Catalogue) -> None:
    plan = replace(PLAN, batch=16)
    seen: Counter = Counter()
    for batch in stream(found, found.n_frames // 16 // 4 * 4, plan=plan):
        seen += marks(found, batch)
    assert sum(seen.values()) == found.n_frames // 64 * 64
    assert set(seen.values()) == {1}


def test_batches_hold_frames_of_similar_size(found: Catalogue) -> None:
    def padding(batch: StepMicrobatches) -> tuple[int, int]:
        sizes = [len(x) for _, x in frames(found, batch)]
        return sum(sizes), max(sizes) * len(sizes)

    fractions = []
    for bucket_steps in (1, 16):
        counts = [padding(batch) for batch in stream(found, 16, plan=replace(PLAN, bucket_steps=bucket_steps))]
        used, padded = (sum(column) for column in zip(*counts, strict=True))
        fractions.append(1 - used / padded)
    print(f"padding {fractions[0]:.3f} without buckets, {fractions[1]:.3f} with")
    assert fractions[1] < 0.2 * fractions[0]
    even = stream(found, 16, plan=replace(PLAN, bucket_steps=16, constant="atoms"))
    atoms = [padding(batch)[0] for batch in even]
    assert sum(len(microbatch.peptide) for batch in even for microbatch in batch.microbatches) == 16 * 64
    assert max(atoms) - min(atoms) <= 2 * max(ray.get(found.known).n_atoms.values())


def test_frames_are_normalised_and_in_a_gaussian_place(found: Catalogue) -> None:
    drawn = [x for batch in stream(found, 20) for _, x in frames(found, batch)]
    centres = np.array([x.mean(axis=0) * np.sqrt(len(x)) for x in drawn])
    n = centres.size
    mean, variance = centres.mean(), centres.var()
    print(f"mean {mean:.3f} ± {n**-0.5:.3f}, variance {variance:.3f} ± {(2 / n) ** 0.5:.3f}, expected 0 and 1")
    assert abs(mean) < 5 * n**-0.5
    assert abs(variance - 1) < 5 * (2 / n) ** 0.5
    spread = np.concatenate([(x - x.mean(axis=0)).ravel() for x in drawn]).std()
    assert spread == pytest.approx(1, abs=0.05)


def test_orientations_are_uniform(found: Catalogue) -> None:
    drawn = [x for batch in stream(found, 20) for _, x in frames(found, batch)]
    axes = np.array([(x[4] - x[0]) / np.linalg.norm(x[4] - x[0]) for x in drawn])
    second = np.einsum("ni,nj->ij", axes, axes) / len(axes)
    assert np.abs(second - np.eye(3) / 3).max() < 5 * 0.3 / np.sqrt(len(axes))
    assert np.abs(np.mean(axes, axis=0)).max() < 5 * 0.58 / np.sqrt(len(axes))


@pytest.fixture
def spoilt(data: Path, tmp_path: Path) -> Path:
    """A data folder with eight sound shards, and some of every kind of bad one."""
    shutil.copytree(data / "pdbs", tmp_path / "pdbs")
    shards = sorted((data / "webdatasets" / "single_frames").glob("*.tar"))
    sound: dict[str, list[np.ndarray]] = {}
    sizes = {p.stem: int(sum(line.startswith("ATOM") for line in p.open())) for p in data.glob("pdbs/*/*.pdb")}
    for frame in read_shard(shards[0], sizes).frames:
        if frame.sequence in CHOSEN:
            sound.setdefault(frame.sequence, []).append(frame.positions[None])
    write_shards(tmp_path, sound, seed=0, frames_per_shard=100)
    folder = tmp_path / "webdatasets" / "single_frames"
    (folder / "manifest.json").unlink()  # as in the public data
    whole = (folder / "0000.tar").read_bytes()
    (folder / "bad_0.tar").write_bytes(whole[: len(whole) // 2])
    (folder / "bad_1.tar").write_text("this is no tar")
    gp = np.zeros((sizes["GP"], 3), "<f4")
    members = {
        "GP_000001.bin": gp.tobytes()[:-12],
        "WW_000001.bin": gp.tobytes(),
        "GP_000002.bin": np.full_like(gp, np.nan).tobytes(),
        "../../GP_000003.bin": gp.tobytes(),
        "/etc/GP_000004.bin": gp.tobytes(),
    }
    with tarfile.open(folder / "bad_2.tar", "w") as tar:
        for name, payload in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    return tmp_path


def test_bad_data_is_named_and_training_goes_on_up_to_a_limit(spoilt: Path) -> None:
    found = inspect_data(DataConfig(max_bad_share=0.9, inspected_shards=1, sequences=CHOSEN), str(spoilt))
    server = BatchServer(found, replace(PLAN, bucket_steps=1), 1, START, [])
    named: list[Problem] = []
    for batch in islice(batches(server, 0, 0, server.plan, START), 100):
        named += batch.problems
    assert len(named) == len(set(named)), "each is named once, epoch after epoch"
    text = "\n".join(map(str, named))
    for part in (
        *("bad_0.tar: ", "truncated", "bad_1.tar: no tar header", "bytes, but a frame of GP", "unknown sequence WW"),
        *("NaN or infinite", "'../../GP_000003.bin': not a plain file", "'/etc/GP_000004.bin': not a plain file"),
    ):
        assert part in text
    strict = BatchServer(replace(found, max_bad=3), replace(PLAN, bucket_steps=1), 2, START, [])
    ends = [list(batches(strict, rank, 0, strict.plan, START))[-1] for rank in range(2)]
    for end in ends:  # every worker is told, in the same step
        assert "frames of an epoch are bad, more than data.max_bad_share allows" in end.failure
        assert "\n" not in end.failure
    with pytest.raises(ValueError, match=r"max_bad_share=0\.001; the first: "):
        inspect_data(DataConfig(sequences=CHOSEN), str(spoilt))


def test_mutated_shards_never_stop_the_stream(spoilt: Path) -> None:
    folder = spoilt / "webdatasets" / "single_frames"
    whole = (folder / "0000.tar").read_bytes()[: 512 * 40]
    rng = random.Random(0)
    for i in range(200):
        mutated = bytearray(whole)
        for _ in range(rng.randint(1, 20)):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        (folder / f"mutated_{i:03d}.tar").write_bytes(mutated[: rng.randint(1, len(mutated))])
    found = inspect_data(DataConfig(max_bad_share=0.99, sequences=CHOSEN, inspected_shards=400), str(spoilt))
    assert sum(problem.frames for problem in found.problems) >= 200
    assert {f"mutated_{i:03d}.tar" for i in range(200)} <= {problem.shard for problem in found.problems}
    plan = replace(PLAN, shards_per_window=50)
    for batch in stream(found, 60, plan=plan):
        assert not batch.failure
        assert all(np.isfinite(microbatch.x).all() for microbatch in batch.microbatches)


def test_nothing_to_train_on_says_where_it_looked(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ValueError, match=str(tmp_path)):
        list_folder(DataConfig(), str(tmp_path))
    with pytest.raises(ValueError, match="nosuch"):
        list_folder(DataConfig(), "nosuch://bucket/data")
    with pytest.raises(ValueError, match="names WW, which has no PDB"):
        list_folder(DataConfig(sequences=("WW",)), str(data))
