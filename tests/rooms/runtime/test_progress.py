"""Progress in a log: what is left, from the speed of late."""

import pytest

from boltzray.runtime import progress


def test_a_slow_start_is_forgotten(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.progress("train", 1000.0) as update:
        for seconds, value in ((100, 10), (110, 110), (120, 210), (200, 510), (210, 610), (220, 1000)):
            now[0] = float(seconds)
            update(float(value), "")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train   1%  ETA 2.8 h"
    assert lines[3] == "train  51%  ETA 2 min"
    assert lines[4] == "train  61%  ETA 72 s"
    assert lines[-1] == "train 100%"


def test_what_starts_late_has_no_eta_before_its_speed_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.progress("train", 100.0, starts_late=True) as update:
        for seconds, value in ((30, 10), (40, 60), (48, 100)):  # workers need 28 s to start
            now[0] = float(seconds)
            update(float(value), "")
    assert capsys.readouterr().out.splitlines() == ["train  10%", "train  60%  ETA 8 s", "train 100%"]


def test_commands_are_named_as_they_were_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "again: python jobs/sample.py sequence=AA, then jobs/evaluate.py"
    assert progress.as_typed(text) == text
    monkeypatch.setenv(progress.COMMAND, "1")
    assert progress.as_typed(text) == "again: boltzray sample sequence=AA, then boltzray evaluate"
