"""The public weights of Robin (ArBG), both ways. Their keys carry `net.` before the names listed here.

Sizes are read off names and shapes. Left open are the number of heads, the range of the bins, the temperature and the
scale: of a Lightning checkpoint they stand in its hyper-parameters (`lightning`), otherwise they must be given.
Source: Robin (arXiv 2606.27361).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .config import FlowConfig
from .description import check_scale
from .flow import Flow

TOKENS, PLACES, CONDITION = "token_embed.weight", "atom_pos_embed.weight", "cond_embed.atom_embed.weight"
SCALE_NM = 0.35  # of the transferable one, up to 8 residues
SCALE_UNSAID = "give scale_nm= to models.load, or to jobs/convert.py, whose folder says it"
PUBLISHED_HEADS = {256: 32, 512: 64, 768: 64}  # head_dim by width, of the published sizes
AtomOrder = Literal["amber", "file"]
_NAMES = {  # ours → public
    r"network\.token\.(.+)": r"token_embed.\1",
    r"network\.dimension\.(.+)": r"coord_dim_embed.\1",
    r"network\.place\.(.+)": r"atom_pos_embed.\1",
    r"network\.embedding\.(atom|residue)\.(.+)": r"cond_embed.\1_embed.\2",
    r"network\.embedding\.mlp\.(.+)": r"cond_embed.proj.\1",
    r"network\.look\.(.+)": r"global_cond_attn.\1",
    r"network\.layers\.(\d+)\.attention\.norm\.(.+)": r"blocks.\1.norm1.\2",
    r"network\.layers\.(\d+)\.attention\.qkv\.(.+)": r"blocks.\1.attn.qkv.\2",
    r"network\.layers\.(\d+)\.attention\.proj\.(.+)": r"blocks.\1.attn.out_proj.\2",
    r"network\.layers\.(\d+)\.mlp\.norm\.(.+)": r"blocks.\1.norm2.\2",
    r"network\.layers\.(\d+)\.mlp\.gate\.(.+)": r"blocks.\1.ff.net.0.w1.\2",
    r"network\.layers\.(\d+)\.mlp\.value\.(.+)": r"blocks.\1.ff.net.0.w2.\2",
    r"network\.layers\.(\d+)\.mlp\.down\.(.+)": r"blocks.\1.ff.net.2.\2",
    r"network\.norm\.(.+)": r"final_norm.\1",
    r"network\.head\.(.+)": r"output_proj.\1",
}
_CONSTANTS = re.compile(r"pos_embed\.pe|blocks\.\d+\.attn\.causal_mask")


@dataclass(frozen=True, kw_only=True)
class RobinFacts:
    """Facts that the weights of Robin do not tell; None where nothing is known.

    `bins`: centres of the first and of the last bin; `temperature` of the logits; `atom_order`: `amber`, of the
    residue templates that AmberTools writes, or `file`, as atoms are given.
    """

    head_dim: int | None = None
    scale_nm: float | None = None
    bins: tuple[float, float] | None = None
    temperature: float | None = None
    atom_order: AtomOrder | None = None

    def filled(self, numbers: Mapping[str, Any]) -> "RobinFacts":
        """These facts, and what is missing from the hyper-parameters of a checkpoint, by the last part of their key."""
        found: dict[str, set[float]] = {}
        for key, value in numbers.items():
            found.setdefault(key.rpartition(".")[2], set()).add(value)

        def only(*names: str) -> Any:
            values = set().union(*(found.get(name, set()) for name in names))
            return values.pop() if len(values) == 1 else None

        ends = only("discretize_min"), only("discretize_max")
        head_dim = only("head_dim")
        return RobinFacts(
            head_dim=self.head_dim or (int(head_dim) if head_dim else None),
            scale_nm=self.scale_nm,
            bins=self.bins or (None if None in ends else ends),
            temperature=self.temperature or only("temperature", "sampling_temperature"),
            atom_order=self.atom_order,
        )


def is_robin(state: Mapping[str, Tensor]) -> bool:
    """Return True for weights, without prefixes, of a network over bins."""
    return TOKENS in state


def public_name(name: str) -> str:
    """The public name, without prefix, of a parameter of ours."""
    for pattern, theirs in _NAMES.items():
        if re.fullmatch(pattern, name):
            return re.sub(pattern, theirs, name)
    raise KeyError(name)


def check_public(flow: Flow) -> None:
    """Raises: ValueError for a flow that a reader of its public weights would take for another."""
    config, single = flow.config, bool(flow.config.system_atoms)
    center, order = _center(single), "file" if single or config.orderings == ("identity",) else "iupac"
    if config.center != center:
        raise ValueError(
            f"public weights of {'a single system' if single else 'a transferable Robin'} are of frames whose centre "
            f"is {center}, and this flow's is {config.center}: keep the checkpoint folder"
        )
    if flow.atom_order != order:
        raise ValueError(
            f"public weights have no word for atoms in the order {flow.atom_order!r}: keep the checkpoint folder"
        )


def unsaid(flow: Flow) -> dict[str, Any]:
    """See `public.unsaid`."""
    config = flow.config
    order: dict[str, Any] = {"system": config.system} if config.system_atoms else {}
    if not config.system_atoms and config.orderings == ("identity",):
        order = {"atom_order": "file"}
    facts = {"bins": config.bin_range, "temperature": config.temperature}
    return {"head_dim": config.head_dim, "scale_nm": flow.scale_nm, **facts, **order}


def robin_flow(state: Mapping[str, Tensor], facts: RobinFacts, system: str, source: str) -> Flow:
    """A flow on the meta device for weights without prefixes, its atoms in the order that they were trained on.

    Raises: ValueError that names what must be given besides, or which key is missing.
    """
    config = _config(state, facts, system, source)
    single = bool(config.system_atoms)
    scale_nm = facts.scale_nm or (None if single else SCALE_NM)
    if scale_nm is None:
        raise ValueError(f"{source} does not say how lengths were scaled: {SCALE_UNSAID}")
    check_scale(scale_nm)
    with torch.device("meta"):
        flow = Flow(config, scale_nm)
    if config.orderings == ("identity",):
        flow.atom_order = "file"
    return flow


def weights_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without constants, which are computed here."""
    return {name: value for name, value in state.items() if not _CONSTANTS.fullmatch(name)}


