"""The jobs as a user meets them: errors of one line, help, Ctrl-C, and going on afterwards."""

import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from job_processes import JOBS, RunHere, environment, run_job, stop_job
from restarts import ARGUMENTS, has_begun, undisturbed

from boltzray import models
from boltzray.sampling.sample import sample
from golden_flows import GOLDEN

MD = [
    "replicas=2",
    "hold_out=1",
    "md.interval_ps=0.01",
    "md.frames_per_chunk=20",
    "md.warmup_ps=0.2",
    "cluster.num_cpus=2",
    "time_ns=0.0008",
]
TRAIN = [
    "data.sequences=[GP]",
    "train.steps=80",
    "train.batch=64",
    "model.channels=16",
    "model.head_dim=8",
    "model.layers_per_block=2",
    "checkpoint_every=20",
    "log_every=10",
    "workers.threads=1",
    "cluster.num_cpus=2",
]


def the_error(done: CompletedProcess[str]) -> str:
    """The only line that a job with wrong input says."""
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("job", "arguments", "message"),
    [
        ("simulate", ["sequences=[AXZ]"], "unknown residue 'X' at position 2 of 'AXZ'"),
        ("simulate", ["sequences=['']"], "the sequence is empty"),
        ("train", ["foo=1"], "unknown key foo"),
        ("train", ["model=huge"], "Available options in 'model'"),
        ("sample", ["sequence=AA", "checkpoint=nowhere"], "train one"),
        ("sample", [], "give a peptide"),
        ("evaluate", ["samples=[nowhere]"], "sample first"),
        ("finetune", ["sequence=AA", "objective=best"], "self_improve"),
        ("sample", ["sequence=AA", "seed=-1"], "error: seed=-1: a seed is 0 or a positive integer"),
        ("simulate", ["seed=-1"], "error: seed=-1: "),
        ("finetune", ["sequence=AA", "seed=-1"], "error: seed=-1: "),
        ("compare", ["sequence=AA", "seed=-1"], "error: seed=-1: "),
        ("evaluate", ["sequences=[AA]", "seed=-1"], "seed=-1: "),
        ("train", ["train.seed=-1"], "error: train.seed=-1: "),
    ],
)
def test_bad_input_is_one_line(run_here: RunHere, job: str, arguments: list[str], message: str) -> None:
    assert message in the_error(run_here(job, *arguments))


def test_bad_input_ends_a_process_with_one_line(home: Path) -> None:
    assert "unknown residue 'X' at position 2 of 'AXZ'" in the_error(run_job(home, "simulate", "sequences=[AXZ]"))


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""},
    ],
    ids=["ascii", "latin-1", "C"],
)
def test_a_terminal_that_lacks_a_letter(home: Path, variables: dict[str, str]) -> None:
    """The job ends well, and its files are UTF-8, in a folder whose name the terminal cannot show."""
    done = run_job(home, "convert", f"input={GOLDEN / 'prose_small.pth'}", "output='é'", "head_dim=16", **variables)
    assert done.returncode == 0, done.stderr
    assert ": 0.54 M parameters, ? = 0.35 nm" in done.stdout
    assert models.load(home / "é").config.head_dim == 16


