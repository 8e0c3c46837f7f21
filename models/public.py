"""The public `.pth` state dicts, both ways. Their keys carry `net.` before the names listed here.

The architecture is read off names and shapes, and every key is accounted for: one missing, left over or misshapen is
an error that names it. Only the number of heads and the scale leave no trace in the weights.

No published description names the key of a single system's learned positions: written is `blocks.K.pos_embed`, read is
whatever the only matrix is called that is a block's own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import public_ecnf, public_robin
from .config import FlowConfig
from .description import check_scale
from .flow import Flow
from .public_robin import RobinFacts

SCALE_UNSAID = public_robin.SCALE_UNSAID
SCALES_NM = {2: 0.21, 4: 0.28, 8: 0.35}  # σ of the published data by longest peptide
PREFIX = "net."
EMBEDDING = "cond_embed.atom_embed.weight"  # of transferable flows

# Ours → public: the parts of a layer, then of attention and MLP, then of the flow.
_ADAPTIVE_LAYER = {
    "norm1.norm": "mha.adaln.norm_cond",
    "norm1.scale": "mha.adaln.to_gamma.0",
    "norm1.shift": "mha.adaln.to_beta",
    "attention": "mha.mha.attention",
    "mlp": "mha.mha.mlp",
    "gate1": "mha.scale_output.to_adaln_zero_gamma.0",
    "norm2.norm": "transition.adaln.norm_cond",
    "norm2.scale": "transition.adaln.to_gamma.0",
    "norm2.shift": "transition.adaln.to_beta",
    "transition.up": "transition.transition.swish_linear.0",
    "transition.down": "transition.transition.linear_out",
    "gate2": "transition.scale_output.to_adaln_zero_gamma.0",
}
_PLAIN_LAYER = {"attention": "attention", "mlp": "mlp"}
_INNER = {
    "attention.q_norm": "attention.q_layer_norm",
    "attention.k_norm": "attention.k_layer_norm",
    "mlp.up": "mlp.main.0",
    "mlp.down": "mlp.main.2",
}
_OUTER = {
    "embedding.atom": "cond_embed.atom_embed",
    "embedding.residue": "cond_embed.residue_embed",
    "embedding.mlp": "cond_embed.mlp",
}
_BLOCK = {"position_scale": "pos_embed_scale", "position": "pos_embed"}


def _renamed(name: str, table: Mapping[str, str]) -> str:
    """`name` with the first key of `table` that begins it, up to a dot, exchanged."""
    for ours, theirs in table.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    return name


def public_name(name: str, *, adaptive: bool) -> str:
    """The public name, without prefix, of a parameter of ours."""
    if match := re.fullmatch(r"blocks\.(\d+)\.layers\.(\d+)\.(.+)", name):
        k, layer, rest = match.groups()
        rest = _renamed(rest, _INNER)
        return f"blocks.{k}.attn_blocks.{layer}.{_renamed(rest, _ADAPTIVE_LAYER if adaptive else _PLAIN_LAYER)}"
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
        return f"blocks.{match[1]}.{_renamed(match[2], _BLOCK)}"
    return _renamed(name, _OUTER)


def to_public(flow: Flow) -> dict[str, Tensor]:
    """The flow's weights by their public keys; constants of the public files are left out.

    What `unsaid` lists must be given to who loads them.
    Raises: ValueError where a reader would take another order of the atoms for this flow's, other coordinates, or
    another centre of mass or other lengths than it was trained on, which nobody can tell it.
    """
    if kind := _kind(flow):
        kind.check_public(flow)
        weights = flow.state_dict().items()
        return {PREFIX + kind.public_name(name): value.detach().cpu().clone() for name, value in weights}
    if flow.config.coordinates != "cartesian":
        raise ValueError("the public format knows Cartesian flows only: keep the checkpoint folder")
    if flow.config.orderings != replace(flow.config, orderings=()).orderings:
        raise ValueError("public weights do not say in which orderings atoms are visited: keep the checkpoint folder")
    result = {}
    for name, value in flow.state_dict().items():
        key = PREFIX + public_name(name, adaptive=flow.config.adaptive)
        result[key] = value.detach().cpu().reshape(value.shape or (1,)).clone()
    return result


def unsaid(flow: Flow) -> dict[str, Any]:
    """Settings that public weights leave open: `load` must be given them to make this flow of them again."""
    if kind := _kind(flow):
        facts: dict[str, Any] = kind.unsaid(flow)
        return facts
    system = {"system": flow.config.system} if flow.config.system else {}
    return {"head_dim": flow.config.head_dim, "scale_nm": flow.scale_nm, **system}


def from_public(
    state: Mapping[str, Tensor],
    *,
    head_dim: int | None = None,
    scale_nm: float | None = None,
    system: str = "",
    source: str = "the state dict",
    finite: bool = True,
    atom_types: Sequence[int] | None = None,
    robin: RobinFacts | None = None,
) -> Flow:
    """A flow from a public state dict. `head_dim`: 64, or the whole width of a smaller network, unless given.

    `finite`: look whether all weights are. `atom_types`: of an ECNF of a single system. `robin`: further facts, of
    weights of a flow over bins.

    Raises: ValueError naming a key that is missing, left over or misshapen; or what must be given besides.
    """
    state = network_of(state)
    ecnf, binned = public_ecnf.is_ecnf(state), public_robin.is_robin(state)
    if atom_types and not ecnf:
        raise ValueError(f"{source} is no ECNF: leave atom_types= out")
    if robin and (robin.bins or robin.temperature or robin.atom_order) and not binned:
        raise ValueError(f"{source} is no flow over bins: leave bins=, temperature= and atom_order= out")
    if ecnf:
        if head_dim is not None:
            raise ValueError(f"{source} has no attention: leave head_dim= out")
        known = {"scale_nm": scale_nm, "system": system, "atom_types": atom_types}
        flow = public_ecnf.outline(state, **known, source=source)  # type: ignore[arg-type]
        fill(flow, state, source, {name: public_ecnf.public_name(name) for name in flow.state_dict()}, finite=finite)
        return flow.eval()
    if binned:
        facts = replace(robin or RobinFacts(), head_dim=head_dim, scale_nm=scale_nm)
        flow = public_robin.robin_flow(state, facts, system, source)
        names = {name: public_robin.public_name(name) for name in flow.state_dict()}
        fill(flow, public_robin.weights_of(state), source, names, finite=finite)
        return flow.eval()
    state = _positions_named(state)
    config = _config(state, head_dim, system, source)
    if scale_nm is None:
        if config.system:
            raise ValueError(f"{source} does not say how lengths were scaled: {SCALE_UNSAID}")
        scale_nm = SCALES_NM[8]
    with torch.device("meta"):
        flow = Flow(config, scale_nm)
    check_scale(scale_nm)
    flow.atom_order = "file" if config.system else "iupac"
    names = {name: public_name(name, adaptive=config.adaptive) for name in flow.state_dict()}
    fill(flow, state, source, names, finite=finite)
    return flow.eval()


def fill(
    flow: Flow, state: Mapping[str, Tensor], source: str, names: Mapping[str, str], *, finite: bool = True
) -> None:
    """Give a flow on the meta device its weights; `names` says what each is called in `state`.

    `finite`: look whether all are, which reads them. Raises: ValueError with the name of one that does not fit.
    """
    expected = flow.state_dict()
    missing = [names[name] for name in expected if names[name] not in state]
    extra = sorted(state.keys() - set(names.values()))
    if missing or extra:
        facts = [f"lacks {name}" for name in missing[:1]] + [f"has the unknown key {name}" for name in extra[:1]]
        raise ValueError(f"{source} {' and '.join(facts)} ({len(missing)} missing, {len(extra)} left over)")
    weights = {}
    for name, want in expected.items():
        value = state[names[name]]
        if value.shape != want.shape and value.squeeze(0).shape != want.shape:
            shapes = f"{tuple(value.shape)}, expected {tuple(want.shape)}"
            raise ValueError(f"{source}: {names[name]} has shape {shapes}")
        if not value.is_floating_point() or value.layout != torch.strided:
            raise ValueError(f"{source}: {names[name]} holds {value.dtype}, {value.layout}: expected plain floats")
        if finite and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{source}: {names[name]} holds NaN or infinity: take an earlier checkpoint")
        weights[name] = value.reshape(want.shape).to(torch.float32)
    flow.load_state_dict(weights, assign=True)


def network_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the network itself: prefixes gone, the teacher's copy and constants left out."""
    result = {}
    for key, value in state.items():
        name = key.removeprefix(PREFIX).removeprefix("_orig_mod.")
        if not key.startswith("teacher.") and not name.endswith(".attn_mask"):
            result[name] = value
    return result


