"""The flows that come with BoltzRay: whole, small, described, and worth what their cards say."""

import math
import re
import tomllib
from pathlib import Path

import pytest
import torch

from boltzray import models
from boltzray.models.hub import BUNDLED_FOLDER, DEFAULT_CHECKPOINT, bundled
from boltzray.molecules import BatchedEnergy, Peptide
from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD
from boltzray.molecules.frame_statistics import bond_temperature_k
from boltzray.samplers import com_log_density, snis

TEMPERATURE_K = 310.0


def test_bundled_flows_are_small_and_described() -> None:
    assert bundled() == [DEFAULT_CHECKPOINT.removeprefix("boltzray://")]
    assert sum(path.stat().st_size for path in BUNDLED_FOLDER.rglob("*")) <= 25e6
    for name in bundled():
        flow = models.load(f"boltzray://{name}")
        card = (BUNDLED_FOLDER / name / "README.md").read_text()
        count = sum(parameter.numel() for parameter in flow.parameters())
        assert f"{count / 1e6:.1f} M parameters" in card
        for topic in ("Apache-2.0", "force field", "hardware", "Limits", "jobs/train.py", "±"):
            assert topic in card, (name, topic)
        provenance = models.checkpoint.describe(BUNDLED_FOLDER / name).provenance
        assert provenance["sequences"]
        assert f"{provenance['step']:,} steps" in card
        assert "/" not in str(provenance).replace("+cpu", "")  # no paths of the machine that made it


def test_names_that_are_not_bundled(tmp_path: Path) -> None:
    name = bundled()[0]
    assert models.locate(Path(f"boltzray://{name}"), tmp_path) == BUNDLED_FOLDER / name  # a Path keeps one slash
    with pytest.raises(FileNotFoundError, match=rf"does not come with BoltzRay: there are boltzray://{name}"):
        models.load("boltzray://aaa-small")
    with pytest.raises(FileNotFoundError, match="does not come with BoltzRay"):
        models.load(f"boltzray://../pretrained/{name}")


@pytest.mark.parametrize(("sequence", "floor"), [("DG", 0.05), ("AA", 0.1), ("ACE-A-NME", 0.02)])
def test_draws_are_worth_something_as_they_come(sequence: str, floor: float) -> None:
    """Zero-shot draws of peptides that it was not trained on, weighted: ESS far above a flow that knows nothing."""
    path = models.locate(DEFAULT_CHECKPOINT)
    flow, peptide = models.load(path), Peptide.from_sequence(sequence)
    assert sequence not in models.checkpoint.describe(path).provenance["sequences"]
    x, log_q = flow.sample(flow.condition(peptide), 512, torch.Generator().manual_seed(0))
    found = BatchedEnergy(peptide, TEMPERATURE_K).evaluate((x * flow.scale_nm).double(), gradient=False)
    target = torch.where(found.ok, com_log_density(x)[0] - found.energy, -math.inf)
    result = snis(None, log_q, target)
    print(f"{sequence}: ESS {result.ess:.3f}, k̂ {result.k_hat:.2f}")
    assert result.ess > floor


@pytest.mark.parametrize("sequence", ["DG", "GCDE", "ACE-A-NME"])
def test_draws_have_the_temperature_of_the_target(sequence: str) -> None:
    """Bonds vibrate as equipartition has it; frames of a hot start once made them a fifth hotter."""
    flow, peptide = models.load(DEFAULT_CHECKPOINT), Peptide.from_sequence(sequence)
    x, _ = flow.sample(flow.condition(peptide), 500, torch.Generator().manual_seed(0))
    measured = bond_temperature_k((x * flow.scale_nm).numpy(), peptide, DEFAULT_FORCEFIELD)
    assert 0.92 < measured / TEMPERATURE_K < 1.08


def test_a_longer_peptide_is_warned_of() -> None:
    path = models.locate(DEFAULT_CHECKPOINT)
    assert models.checkpoint.length_warning(path, "ARIP") is None
    assert models.checkpoint.length_warning(path, "ACE-ALA-HIP-NME") is None
    told = models.checkpoint.length_warning(path, "ARIPA")
    assert told is not None
    assert re.search("trained on peptides of 1 to 4 residues and ARIPA has 5", told)


def test_bundled_flows_are_part_of_the_wheel(root: Path) -> None:
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    held = {path for pattern in settings["package-data"]["boltzray.models"] for path in (root / "models").glob(pattern)}
    assert held == {path for path in BUNDLED_FOLDER.rglob("*") if path.is_file()}
