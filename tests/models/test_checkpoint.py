"""Flows on disk: our folders, and public state dicts both ways."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from boltzray import models
from boltzray.models.public import from_public, to_public
from golden_flows import GOLDEN, lone_peptide, peptide, random_flow

HEADS = {"prose_small": 16, "tarflow_small": 16}
PLAIN: dict[str, Any] = {"adaptive": False, "lookahead": False}
SYSTEM: dict[str, Any] = PLAIN | {"system": "ACE-A-NME", "system_atoms": 22}


@pytest.fixture
def public() -> dict[str, torch.Tensor]:
    return torch.load(GOLDEN / "prose_small.pth", weights_only=True)


def same(one: models.Flow, two: models.Flow) -> None:
    assert one.config == two.config
    assert one.scale_nm == two.scale_nm
    for (name, a), (other, b) in zip(one.state_dict().items(), two.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "config", [{}, PLAIN, SYSTEM | {"token": "coordinate"}, {"orderings": ("c2n_backbone-first_standard",)}]
)
def test_a_folder_keeps_everything(tmp_path: Path, config: dict[str, Any]) -> None:
    flow = random_flow(**config).float()
    flow.scale_nm = 0.21
    folder = models.save(flow, tmp_path / "flow", {"step": 7})
    same(models.load(folder), flow)
    same(models.load(folder, scale_nm=0.21, head_dim=8), flow)
    with pytest.raises(ValueError, match=r"made with scale_nm=0.21: leave out scale_nm=0.35"):
        models.load(folder, scale_nm=0.35)
    assert json.loads((folder / "flow.json").read_text())["provenance"] == {"step": 7}
    assert [p.name for p in tmp_path.iterdir()] == ["flow"]  # nothing temporary stays


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_others_read_a_flow_where_the_umask_lets_them(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        folder = models.save(random_flow().float(), tmp_path / "flow")
    finally:
        os.umask(before)
    assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == dict.fromkeys(
        ("flow.json", "model.safetensors"), 0o666 & ~umask
    )


def test_a_folder_from_before_single_systems_loads(tmp_path: Path) -> None:
    flow = random_flow().float()
    folder = models.save(flow, tmp_path / "flow")
    description = json.loads((folder / "flow.json").read_text())
    for key in ("system", "system_atoms", "token"):
        del description["config"][key]
    del description["sha256"]
    (folder / "flow.json").write_text(json.dumps(description))
    same(models.load(folder), flow)


@pytest.mark.parametrize("name", ["prose_small", "tarflow_small"])
def test_public_weights_survive_both_ways(tmp_path: Path, name: str) -> None:
    original = torch.load(GOLDEN / f"{name}.pth", weights_only=True)
    flow = models.load(GOLDEN / f"{name}.pth", head_dim=HEADS[name])
    back = to_public(models.load(models.save(flow, tmp_path / name)))
    constants = {key for key in original if key.endswith("attn_mask")}
    assert constants
    assert back.keys() == original.keys() - constants
    for key, value in back.items():
        assert value.shape == original[key].shape
        assert torch.equal(value, original[key])


@pytest.mark.parametrize("token", ["atom", "coordinate"])
def test_a_single_system_survives_both_ways(tmp_path: Path, token: str) -> None:
    flow = random_flow(**SYSTEM, token=token).float()
    flow.scale_nm = 0.3
    state = to_public(flow)
    assert state["net.blocks.1.pos_embed"].shape == (66 if token == "coordinate" else 22, 16)
    path = tmp_path / "tarflow_Ace-A-Nme_0.pth"
    torch.save(state, path)
    same(models.load(path, head_dim=8, scale_nm=0.3), flow)
    with pytest.raises(ValueError, match=r"give scale_nm="):
        models.load(path, head_dim=8)
    path = path.rename(tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"give system="):
        models.load(path, head_dim=8, scale_nm=0.3)
    same(models.load(path, head_dim=8, scale_nm=0.3, system="ACE-A-NME"), flow)


@pytest.mark.parametrize("key", ["position_embedding", "pos_embedding.weight"])
def test_learned_positions_are_known_by_their_shape(key: str) -> None:
    flow = random_flow(**SYSTEM).float()
    state = {k.replace("pos_embed", key): v[None] if k.endswith("pos_embed") else v for k, v in to_public(flow).items()}
    same(from_public(state, head_dim=8, scale_nm=1.0, system="Ace-A-Nme"), flow)
    state["net.blocks.0.other"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match=r"lacks cond_embed\.atom_embed\.weight and has the unknown key blocks\.0\."):
        from_public(state, head_dim=8, scale_nm=1.0, system="ACE-A-NME")


def test_orderings_that_a_state_dict_cannot_say_are_not_lost() -> None:
    with pytest.raises(ValueError, match="keep the checkpoint folder"):
        to_public(random_flow(orderings=("c2n_backbone-first_standard",)))


@pytest.mark.parametrize(("name", "scale"), [("up_to_8aa", 0.35), ("up_to_4aa", 0.28), ("up_to_2aa", 0.21)])
def test_the_scale_is_the_name_s(tmp_path: Path, public: dict[str, torch.Tensor], name: str, scale: float) -> None:
    path = tmp_path / f"prose_{name}.pth"
    torch.save(public, path)
    assert models.load(path, head_dim=16).scale_nm == scale
    assert models.load(path, head_dim=16, scale_nm=0.5).scale_nm == 0.5
    with pytest.raises(ValueError, match="give scale_nm="):
        models.load(path.rename(tmp_path / "prose_up_to_6aa.pth"), head_dim=16)


def test_prefixes_and_copies_of_training_checkpoints(tmp_path: Path, public: dict[str, torch.Tensor]) -> None:
    compiled = {k.replace("net.", "net._orig_mod.", 1): v for k, v in public.items()}
    teacher = {f"teacher.{k}": torch.zeros_like(v) for k, v in public.items()}
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {**compiled, **teacher}, "epoch": 3}, path)
    same(models.load(path, head_dim=16), models.load(GOLDEN / "prose_small.pth", head_dim=16))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("net.blocks.3.proj_out.bias"), r"lacks blocks\.3\.proj_out\.bias \(1 missing, 0 left over\)"),
        (lambda s: s.pop("net.cond_embed.atom_embed.weight"), r"lacks cond_embed\.atom_embed\.weight"),
        (lambda s: s.pop("net.blocks.0.proj_in.weight"), r"blocks\.0\.proj_in\.weight is missing"),
        (lambda s: s.update({"net.blocks.0.surprise": torch.zeros(1)}), r"has the unknown key blocks\.0\.surprise"),
        (lambda s: s.update({"net.blocks.99999999999.x": torch.zeros(1)}), r"has the unknown key blocks\.99999999999"),
        (lambda s: s.update({"net.blocks.2.proj_in.weight": torch.zeros(9, 9)}), r"2\.proj_in\.weight has shape"),
        (lambda s: s.update({"net.blocks.2.proj_in.bias": torch.zeros(32, dtype=torch.int64)}), r"proj_in\.bias holds"),
        (lambda s: s.update({"net.blocks.0.proj_in.weight": torch.zeros(0, 3)}), r"proj_in\.weight is missing or odd"),
        (lambda s: s.clear(), r"no flow of a kind known here"),
    ],
)  # fmt: skip
def test_every_key_is_accounted_for(public: dict[str, torch.Tensor], spoil: Any, message: str) -> None:
    spoil(public)
    with pytest.raises(ValueError, match=message):
        from_public(public, head_dim=16)


def test_a_missing_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*train one"):
        models.load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="is no checkpoint"):
        models.load(tmp_path / "empty")


def test_a_flow_outlives_its_file(tmp_path: Path) -> None:
    flow = random_flow().float()
    folder = models.save(flow, tmp_path / "flow")
    back, written = models.load(folder), models.checkpoint.fingerprint(folder)
    with torch.no_grad():
        back.blocks[0].proj_in.weight.add_(1.0)
    assert models.checkpoint.fingerprint(folder) == written
    weights = folder / "model.safetensors"
    weights.write_bytes(b"\0" * weights.stat().st_size)
    torch.testing.assert_close(back.blocks[1].proj_in.weight, flow.blocks[1].proj_in.weight, atol=0, rtol=0)


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    folder = models.save(random_flow().float(), tmp_path / "flow")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        models.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        models.load(folder)


def test_weights_loaded_can_be_trained_and_leave_the_random_stream_alone(archives: dict[str, Any]) -> None:
    torch.manual_seed(3)
    expected = torch.randn(2)
    torch.manual_seed(3)
    flow = models.load(GOLDEN / "prose_small.pth", head_dim=16)
    assert torch.equal(torch.randn(2), expected)
    assert not flow.training
    assert all(p.requires_grad and not p.is_meta for p in flow.parameters())
    with pytest.raises(ValueError, match=r"a peptide of the 20 standard amino acids"):
        flow.condition(lone_peptide("ACE-A-NME", 22))
    assert flow.condition(peptide(archives["prose_small"], "AA")).order.shape == (8, 1, 23)


def test_an_outline_has_all_but_the_weights(tmp_path: Path, archives: dict[str, Any]) -> None:
    folder = models.save(random_flow().float(), tmp_path / "flow")
    for path, scale in ((folder, 1.0), (GOLDEN / "prose_small.pth", 0.35)):
        flow = models.checkpoint.outline(path)
        assert (flow.scale_nm, flow.config) == (scale, models.load(path).config)
        assert all(parameter.is_meta for parameter in flow.parameters())
        assert flow.tables([peptide(archives["prose_small"], "AA")]).n_atoms.is_meta
        with pytest.raises(ValueError, match=r"a peptide of the 20 standard amino acids"):
            flow.tables([lone_peptide("ACE-A-NME", 22)])
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        models.checkpoint.outline(folder)


def test_lengths_do_not_count_caps(tmp_path: Path) -> None:
    path = models.save(random_flow(), tmp_path / "flow", {"sequences": ["ACE-AA-NME", "AAA"]})
    assert models.checkpoint.trained_lengths(path) == [2, 3]
    assert models.checkpoint.length_warning(path, "ACE-AAA-NME") is None
    assert "ACE-AAAA-NME has 4" in str(models.checkpoint.length_warning(path, "ACE-AAAA-NME"))


def changed(folder: Path, change: Any) -> Path:
    """The folder, its flow.json changed in place, or replaced by what is no mapping."""
    path = folder / "flow.json"
    if callable(change):
        description = json.loads(path.read_text())
        description.pop("sha256", None)  # as after an edit
        change(description)
        path.write_text(json.dumps(description))
    else:
        path.write_text(change)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("null", "no description of a flow"),
        ("[]", "no description of a flow"),
        ("", "no JSON"),
        ('{"format": 1', "no JSON"),
        ("{}", "format None"),
        (lambda d: d.update(format="1"), "format '1'"),
        (lambda d: d.pop("config"), r"config: Missing|config: Field required"),
        (lambda d: d.update(config=[]), r"config: Input should be a valid dictionary|config: .*object"),
        (lambda d: d["config"].update(blocks="8"), r"config\.blocks: Input should be a valid integer \(got '8'\)"),
        (lambda d: d["config"].update(blocks=10**9), r"config: channels, head_dim, blocks .* at most 65536"),
        (lambda d: d["config"].update(blocks=0), r"at least 1"),
        (lambda d: d["config"].update(size=3), r"unknown key 'size'"),
        (lambda d: d["config"].update(coordinates="polar"), r"config\.coordinates"),
        (lambda d: d.update(scale_nm="0.2"), r"scale_nm: Input should be a valid number \(got '0.2'\)"),
        (lambda d: d.update(scale_nm=0), r"scale_nm=0 is no length of a molecule"),
        (lambda d: d.update(scale_nm=-1.0), r"scale_nm=-1 is no length"),
        (lambda d: d.update(scale_nm=4.08e34), r"scale_nm=4.08e\+34 is no length"),
        (lambda d: d.update(scale_nm=float("nan")), r"scale_nm"),
        (lambda d: d.update(atom_order="random"), r"atom_order"),
        (lambda d: d.update(provenance=3), r"provenance"),
    ],
)
def test_a_description_that_is_no_flow_s_is_refused_in_one_line(tmp_path: Path, change: Any, message: str) -> None:
    folder = changed(models.save(random_flow().float(), tmp_path / "flow"), change)
    for read in (models.load, models.checkpoint.outline):
        with pytest.raises(ValueError, match=message) as found:
            read(folder)
        assert str(found.value).startswith(str(folder / "flow.json"))
        assert "\n" not in str(found.value)


def test_weights_are_those_that_were_saved_and_finite(tmp_path: Path) -> None:
    flow = random_flow().float()
    folder = models.save(flow, tmp_path / "flow")
    weights = folder / "model.safetensors"
    whole = bytearray(weights.read_bytes())
    whole[-5] ^= 1  # one bit of the last number
    weights.write_bytes(whole)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged \(it is not the file that flow\.json"):
        models.load(folder)
    changed(folder, lambda d: d.pop("weights_sha256"))  # as earlier versions wrote it
    models.load(folder)
    with torch.no_grad():
        flow.blocks[1].proj_in.bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"blocks\.1\.proj_in\.bias holds NaN or infinity"):
        models.load(models.save(flow, tmp_path / "nan"))
    flow.scale_nm = 4.08e34
    with pytest.raises(ValueError, match="no length of a molecule"):
        models.save(flow, tmp_path / "large")
    assert not (tmp_path / "large").exists()


def test_flows_of_affine_blocks_on_internal_coordinates_are_told(tmp_path: Path) -> None:
    def as_before(description: dict[str, Any]) -> None:
        description["config"] |= {"coordinates": "internal", "blocks": 4, "spline_bins": 16}
        del description["config"]["components"], description["config"]["dihedral_components"]

    folder = changed(models.save(random_flow().float(), tmp_path / "flow"), as_before)
    with pytest.raises(ValueError, match=r"as earlier versions made them.* train it again"):
        models.load(folder)
    folder = changed(
        models.save(random_flow().float(), tmp_path / "cartesian"), lambda d: d["config"].update(spline_bins=16)
    )
    models.load(folder)
