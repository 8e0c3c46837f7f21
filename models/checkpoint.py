"""Flows on disk: a folder with `model.safetensors` and `flow.json` (configuration, scale, provenance)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from boltzray.molecules.sequences import n_residues, unusual_residues
from boltzray.molecules.storage import replacing, sha256
from boltzray.molecules.zmatrix import knows_geometry

from .description import Description, check_scale, parse, to_json
from .flow import Flow
from .hub import DESCRIPTION, locate
from .pth import load_public
from .public import fill
from .public_robin import AtomOrder, RobinFacts

WEIGHTS = "model.safetensors"


def save(flow: Flow, folder: str | Path, provenance: Mapping[str, Any] | None = None) -> Path:
    """Write a checkpoint folder, whole or not at all.

    `provenance` is kept as it is under that key of flow.json (data fingerprint, step, versions …).

    Raises: ValueError for a scale of lengths that no molecule has.
    """
    from safetensors.torch import save_file

    check_scale(flow.scale_nm)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in flow.state_dict().items()}
    # The inner one gets its name first: a folder with a description has its weights, and that marks it as whole.
    with replacing(folder / DESCRIPTION) as text, replacing(folder / WEIGHTS) as weights:
        save_file(state, weights)
        about = flow.config, flow.scale_nm, flow.atom_order, flow.geometry
        text.write_text(to_json(*about, weights, provenance or {}))
    return folder


def load(
    path: str | Path,
    *,
    head_dim: int | None = None,
    scale_nm: float | None = None,
    system: str | None = None,
    mapped: bool = False,
    atom_types: Sequence[int] | None = None,
    bins: tuple[float, float] | None = None,
    temperature: float | None = None,
    atom_order: AtomOrder | None = None,
) -> Flow:
    """Load a flow from one of our checkpoint folders, a public `.pth`, `boltzray://NAME`, or `hub://ORG/REPO/PATH`.

    Our folders say everything. The weights and the name of a `.pth` may leave open, and so can be given: `head_dim`,
    the scale of lengths (`scale_nm`), and the only peptide of a single-system flow (`system`, such as `ACE-A-NME`), of
    an ECNF with the type of each of its atoms (`atom_types`).
    Of Robin's they leave open `bins` (centres of the first and the last), the `temperature` of its draws, and
    `atom_order`: `amber`, in which the released transferable weights were trained and which is the default for them, or
    `file`, atoms as they are given.
    `mapped`: leave the weights in the file, mapped into memory; it must then stay as it is.

    Raises: FileNotFoundError with what to do; ValueError for content that is not a flow's.
    """
    path = locate(path)
    if path.is_dir():
        flow = _load_folder(path, mapped)
        given: dict[str, Any] = {"head_dim": head_dim, "scale_nm": scale_nm, "system": system}
        given |= {"bins": bins, "temperature": temperature, "atom_order": atom_order}
        given["atom_types"] = None if atom_types is None else tuple(atom_types)
        _agree(path, given, flow)
        return flow
    if not path.exists():
        raise FileNotFoundError(
            f"no checkpoint at {path}: train one (python jobs/train.py), or give checkpoint= a folder "
            f"with {WEIGHTS}, or a public .pth file"
        )
    known: dict[str, Any] = {"head_dim": head_dim, "scale_nm": scale_nm, "system": system, "atom_types": atom_types}
    known["robin"] = RobinFacts(bins=bins, temperature=temperature, atom_order=atom_order)
    return load_public(path, mapped=mapped, **known)


def outline(path: str | Path) -> Flow:
    """A flow on the meta device: its configuration, its scale and which peptides it takes, but no weights.

    The file is checked as by `load`, but only names and shapes are read of it. Raises: as `load`.
    """
    return load(path, mapped=True).to("meta")


def describe(folder: str | Path) -> Description:
    """Contents of a checkpoint's flow.json.

    Raises: FileNotFoundError where there is none, ValueError for content that is not a flow's.
    """
    path = Path(folder) / DESCRIPTION
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} is no checkpoint: it has no {DESCRIPTION} (that of a run comes with its first save)"
        )
    try:
        return parse(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def trained_sequences(path: str | Path) -> list[str]:
    """Peptides that a flow was trained on; empty where that is not known."""
    trained = describe(path).provenance.get("sequences") if Path(path).is_dir() else None
    return list(trained or ())


def trained_lengths(path: str | Path) -> list[int]:
    """Residues of the peptides that a flow was trained on, ascending; empty where that is not known."""
    return sorted({n_residues(sequence) for sequence in trained_sequences(path)})


def length_warning(path: str | Path, sequence: str) -> str | None:
    """A warning for a peptide of other residues or of another length than all that the flow was trained on, or None."""
    lengths = trained_lengths(path)
    if not lengths:
        return None
    if strange := unusual_residues(sequence) - set().union(*map(unusual_residues, trained_sequences(path))):
        return (
            f"{Path(path).name} was not trained on peptides with {', '.join(sorted(strange))}: its draws of {sequence} "
            "may be of no use. Train a flow on such peptides (jobs/train.py init=), or one of it alone (jobs/fit.py)"
        )
    if n_residues(sequence) in lengths:
        return None
    seen = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
    return (
        f"{Path(path).name} was trained on peptides of {seen} residues and {sequence} has {n_residues(sequence)}: "
        "its draws may be of no use. Train a flow on such peptides (jobs/train.py), or give a larger one as checkpoint="
    )


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a checkpoint's weights, to tell whether results were made with them."""
    path = Path(path)
    return sha256(path / WEIGHTS if path.is_dir() else path)


