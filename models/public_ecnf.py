"""Public weights of ECNF and ECNF++: keys `net.egnn.…`, whose shapes say nearly all of the network.

They leave open how lengths were scaled, where the file's name does not tell it, and which atoms of a single system
share a type. Of the published ones only the types of Ace-A-Nme are known.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .config import FlowConfig, GraphConfig
from .description import check_scale
from .ecnf import ATOMS, RESIDUES, n_features, system_types
from .flow import Flow
from .public_robin import SCALE_UNSAID

NETWORK = "egnn."  # after `net.`
SHORTEST = 2  # residues of all published transferable ones
KNOWN_SYSTEM = "ACE-A-NME"
# In the order of its file, 22 atoms: those with the same number are taken for the same.
KNOWN_TYPES = (0, 2, 2, 2, 4, 5, 6, 7, 8, 9, 10, 12, 12, 12, 14, 15, 16, 17, 18, 20, 20, 20)


def is_ecnf(state: Mapping[str, Tensor]) -> bool:
    """Return True for weights of this kind, without their prefix `net.`."""
    return f"{NETWORK}embedding.weight" in state


def public_name(name: str) -> str:
    """The public name, without `net.`, of a parameter of ours."""
    return NETWORK + name.removeprefix("network.").replace("layers.", "gcl_")


def check_public(flow: Flow) -> None:
    """Raises: ValueError for a flow that a reader of its public weights would take for another."""
    graph, single = flow.config.graph, flow.config.system
    assert graph is not None
    if not single and graph.shortest != SHORTEST:
        raise ValueError(
            f"public weights begin at {SHORTEST} residues, and this flow takes {graph.shortest} to {graph.longest}: "
            "keep the checkpoint folder"
        )
    if single and n_features(flow.config) > ATOMS + RESIDUES:
        raise ValueError(
            f"public weights of a single system have at most {ATOMS + RESIDUES} types of atoms, and this flow has "
            f"{n_features(flow.config)}: keep the checkpoint folder"
        )
    if flow.atom_order != ("file" if single else "iupac"):
        raise ValueError(
            f"public weights have no word for atoms in the order {flow.atom_order!r}: keep the checkpoint folder"
        )


def unsaid(flow: Flow) -> dict[str, Any]:
    """See `public.unsaid`; without the tolerance of the ODE, which is 1e-4 unless a configuration says otherwise."""
    facts: dict[str, Any] = {"scale_nm": flow.scale_nm}
    if flow.config.system:
        types = tuple(kind - 1 for kind in system_types(flow.config))
        facts |= {"system": flow.config.system, "atom_types": types}
    return facts


def outline(
    state: Mapping[str, Tensor], *, scale_nm: float | None, system: str, atom_types: Sequence[int] | None, source: str
) -> Flow:
    """The flow of these weights on the meta device. Raises: ValueError that says what must be given besides."""
    weight = state[f"{NETWORK}embedding.weight"]
    if weight.ndim != 2 or not weight.numel():
        raise ValueError(f"{source}: {NETWORK}embedding.weight has shape {tuple(weight.shape)}, expected a matrix")
    channels, features = weight.shape[0], weight.shape[1] - 1  # the last one is the time
    layers = len({name.split(".")[1] for name in state if name.startswith(f"{NETWORK}gcl_")})
    if features <= ATOMS + RESIDUES:
        name, types = _single(features, system, atom_types, source)
        graph, atoms = GraphConfig(atom_types=types), len(types)
    else:
        name, graph, atoms = "", _transferable(features, source), 0
        if system or atom_types:
            raise ValueError(f"{source} is a transferable flow: leave system= and atom_types= out")
    if scale_nm is None:
        scale_nm = {2: 0.21, 4: 0.28}.get(graph.longest) if not name else None
    if scale_nm is None:
        raise ValueError(f"{source} does not say how lengths were scaled: {SCALE_UNSAID}")
    check_scale(scale_nm)
    config = FlowConfig(channels=channels, layers_per_block=layers, system=name, system_atoms=atoms, graph=graph)
    with torch.device("meta"):
        flow = Flow(config, scale_nm)
    flow.atom_order = "file" if name else "iupac"
    return flow


def _transferable(features: int, source: str) -> GraphConfig:
    """Peptides of 2 to L residues: L numbers for the position of a residue, and L − 1 for the length if L > 2."""
    found = features - ATOMS - RESIDUES
    longest = (found + 1) // 2
    if found == SHORTEST:
        return GraphConfig(shortest=SHORTEST, longest=SHORTEST)
    if found % 2 == 0 or longest <= SHORTEST:
        raise ValueError(
            f"{source} has {features} features of an atom: they fit no peptides of {SHORTEST} residues and more"
        )
    return GraphConfig(shortest=SHORTEST, longest=longest)


def _single(features: int, system: str, atom_types: Sequence[int] | None, source: str) -> tuple[str, tuple[int, ...]]:
    name = system.upper()
    if atom_types is None and features == max(KNOWN_TYPES) + 1 and name in ("", KNOWN_SYSTEM):
        return KNOWN_SYSTEM, KNOWN_TYPES
    if not name:
        raise ValueError(f"{source} is the flow of a single system: give system=, its sequence (such as AAA)")
    if atom_types is None:
        raise ValueError(
            f"{source} does not say which atoms of {name} share a type: give atom_types=, a number from 0 to "
            f"{features - 1} for each atom, in the order of its file"
        )
    types = tuple(int(kind) for kind in atom_types)
    if not types or max(types) != features - 1:
        raise ValueError(f"{source} knows {features} types of atoms: atom_types= must end at {features - 1}")
    return name, types
