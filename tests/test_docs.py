"""The reference of the documentation: all jobs and settings are in it, and all that it names exists."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from boltzray.samplers import com_log_density

FOLDERS = {"platform": "boltzray", **{name: f"boltzray.{name}" for name in ("models", "molecules", "samplers")}}
INTERNAL = {"boltzray.training.process_group.ProcessGroupConfig"}  # Ray's, not the user's


@pytest.fixture(scope="module")
def defined(root: Path) -> dict[str, ast.AST]:
    """Modules, and classes and functions at their top level, by import name."""
    found: dict[str, ast.AST] = {}
    for folder, package in FOLDERS.items():
        for path in (root / folder).rglob("*.py"):
            parts = path.relative_to(root / folder).with_suffix("").parts
            module = ".".join([package, *(part for part in parts if part != "__init__")])
            found[module] = tree = ast.parse(path.read_text())
            found |= {f"{module}.{n.name}": n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    return found


def test_the_reference_has_all_jobs_and_settings(root: Path, defined: dict[str, ast.AST]) -> None:
    named = re.findall(r"^::: (\S+)$", (root / "docs" / "reference.md").read_text(), re.MULTILINE)
    assert set(named) <= defined.keys()
    jobs = {
        f"{module}.{name}"
        for path in (root / "jobs").glob("[!_]*.py")
        for module, *names in calls(path)
        for name in names
    }
    exported = {
        f"{module}.{kind}"
        for module, kind in (("boltzray.models.config", "FlowConfig"), ("boltzray.samplers.config", "SMCConfig"))
    }
    settings = {
        name for name, node in defined.items() if isinstance(node, ast.ClassDef) and name.endswith(("Job", "Config"))
    }
    assert (settings | jobs & defined.keys()) - exported - INTERNAL <= set(named)
    assert len(jobs) == 26


def calls(path: Path) -> list[list[str]]:
    """Module, kind and action in `run(name, module, kind, action)`."""
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [[ast.literal_eval(argument) for argument in call.args[1:]] for call in found]


def test_the_python_of_the_how_to_runs(root: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And frames that are moved have the likelihood of the draws that they are."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (root / "docs" / "howto" / "python.md").read_text(), re.DOTALL):
        exec(block, names)
    x, flow = names["x"][:100], names["flow"]
    at_home = flow.log_prob(x, names["condition"]) - com_log_density(x)[0]
    torch.testing.assert_close(names["log_q"], at_home, atol=0.02, rtol=0)
    assert re.search(r"^ESS 0\.[1-9]", capsys.readouterr().out, re.MULTILINE)
    assert len(names["again"]) == 1000
