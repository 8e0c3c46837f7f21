"""SMC with a flow whose products are in bf16: another density q, whose weights are exact all the same."""

from pathlib import Path

import numpy as np
import pytest
import torch

from boltzray import models
from boltzray.molecules import Peptide
from boltzray.molecules.storage import read_json
from boltzray.runtime.run_folder import check_or_record_settings
from boltzray.samplers import SMCConfig
from boltzray.sampling.flow_actors import ActorsConfig
from boltzray.sampling.sample import SampleJob, sample
from boltzray.sampling.sample_files import read_samples

BOX = "boltzray://peptides-small"


def test_log_q_and_its_gradient_in_bf16_are_near_and_repeatable() -> None:
    flow = models.load(BOX)
    c = flow.condition(Peptide.from_sequence("GP"))
    x, _ = flow.sample(c, 64, torch.Generator().manual_seed(0))
    exact, rough, again = (models.log_prob_and_gradient(flow, x, c, precision=p) for p in ("float32", "bf16", "bf16"))
    assert torch.equal(rough[0], again[0])
    assert torch.equal(rough[1], again[1])
    off = (rough[0] - exact[0]).abs()
    assert 1e-4 < off.median() < 0.1
    distance = (rough[1] - exact[1]).flatten(1).norm(dim=1) / exact[1].flatten(1).norm(dim=1)
    assert distance.median() < 0.02


def test_smc_in_bf16_ends_at_the_same_target(home: Path) -> None:
    """log Z is that of the draws' own weights, and log q that comes out is that of the path."""
    settings = {"data_dir": "none", "samples": 1024, "smc_particles": 128, "smc": SMCConfig(kernel="mala")}
    job = SampleJob(sequence="AA", smc_precision="bf16", out="rough", actors=ActorsConfig(in_process=True), **settings)
    out = sample(job)
    of_draws, of_smc = (read_json(out / "sampling.json")[name]["diagnostics"] for name in ("SNIS", "SMC"))
    error = np.hypot(of_draws["log_z_error"], of_smc["log_z_error"])
    assert abs(of_smc["log_z"] - of_draws["log_z"]) < 5 * error
    assert error < 0.2
    peptide, sets = read_samples(out)
    flow = models.load(BOX)
    x = torch.from_numpy(np.concatenate(list(sets[-1].chunks)) / np.float32(flow.scale_nm))
    with torch.no_grad():
        log_q = flow.log_prob(x, flow.condition(peptide)).numpy()
    off = np.abs(sets[-1].log_q - log_q)
    assert 1e-4 < np.median(off) < 0.1
    assert read_json(out / "sample.json")["smc_precision"] == "bf16"


def test_a_run_of_an_earlier_version_goes_on_in_float32(home: Path) -> None:
    """Its settings do not know the precision of SMC."""
    check_or_record_settings(home, "sample", {"seed": 0})
    check_or_record_settings(home, "sample", {"seed": 0, "smc_precision": "float32"})
    check_or_record_settings(home, "sample", {"seed": 0})
    (home / "sample.json").unlink()
    check_or_record_settings(home, "sample", {"seed": 0})
    with pytest.raises(ValueError, match="smc_precision=None, now smc_precision=bf16"):
        check_or_record_settings(home, "sample", {"seed": 0, "smc_precision": "bf16"})
