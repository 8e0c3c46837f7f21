"""What several rooms' tests share: real data that lies in the repository, and one small Ray cluster."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from boltzray.runtime.environment import prepare  # noqa: E402

os.environ.pop("RAY_ADDRESS", None)  # never somebody's cluster
prepare()


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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results' home of its own, with its own MLflow store."""
    monkeypatch.setenv("BOLTZRAY_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster of four logical CPUs for the whole session."""
    import ray

    from boltzray.runtime.cluster import ClusterConfig, cluster

    with cluster(ClusterConfig(num_cpus=4), dashboard=True):
        yield
    assert not ray.is_initialized()
