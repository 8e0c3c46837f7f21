"""Lightning checkpoints with pickled objects in them: read without running anything, or refused by name."""

import collections
import functools
import os
import pickle
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from boltzray import models
from boltzray.models.lightning import Refused, read_lightning
from golden_flows import GOLDEN

WEIGHTS = GOLDEN / "robin" / "robin_small.pth"


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A package whose classes are pickled as objects; it counts when one is made, and is gone when files are read."""
    package = types.ModuleType("elsewhere")
    exec("class Net:\n    pass\nclass Step:\n    pass\n", package.__dict__)
    for kind in (package.Net, package.Step):
        kind.__module__ = "elsewhere"
    monkeypatch.setitem(sys.modules, "elsewhere", package)
    return package


def checkpoint(foreign: Any, path: Path, **changed: Any) -> Path:
    """A file as Lightning writes it, with the network and a partial of the optimiser among the hyper-parameters."""
    net = foreign.Net()
    net.__dict__ |= {"head_dim": 16, "layers": torch.nn.Linear(2, 2), "act": torch.nn.functional.silu}
    state = torch.load(WEIGHTS, weights_only=True)
    content = {
        "state_dict": state
        | {"net.blocks.0.attn.qkv.weight": state["net.blocks.0.attn.qkv.weight"].t().contiguous().t()},
        "hyper_parameters": {
            "net": net,
            "optimizer": functools.partial(torch.optim.AdamW, lr=1e-3),
            "out": Path("a/b"),
            "tokenizer": {"discretize_min": -4.5, "discretize_max": 4.5},
            "sampling_config": {"temperature": 0.95, "num": 10},
        },
        "optimizer_states": [{"state": {0: torch.zeros(3)}, "steps": {foreign.Step()}}],
        "pytorch-lightning_version": "2.5.1",
    }
    torch.save(content | changed, path)
    return path


def test_weights_and_numbers_come_out_whole(foreign: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint(foreign, tmp_path / "robin.ckpt")
    monkeypatch.delitem(sys.modules, "elsewhere")  # nothing of it can be imported now
    flow, want = models.load(path), models.load(WEIGHTS, bins=(-4.5, 4.5), temperature=0.95, head_dim=16)
    assert flow.config == want.config
    assert (flow.config.bin_range, flow.config.temperature, flow.config.head_dim) == ((-4.5, 4.5), 0.95, 16)
    assert (flow.config.orderings, flow.config.center, flow.scale_nm) == (("amber",), "zero", 0.35)
    for (name, a), b in zip(flow.state_dict().items(), want.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert models.checkpoint.outline(path).config == want.config
    assert models.load(path, temperature=1.0).config.temperature == 1.0


def test_dictionaries_of_any_kind_are_read(foreign: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ordered ones, those with defaults, and those of a class that is not here, as Lightning's own are."""
    exec("class Attributes(dict):\n    pass\nclass Many(list):\n    pass\n", foreign.__dict__)
    foreign.Attributes.__module__ = foreign.Many.__module__ = "elsewhere"
    tokenizer = collections.defaultdict(float, {"discretize_min": -4.5, "discretize_max": 4.5})
    numbers = foreign.Attributes(
        net=collections.OrderedDict(head_dim=16),
        tokenizer=tokenizer,
        sampling=foreign.Many([collections.Counter(temperature=1)]),
    )
    state = collections.defaultdict(lambda: None, torch.load(WEIGHTS, weights_only=True))
    state.default_factory = None
    path = checkpoint(foreign, tmp_path / "robin.ckpt", hyper_parameters=numbers, state_dict=foreign.Attributes(state))
    again = checkpoint(foreign, tmp_path / "again.ckpt", hyper_parameters=numbers, state_dict=state)
    monkeypatch.delitem(sys.modules, "elsewhere")
    want = models.load(WEIGHTS, bins=(-4.5, 4.5), temperature=1.0, head_dim=16)
    for file in (path, again):
        flow = models.load(file)
        assert flow.config == want.config
        assert all(torch.equal(value, want.state_dict()[name]) for name, value in flow.state_dict().items())


