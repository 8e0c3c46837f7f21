"""Public weights of ECNF: every key is accounted for, and what a file does not say is asked for in a line."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from boltzray import models
from boltzray.models.config import GraphConfig
from boltzray.models.pth import write_public
from boltzray.models.public import unsaid
from golden_flows import GOLDEN, lone_peptide

State = dict[str, Tensor]


def state(name: str = "ecnf_small") -> State:
    found: State = torch.load(GOLDEN / f"{name}.pth", weights_only=True)
    return found


@pytest.mark.parametrize("name", ["ecnf_small", "ecnf_single_small"])
def test_every_key_comes_back(tmp_path: Path, name: str) -> None:
    want = state(name)
    flow = models.load(GOLDEN / f"{name}.pth", scale_nm=0.3)
    write_public(flow, tmp_path / "again.pth")
    again = models.load(tmp_path / "again.pth", **unsaid(flow))
    assert (again.config, again.scale_nm, again.atom_order) == (flow.config, 0.3, flow.atom_order)
    found = torch.load(tmp_path / "again.pth", weights_only=True)
    assert found.keys() == want.keys()
    assert all(torch.equal(found[key], want[key]) for key in want)


def test_what_the_name_and_the_weights_tell(tmp_path: Path) -> None:
    path = tmp_path / "ecnf++_up_to_4aa.pth"
    path.write_bytes((GOLDEN / "ecnf_small.pth").read_bytes())
    flow = models.load(path)
    assert flow.config.graph is not None
    assert (flow.scale_nm, flow.atom_order, flow.config.graph.longest) == (0.28, "iupac", 4)
    path = tmp_path / "ecnf++_Ace-A-Nme_0.pth"
    path.write_bytes((GOLDEN / "ecnf_single_small.pth").read_bytes())
    flow = models.load(path, scale_nm=0.2)
    assert (flow.scale_nm, flow.atom_order, flow.config.system) == (0.2, "file", "ACE-A-NME")
    models.save(flow, tmp_path / "folder")
    again = models.load(tmp_path / "folder")
    assert (again.config, again.atom_order) == (flow.config, "file")
    with pytest.raises(ValueError, match="this flow knows ACE-A-NME"):
        again.condition(lone_peptide("AA", 23))
    with pytest.raises(ValueError, match="leave out atom_types"):
        models.load(tmp_path / "folder", atom_types=(1, 2))


def test_a_system_of_other_types(tmp_path: Path) -> None:
    path = tmp_path / "ecnf++_AAA_1.pth"
    path.write_bytes((GOLDEN / "ecnf_single_small.pth").read_bytes())
    with pytest.raises(ValueError, match=r"share a type: give atom_types=, a number from 0 to 20"):
        models.load(path, scale_nm=0.2)
    with pytest.raises(ValueError, match="must end at 20"):
        models.load(path, scale_nm=0.2, atom_types=range(33))
    flow = models.load(path, scale_nm=0.2, atom_types=[*range(21), *[20] * 12])
    assert flow.atoms(flow.condition(lone_peptide("AAA", 33))) == 33


UNSAYABLE = {
    "begin at 2 residues, and this flow takes 4 to 5": {"graph": GraphConfig(shortest=4, longest=5)},  # like 2 to 4
    "at most 74 types of atoms, and this flow has 80": {"graph": GraphConfig(), "system": "X", "system_atoms": 80},
    "no word for atoms in the order 'iupac'": {"graph": GraphConfig(), "system": "X", "system_atoms": 4},
}


@pytest.mark.parametrize("message", UNSAYABLE)
def test_a_flow_that_public_weights_cannot_say_is_not_written(tmp_path: Path, message: str) -> None:
    flow = models.Flow(models.FlowConfig(channels=8, layers_per_block=1, **UNSAYABLE[message]), 0.2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message) as caught:
        write_public(flow, tmp_path / "flow.pth")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "flow.pth").exists()


DAMAGE: dict[str, tuple[Callable[[State], object], str]] = {
    "a key is missing": (lambda s: s.pop("net.egnn.gcl_1.att_mlp.0.bias"), "lacks egnn.gcl_1.att_mlp.0.bias"),
    "a key is left over": (lambda s: s.update({"net.egnn.extra": torch.zeros(1)}), "unknown key egnn.extra"),
    "a shape": (
        lambda s: s.update({"net.egnn.gcl_0.coord_mlp.0.weight": torch.zeros(24, 25)}),
        r"egnn.gcl_0.coord_mlp.0.weight has shape \(24, 25\)",
    ),
    "NaN": (lambda s: s["net.egnn.embedding.bias"].fill_(torch.nan), "holds NaN or infinity"),
    "features of no range": (
        lambda s: s.update({"net.egnn.embedding.weight": torch.zeros(24, 81)}),
        "80 features of an atom: they fit no peptides",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(tmp_path: Path, kind: str) -> None:
    change, message = DAMAGE[kind]
    weights = state()
    change(weights)
    torch.save(weights, tmp_path / "ecnf++_up_to_4aa.pth")
    with pytest.raises(ValueError, match=message):
        models.load(tmp_path / "ecnf++_up_to_4aa.pth")


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("ecnf_single_small", {}, "give scale_nm="),
        ("ecnf_small", {"system": "AA"}, "leave system= and atom_types= out"),
        ("ecnf_small", {"head_dim": 8}, "leave head_dim= out"),
        ("tarflow_small", {"atom_types": (1,)}, "leave atom_types= out"),
    ],
)
def test_facts_that_do_not_fit(name: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        models.load(GOLDEN / f"{name}.pth", **given)  # type: ignore[arg-type]
