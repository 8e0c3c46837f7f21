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
