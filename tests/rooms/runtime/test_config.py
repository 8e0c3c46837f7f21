"""Configurations are typed, and say what is wrong with them in one line."""

import json
import os
import re
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from boltzray.finetuning.config import FinetuneJob
from boltzray.molecules.references import published_split
from boltzray.molecules.residues import RESIDUE_INDEX
from boltzray.molecules.sequences import residue_names
from boltzray.quickstart import QuickstartJob
from boltzray.runtime.config import flat, parse, results_home
from boltzray.runtime.run_folder import SINCE, RunFolder, check_or_record_settings, contents
from boltzray.samplers import SMCConfig
from boltzray.sampling.sample import SampleJob
from boltzray.simulation.simulate import SimulateJob
from boltzray.sweeping.config import SweepJob
from boltzray.training.train import TrainJob
from boltzray.tutorial import TutorialJob

CONF = Path(__file__).parents[3] / "conf"


def composed(kind: type, name: str, *overrides: str) -> Any:
    """Compose and parse, as jobs/_main.py does."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        values = OmegaConf.to_container(compose(name, list(overrides)), resolve=True)
    assert isinstance(values, dict)
    return parse(kind, {str(key): value for key, value in values.items()})


def test_the_quickstart_is_one_peptide_throughout() -> None:
    job = composed(QuickstartJob, "quickstart", "sequence=LE")
    assert job.sequence == job.sample.sequence == job.finetune.sequence == job.simulate.sequences[0] == "LE"
    assert job.simulate.out == job.sample.data_dir == job.finetune.data_dir
    assert composed(TutorialJob, "tutorial").train.data.path == composed(TutorialJob, "tutorial").simulate.out


def test_the_last_part_of_the_bundled_flow_goes_on_from_the_one_before() -> None:
    parts = ("capped", "equilibrated", "weighted")
    capped, equilibrated, weighted = (composed(TrainJob, "train", f"run=peptides_small_{part}") for part in parts)
    assert equilibrated.init == f"{capped.out}/checkpoint"
    assert weighted.init == f"{equilibrated.out}/checkpoint"
    assert replace(weighted, out=equilibrated.out, init=equilibrated.init, data=equilibrated.data) == replace(
        equilibrated, train=replace(equilibrated.train, steps=weighted.train.steps)
    )


@pytest.mark.parametrize("name", ["dipeptides", "peptides_of_3_and_4", "capped"])
def test_weighted_draws_are_of_the_same_peptides(name: str) -> None:
    first, again = (composed(SimulateJob, "simulate", f"peptides={name}{end}") for end in ("", "_weighted"))
    assert again.sequences == first.sequences
    assert (again.md.start, again.md.hot_ps) == ("boltzray://peptides-small", 0.0)


@pytest.mark.parametrize("name", ["dipeptides", "dipeptides_weighted", "peptides_of_3_and_4", "alanine", "capped"])
def test_bundled_flows_are_trained_on_what_is_simulated_for_them(name: str) -> None:
    data = composed(SimulateJob, "simulate", f"peptides={name}")
    run = {
        "dipeptides": "dipeptides_small", "dipeptides_weighted": "dipeptides_small_weighted",
        "peptides_of_3_and_4": "peptides_small", "alanine": "aa_small", "capped": "peptides_small_capped",
    }[name]  # fmt: skip
    assert composed(TrainJob, "train", f"run={run}").data.path == data.out
    assert len(set(data.sequences)) == len(data.sequences)
    if name == "capped":
        assert set().union(*(residue_names(s) for s in data.sequences)) == RESIDUE_INDEX.keys()
    elif name != "alanine":
        assert not [s for s in data.sequences if published_split(s)]
        for place in (0, 1, -1):
            assert {s[place] for s in data.sequences} == set("ACDEFGHIKLMNPQRSTVWY")


JOBS = {
    path.stem: re.findall(r'run\("(\w+)", "([\w.]+)", "(\w+)", ', path.read_text())
    for path in sorted((CONF.parent / "jobs").glob("[!_]*.py"))
}


@pytest.mark.parametrize(("length", "count"), [(2, 30), (4, 30), (8, 10)])
def test_recipes_of_references_are_of_published_test_peptides(length: int, count: int) -> None:
    job = composed(SimulateJob, "simulate", f"peptides=references_{length}", "time_ns=2")
    assert (job.method, job.split, job.time_ns) == ("remd", "test", 2.0)
    assert len(set(job.sequences)) == count
    assert all(len(s) == length and published_split(s) == "test" for s in job.sequences)


# Keys that a job is refused without, with a value for those that conf/ leaves empty.
GIVEN = {
    "analyze": ("sequence=AA",),
    "compare": ("sequence=AA",),
    "convert": ("input=flow.pth", "output=flow"),
    "evaluate": ("split=test",),
    "finetune": ("sequence=AA",),
    "fit": ("pdb=mine.pdb", "simulate", "train", "sample"),
    "prepare": ("source=tars", "out=columns"),
    "quickstart": ("simulate", "sample", "finetune"),
    "sample": ("sequence=AA",),
    "sweep": ("sequence=AA", "objectives"),
    "tutorial": ("simulate", "train", "sample"),
}
# Keys, or how they begin, for which conf/ chooses something else than the code, on purpose.
PRESETS = {
    "simulate": ("md.interval_ps", "md.frames_per_chunk"),  # code: published runs; conf: more frames of short ones
    "sweep": ("samples", "space."),  # conf lists all that can be swept, and sweep=objectives chooses
    "train": (  # code: the published flow and its training; conf: model=internal train=laptop
        *("model.channels", "model.head_dim", "model.blocks", "model.layers_per_block", "model.coordinates"),
        *("model.orderings", "model.vocabulary"),
        *("train.steps", "train.batch", "train.lr"),
    ),
}


@pytest.mark.parametrize("name", JOBS)
def test_files_and_code_have_the_same_defaults(name: str) -> None:
    ((config_name, module, kind_name),) = JOBS[name]
    kind = getattr(import_module(module), kind_name)
    given = GIVEN.get(name, ())
    job = composed(kind, config_name, *(text for text in given if "=" in text))
    code = flat(kind(**{key: getattr(job, key) for key in (text.split("=")[0] for text in given)}))
    conf = flat(job)
    differ = {key for key in conf.keys() | code.keys() if conf.get(key) != code.get(key)}
    presets = PRESETS.get(name, ())
    assert not {key for key in differ if not key.startswith(presets)}
    assert all(any(key.startswith(preset) for key in differ) for preset in presets), "a preset that needs no mention"


def test_smc_is_mala_unless_a_preset_is_chosen() -> None:
    assert composed(SampleJob, "sample", "sequence=AA", "smc=mala").smc == SMCConfig()


def test_nested_values_become_what_they_stand_for() -> None:
    job = parse(TrainJob, {"model": {"channels": 32, "head_dim": 16}, "train": {"lr": 1, "betas": [0.9, 0.99]}})
    assert job.model.channels == 32
    assert job.train.lr == 1.0
    assert job.train.betas == (0.9, 0.99)
    assert job.data.path == "data"


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TrainJob, {"foo": 1}, "unknown key foo"),
        (TrainJob, {"train": {"lrr": 1}}, r"unknown key train\.lrr"),
        (TrainJob, {"train": {"steps": "abc"}}, r"train\.steps: .*integer.*'abc'"),
        (TrainJob, {"train": {"precision": "fp8"}}, "choose auto, bf16 or float32"),
        (TrainJob, {"model": {"channels": 100}}, "try channels=64"),
        (SampleJob, {}, "give a peptide"),
        (SampleJob, {"sequence": "AA", "smc_particles": 3000}, "from 2 to samples=2048"),
        (SampleJob, {"sequence": "AA", "smc": {"kernel": "hmcc"}}, "smc.kernel"),
        (SimulateJob, {"sequences": ["AXZ"]}, "'X' at position 2 of 'AXZ'"),
        (SimulateJob, {"sequences": [""]}, "empty"),
        (SimulateJob, {"replicas": 1, "hold_out": 1}, "leaves nothing to train on"),
        (SimulateJob, {"md": {"interval_ps": 0.0003}}, "whole number of steps"),
    ],
)
def test_wrong_values_are_one_line(kind: type, values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse(kind, values)
    assert "\n" not in str(error.value)


def test_a_folder_belongs_to_the_settings_it_was_begun_with(tmp_path: Path) -> None:
    check_or_record_settings(tmp_path, "train", {"lr": 1, "betas": (1, 2)})
    check_or_record_settings(tmp_path, "train", {"lr": 1, "betas": (1, 2)})
    with pytest.raises(ValueError, match="lr=1, now lr=2: give another out="):
        check_or_record_settings(tmp_path, "train", {"lr": 2, "betas": (1, 2)})


def test_runs_of_earlier_versions_go_on(tmp_path: Path) -> None:
    """Settings that they did not know have defaults with which they do."""
    jobs = {"finetune": FinetuneJob(sequence="AA"), "train": TrainJob(), "sample": SampleJob(sequence="AA")}
    known = set()
    for name, job in jobs.items():
        settings = flat(job)
        check_or_record_settings(tmp_path, name, {key: value for key, value in settings.items() if key not in SINCE})
        check_or_record_settings(tmp_path, name, settings)
        known |= settings.keys()
    assert known >= SINCE.keys()


def test_the_content_of_files_counts(home: Path, data: Path) -> None:
    """mine.pdb that was edited is another run; a copy of it under another date is not."""
    job, pdb = SampleJob(pdb="mine.pdb", out="out"), home / "mine.pdb"
    shutil.copy(data / "cases" / "stale_pdb" / "mine.pdb", pdb)

    def opened(weights: str = "a") -> dict[str, Any]:
        files = {"pdb": job.source.file}
        with RunFolder.open("out", "sample", job, files=files, weights_sha256=weights) as folder:
            return folder.settings

    recorded = opened()
    assert len(recorded["pdb_sha256"]) == 64
    os.utime(pdb, (1, 1))
    assert opened() == recorded
    shutil.copy(data / "cases" / "stale_pdb" / "mine_edited.pdb", pdb)
    with pytest.raises(
        ValueError, match=r"out holds a run of another mine\.pdb: give another out=, or delete that folder"
    ):
        opened()
    # A folder of an older version, which did not record it: taken to be the same, and recorded from now on.
    path = home / "out" / "sample.json"
    path.write_text(json.dumps({k: v for k, v in recorded.items() if k != "pdb_sha256"}))
    path.with_name(f".{path.name}.sha256").unlink()  # earlier versions left no seal
    assert opened()["pdb_sha256"] != recorded["pdb_sha256"]
    assert "pdb_sha256" in json.loads(path.read_text())
    with pytest.raises(ValueError, match=r"a run of another boltzray://peptides-small: give another out="):
        opened("b")


def test_files_that_finetuning_and_sweeps_read(home: Path) -> None:
    objective = {"terms": {"real_data": 1.0}, "real_data": "frames.npz"}
    job = parse(FinetuneJob, {"pdb": "~/mine.pdb", "objective": objective})
    assert job.files == {"pdb": Path.home() / "mine.pdb", "objective.real_data": home / "frames.npz"}
    swept = parse(SweepJob, {"pdb": "mine.pdb", "objectives": {"real": objective, "alpha2": {"terms": {"alpha2": 1}}}})
    found = {key: path for key, path in swept.files.items() if path}
    assert found == {"pdb": home / "mine.pdb", "objectives.real.real_data": home / "frames.npz"}
    (home / "frames.npz").write_bytes(b"frames")
    assert set(contents(found)) == {"objectives.real.real_data_sha256"}


def test_results_survive_a_job_s_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOLTZRAY_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert results_home() == tmp_path
    snapshot = tmp_path / "ray" / "session_x" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    snapshot.mkdir(parents=True)
    monkeypatch.chdir(snapshot)
    assert results_home() == Path.home() / "boltzray"