@pytest.mark.parametrize(("weights", "given"), [("prose_small", {"head_dim": 16}), ("ecnf_small", {})])
def test_numbers_of_another_flow_are_left_alone(
    foreign: Any, tmp_path: Path, weights: str, given: dict[str, Any]
) -> None:
    """A temperature or a head_dim, of whatever they are in there, is no fact of a flow that is not over bins."""
    state = torch.load(GOLDEN / f"{weights}.pth", weights_only=True)
    path = checkpoint(foreign, tmp_path / "flow_up_to_4aa.ckpt", state_dict=state)
    flow, want = models.load(path, **given), models.load(GOLDEN / f"{weights}.pth", scale_nm=0.28, **given)
    assert (flow.config, flow.scale_nm) == (want.config, 0.28)
    assert all(torch.equal(value, want.state_dict()[name]) for name, value in flow.state_dict().items())
    with pytest.raises(ValueError, match="no flow over bins: leave bins="):
        models.load(path, temperature=0.95, **given)


@pytest.mark.parametrize("ambiguous", [{}, {"a": {"temperature": 0.9}, "b": {"temperature": 0.8}}])
def test_a_fact_that_is_not_there_once_must_be_given(foreign: Any, tmp_path: Path, ambiguous: dict[str, Any]) -> None:
    numbers = {"tokenizer": {"discretize_min": -4.5, "discretize_max": 4.5}, "head_dim": 16}
    path = checkpoint(foreign, tmp_path / "robin.ckpt", hyper_parameters=numbers | ambiguous)
    with pytest.raises(ValueError, match="does not say its temperature: give temperature="):
        models.load(path)


class Effect:
    """It would make a folder when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.pair = function, arguments

    def __reduce__(self) -> Any:
        return self.pair


EFFECTS = {
    "posix.mkdir": Effect(os.mkdir, "executed"),
    "builtins.exec": Effect(exec, "import os; os.mkdir('executed')"),
    "io.open": Effect(open, "executed", "w"),
    "pathlib.Path.touch": Effect(Path.touch, Path("executed")),
    "a call of": Effect(functools.partial(os.mkdir, "executed")),
}


@pytest.mark.parametrize("name", [*EFFECTS][:4])
def test_an_effect_is_refused_by_its_name(
    foreign: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = checkpoint(foreign, tmp_path / "robin.ckpt", callbacks=EFFECTS[name])
    with pytest.raises(ValueError, match=r"is refused: it could run code") as caught:
        models.load(path)
    assert name.rpartition(".")[2] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "executed").exists()  # so it would have run


def test_what_a_placeholder_gives_is_not_called(foreign: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`getattr(object, name)` is data of bound methods; a call of what it returns is none."""
    monkeypatch.chdir(tmp_path)

    class Bound:
        def __reduce__(self) -> Any:
            return getattr, (Path("executed"), "touch")

    path = tmp_path / "robin.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {}, "x": Bound()}, path)
    assert read_lightning(path) is not None
    raw = pickle.dumps(Path("executed"), protocol=2)[2:-1]
    called = b"\x80\x02cbuiltins\ngetattr\n(" + raw + b"X\x05\x00\x00\x00touchtR)R."
    pickle.loads(called)
    assert (tmp_path / "executed").exists()
    (tmp_path / "executed").unlink()
    replaced = tmp_path / "called.ckpt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(replaced, "w") as new:
        for item in old.infolist():
            new.writestr(item.filename, called if item.filename.endswith("data.pkl") else old.read(item.filename))
    with pytest.raises(Refused, match=r"a call of pathlib\.PosixPath\.touch"):
        read_lightning(replaced)
    assert not (tmp_path / "executed").exists()


def test_other_files_with_objects_stay_refused(foreign: Any, tmp_path: Path) -> None:
    path = tmp_path / "prose_up_to_8aa.pth"
    torch.save({"net": foreign.Net()}, path)
    with pytest.raises(ValueError, match=r"more than weights \(elsewhere.Net\), and is refused: it could run code"):
        models.load(path)
