"""Sampling and its report in folders as people call them, and of files that change under their names."""

import json
import os
import shutil
from pathlib import Path

import mdtraj
import pytest

from boltzray.evaluation.evaluate import SampleJob, sample_and_report
from boltzray.samplers import SMCConfig
from boltzray.sampling.energy_actors import EnergyConfig
from boltzray.sampling.flow_actors import ActorsConfig


@pytest.mark.usefixtures("ray_cluster")
def test_a_folder_that_is_not_ascii_and_a_file_that_changes(
    home: Path, data: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = home / "Müller (1) #2?"
    folder.mkdir()
    monkeypatch.setenv("BOLTZRAY_HOME", str(folder))  # the database stays in `home`: its address is not of this test
    cases = data / "cases" / "stale_pdb"
    shutil.copy(cases / "mine.pdb", folder / "mein Ä.pdb")
    job = SampleJob(
        pdb="mein Ä.pdb",
        checkpoint=str(checkpoint),
        data_dir="none",
        samples=8,
        smc_particles=8,
        sampler="snis",
        energy=EnergyConfig(),
        actors=ActorsConfig(flow_replicas=1),
        smc=SMCConfig(block_size=8),
    )
    out = sample_and_report(job)
    assert out == folder / "outputs" / "sample" / "mein Ä"
    printed = capsys.readouterr().out
    assert (
        "note: no reference MD of AA (there is no folder none): make it with python jobs/simulate.py sequences=[AA]"
        in printed
    )
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "no reference MD of AA (there is no folder none)" in report
    assert "XTC rounds" in report
    assert "too few draws for a diagnostic" in report
    assert "k_hat" not in json.loads((out / "sampling.json").read_text())["SNIS"]["diagnostics"]
    trajectory, topology = (shutil.copy(out / name, home) for name in ("ensemble.xtc", "topology.pdb"))
    assert mdtraj.load(str(trajectory), top=str(topology)).n_frames == 8
    os.utime(folder / "mein Ä.pdb", (1, 1))
    assert sample_and_report(job) == out
    assert "already sampled" in capsys.readouterr().out
    shutil.copy(cases / "mine_edited.pdb", folder / "mein Ä.pdb")
    with pytest.raises(
        ValueError, match=r"holds a run of another mein Ä\.pdb: give another out=, or delete that folder"
    ):
        sample_and_report(job)