def _kind(flow: Flow) -> ModuleType | None:
    """The module that knows the public keys, of a flow of another kind than those of this one."""
    return public_ecnf if flow.config.graph else public_robin if flow.config.coordinates == "binned" else None


def _positions_named(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A single system's weights with the name of learned positions that is used here."""
    own = re.compile(r"blocks\.(\d+)\.((?!proj_)\w+(?:\.weight)?)")
    found = {name: match for name, value in state.items() if value.ndim > 1 and (match := own.fullmatch(name))}
    if EMBEDDING in state or len({match[2] for match in found.values()}) != 1:
        return state
    return {f"blocks.{found[name][1]}.pos_embed" if name in found else name: v for name, v in state.items()}


def _config(state: Mapping[str, Tensor], head_dim: int | None, system: str, source: str) -> FlowConfig:
    def count(pattern: str) -> int:
        return len({match[1] for name in state if (match := re.match(pattern, name))})

    entry, positions = state.get("blocks.0.proj_in.weight"), state.get("blocks.0.pos_embed")
    if entry is None or entry.ndim != 2 or not entry.numel() or entry.shape[1] not in (1, 3):
        found = f" (its first key is {min(state)})" if state else ""
        raise ValueError(f"{source} is no flow of a kind known here: blocks.0.proj_in.weight is missing or odd{found}")
    channels, token_dim = entry.shape
    single = EMBEDDING not in state and positions is not None
    if single and not system:
        raise ValueError(f"{source} is the flow of a single system: give system=, its sequence (such as ACE-A-NME)")
    return FlowConfig(
        channels=channels,
        head_dim=head_dim or min(64, channels),
        blocks=count(r"blocks\.(\d+)\."),
        layers_per_block=count(r"blocks\.0\.attn_blocks\.(\d+)\."),
        adaptive="blocks.0.attn_blocks.0.mha.adaln.to_gamma.0.weight" in state,
        lookahead="blocks.0.proj_cond.2.weight" in state,
        system=system.upper() if single else "",
        system_atoms=positions.shape[-2] * token_dim // 3 if single and positions is not None else 0,
        token="coordinate" if single and token_dim == 1 else "atom",
    )
