"""Flows on disk."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from golden_flows import GOLDEN, peptide, random_flow
from models.weights import from_public


@pytest.fixture
def public() -> dict[str, torch.Tensor]:
    return torch.load(GOLDEN / "prose_small.pth", weights_only=True)


def test_round_trip(tmp_path: Path, archives: dict[str, Any]) -> None:
    flow = random_flow(adaptive=False).float()
    flow.scale_nm = 0.21
    folder = models.save(flow, tmp_path / "flow", {"step": 7})
    back = models.load(folder)
    assert back.scale_nm == 0.21
    assert back.config == flow.config
    assert json.loads((folder / "flow.json").read_text())["provenance"] == {"step": 7}
    c, x = back.condition(peptide(archives["prose_small"], "AA")), torch.randn(2, 23, 3)
    torch.testing.assert_close(
        back.log_prob(x, c), flow.log_prob(x, flow.condition(peptide(archives["prose_small"], "AA")))
    )
    assert [p.name for p in tmp_path.iterdir()] == ["flow"]  # nothing temporary stays


def test_prefixes_and_copies_of_training_checkpoints(tmp_path: Path, public: dict[str, torch.Tensor]) -> None:
    compiled = {k.replace("net.", "net._orig_mod.", 1): v for k, v in public.items()}
    teacher = {f"teacher.{k}": torch.zeros_like(v) for k, v in public.items()}
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {**compiled, **teacher}, "epoch": 3}, path)
    one, two = models.load(path, head_dim=16), models.load(GOLDEN / "prose_small.pth", head_dim=16)
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("net.blocks.3.proj_out.bias"), r"lacks blocks\.3\.proj_out\.bias"),
        (lambda s: s.update({"net.blocks.0.surprise": torch.zeros(1)}), r"unknown key blocks\.0\.surprise"),
        (
            lambda s: s.update({"net.blocks.2.proj_in.weight": torch.zeros(9, 9)}),
            r"blocks\.2\.proj_in\.weight has shape",
        ),
    ],
)
def test_every_key_is_accounted_for(public: dict[str, torch.Tensor], spoil: Any, message: str) -> None:
    spoil(public)
    with pytest.raises(ValueError, match=message):
        from_public(public, head_dim=16, scale_nm=0.35)


class Boom:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def test_a_pickle_with_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"net.x": Boom()}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="could run code"):
        models.load(tmp_path / "bad.pth")
    assert not (tmp_path / "executed").exists()


def test_a_missing_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*train one"):
        models.load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="is no checkpoint"):
        models.load(tmp_path / "empty")


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="try channels=64"):
        models.FlowConfig(channels=100, head_dim=64)
