"""Flows of vocabulary 2, which know caps and states of protonation; and of the first, which refuse them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from boltzray import models
from boltzray.models.flow import Flow
from boltzray.models.vocabulary import widen
from boltzray.molecules import Peptide
from boltzray.molecules.residues import ATOM_INDEX, RESIDUE_INDEX
from boltzray.molecules.zmatrix import geometry_version

INTERNAL = {"channels": 16, "head_dim": 8, "blocks": 1, "layers_per_block": 2, "coordinates": "internal"}
CARTESIAN = {"channels": 16, "head_dim": 8, "blocks": 2, "layers_per_block": 1}
NEW = ["ACE-A-NME", "ALA-HIP-ALA", "ACE-ASH-GLY-NME"]


def flow_of(settings: dict[str, object], vocabulary: int = 2) -> Flow:
    torch.manual_seed(0)
    return Flow(models.FlowConfig(**settings, vocabulary=vocabulary), 0.2).double().eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [INTERNAL, CARTESIAN], ids=["internal", "cartesian"])
@pytest.mark.parametrize("name", NEW)
def test_density_is_that_of_the_jacobian(settings: dict[str, object], name: str) -> None:
    """log|det ∂z/∂x| by autograd; and draws come back with the density that they were drawn with."""
    flow, peptide = flow_of(settings), Peptide.from_sequence(name)
    c = flow.condition(peptide)
    x, log_q = flow.sample(c, 2, torch.Generator().manual_seed(1))
    torch.testing.assert_close(flow.log_prob(x.double(), c), log_q.double(), atol=1e-4, rtol=1e-6)
    one = x[:1].double().clone()
    _, logdet = flow(one, c)
    jacobian = torch.autograd.functional.jacobian(
        lambda flat: flow(flat.view(one.shape), c)[0].flatten(), one.flatten()
    )
    assert float(torch.linalg.slogdet(jacobian)[1]) == pytest.approx(float(logdet), abs=1e-6)


def test_padding_beside_other_peptides_changes_nothing() -> None:
    flow, peptides = flow_of(INTERNAL), [Peptide.from_sequence(name) for name in (*NEW, "AA")]
    n = max(p.n_atoms for p in peptides)
    x = torch.zeros(len(peptides), n, 3, dtype=torch.float64)
    for row, p in zip(x, peptides, strict=True):
        row[: p.n_atoms] = torch.from_numpy(p.positions) / 0.2
    together = flow.log_prob(x, flow.conditioning(flow.tables(peptides)))
    for i, p in enumerate(peptides):
        alone = flow.log_prob(x[i : i + 1, : p.n_atoms], flow.condition(p))
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("settings", [INTERNAL, CARTESIAN], ids=["internal", "cartesian"])
def test_a_widened_flow_has_the_same_density_of_what_it_knew(settings: dict[str, object]) -> None:
    flow, peptide = flow_of(settings, vocabulary=1), Peptide.from_sequence("AH")
    wider = widen(flow.float(), replace(flow.config, vocabulary=2)).eval()
    x = torch.from_numpy(peptide.positions).float()[None] / 0.2
    assert torch.equal(flow.log_prob(x, flow.condition(peptide)), wider.log_prob(x, wider.condition(peptide)))
    rows = wider.state_dict()["embedding.residue.weight"]
    assert torch.equal(rows[RESIDUE_INDEX["HIP"]], rows[RESIDUE_INDEX["HIS"]])
    atoms = wider.state_dict()["embedding.atom.weight"]
    assert torch.equal(atoms[ATOM_INDEX["HM"]], flow.state_dict()["embedding.atom.weight"][ATOM_INDEX["HB"]])
    assert widen(flow, flow.config) is flow
    c = wider.condition(Peptide.from_sequence("ALA-HIP-ALA"))
    assert wider.sample(c, 2, torch.Generator().manual_seed(0))[1].isfinite().all()


def test_the_first_vocabulary_refuses_by_name() -> None:
    flow = flow_of(INTERNAL, vocabulary=1)
    assert flow.geometry == geometry_version()
    with pytest.raises(ValueError, match=r"ACE-A-NME has residues .* does not know \(ACE, NME\).*flow of vocabulary 2"):
        flow.condition(Peptide.from_sequence("ACE-A-NME"))
    with pytest.raises(ValueError, match=r"\(HIP\)"):
        flow_of(CARTESIAN, vocabulary=1).condition(Peptide.from_sequence("ALA-HIP"))


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="vocabulary=3 is unknown: choose 1 or 2"):
        models.FlowConfig(vocabulary=3)
    with pytest.raises(ValueError, match="leave vocabulary= out"):
        models.FlowConfig(**(INTERNAL | {"coordinates": "binned"}), vocabulary=2)  # type: ignore[arg-type]


def test_checkpoints_keep_it_and_warn_of_what_was_not_trained(tmp_path: Path) -> None:
    flow = flow_of(INTERNAL).float()
    path = models.save(flow, tmp_path / "flow", {"sequences": ["ACE-AG-NME", "AAA"]})
    again = models.load(path)
    assert (again.config, again.geometry) == (flow.config, geometry_version(2))
    warn = models.checkpoint.length_warning
    assert warn(path, "ACE-GG-NME") is warn(path, "GGG") is None
    assert "not trained on peptides with HIP:" in str(warn(path, "ALA-HIP-ALA"))
    assert "ACE-GGGG-NME has 4" in str(warn(path, "ACE-GGGG-NME"))