def test_a_reader_that_leaves_ends_the_job_in_one_line(home: Path) -> None:
    """As `| head -1` does."""
    command = [
        sys.executable,
        str(JOBS / "convert.py"),
        f"input={GOLDEN / 'prose_small.pth'}",
        "output=f",
        "head_dim=16",
    ]
    job = subprocess.Popen(
        command, cwd=home, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert job.stdout is not None
    job.stdout.close()
    assert job.stderr is not None
    assert job.stderr.read().splitlines() == ["stopped; the same command goes on from here"]
    assert job.wait() == 128 + signal.SIGPIPE


def test_the_second_job_in_a_folder_is_told_at_once(run_here: RunHere, home: Path) -> None:
    (home / "a").mkdir()
    code = (
        "import sys, pathlib, boltzray.runtime.folder_lock as f\nwith f.holding(pathlib.Path(sys.argv[1])):\n input()"
    )
    first = subprocess.Popen([sys.executable, "-c", code, str(home / "a")], cwd=JOBS.parent, stdin=subprocess.PIPE)
    while not (home / "a" / ".lock").exists() or not (home / "a" / ".lock").read_text():
        time.sleep(0.02)
    told = f"{home / 'a'} is in use by process {first.pid} on "
    for job in (
        ["sample", "sequence=DG"],
        ["finetune", "sequence=DG"],
        ["simulate"],
        ["train"],
        ["sweep", "sequence=DG"],
    ):
        assert told in the_error(run_here(*job, "out=a"))
    first.communicate()


def test_a_pdb_with_a_missing_atom_is_named(run_here: RunHere, home: Path, data: Path) -> None:
    text = (data / "pdbs" / "test" / "AA.pdb").read_text().splitlines(keepends=True)
    (home / "broken.pdb").write_text("".join(line for line in text if not (" CA " in line and " A   1 " in line)))
    models.save(models.Flow(models.FlowConfig(channels=16, head_dim=8, blocks=1, layers_per_block=1)), home / "f")
    assert "ALA 1 of" in (error := the_error(run_here("sample", "pdb=broken.pdb", "checkpoint=f")))
    assert "lacks the backbone (CA)" in error


@pytest.mark.usefixtures("ray_cluster")
def test_a_folder_without_shards_says_where_it_looked(run_here: RunHere, home: Path) -> None:
    (home / "empty").mkdir()
    assert str(home / "empty") in the_error(run_here("train", "data.path=empty"))


def test_help_lists_keys_and_groups(run_here: RunHere) -> None:
    done = run_here("train", "--help", "keep=7")
    assert done.returncode == 0
    for part in (
        "python jobs/train.py",
        "model=ecnf, ecnf_plus_plus",
        "now laptop: Minutes",
        "keep: 7    ",
        "training checkpoints kept",
        "BOLTZRAY_HOME",
    ):
        assert part in done.stdout
    chosen = run_here("sweep", "--help", "smc=mala").stdout  # a group of a file that it is made of
    assert "now mala: SMC with Metropolis" in chosen
    assert re.search(r"step_size: 2.5e-05 +# the first", chosen)
    assert "steps: 10000" in run_here("train", "--cfg", "job").stdout


@pytest.mark.slow
@pytest.mark.ray
def test_workers_import_the_checkout_of_the_job(
    root: Path, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of two checkouts the one whose job was started, from any folder, whichever is installed."""
    other = tmp_path_factory.mktemp("other")
    for folder in ("jobs", "conf", "platform", "models", "molecules", "samplers"):
        shutil.copytree(root / folder, other / folder)
    shutil.copy(root / "boltzray.py", other)
    with (other / "platform" / "simulation" / "md_batches.py").open("a") as file:
        file.write(f"\nopen({str(home / 'imported')!r}, 'a').write(f'{{__import__(\"os\").getpid()}}\\n')\n")
    done = run_job(home, "simulate", "sequences=[GP]", *MD, jobs=other / "jobs")
    assert done.returncode == 0, done.stderr
    assert len(set((home / "imported").read_text().split())) >= 2  # the driver, and a worker


@pytest.mark.slow
@pytest.mark.ray
def test_simulate_goes_on_after_ctrl_c(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other, arguments = tmp_path_factory.mktemp("other"), ("simulate", "sequences=[GP]", *MD)
    first = home / "data" / "md" / "GP_310_0.01_20" / "chunks" / "chunk_0.npz"
    assert "goes on from here" in stop_job(home, signal.SIGINT, first.exists, *arguments)
    written = first.stat().st_mtime_ns
    for folder in (home, other):
        done = run_job(folder, *arguments)
        assert done.returncode == 0, done.stderr
    assert first.stat().st_mtime_ns == written
    names = sorted(p.relative_to(other / "data") for p in (other / "data").rglob("chunk_*.npz"))
    assert len(names) == 2 * 4
    for name in names:
        with np.load(home / "data" / name) as one, np.load(other / "data" / name) as two:
            assert np.array_equal(one["positions"], two["positions"])
    tars = [(folder / "data" / "webdatasets" / "single_frames" / "0000.tar").read_bytes() for folder in (home, other)]
    assert tars[0] == tars[1]


@pytest.mark.slow
@pytest.mark.ray
def test_a_training_that_diverges_says_so_once(home: Path, data: Path) -> None:
    wild = ["train.lr=1e8", "train.clip=1e9", "train.max_bad_steps=3", "train.precision=float32"]
    error = the_error(run_job(home, "train", "out=a", f"data.path={data}", *TRAIN, *wild))
    assert "steps in a row had no finite loss or gradient" in error
    assert "lower train.lr" in error


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("of_all", [False, True], ids=["the driver", "the whole group"])
def test_sampling_goes_on_after_sigterm(home: Path, checkpoint: Path, of_all: bool) -> None:
    """As Slurm sends it, to all processes of a job, or Kubernetes, to its first; then the same bits as undisturbed."""
    arguments = ("sample", f"checkpoint={checkpoint}", "out=a", "cluster.num_cpus=2", *ARGUMENTS)
    output = stop_job(home, signal.SIGTERM, lambda: has_begun(home / "a"), *arguments, of_all=of_all)
    assert output.splitlines()[-1] == "stopped; the same command goes on from here"
    assert "***" not in output
    with sqlite3.connect(home / "mlflow.db") as database:
        assert database.execute("SELECT status FROM runs").fetchall() == [("KILLED",)]
    done = run_job(home, *arguments)
    assert done.returncode == 0, done.stderr
    assert "SMC goes on after step" in done.stdout
    sample(undisturbed(checkpoint, str(home / "b")))
    with np.load(home / "a" / "samples.npz") as one, np.load(home / "b" / "samples.npz") as two:
        assert set(one) == set(two)
        for name in one:
            assert np.array_equal(one[name], two[name]), name
