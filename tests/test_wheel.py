"""The wheel, installed beside a package of someone else's that is called models."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

FOLDERS = {"platform": "boltzray", **{name: f"boltzray/{name}" for name in ("models", "molecules", "samplers")}}
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


def run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy: setuptools leaves folders where it builds, and takes what it finds in them."""
    source = tmp_path_factory.mktemp("source")
    for folder in (*FOLDERS, "jobs", "conf"):
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
    assert names == expected  # code, pretrained weights, templates, force-field tables; no top-level models


@pytest.mark.slow
def test_the_wheel_leaves_a_package_called_models_alone(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(tmp_path / "env")}))
    (site / "models").mkdir()
    (site / "models" / "__init__.py").write_text('OWNER = "someone else"\n')
    # Dependencies are those of this environment, looked for after what is installed here.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel), cwd=tmp_path)
    run(str(python), "-c", CHECK.format(site=str(site)), cwd=tmp_path)