def _load_folder(folder: Path, mapped: bool) -> Flow:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    description = describe(folder)
    if not (folder / WEIGHTS).exists():
        raise FileNotFoundError(f"{folder} is no checkpoint: it has no {WEIGHTS}")
    try:
        config, geometry = description.flow_config(), description.geometry
    except ValueError as error:
        raise ValueError(f"{folder / DESCRIPTION}: {error}") from None
    if config.coordinates == "internal" and not config.system and not knows_geometry(str(geometry)):
        raise ValueError(
            f"{folder} was trained with another table of usual bonds and angles (molecules/geometry.json): use the "
            "version of BoltzRay that trained it, or train again"
        )
    damaged = f"{folder / WEIGHTS} is damaged ({{}}): take an earlier checkpoint"
    if description.weights_sha256 and not mapped and sha256(folder / WEIGHTS) != description.weights_sha256:
        raise ValueError(damaged.format("it is not the file that flow.json was written with"))
    try:
        state = load_file(folder / WEIGHTS)
        if not mapped:  # what is loaded is the file itself: it may be gone while the flow is still in use
            state = {name: value.clone() for name, value in state.items()}
    except SafetensorError as error:
        raise ValueError(damaged.format(error)) from error
    with torch.device("meta"):
        flow = Flow(config, description.scale_nm, geometry)
    # Earlier versions trained single systems in the order of the file, and did not say so.
    flow.atom_order = description.atom_order or ("file" if config.system else "iupac")
    fill(flow, state, str(folder), {name: name for name in flow.state_dict()}, finite=not mapped)
    return flow.eval()


def _agree(folder: Path, given: Mapping[str, Any], flow: Flow) -> None:
    config, names = flow.config, {"identity": "file"}
    known = {"head_dim": config.head_dim, "scale_nm": flow.scale_nm, "system": config.system}
    known["atom_types"] = config.graph.atom_types if config.graph else None
    binned = config.coordinates == "binned"
    known |= {
        "bins": config.bin_range if binned else None,
        "temperature": config.temperature if binned else None,
        "atom_order": names.get(config.orderings[0], config.orderings[0]) if binned else None,
    }
    for name, value in given.items():
        if value is not None and value != known[name]:
            raise ValueError(f"{folder} was made with {name}={known[name]}: leave out {name}={value}")
