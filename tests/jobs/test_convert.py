"""`jobs/convert.py`: public weights to a checkpoint folder and back, to the last bit."""

import json
from pathlib import Path

import pytest
import torch
from job_processes import RunHere

from boltzray import models
from boltzray.convert import ConvertJob, convert
from golden_flows import GOLDEN


def test_there_and_back(home: Path) -> None:
    original = GOLDEN / "tarflow_small.pth"
    folder = convert(ConvertJob(input=str(original), output="flow", head_dim=16, scale_nm=0.28))
    assert folder == home / "flow"
    description = json.loads((folder / "flow.json").read_text())
    assert description["scale_nm"] == 0.28
    assert description["provenance"]["sha256"] == models.checkpoint.fingerprint(original)
    back = convert(ConvertJob(input="flow", output="new/back.pth"))
    one, two = (torch.load(path, weights_only=True) for path in (original, back))
    assert two.keys() == {key for key in one if not key.endswith("attn_mask")}
    assert all(torch.equal(value, one[key]) for key, value in two.items())
    assert sorted(p.name for p in home.glob("*")) == ["flow", "mlflow.db", "new"]
    with pytest.raises(ValueError, match="give input= and output="):
        ConvertJob(input="flow", output="")
    with pytest.raises(ValueError, match=r"exists: give another output="):
        convert(ConvertJob(input="flow", output="new/back.pth"))


def test_what_a_file_of_robin_does_not_say(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = str(GOLDEN / "robin" / "robin_small.pth")
    with pytest.raises(ValueError, match=r"its bins and temperature: give .* to jobs/convert.py"):
        convert(ConvertJob(input=original, output="flow"))
    convert(
        ConvertJob(input=original, output="flow", bins=(-4.5, 4.5), temperature=0.9, head_dim=16, atom_order="file")
    )
    flow = models.load(home / "flow")
    assert (flow.config.bin_range, flow.config.temperature, flow.atom_order) == ((-4.5, 4.5), 0.9, "file")
    convert(ConvertJob(input="flow", output="back.pth"))
    said = "record head_dim=16 scale_nm=0.35 bins=[-4.5,4.5] temperature=0.9 atom_order=file: give them"
    assert said in capsys.readouterr().out


def test_the_command(run_here: RunHere, home: Path) -> None:
    done = run_here("convert", f"input={GOLDEN / 'prose_small.pth'}", "output=flow", "head_dim=16")
    assert done.returncode == 0, done.stderr
    assert "0.54 M parameters" in done.stdout
    assert models.load(home / "flow").config.head_dim == 16
    file = GOLDEN / "robin" / "robin_small.pth"
    done = run_here("convert", f"input={file}", "output=robin", "bins=[-4.5,4.5]", "temperature=1", "head_dim=16")
    assert done.returncode == 0, done.stderr
    assert models.load(home / "robin").config.temperature == 1.0
