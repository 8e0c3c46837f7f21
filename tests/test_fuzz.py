"""Files with random damage: each is refused in one line that names it, or read as something that can be."""

import json
import random
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from boltzray import models
from boltzray.molecules import Peptide
from boltzray.molecules.columns import read_frames, write_columns
from boltzray.molecules.distance_limits import DistanceLimits
from boltzray.molecules.reference_record import read_record
from boltzray.molecules.references import load_reference
from boltzray.molecules.runs import load_state, save_state
from boltzray.molecules.storage import read_json, sealing
from boltzray.molecules.tars import read_shard

FAST, SLOW = 90, 2000  # cases of each kind of file
MAX_S, MAX_BYTES = 2.0, 1e9  # of a case
FAR_NM, SEEN = 0.05, 0.99  # of frames in which an atom was moved further, so many are left out


@dataclass
class Kind:
    """A kind of file: a sound one, and how it is read; what is read is checked against the sound one."""

    path: Path
    read: Callable[[Path], object]
    is_right: Callable[[object], bool] = lambda found: True


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Damage a file as disks, networks and editors do."""
    data, at = bytearray(content), rng.randrange(len(content))
    kind = rng.randrange(7)
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        for _ in range(8):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        data[at : at + 512] = bytes(min(512, len(data) - at))
    elif kind == 4:
        del data[at : at + rng.choice((1, 4, 12, 512))]
    elif kind == 5:
        data[at:at] = data[at : at + rng.choice((1, 4, 12, 512))]
    else:
        other = rng.randrange(len(data))
        data[at : at + 64], data[other : other + 64] = data[other : other + 64], data[at : at + 64]
    return bytes(data)


class Frames:
    """Shards, of which frames are lost but none is wrong: those of a name are what was written there."""

    def __init__(self, data: Path) -> None:
        pdbs = {path.stem: Peptide.from_pdb(path) for path in data.glob("pdbs/train/*.pdb")}
        self.n_atoms = {sequence: peptide.n_atoms for sequence, peptide in pdbs.items()}
        self.limits = {sequence: DistanceLimits.of(peptide) for sequence, peptide in pdbs.items()}
        self.tar = data / "webdatasets" / "single_frames" / "0000.tar"
        content = read_shard(self.tar, self.n_atoms)
        self.sound = {frame.key: frame.positions for frame in content.frames}
        self.counts: Counter[str] = Counter()

    def read(self, path: Path) -> object:
        return read_frames(path, self.n_atoms, self.limits)

    def is_right(self, found: object) -> bool:
        frames, problems = found  # type: ignore[misc]
        assert all("\n" not in str(problem) and problem.shard == path_name(problem.shard) for problem in problems)
        for frame in frames:
            sound = self.sound.get(frame.key)
            if sound is not None and sound.shape == frame.positions.shape:
                moved = np.abs(frame.positions - sound).max() > FAR_NM
                self.counts["far" if moved else "near"] += 1
        self.counts["left out"] += len(problems)
        return True


def path_name(name: str) -> str:
    return name.rsplit("/", 1)[-1]


@pytest.fixture(scope="module")
def frames(data: Path) -> Frames:
    return Frames(data)


@pytest.fixture(scope="module")
def kinds(data: Path, frames: Frames, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    folder = tmp_path_factory.mktemp("sound")
    small = folder / "0000.tar"
    small.write_bytes(frames.tar.read_bytes()[: 512 * 3 * 120] + bytes(1024))
    write_columns(folder / "0000.parquet", read_shard(small, frames.n_atoms), "")
    npz = next(iter(sorted(data.glob("trajectories_subsampled/test/2AA/DG_*.npz"))))
    save_state(folder / "chunk_0.npz", (np.zeros((4, 23, 3), np.float32), np.ones((4, 23, 3), np.float32)))
    with sealing(folder / "rounds.json") as temporary:
        temporary.write_text(json.dumps([{"round": i, "ess": 0.1 * i} for i in range(30)]))
    flow = models.Flow(models.FlowConfig(channels=16, head_dim=8, blocks=2, layers_per_block=1), scale_nm=0.2)
    models.save(flow, folder / "flow", {"sequences": ["AA"]})
    config = flow.config
    sound = json.loads((folder / "rounds.json").read_text())
    reference = load_reference(npz)
    record = Path(__file__).parent / "data" / "DG_reference.json"
    found = {
        "tar": Kind(small, frames.read, frames.is_right),
        "parquet": Kind(folder / "0000.parquet", frames.read, frames.is_right),
        "reference": Kind(npz, load_reference, lambda f: f.positions_nm.shape == reference.positions_nm.shape),  # type: ignore[attr-defined]
        "chunk": Kind(folder / "chunk_0.npz", load_state, lambda f: float(np.abs(f[0]).max()) == 0.0),  # type: ignore[index]
        "rounds.json": Kind(folder / "rounds.json", read_json, lambda f: f == sound),
        "flow.json": Kind(folder / "flow" / "flow.json", lambda p: models.load(p.parent), lambda f: f.config == config),  # type: ignore[attr-defined]
        "weights": Kind(
            folder / "flow" / "model.safetensors",
            lambda p: models.load(p.parent),
            lambda f: all(torch.equal(a, b) for a, b in zip(f.parameters(), flow.parameters(), strict=True)),  # type: ignore[attr-defined]
        ),
    }
    if record.exists():
        found["record"] = Kind(record, read_record)
    return found


def fuzz(kind: Kind, folder: Path, seeds: range) -> tuple[Counter[str], float]:
    """Counts of refused and accepted cases, and the seconds of the slowest."""
    target = folder / kind.path.parent.name / kind.path.name
    shutil.copytree(kind.path.parent, target.parent) if kind.path.parent.name == "flow" else target.parent.mkdir()
    for seal in kind.path.parent.glob(f".{kind.path.name}.sha256"):
        shutil.copy(seal, target.parent)
    content, counts, slowest = kind.path.read_bytes(), Counter[str](), 0.0
    assert kind.is_right(kind.read(kind.path))  # and what is imported at first use is
    for seed in seeds:
        target.write_bytes(mutate(content, random.Random(seed)))
        began = time.process_time()
        try:
            found, line = kind.read(target), ""
        except (ValueError, OSError) as error:
            line = str(error)
        assert not line or (target.parent.name in line and len(line.splitlines()) == 1), (seed, line)
        assert line or kind.is_right(found), seed
        counts["refused" if line else "accepted"] += 1
        slowest = max(slowest, time.process_time() - began)
    assert slowest < MAX_S
    return counts, slowest


NAMES = ("tar", "parquet", "reference", "chunk", "rounds.json", "flow.json", "weights")


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_refused_or_read_right(name: str, kinds: dict[str, Kind], tmp_path: Path) -> None:
    counts, _ = fuzz(kinds[name], tmp_path, range(FAST))
    assert counts.total() == FAST
    assert counts["refused"] > 0 or name in ("tar", "parquet"), "of shards only frames are lost"


@pytest.mark.slow
def test_very_many_damaged_files(kinds: dict[str, Kind], frames: Frames, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    frames.counts.clear()
    for name in NAMES:
        counts, slowest = fuzz(kinds[name], tmp_path, range(FAST, FAST + SLOW))
        print(f"{name}: {dict(counts)}, slowest {1000 * slowest:.0f} ms")
        tmp_path = tmp_path / "next"
        tmp_path.mkdir()
    print(f"frames: {dict(frames.counts)}")
    assert frames.counts["far"] <= (1 - SEEN) * frames.counts["left out"]
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MAX_BYTES
