"""The wheel, installed beside a package of someone else's that is called models."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

BELOW = ("models", "molecules", "samplers", "jobs", "conf")
FOLDERS = {"platform": "boltzray", **{name: f"boltzray/{name}" for name in BELOW}}
CHECK = """
import models
assert models.OWNER == "someone else"
import boltzray.molecules
assert boltzray.molecules.__file__.startswith({site!r}), boltzray.molecules.__file__
from boltzray.molecules import Peptide
assert Peptide.from_sequence("AA").n_atoms == 23
import boltzray.sampling.sample
from boltzray.models import load, locate
load(locate("boltzray://peptides-small"))
"""


def run(*command: str, cwd: Path) -> str:
    own = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "BOLTZRAY_HOME", "MLFLOW_TRACKING_URI")}
    done = subprocess.run(command, cwd=cwd, env=own, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy: setuptools leaves folders where it builds, and takes what it finds in them."""
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(root / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "boltzray.py", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", "wheels", ".", cwd=source)
    (made,) = (source / "wheels").glob("boltzray-*.whl")
    return made


@pytest.mark.slow
def test_the_wheel_holds_all_of_boltzray_and_no_other_name(root: Path, wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        f"{package}/{path.relative_to(root / folder)}"
        for folder, package in FOLDERS.items()
        for path in (root / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == expected | {"boltzray.py"}


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of an environment with the wheel; dependencies are those of this one, looked for after it."""
    folder = tmp_path_factory.mktemp("env")
    run(sys.executable, "-m", "venv", "--without-pip", "env", cwd=folder)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder / "env")}))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(python_of(site))]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel), cwd=folder)
    return site


def python_of(site: Path) -> Path:
    return site.parents[2] / "bin" / "python"


@pytest.mark.slow
def test_the_wheel_leaves_a_package_called_models_alone(site: Path, tmp_path: Path) -> None:
    (site / "models").mkdir()
    (site / "models" / "__init__.py").write_text('OWNER = "someone else"\n')
    run(str(python_of(site)), "-c", CHECK.format(site=str(site)), cwd=tmp_path)


@pytest.mark.slow
def test_the_wheel_alone_samples_from_the_command_and_from_python(root: Path, site: Path, tmp_path: Path) -> None:
    """In an empty folder: the command, and then the lines of Python that the README shows."""
    command = str(python_of(site).with_name("boltzray"))
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert run(command, "--version", cwd=tmp_path) == f"boltzray {version}\n"
    assert "boltzray sample key=value" in run(command, "sample", "--help", cwd=tmp_path)
    out = run(command, "sample", "sequence=DG", "samples=256", "sampler=snis", cwd=tmp_path)
    assert "boltzray simulate sequences=[DG]" in out  # commands as they were typed
    assert (tmp_path / "outputs" / "sample" / "DG" / "report.html").exists()
    (lines,) = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    run(str(python_of(site)), "-c", lines, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_the_wheel_alone_goes_the_whole_way(site: Path, tmp_path: Path) -> None:
    """MD, training, finetuning and evaluation with the workers of Ray, which find the wheel."""
    command = str(python_of(site).with_name("boltzray"))
    md = ("sequences=[AA]", "time_ns=0.0001", "replicas=4", "md.warmup_ps=0.01", "md.interval_ps=0.01")
    run(command, "simulate", *md, "cluster.num_cpus=2", cwd=tmp_path)
    run(command, "train", "data.path=data", "train.steps=2", "train.batch=8", "validation.every=0", cwd=tmp_path)
    budget = ("budget=240", "rounds=1", "steps=2", "batch=8")
    run(command, "finetune", "sequence=AA", "checkpoint=outputs/train/checkpoint", *budget, cwd=tmp_path)
    run(command, "evaluate", "samples=[outputs/finetune/AA-alpha2]", "intervals=0", cwd=tmp_path)
    assert (tmp_path / "outputs" / "finetune" / "AA-alpha2" / "report.html").exists()
