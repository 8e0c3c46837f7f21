"""The stream of training frames: complete, reproducible, and continued where it stopped."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from boltzray.stream import Catalogue, DataConfig, batches, catalogue, plan, windows

pytestmark = pytest.mark.usefixtures("ray_cluster")
CHOSEN = ("GP", "FS")


@pytest.fixture(scope="module")
def found(data: Path) -> Catalogue:
    return catalogue(DataConfig(sequences=CHOSEN), data)


def stream(found: Catalogue, start: int, stop: int, rank: int = 0, world: int = 1, batch: int = 64) -> list:
    return list(
        batches(found, batch=batch, start_step=start, stop_step=stop, per_window=1, seed=3, rank=rank, world=world)
    )


def test_the_catalogue_knows_the_data(found: Catalogue, data: Path) -> None:
    assert sorted(found.pdbs) == ["FS", "GP"]
    assert found.problems == []
    everything = catalogue(DataConfig(), data)
    assert 0 < found.n_frames < everything.n_frames
    assert 0.1 < found.scale_nm < 0.4
    assert found.fingerprint != everything.fingerprint


@pytest.mark.parametrize("world", [1, 3])
def test_windows_share_every_frame_once(world: int) -> None:
    frames, epochs = [5, 7, 2, 9], Counter()
    for rank in range(world):
        for window, count in windows(frames, 2, seed=0, rank=rank, world=world):
            if window.epoch == 2:
                break
            epochs[window.epoch] += count
    assert epochs == {0: 23, 1: 23}


def test_a_plan_continues_where_the_last_one_ended() -> None:
    frames = [5, 7, 2, 9]
    whole = plan(frames, 2, 0, 0, 1, 0, 40)
    assert [w.skip for w in whole] == [0] * len(whole)
    rest = plan(frames, 2, 0, 0, 1, 17, 40)
    sizes = [sum(frames[i] for i in w.shards) for w in whole]
    first = next(i for i in range(len(sizes)) if sum(sizes[: i + 1]) > 17)
    assert rest[0].skip == 17 - sum(sizes[:first])
    assert rest[0].shards == whole[first].shards
    assert rest[1:] == whole[first + 1 :]


def test_continued_batches_are_the_same(found: Catalogue) -> None:
    steps = found.n_frames // 64 + 3  # into the second epoch
    whole, rest = stream(found, 0, steps), stream(found, 5, steps)
    assert len(whole) == steps
    assert len(rest) == steps - 5
    for (names, frames), (names2, frames2) in zip(whole[5:], rest, strict=True):
        assert names == names2
        assert all(np.array_equal(a, b) for a, b in zip(frames, frames2, strict=True))


def test_an_epoch_shows_each_frame_once(found: Catalogue) -> None:
    """Pair distances tell frames apart whatever their orientation."""
    n = found.n_frames // 2 // 16 * 16
    seen = []
    for rank in range(2):
        for names, frames in stream(found, 0, n // 16, rank=rank, world=2, batch=16):
            for name, x in zip(names, frames, strict=True):
                seen.append((name, *(round(float(np.linalg.norm(x[0] - x[i])), 3) for i in range(1, 12))))
    assert len(seen) == 2 * n
    # The two ranks' shares of an epoch differ by a frame a window at most, which the longer one's successor shows.
    assert len(set(seen)) >= len(seen) - len(found.shards)


def test_frames_are_normalised_and_in_a_gaussian_place(found: Catalogue) -> None:
    frames = [x for _, batch in stream(found, 0, 20) for x in batch]
    centres = np.array([x.mean(axis=0) * np.sqrt(len(x)) for x in frames])
    n = centres.size
    mean, variance = centres.mean(), centres.var()
    print(f"mean {mean:.3f} ± {n**-0.5:.3f}, variance {variance:.3f} ± {(2 / n) ** 0.5:.3f}, expected 0 and 1")
    assert abs(mean) < 5 * n**-0.5
    assert abs(variance - 1) < 5 * (2 / n) ** 0.5
    spread = np.concatenate([(x - x.mean(axis=0)).ravel() for x in frames]).std()
    assert spread == pytest.approx(1, abs=0.05)


def test_orientations_are_uniform(found: Catalogue) -> None:
    axes = []
    for _, batch in stream(found, 0, 20):
        axes += [(x[4] - x[0]) / np.linalg.norm(x[4] - x[0]) for x in batch]
    second = np.einsum("ni,nj->ij", np.array(axes), np.array(axes)) / len(axes)
    assert np.abs(second - np.eye(3) / 3).max() < 5 * 0.3 / np.sqrt(len(axes))
    assert np.abs(np.mean(axes, axis=0)).max() < 5 * 0.58 / np.sqrt(len(axes))


def test_bad_shards_are_named_up_to_a_limit(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "pdbs", tmp_path / "pdbs")
    shards = tmp_path / "webdatasets" / "single_frames"
    shutil.copytree(data / "webdatasets" / "single_frames", shards)
    whole = (shards / "0001.tar").read_bytes()
    (shards / "0001.tar").write_bytes(whole[: len(whole) // 2])
    (shards / "0002.tar").write_text("this is no tar")
    with pytest.raises(ValueError, match=r"max_bad_share=1e-05; the first: 000[12]\.tar"):
        catalogue(DataConfig(max_bad_share=1e-5), tmp_path)
    found = catalogue(DataConfig(max_bad_share=0.5, sequences=("GP",)), tmp_path)
    assert {problem.split(":")[0] for problem in found.problems} == {"0001.tar", "0002.tar"}
    assert len(stream(found, 0, 3)) == 3


def test_nothing_to_train_on_says_where_it_looked(tmp_path: Path, data: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=str(tmp_path)):
        catalogue(DataConfig(), tmp_path)
    with pytest.raises(ValueError, match="names WW, which has no PDB"):
        catalogue(DataConfig(sequences=("WW",)), data)
