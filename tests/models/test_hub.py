"""`hub://`: resolved by the real client out of a cache in its own layout; no network is asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from boltzray import models
from golden_flows import GOLDEN

REPOSITORY = "transferable-samplers/model-weights"
FILE = "transferable/prose_up_to_4aa.pth"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with one file of one revision in it; offline."""
    constants = pytest.importorskip("huggingface_hub.constants")
    home = tmp_path / "hf"
    repository = home / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT / FILE
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    snapshot.parent.mkdir(parents=True)
    (repository / "blobs" / "abc").write_bytes((GOLDEN / "prose_small.pth").read_bytes())
    snapshot.symlink_to(os.path.relpath(repository / "blobs" / "abc", snapshot.parent))
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return home


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_a_cached_file_loads(cache: Path, revision: str) -> None:
    url = f"hub://{REPOSITORY}{revision}/{FILE}"
    path = models.locate(url)
    assert path == models.locate(Path(url))
    assert path.is_file()
    assert path.is_relative_to(cache)
    assert path.name == "prose_up_to_4aa.pth"
    assert models.checkpoint.fingerprint(path) == models.checkpoint.fingerprint(GOLDEN / "prose_small.pth")
    flow, want = models.load(url, head_dim=16), models.load(GOLDEN / "prose_small.pth", head_dim=16)
    assert flow.scale_nm == 0.28  # by its name
    for a, b in zip(flow.state_dict().values(), want.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("file", ["robin.ckpt", "single/arbg_AAA.pth"])
def test_files_of_robin_resolve(cache: Path, file: str) -> None:
    repository = cache / "hub" / "models--danyalrehman17--robin-transferable"
    snapshot = repository / "snapshots" / COMMIT / file
    snapshot.parent.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot.write_bytes((GOLDEN / "robin" / "robin_small.pth").read_bytes())
    url = f"hub://danyalrehman17/robin-transferable/{file}"
    assert models.locate(url).name == Path(file).name
    assert models.load(url, bins=(-4.5, 4.5), temperature=0.95, head_dim=16).config.coordinates == "binned"
    with pytest.raises(ValueError, match="does not say its bins and temperature"):
        models.load(url)


@pytest.mark.parametrize("revision", ["main", "v2"])
def test_a_file_that_cannot_be_had_says_how_to_get_it(cache: Path, revision: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        models.load(f"hub://{REPOSITORY}@{revision}/transferable/tarflow_up_to_8aa.pth")
    text = str(caught.value)
    assert "hub cannot be reached" in text
    assert f"https://huggingface.co/{REPOSITORY}/resolve/{revision}/transferable/tarflow_up_to_8aa.pth" in text
    assert "checkpoint=" in text


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("hub://transferable-samplers/model-weights", "names no file: write hub://ORG/REPO/PATH"),
        ("hub://transferable-samplers/model-weights/", "names no file"),
        ("hub://a--b..c/--x/file.pth", "no address on the hub"),
        ("hub://a/b/../../secret.pth", "no address on the hub"),
        ("https://huggingface.co/a/b/resolve/main/c.pth", "hub://ORG/REPO/PATH"),
    ],
)
def test_addresses_that_are_none(cache: Path, url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.locate(url)


def test_other_checkpoints_are_paths(tmp_path: Path) -> None:
    assert models.locate("outputs/x", tmp_path) == tmp_path / "outputs" / "x"
    assert models.locate(tmp_path / "y.pth", "/elsewhere") == tmp_path / "y.pth"
    assert models.locate("~/x") == Path.home() / "x"


def test_a_run_stands_for_its_flow(tmp_path: Path) -> None:
    flow = tmp_path / "run" / "checkpoint"
    flow.mkdir(parents=True)
    assert models.locate("run", tmp_path) == tmp_path / "run"
    (flow / "flow.json").touch()
    assert models.locate("run", tmp_path) == flow
    assert models.locate("run/checkpoint", tmp_path) == flow


def test_the_environment_says_where_and_whether(cache: Path, root: Path) -> None:
    """HF_HOME and HF_HUB_OFFLINE, as a user sets them; and without huggingface_hub a line that says so."""
    code = """
import sys
from models.hub import locate
if sys.argv[2:]:
    sys.modules["huggingface_hub"] = None
try:
    print(locate(sys.argv[1]))
except FileNotFoundError as error:
    print(error)
"""
    environment = os.environ | {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=root, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert Path(run(f"hub://{REPOSITORY}/{FILE}")).is_relative_to(cache)
    assert "pip install huggingface_hub" in run(f"hub://{REPOSITORY}/{FILE}", "without")