def _config(state: Mapping[str, Tensor], facts: RobinFacts, system: str, source: str) -> FlowConfig:
    tokens, places = state[TOKENS], state.get(PLACES)
    if places is None or tokens.ndim != 2 or places.ndim != 2:
        raise ValueError(f"{source} is no flow over bins of a kind known here: {PLACES} is missing or odd")
    wanted = {"bins": facts.bins, "temperature": facts.temperature}
    if missing := [name for name, value in wanted.items() if value is None]:
        example = {"bins": "bins=(-4.5, 4.5), from the first to the last bin", "temperature": "temperature=0.95"}
        what = " and ".join(example[name] for name in missing)
        raise ValueError(
            f"{source} does not say its {' and '.join(missing)}: give {what} to models.load, or to jobs/convert.py, "
            "whose folder says it"
        )
    assert facts.bins is not None
    assert facts.temperature is not None
    count, channels = tokens.shape
    single = CONDITION not in state
    order = facts.atom_order or ("file" if single else "amber")
    if order not in ("amber", "file"):
        raise ValueError(f"atom_order={order!r} is unknown: choose amber or file")
    if single and order == "amber":
        raise ValueError(f"{source} is of a single system, whose atoms are in the order of a file: atom_order=file")
    return FlowConfig(
        coordinates="binned",
        channels=channels,
        head_dim=facts.head_dim or PUBLISHED_HEADS.get(channels, min(64, channels)),
        blocks=1,
        layers_per_block=len({match[1] for name in state if (match := re.match(r"blocks\.(\d+)\.", name))}),
        orderings=("amber" if order == "amber" else "identity",),
        system=system.upper() if single else "",
        system_atoms=len(places) if single else 0,
        bins=count,
        bin_range=(float(facts.bins[0]), float(facts.bins[1])),
        temperature=float(facts.temperature),
        max_atoms=len(places),
        center=_center(single),
    )


def _center(single: bool) -> Literal["gaussian", "zero"]:
    """Of the frames that public weights were trained on."""
    return "gaussian" if single else "zero"
