"""What the tests of sampling share: a small flow, and a peptide to sample."""

from pathlib import Path

import pytest
import torch

from boltzray import models
from boltzray.sampling.target import Target


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small flow, away from the identity."""
    torch.manual_seed(0)
    flow = models.Flow(models.FlowConfig(channels=16, head_dim=8, blocks=2, layers_per_block=1), scale_nm=0.17)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return models.save(flow, tmp_path_factory.mktemp("flow") / "checkpoint", {"step": 1})


@pytest.fixture(scope="session")
def target(data: Path) -> Target:
    return Target(pdb=(data / "pdbs" / "test" / "AA.pdb").read_text(), temperature_k=310.0)
