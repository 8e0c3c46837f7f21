"""The command line as people write it: peptides that look like numbers, paths of all kinds, flags that are none."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from job_processes import JOBS, RunHere
from omegaconf import OmegaConf

from boltzray.evaluation.compare import CompareJob
from boltzray.evaluation.evaluate_many import EvaluateJob
from boltzray.finetuning.config import FinetuneJob
from boltzray.runtime.config import parse
from boltzray.sampling.sample import SampleJob
from boltzray.sweeping.config import SweepJob
from boltzray.training.train import TrainJob

PEPTIDES = ("NAN", "INF", "YES", "FALSE", "NA", "ILE")
KINDS = {"sample": SampleJob, "finetune": FinetuneJob, "sweep": SweepJob, "compare": CompareJob}


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(JOBS))
    yield import_module("_arguments")
    sys.modules.pop("_arguments", None)


def composed(kind: Any, name: str, overrides: list[str], folder: Path | None = None) -> Any:
    """Compose and parse, as jobs/_main.py does."""
    with initialize_config_dir(str(folder or JOBS.parent / "conf"), version_base="1.3"):
        values = OmegaConf.to_container(compose(name, overrides), resolve=True)
    return parse(kind, values)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PEPTIDES)
@pytest.mark.parametrize("job", KINDS)
def test_words_are_peptides_where_one_is_asked_for(arguments: Any, job: str, name: str) -> None:
    for written in (name, name.lower()):
        _, read = arguments.read_arguments([f"sequence={written}"], job)
        assert composed(KINDS[job], job, read).sequence == name


def test_words_are_peptides_in_lists(arguments: Any) -> None:
    from boltzray.simulation.simulate import SimulateJob

    for given in ("[NAN,INF,YES,FALSE]", "[ nan, INF , 'YES',\"FALSE\"]", "NAN,INF,YES,FALSE"):
        for kind, job in ((EvaluateJob, "evaluate"), (SimulateJob, "simulate")):
            _, read = arguments.read_arguments([f"sequences={given}"], job)
            assert composed(kind, job, read).sequences == ("NAN", "INF", "YES", "FALSE")
        _, read = arguments.read_arguments([f"data.sequences={given}"], "train")
        found = composed(TrainJob, "train", read).data.sequences  # names of files: read where the folder is
        assert tuple(name.upper() for name in found) == ("NAN", "INF", "YES", "FALSE")


def test_words_of_yaml_are_peptides_or_to_be_quoted(tmp_path: Path) -> None:
    """YAML itself reads YES and FALSE as booleans: they cannot be told from `on`, `no` any more."""
    for text, name in (("NAN", "NAN"), ("INF", "INF"), ("'YES'", "YES"), ('"FALSE"', "FALSE"), ("NA", "NA")):
        (tmp_path / "mine.yaml").write_text(f"sequence: {text}\n")
        assert composed(SampleJob, "mine", [], tmp_path).sequence == name
    for text in ("YES", "FALSE", "no", "12"):
        (tmp_path / "mine.yaml").write_text(f"sequence: {text}\n")
        with pytest.raises(ValueError, match=r"^sequence: YAML reads this as \w+, no text: put it in quotes, as seq"):
            composed(SampleJob, "mine", [], tmp_path)
    (tmp_path / "mine.yaml").write_text("sequences: [AA, YES]\n")
    with pytest.raises(ValueError, match=r"^sequences.1: YAML reads this as True.* as sequences: 'YES'$"):
        composed(EvaluateJob, "mine", [], tmp_path)


PATHS = [
    "my files (1)/AA (1).pdb",
    "a=b/AA.pdb",
    "péptide/AA.pdb",
    "~/AA.pdb",
    "AA,1.pdb",
    "it's.pdb",
    'a "b" (c)',
    "[AA].pdb",
    "{AA}.pdb",
    "C:\\a\\b (1).pdb",
    "(back)slash\\",
    "#1;2&3.pdb",
    "2026",
    "1e3",
    "007",
    "true",
    "nan",
    "日本/語",
]


@pytest.mark.parametrize("key", ["pdb", "out", "data_dir"])
@pytest.mark.parametrize("path", PATHS)
def test_paths_are_taken_as_they_are(arguments: Any, key: str, path: str) -> None:
    _, (read,) = arguments.read_arguments([f"{key}={path}"], "sample")
    assert OverridesParser.create().parse_override(read).value() == path


def test_paths_are_taken_as_they_are_in_lists(arguments: Any) -> None:
    paths = [path for path in PATHS if "," not in path and path[0] not in "[{" and "'" not in path]
    _, (read,) = arguments.read_arguments([f"samples=[{', '.join(paths)}]"], "evaluate")
    assert OverridesParser.create().parse_override(read).value() == paths
    _, (read,) = arguments.read_arguments(["samples=[a (1),'b, c',\"d\"]"], "evaluate")
    assert OverridesParser.create().parse_override(read).value() == ["a (1)", "b, c", "d"]


MEANT = [
    *("seed=-1", "samples=1_000", "lr=1e-4", "x=nan", "x=null", "pdb=null", "sequence=null", "out=", "a.b=true"),
    *("smc={a:1,b:[1,x]}", "x=[1,2,null,a]", "+key=1", "++key.a=b", "~key", "~key=3", "smc=hmc", "model@a.b=small"),
    *("pdb='my (1).pdb'", 'pdb="a,b"', "out=${sequence}/x", "lr=1e-5..1e-3", "out=a b", "x=choice(1,2)", "x=[]"),
    *("validation.peptides=30", "frames=2000", "hydra.run.dir=.", r"out=a\,b", "checkpoint=hub://a/b@c/d"),
]


@pytest.mark.parametrize("argument", MEANT)
def test_what_hydra_reads_as_it_is_meant_stays(arguments: Any, argument: str) -> None:
    assert arguments.read_arguments([argument], "sample") == (False, [argument])


def test_a_broken_list_is_left_for_hydra_to_name(arguments: Any) -> None:
    for broken in ("x=[1,2", "smc={a:1,}b}", "pdb='open"):
        _, (read,) = arguments.read_arguments([broken], "sample")
        assert read == broken
        with pytest.raises(HydraException):
            OverridesParser.create().parse_override(read)


def test_multirun_keeps_its_sweeps(arguments: Any) -> None:
    assert arguments.read_arguments(["-m", "seed=1,2"], "sample")[1] == ["-m", "seed=1,2"]


def test_options_of_hydra_stay(arguments: Any, tmp_path: Path) -> None:
    for line in ("--cfg job sequence=AA", "-c job", "--info defaults x=1", "--config-name trial out= -r", "--resolve"):
        assert arguments.read_arguments(line.split(), "sample") == (False, line.split())
    assert arguments.read_arguments(["-cd", str(tmp_path), "a=b"], "sample")[1] == [
        "a=b",
        "--config-dir",
        str(tmp_path),
    ]
    assert arguments.read_arguments(["--help"], "sample")[0]


ADVICE = {
    ("sample", "-s DG"): "-s is no option: write sequence=DG",
    ("sample", "--sequence DG"): "--sequence is no option: write sequence=DG",
    ("sample", "--sequence=DG"): "--sequence=DG is no option: write sequence=DG",
    ("sample", "-n 100"): "-n is no option: write samples=100",
    ("sample", "--smc-particles 64"): "--smc-particles is no option: write smc_particles=64",
    ("sample", "sequence = DG"): "write sequence=DG, without blanks",
    ("sample", "sequence: DG"): "write sequence=DG, without blanks",
    ("sample", "sequence= DG"): "write sequence=DG, without blanks",
    ("sample", "sequence =DG"): "write sequence=DG, without blanks",
    ("sample", "sequence:DG"): "write sequence=DG, without blanks",
    ("sample", "DG"): "DG stands alone: write sequence=DG",
    ("sample", "AA.pdb"): "AA.pdb stands alone: write pdb=AA.pdb",
    ("sample", "-x 3"): "-x is no option: write settings as KEY=VALUE, such as sequence=DG",
    ("simulate", "-s DG"): "-s is no option: write sequences=[DG]",
    ("evaluate", "AA"): "AA stands alone: write sequences=[AA]",
    ("train", "--sequences AA"): "--sequences is no option: write data.sequences=[AA]",
}


@pytest.mark.parametrize(("job", "line"), ADVICE)
def test_what_is_no_argument_is_one_line_of_advice(arguments: Any, job: str, line: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        arguments.read_arguments(line.split(), job)
    assert str(caught.value).startswith(ADVICE[job, line])


def test_a_job_says_so_in_one_line(run_here: RunHere, home: Path) -> None:
    (home / "my files (1)").mkdir()
    for given, message in {
        ("-s", "DG"): "error: -s is no option: write sequence=DG",
        ("sequence=dAla",): "error: sequence 'dAla': upper and lower case are mixed",
        ("sequence=NAN", "checkpoint=nowhere"): "train one",
        ("pdb=my files (1)/AA (1).pdb",): "my files (1)/AA (1).pdb",
        ("pdb=~/none é.pdb",): str(Path.home() / "none é.pdb"),
        ("sequence=none.fasta",): "error: no file of sequences at",
        ("sequence=ALA-ASH",): "the force field has none at that end of a chain",
    }.items():
        done = run_here("sample", *given)
        assert done.returncode == 2
        (line,) = done.stderr.strip().splitlines()
        assert message in line


def test_sequences_from_files(arguments: Any, home: Path) -> None:
    (home / "one.fasta").write_text(">a\nNAN\n")
    (home / "more (2).fa").write_text(">a\nAA\n>b\nAG\n>c\naa\n")
    assert composed(SampleJob, "sample", ["sequence=one.fasta"]).sequence == "NAN"
    assert composed(SampleJob, "sample", ["sequence=one.fasta"]).folder == "outputs/sample/NAN"
    _, read = arguments.read_arguments(["sequences=more (2).fa"], "evaluate")
    assert composed(EvaluateJob, "evaluate", read).sequences == ("AA", "AG")
    _, read = arguments.read_arguments(["sequences=[one.fasta,more (2).fa,Gly-Gly]"], "evaluate")
    assert composed(EvaluateJob, "evaluate", read).sequences == ("NAN", "AA", "AG", "GG")
    with pytest.raises(ValueError, match="holds 3 peptides where one is asked for"):
        composed(SampleJob, "sample", ["sequence='more (2).fa'"])
