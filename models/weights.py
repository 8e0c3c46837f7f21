"""Flows on disk: our checkpoint folders, and the public `.pth` state dicts.

A checkpoint is a folder with `model.safetensors` and `flow.json` (configuration, scale, provenance).
"""

import hashlib
import json
import pickle
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.config import FlowConfig
from models.flow import Flow

WEIGHTS, DESCRIPTION = "model.safetensors", "flow.json"
FORMAT_VERSION = 1
PUBLIC_SCALE_NM = 0.35  # of the published 2-8 residue weights

# Public name → ours, tried in this order on the part after `blocks.K.attn_blocks.L.`.
_LAYER_NAMES = (
    ("mha.adaln.norm_cond.", "norm1.norm."),
    ("mha.adaln.to_gamma.0.", "norm1.scale."),
    ("mha.adaln.to_beta.", "norm1.shift."),
    ("mha.mha.attention.q_layer_norm.", "attention.q_norm."),
    ("mha.mha.attention.k_layer_norm.", "attention.k_norm."),
    ("mha.mha.attention.", "attention."),
    ("mha.mha.mlp.main.0.", "mlp.up."),
    ("mha.mha.mlp.main.2.", "mlp.down."),
    ("mha.mha.mlp.", "mlp."),
    ("mha.scale_output.to_adaln_zero_gamma.0.", "gate1."),
    ("transition.adaln.norm_cond.", "norm2.norm."),
    ("transition.adaln.to_gamma.0.", "norm2.scale."),
    ("transition.adaln.to_beta.", "norm2.shift."),
    ("transition.transition.swish_linear.0.", "transition.up."),
    ("transition.transition.linear_out.", "transition.down."),
    ("transition.scale_output.to_adaln_zero_gamma.0.", "gate2."),
    ("attention.q_layer_norm.", "attention.q_norm."),
    ("attention.k_layer_norm.", "attention.k_norm."),
    ("mlp.main.0.", "mlp.up."),
    ("mlp.main.2.", "mlp.down."),
)
_NAMES = (
    ("cond_embed.atom_embed.", "embedding.atom."),
    ("cond_embed.residue_embed.", "embedding.residue."),
    ("cond_embed.mlp.", "embedding.mlp."),
)


def save(flow: Flow, folder: str | Path, provenance: Mapping[str, Any] | None = None) -> Path:
    """Write a checkpoint folder, whole or not at all.

    `provenance` is kept as it is under that key of flow.json (data fingerprint, step, versions …).
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        state = {name: value.detach().cpu().contiguous() for name, value in flow.state_dict().items()}
        save_file(state, Path(temporary) / WEIGHTS)
        description = {
            "format": FORMAT_VERSION,
            "config": asdict(flow.config),
            "scale_nm": flow.scale_nm,
            "provenance": dict(provenance or {}),
        }
        (Path(temporary) / DESCRIPTION).write_text(json.dumps(description, indent=1))
        folder.mkdir(exist_ok=True)
        for name in (WEIGHTS, DESCRIPTION):
            (Path(temporary) / name).replace(folder / name)
    return folder


def load(path: str | Path, *, head_dim: int | None = None, scale_nm: float | None = None) -> Flow:
    """A flow from one of our checkpoint folders, or from a public `.pth`.

    The architecture of a `.pth` is read off its weights; only `head_dim` leaves no trace there (64, or the whole
    width of a smaller network, unless given), nor does the scale (0.35 nm unless given).

    Raises: FileNotFoundError with what to do; ValueError naming a key that is missing, left over or misshapen.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path)
    if not path.exists():
        raise FileNotFoundError(
            f"no checkpoint at {path}: train one (python jobs/train.py), or give checkpoint= a folder "
            f"with {WEIGHTS}, or a public .pth file"
        )
    return from_public(_read_pth(path), head_dim=head_dim, scale_nm=scale_nm or PUBLIC_SCALE_NM)


def describe(folder: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint's flow.json."""
    path = Path(folder) / DESCRIPTION
    if not path.exists():
        raise FileNotFoundError(f"{folder} is no checkpoint: it has no {DESCRIPTION}")
    description: dict[str, Any] = json.loads(path.read_text())
    if description.get("format") != FORMAT_VERSION:
        raise ValueError(f"{path} has format {description.get('format')}, this version reads {FORMAT_VERSION}")
    return description


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a checkpoint's weights, which says whether results were made with them."""
    path = Path(path)
    with (path / WEIGHTS if path.is_dir() else path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_folder(folder: Path) -> Flow:
    from safetensors.torch import load_file

    description = describe(folder)
    config = FlowConfig(**{**description["config"], "orderings": tuple(description["config"]["orderings"])})
    flow = Flow(config, description["scale_nm"])
    _fill(flow, load_file(folder / WEIGHTS), str(folder))
    return flow.eval()


def _fill(flow: Flow, state: Mapping[str, Tensor], source: str) -> None:
    expected = flow.state_dict()
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or extra:
        kind, name = ("lacks", missing[0]) if missing else ("has the unknown key", extra[0])
        raise ValueError(f"{source} {kind} {name} ({len(missing)} missing, {len(extra)} left over)")
    for name, value in state.items():
        if value.shape != expected[name].shape:
            shapes = f"{tuple(value.shape)}, expected {tuple(expected[name].shape)}"
            raise ValueError(f"{source}: {name} has shape {shapes}")
    flow.load_state_dict(dict(state))


def _read_pth(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than weights, and is refused: it could run code when opened") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} is no state dict: expected names and tensors")
    return state


def _strip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of the network itself: prefixes gone, the teacher's copy and constants left out."""
    result = {}
    for key, value in state.items():
        name = key.removeprefix("net.").removeprefix("_orig_mod.")
        if not key.startswith("teacher.") and not name.endswith("attn_mask"):
            result[name] = value
    return result


def _our_name(name: str) -> str:
    for theirs, ours in _NAMES:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    match = re.fullmatch(r"blocks\.(\d+)\.attn_blocks\.(\d+)\.(.+)", name)
    if match:
        k, layer, rest = match.groups()
        for theirs, ours in _LAYER_NAMES:
            if rest.startswith(theirs):
                rest = ours + rest.removeprefix(theirs)
                break
        return f"blocks.{k}.layers.{layer}.{rest}"
    return name.replace(".pos_embed_scale", ".position_scale")


def from_public(state: Mapping[str, Tensor], *, head_dim: int | None, scale_nm: float) -> Flow:
    """A flow from a public state dict; every key is accounted for."""
    weights = {_our_name(name): value for name, value in _strip(state).items()}
    if "embedding.atom.weight" not in weights:
        raise ValueError("no transferable flow: net.cond_embed.atom_embed.weight is missing")
    channels = weights["embedding.atom.weight"].shape[1]

    def count(pattern: str) -> int:
        found = [int(m[1]) for name in weights if (m := re.match(pattern, name))]
        return max(found, default=-1) + 1

    config = FlowConfig(
        channels=channels,
        head_dim=head_dim or min(64, channels),
        blocks=count(r"blocks\.(\d+)\."),
        layers_per_block=count(r"blocks\.0\.layers\.(\d+)\."),
        adaptive="blocks.0.layers.0.norm1.scale.weight" in weights,
        lookahead="blocks.0.proj_cond.2.weight" in weights,
    )
    flow = Flow(config, scale_nm)
    weights = {n: v.reshape(()) if n.endswith("position_scale") and v.numel() == 1 else v for n, v in weights.items()}
    _fill(flow, weights, "the public state dict")
    return flow.eval()
