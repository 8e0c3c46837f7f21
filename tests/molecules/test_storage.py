"""Data folders behind URLs: listed and read as local ones are."""

from pathlib import Path

import fsspec
import numpy as np
import pytest

from boltzray.molecules import storage
from boltzray.molecules.shards import read_manifest, shard_sizes, write_shards
from boltzray.molecules.storage import (
    DamagedFile,
    check_seal,
    is_url,
    join,
    list_files,
    read_bytes,
    read_json,
    sealing,
    set_aside,
)
from boltzray.molecules.tars import read_shard
from tests.damage import KINDS, damage

FRAMES = {"GP": np.arange(7 * 5 * 3, dtype=np.float32).reshape(7, 5, 3)}


class Flaky:
    """A store whose next `failures` reads fail."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def cat_file(self, name: str) -> bytes:
        self.failures -= 1
        if self.failures >= 0:
            raise ConnectionError("reset by peer")
        return name.encode()


@pytest.fixture
def remote(tmp_path: Path) -> str:
    """A data folder in memory."""
    write_shards(tmp_path, FRAMES, seed=0, frames_per_shard=3)
    url = f"memory://{tmp_path.name}/data"
    fsspec.filesystem("memory").put(f"{tmp_path}/", f"/{tmp_path.name}/data/", recursive=True)
    return url


def test_a_url_reads_as_a_folder_does(remote: str, tmp_path: Path) -> None:
    here, there = shard_sizes(tmp_path), shard_sizes(remote)
    assert (
        [url.rsplit("/", 1)[1] for url in there] == [Path(path).name for path in here] == sorted(read_manifest(remote))
    )
    assert all(url.startswith("memory://") for url in there)
    assert list(here.values()) == list(there.values())
    assert read_manifest(remote) == read_manifest(tmp_path)
    for one, two in zip(here, there, strict=True):
        assert read_bytes(one) == read_bytes(two)
        content = read_shard(two, {"GP": 5})
        assert content.problems == []
        assert [f.key for f in content.frames] == [f.key for f in read_shard(one, {"GP": 5}).frames]
    assert list_files(remote, "webdatasets/*/*.json") != {}
    assert list_files(remote, "nothing/*.tar") == {}


def test_what_is_wrong_with_a_url_is_said() -> None:
    with pytest.raises(ValueError, match=r"no \.tar in memory://empty/webdatasets/single_frames"):
        shard_sizes("memory://empty")
    with pytest.raises(ValueError, match="nosuch://x/"):
        shard_sizes("nosuch://x")
    with pytest.raises(FileNotFoundError):
        read_bytes("memory://empty/nothing.tar")
    assert is_url("hf://datasets/a/b")
    assert not is_url(Path("a/b"))
    assert join("a", "b", "c") == str(Path("a/b/c"))


def test_a_store_that_fails_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(storage, "_open", lambda url: (store, "content"))
    store = Flaky(2)
    assert read_bytes("s3://bucket/x") == b"content"
    store = Flaky(3)
    with pytest.raises(ConnectionError):
        read_bytes("s3://bucket/x")


def write(path: Path, text: str) -> None:
    with sealing(path) as temporary:
        temporary.write_text(text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sealed_file_tells_damage(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write(path, '{"n": 1}')
    write(path, '{"n": 2}')
    assert read_json(path) == {"n": 2}
    damage(path, kind, b'{"n": 3}')
    with pytest.raises(DamagedFile, match=r"a\.json is damaged: it is not what was written there"):
        read_json(path)
    assert set_aside(path).name == "damaged-a.json"
    write(path, '{"n": 4}')
    assert read_json(path) == {"n": 4}


def test_a_crash_between_seal_and_file_leaves_a_sound_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write(path, "[1]")
    whole = Path.replace

    def crash(self: Path, target: Path) -> Path:
        if target == path:
            raise KeyboardInterrupt
        return whole(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            write(path, "[2]")
    assert read_json(path) == [1]


def test_a_file_of_an_earlier_version_has_no_seal(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1]")
    check_seal(path)
    path.write_text("[1")
    with pytest.raises(DamagedFile, match=r"a\.json is damaged: it holds no JSON"):
        read_json(path)
