"""Data folders behind URLs: listed and read as local ones are."""

from pathlib import Path

import fsspec
import numpy as np
import pytest

from boltzray.molecules import storage
from boltzray.molecules.shards import read_manifest, shard_sizes, write_shards
from boltzray.molecules.storage import is_url, join, list_files, read_bytes
from boltzray.molecules.tars import read_shard

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
