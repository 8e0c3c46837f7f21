"""Golden vectors, loaded once."""

from typing import Any

import numpy as np
import pytest

from golden_flows import GOLDEN


@pytest.fixture(scope="session")
def archives() -> dict[str, Any]:
    return {name: np.load(GOLDEN / f"{name}.npz") for name in ("prose_small", "tarflow_small")}
