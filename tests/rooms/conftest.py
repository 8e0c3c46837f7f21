"""Shared by the tests of rooms: the density to sample."""

from pathlib import Path

import pytest

from boltzray.sampling.target import Target


@pytest.fixture(scope="session")
def target(data: Path) -> Target:
    return Target(pdb=(data / "pdbs" / "test" / "AA.pdb").read_text(), temperature_k=310.0)
