"""Shared by the tests of finetuning: a tiny flow, and a job that finetunes it in seconds."""

from pathlib import Path

import pytest
import torch

from boltzray import models
from boltzray.finetuning.config import FinetuneJob
from boltzray.samplers import SMCConfig


@pytest.fixture(scope="session")
def flow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flow of internal coordinates that has learned nothing: its draws have finite energies."""
    torch.manual_seed(0)
    config = models.FlowConfig(channels=16, head_dim=8, blocks=1, layers_per_block=1, coordinates="internal")
    flow = models.Flow(config, scale_nm=0.2)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    about = {"step": 1, "temperature_k": 310.0, "sequences": ["GP", "AA"]}
    return models.save(flow, tmp_path_factory.mktemp("flow") / "checkpoint", about)


@pytest.fixture
def job(home: Path, flow_folder: Path) -> FinetuneJob:
    return FinetuneJob(
        sequence="AA",
        checkpoint=str(flow_folder),
        out="a",
        budget=360,
        rounds=2,
        steps=3,
        batch=8,
        smc=SMCConfig(kernel="mala", step_size=1e-6, block_size=16),
        checkpoint_s=0.0,
        data_dir="none",
        in_process=True,
    )
