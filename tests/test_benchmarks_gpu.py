"""benchmarks/gpu.sh is for machines with torch and numpy alone: here it runs at small sizes, with all else hidden."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ABSENT = "openmm mdtraj ray scipy pandas matplotlib hydra mlflow omegaconf gemmi safetensors pyarrow pydantic sklearn"
BARE = f"""
import sys
class Bare:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {set(ABSENT.split())} else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Bare(finder) for finder in sys.meta_path]
"""


@pytest.mark.slow
def test_all_sections_pass_on_a_cpu_with_torch_and_numpy_alone(root: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BARE)
    command = ["bash", str(root / "benchmarks" / "gpu.sh"), sys.executable, "--device", "cpu"]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    hidden = subprocess.run([sys.executable, "-c", "import openmm"], env=env, capture_output=True, text=True)
    assert "No module named 'openmm'" in hidden.stderr
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    outcomes = dict(re.findall(r"^\| (\w+) \| ([^|]+) \|$", done.stdout.split("## Summary")[1], re.M))
    skipped = {name for name, outcome in outcomes.items() if outcome == "skipped: no CUDA"}
    assert skipped == {"graphs", "compile"}
    rest = {outcome.split(":")[0] for name, outcome in outcomes.items() if name not in skipped | {"section"}}
    assert rest == {"passed", "measured"}
