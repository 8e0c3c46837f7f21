"""Training on a simulated cluster of two nodes: one is lost, or announced to go and then lost; nothing changes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from job_processes import environment
from safetensors.torch import load_file

from boltzray.runtime.tracking import Tracker

TIMEOUT_S = 900


def trained(home: Path, data: Path, mode: str) -> tuple[str, dict[int, float], dict[str, torch.Tensor]]:
    """The script's output; every loss that was reported; the weights."""
    script = Path(__file__).with_name("training_on_two_nodes.py")
    out = home / mode
    done = subprocess.run(
        [sys.executable, str(script), str(data), str(out), mode],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    uri = f"sqlite:///{home / 'mlflow.db'}"
    history = Tracker((out / "mlflow_run").read_text().split()[0], uri, out).history("loss")
    return done.stdout, dict(history), load_file(out / "checkpoint" / "model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(module_home: Path, data: Path) -> tuple[dict[int, float], dict[str, torch.Tensor]]:
    return trained(module_home, data, "undisturbed")[1:]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(3 * TIMEOUT_S)
@pytest.mark.parametrize("mode", ["removed", "announced"])
def test_a_node_that_goes_changes_nothing(module_home: Path, data: Path, undisturbed: object, mode: str) -> None:
    said, losses, weights = trained(module_home, data, mode)
    print(said)
    assert "node removed at step" in said
    assert int(said.split("node removed at step ")[1].split()[0]) < 400, "the node went after the end"
    assert "0 workers were on the node" not in said
    expected, expected_weights = undisturbed  # type: ignore[misc]
    common = losses.keys() & expected.keys()
    assert len(common) >= 30
    assert max(common) == 400
    assert {step: losses[step] for step in common} == {step: expected[step] for step in common}
    for name, value in weights.items():
        assert torch.equal(value, expected_weights[name]), name
