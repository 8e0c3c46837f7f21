"""Read public `.pth` files, without executing anything in them, and write them."""

import pickle
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from boltzray.molecules.storage import replacing

from .flow import Flow
from .lightning import Refused, read_lightning
from .public import SCALES_NM, from_public, network_of, to_public
from .public_robin import RobinFacts, is_robin

_GLOBAL = re.compile(r"GLOBAL (\S+)")  # torch names so what it refuses


def load_public(
    path: Path,
    *,
    head_dim: int | None,
    scale_nm: float | None,
    system: str | None,
    mapped: bool = False,
    atom_types: Sequence[int] | None = None,
    robin: RobinFacts | None = None,
) -> Flow:
    """A flow from a public `.pth`; its name tells the scale (`_up_to_4aa`) and the system (`tarflow_SYSTEM_0`).

    `robin`: facts that files of a flow over bins leave open; hyper-parameters of a Lightning checkpoint tell them, too.
    Of other flows such numbers tell nothing that is known here, and are left alone.
    Raises: ValueError for any other file, naming what is wrong with it.
    """
    state, numbers = read_content(path, mapped)
    robin = robin or RobinFacts()
    if is_robin(network_of(state)):
        robin = replace(robin, head_dim=head_dim).filled(numbers)
        head_dim = robin.head_dim
    if system is None and (match := re.fullmatch(r"(?:tarflow|ecnf\+\+)_(?!up_to_)(.+)_\d+\.pth", path.name)):
        system = match[1]
    if scale_nm is None and (match := re.search(r"_up_to_(\d+)aa", path.name)):
        scale_nm = SCALES_NM.get(int(match[1]))
        if scale_nm is None:
            raise ValueError(f"{path}: the scale is known up to {list(SCALES_NM)} residues alone: give scale_nm=")
    given = {"head_dim": head_dim, "scale_nm": scale_nm, "system": system or "", "atom_types": atom_types}
    return from_public(state, **given, source=str(path), finite=not mapped, robin=robin)  # type: ignore[arg-type]


def write_public(flow: Flow, path: str | Path) -> Path:
    """Write a public `.pth`, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        torch.save(to_public(flow), temporary)
    return path


def read_content(path: Path, mapped: bool = False) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The state dict in a `.pth`, at its top or under `state_dict`, and numbers beside it. Nothing is executed.

    A Lightning checkpoint, with its network as a pickled object, is read with placeholders in its place: see
    `lightning`. `mapped`: leave the weights in the file, where its format allows that.
    Raises: ValueError for any other file with objects in it, which names them.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a git-lfs pointer, not the weights: run git lfs pull, or download the file itself")
    if head.lstrip().startswith(b"<"):
        raise ValueError(f"{path} is a web page, not weights: download the file itself (…/resolve/…, not …/blob/…)")
    if not head.startswith((b"PK", b"\x80")):
        raise ValueError(f"{path} is no PyTorch checkpoint: it begins with {head[:8]!r}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and head.startswith(b"PK"))
    except pickle.UnpicklingError as error:
        try:
            if found := read_lightning(path, mapped):
                return found.state, found.numbers
            names = ", ".join(dict.fromkeys(_GLOBAL.findall(str(error))))
        except Refused as refused:
            names = str(refused)
        except Exception:  # the same pickle, damaged
            names = ""
        what = f" ({names})" if names else ""
        raise ValueError(
            f"{path} holds more than weights{what}, and is refused: it could run code when opened"
        ) from error
    except Exception as error:  # a damaged file raises whatever its first wrong byte causes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged, incomplete, or no checkpoint ({reason}): fetch it again") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"{path} is no state dict: expected names and tensors")
    return state, {}
