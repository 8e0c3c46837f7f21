"""Files that are no weights, or that want to run code: each is refused with a line that says so."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from boltzray import models
from golden_flows import GOLDEN

WHOLE = (GOLDEN / "prose_small.pth").read_bytes()


class Boom:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("executed",))


def _saved(value: Any, **options: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(value, path, **options)


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "code": (_saved({"net.x": Boom()}), "could run code"),
    "code in the old format": (_saved({"net.x": Boom()}, _use_new_zipfile_serialization=False), "could run code"),
    "a bare pickle with code": (lambda p: p.write_bytes(pickle.dumps(Boom(), protocol=2)), "could run code"),
    "a newer pickle with code": (lambda p: p.write_bytes(pickle.dumps(Boom(), protocol=4)), "could run code"),
    "an object": (_saved({"state_dict": {"net.x": Path("a")}}), "could run code"),
    "half of a file": (lambda p: p.write_bytes(WHOLE[: len(WHOLE) // 2]), "damaged, incomplete"),
    "a few bytes of one": (lambda p: p.write_bytes(WHOLE[:100]), "damaged, incomplete"),
    "half of an old one": (
        lambda p: (
            torch.save({"net.x": torch.zeros(1000)}, p, _use_new_zipfile_serialization=False),
            p.write_bytes(p.read_bytes()[:700]),
        ),
        "damaged, incomplete",
    ),
    "a zip": (_zip, "damaged, incomplete, or no checkpoint"),
    "a web page": (lambda p: p.write_text("\n<!DOCTYPE html><html>Not Found</html>"), "is a web page"),
    "a pointer": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
        "git-lfs pointer",
    ),
    "text": (lambda p: p.write_text("Entry not found"), "begins with b'Entry no'"),
    "nothing": (lambda p: p.write_bytes(b""), "begins with b''"),
    "a list": (_saved([torch.zeros(1)]), "no state dict"),
    "other values": (_saved({"net.x": 1.0}), "no state dict"),
    "other keys": (_saved({1: torch.zeros(1)}), "no state dict"),
    "another network": (_saved({"encoder.weight": torch.zeros(1)}), "its first key is encoder.weight"),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", BAD)
def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    write, message = BAD[kind]
    path = tmp_path / "prose_up_to_8aa.pth"
    write(path)
    with pytest.raises(ValueError, match=message):
        models.load(path)
    assert not (tmp_path / "executed").exists()


def test_the_code_would_have_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"net.x": Boom()}, tmp_path / "bad.pth")
    torch.load(tmp_path / "bad.pth", weights_only=False)
    assert (tmp_path / "executed").exists()
