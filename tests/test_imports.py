"""The house: who may import whom, and that the folder called platform hurts nobody."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOMS = ("molecules", "models", "samplers", "platform", "jobs")
ROOM_OF = {"molecules": "molecules", "models": "models", "samplers": "samplers", "boltzray": "platform"}
MAY_ENTER = {
    "molecules": set(),
    "models": {"molecules"},
    "samplers": set(),
    "platform": {"molecules", "models", "samplers"},
    "jobs": {"platform"},
}
NEVER = {
    "molecules": {"ray", "hydra", "mlflow", "omegaconf"},
    "models": {"ray", "hydra", "mlflow", "omegaconf", "openmm", "mdtraj"},
    "samplers": {"ray", "hydra", "mlflow", "omegaconf", "openmm", "mdtraj"},
    "platform": {"hydra", "omegaconf"},
    "jobs": {"ray", "mlflow", "torch", "openmm", "mdtraj"},
}


def imported(path: Path) -> set[str]:
    """Top-level names of the packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module).split(".")[0])
    return names


def forbidden(room: str, names: set[str]) -> set[str]:
    entered = {ROOM_OF[name] for name in names if name in ROOM_OF} - {room}
    return (names & NEVER[room]) | (entered - MAY_ENTER[room])


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_one_way(root: Path, room: str) -> None:
    files = sorted((root / room).glob("**/*.py"))
    assert files
    wrong = {path.name: bad for path in files if (bad := forbidden(room, imported(path)))}
    assert not wrong


def test_the_check_sees_what_is_forbidden(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("def f():\n    import ray.train\n    from models.flow import Flow\n")
    assert forbidden("samplers", imported(path)) == {"ray", "models"}
    assert forbidden("platform", imported(path)) == set()


def test_platform_is_no_package(root: Path) -> None:
    assert not (root / "platform" / "__init__.py").exists()


def run_python(root: Path, code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_standard_library_keeps_its_platform(root: Path) -> None:
    out = run_python(root, "import torch, ray, platform; print(platform.__file__)")
    assert str(root / "platform") not in out


def test_flows_and_samplers_run_with_torch_and_numpy_alone(root: Path) -> None:
    code = """
import sys
class Bare:
    allowed = {"ray", "hydra", "mlflow", "openmm", "mdtraj", "scipy", "arviz", "safetensors", "sklearn", "pandas"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.allowed:
            raise ImportError(name)
sys.meta_path.insert(0, Bare())
import models, samplers, molecules
from models.augment import augment
flow = models.Flow(models.FlowConfig(channels=8, head_dim=4, blocks=2, layers_per_block=1))
print(sum(p.numel() for p in flow.parameters()))
"""
    assert int(run_python(root, code)) > 0
