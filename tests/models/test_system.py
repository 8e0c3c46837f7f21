"""The flow of a single system: its sizes, and the one peptide that it takes."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from boltzray import models
from boltzray.molecules import Peptide
from boltzray.runtime.config import parse
from golden_flows import lone_peptide, random_flow

PLAIN: dict[str, Any] = {"adaptive": False, "lookahead": False}
SIZES = {  # system: channels, blocks, layers, atoms, tokens
    "single_ace_a_nme": ("ACE-A-NME", 256, 4, 4, 22, 66),
    "single_aaa": ("AAA", 256, 6, 6, 33, 99),
    "single_ace_aaa_nme": ("ACE-AAA-NME", 256, 6, 6, 42, 126),
    "single_aaaaaa": ("AAAAAA", 384, 6, 6, 63, 189),
    "single_gydpetgtwg": ("GYDPETGTWG", 384, 8, 8, 138, 138),
}


def configured(root: Path, name: str) -> models.FlowConfig:
    return parse(models.FlowConfig, yaml.safe_load((root / "conf" / "model" / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(root: Path, name: str) -> None:
    system, channels, blocks, layers, atoms, tokens = SIZES[name]
    config = configured(root, name)
    assert (config.system, config.channels) == (system, channels)
    assert (config.blocks, config.layers_per_block) == (blocks, layers)
    assert (config.system_atoms, config.system_tokens) == (atoms, tokens)
    assert set(config.ordering_names[::2]) == {"identity"}
    assert set(config.ordering_names[1::2]) == {"identity_flip"}
    with torch.device("meta"):
        flow = models.Flow(config)
    layer = 12 * channels**2 + 17 * channels  # 4 matrices of attention, 2 × 4 of the MLP; biases and norms
    block = tokens * channels + layers * layer + 3 * config.token_dim * channels + channels + 2 * config.token_dim
    assert sum(p.numel() for p in flow.parameters()) == blocks * block


def test_every_model_s_file_is_a_configuration(root: Path) -> None:
    names = {path.stem for path in (root / "conf" / "model").glob("*.yaml")}
    assert names >= {"prose", "tarflow", "small", "tarflow_small", *SIZES}
    for name in names:
        with torch.device("meta"):
            assert models.Flow(configured(root, name))
    assert configured(root, "prose") == models.FlowConfig()


@pytest.mark.parametrize("sequence", ["AAA", "AAAAAA"])
def test_a_real_peptide_of_that_name_is_taken(root: Path, sequence: str) -> None:
    config = configured(root, f"single_{sequence.lower()}")
    flow = random_flow(system=sequence, system_atoms=config.system_atoms, **PLAIN)
    c = flow.condition(Peptide.from_sequence(sequence))
    x = 0.1 * torch.randn(1, config.system_atoms, 3, dtype=torch.float64)
    torch.testing.assert_close(flow.inverse(flow(x, c)[0], c)[0], x, atol=1e-9, rtol=0)


def test_other_peptides_are_refused() -> None:
    flow = random_flow(system="ACE-A-NME", system_atoms=22, **PLAIN)
    flow.condition(lone_peptide("Ace-A-Nme", 22))
    for other in (lone_peptide("GG", 22), lone_peptide("ACE-A-NME", 23)):
        with pytest.raises(ValueError, match=r"this flow knows ACE-A-NME \(22 atoms\) alone, not"):
            flow.condition(other)
        with pytest.raises(ValueError, match="give that peptide, or a transferable flow"):
            flow.tables([lone_peptide("ACE-A-NME", 22), other])


@pytest.mark.parametrize("token", ["atom", "coordinate"])
def test_rows_of_its_tables(token: str) -> None:
    flow = random_flow(system="ACE-A-NME", system_atoms=22, token=token, **PLAIN)
    tables = flow.tables([lone_peptide("ACE-A-NME", 22)])
    rows = tables.rows(torch.tensor([0]))
    assert torch.equal(rows.orderings, tables.orderings)
    assert rows.orderings.shape[-1] == flow.config.system_tokens


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adaptive": True}, "adaptive=false"),
        ({"lookahead": True}, "lookahead=false"),
        ({"system_atoms": 0}, "give system_atoms="),
        ({"orderings": ("n2c_backbone-first_standard",)}, "has no ordering"),
        ({"token": "residue"}, "choose atom or coordinate"),
        ({"system": ""}, "give system="),
        ({"channels": 100, "head_dim": 64}, "try channels=64"),
        ({"head_dim": 0}, "at least 1"),
    ],
)
def test_what_a_configuration_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.FlowConfig(**(PLAIN | {"system": "ACE-A-NME", "system_atoms": 22} | change))
