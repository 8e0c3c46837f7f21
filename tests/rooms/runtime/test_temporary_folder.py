"""A long TMPDIR: Ray's sockets go elsewhere, or one line says what to set."""

import socket
from pathlib import Path

import pytest

from boltzray.runtime.cluster import LONGEST, temporary_folder


def test_ray_gets_a_folder_whose_sockets_have_legal_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/" + "x" * (LONGEST - 1))
    assert temporary_folder() is None
    monkeypatch.setenv("TMPDIR", "/" + "ä" * (LONGEST // 2 + 1))  # bytes count
    assert temporary_folder() == "/tmp/ray"
    (line,) = capsys.readouterr().out.splitlines()
    assert "RAY_TMPDIR" in line
    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * LONGEST)
    with pytest.raises(ValueError, match="set RAY_TMPDIR to a folder of at most"):
        temporary_folder()


@pytest.mark.skipif(not Path("/proc").exists(), reason="the limit of Linux")
def test_the_limit_is_that_of_the_system() -> None:
    folder = Path("/tmp") / ("x" * (LONGEST - 5))
    name = f"{folder}/ray/session_2026-01-31_12-00-00_000000_1234567/sockets/plasma_store"
    with socket.socket(socket.AF_UNIX) as one:
        with pytest.raises(FileNotFoundError):  # and not: AF_UNIX path too long
            one.connect(name)
        with pytest.raises(OSError, match="too long"):
            one.connect(name + "x")
