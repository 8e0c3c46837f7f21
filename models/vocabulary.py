"""A flow that goes on with a wider vocabulary: what is added begins as what is most like it."""

import torch

from boltzray.molecules.residues import ATOM_INDEX, PUBLIC_RESIDUES, RESIDUE_INDEX, STATES
from boltzray.molecules.zmatrix import widened

from .config import FlowConfig
from .flow import Flow

_RESIDUES = {"ACE": "ALA", "NME": "ALA", **{state: usual for state, (usual, *_) in STATES.items()}}
_ATOMS = {"CH3": "CB", "HM": "HB"}


@torch.no_grad()
def widen(flow: Flow, config: FlowConfig) -> Flow:
    """A copy of `flow` with `config`, which differs from its own by a wider vocabulary alone; or the flow itself.

    Of residues that it knew its density is the same. The embeddings of those that are new are those of their kin.
    """
    if config == flow.config:
        return flow
    wider = Flow(config, flow.scale_nm, flow.geometry and widened(flow.geometry))
    wider.atom_order = flow.atom_order
    state = {name: value.clone() for name, value in flow.state_dict().items()}
    for table, index, like in (("atom", ATOM_INDEX, _ATOMS), ("residue", RESIDUE_INDEX, _RESIDUES)):
        rows = state[f"embedding.{table}.weight"]
        rows[[index[name] for name in like]] = rows[[index[name] for name in like.values()]]
    wider.load_state_dict(state)
    return wider


def train_added_only(flow: Flow) -> None:
    """Let gradients reach the vectors of what vocabulary 2 adds alone: the density of all else keeps its bits.

    An optimiser must have no weight decay then.
    """
    flow.requires_grad_(False)
    for table, known in (("atom", max(ATOM_INDEX.values()) - len(_ATOMS)), ("residue", PUBLIC_RESIDUES)):
        weight = flow.get_parameter(f"embedding.{table}.weight")
        added = (torch.arange(len(weight)) > known).to(weight)[:, None]
        weight.requires_grad_(True).register_hook(lambda gradient, added=added: gradient * added.to(gradient.device))
