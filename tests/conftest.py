"""Shared by the tests of several rooms: data of the repository, results' homes, one small Ray cluster, two workers."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from boltzray.runtime.environment import prepare  # noqa: E402

os.environ.pop("RAY_ADDRESS", None)  # never somebody's cluster
os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when it is imported: two workers of pytest share the cores
prepare()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep all that runs Ray on one worker of pytest-xdist: two clusters at once would fight for the cores."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if "ray_cluster" in getattr(item, "fixturenames", ()) or item.get_closest_marker("ray"):
                item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let the worker with the tests of Ray, which takes longest, go first on the cores."""
    if os.environ.get("PYTEST_XDIST_WORKER") and not os.nice(0) and "@ray" not in item.nodeid:
        os.nice(10)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
    """End the run where groups are lost without a word, as with a pytest that pytest-xdist does not know."""
    grouped = node.config.getoption("dist") == "loadgroup"
    if grouped and any("test_actor_pool.py" in name and not name.endswith("@ray") for name in ids):
        pytest.exit("pytest-xdist keeps no group of tests on one worker: see pytest in pyproject.toml", returncode=4)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def golden() -> Path:
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def data() -> Path:
    """Real MD of a few peptides, in the public layout."""
    return ROOT / "tests" / "data"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs: to make one takes seconds, to copy it nothing."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def use_as_home(folder: Path, store: Path, patch: pytest.MonkeyPatch) -> Path:
    """Make `folder` the results' home of this process, with an MLflow store of its own."""
    shutil.copy(store, folder / "mlflow.db")
    patch.setenv("BOLTZRAY_HOME", str(folder))
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")  # MLflow itself sets it, and leaves it so
    return folder


@pytest.fixture
def home(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results' home of its own, with its own MLflow store."""
    return use_as_home(tmp_path, empty_store, monkeypatch)


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    """A results' home that the tests of a module share, with its own MLflow store."""
    with pytest.MonkeyPatch.context() as patch:
        yield use_as_home(tmp_path_factory.mktemp("home"), empty_store, patch)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small flow, away from the identity."""
    import torch

    from boltzray import models

    torch.manual_seed(0)
    flow = models.Flow(models.FlowConfig(channels=16, head_dim=8, blocks=2, layers_per_block=1), scale_nm=0.17)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return models.save(flow, tmp_path_factory.mktemp("flow") / "checkpoint", {"step": 1})


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster of four logical CPUs for the whole session, which reports metrics every second."""
    import ray

    from boltzray.runtime.cluster import ClusterConfig, cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "1000")
        with cluster(ClusterConfig(num_cpus=4), dashboard=True):
            yield
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def short_dynamics() -> Iterator[None]:
    """Measure usual bonds and angles of molecules in less dynamics than users do."""
    from boltzray.molecules import short_dynamics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(short_dynamics, "REPLICAS", 2)
        patch.setattr(short_dynamics, "TIME_PS", 1.0)
        yield
