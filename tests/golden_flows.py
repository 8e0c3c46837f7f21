"""Flows to test: random ones away from zero, and peptides with what a flow needs of them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from boltzray.models import Flow, FlowConfig

GOLDEN = Path(__file__).parent / "golden"


def peptide(archive: Any, sequence: str) -> Any:
    """A stand-in with the golden encodings and orderings: flows ask for nothing else."""
    parts: dict[str, dict[str, np.ndarray]] = {"encodings": {}, "permutations": {}}
    for key in archive.files:
        name, *rest = key.split("/")
        if name == sequence and rest[0] in parts:
            parts[rest[0]][rest[1]] = archive[key]
    return SimpleNamespace(sequence=sequence, encodings=parts["encodings"], orderings=parts["permutations"])


def lone_peptide(name: str, n_atoms: int) -> Any:
    """A stand-in for a peptide outside the vocabulary: a name and a number of atoms."""
    return SimpleNamespace(sequence=name, n_atoms=n_atoms, encodings={}, orderings={})


def random_flow(seed: int = 0, **config: Any) -> Flow:
    """A float64 flow whose every parameter is away from its initial value."""
    torch.manual_seed(seed)
    blocks = 1 if config.get("coordinates") == "internal" else 2
    flow = Flow(FlowConfig(**({"channels": 16, "head_dim": 8, "blocks": blocks, "layers_per_block": 2} | config)))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return flow.double().requires_grad_(False).eval()
