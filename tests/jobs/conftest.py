"""Jobs in the process of the tests: what they print and how they exit, without the seconds that imports take."""

import logging
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from job_processes import RunHere


@pytest.fixture
def run_here(root: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunHere:
    """Runs `jobs/JOB.py` with arguments as its command line, and returns what a process of it would."""
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(root / "jobs"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # as the job does: it must not stay set
    monkeypatch.setattr(import_module("_main"), "leave", sys.exit)  # it would end the tests' process

    def run(job: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        script = str(root / "jobs" / f"{job}.py")
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        capsys.readouterr()
        code = 0
        loggers = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
        disabled = [logger.disabled for logger in loggers]
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            for logger, before in zip(
                loggers, disabled, strict=True
            ):  # Hydra disables all that there are, MLflow's too
                logger.disabled = before
        return subprocess.CompletedProcess(sys.argv, code, *capsys.readouterr())

    return run
