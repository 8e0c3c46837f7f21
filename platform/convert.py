"""Convert public `.pth` files to checkpoint folders, and back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from boltzray import models
from boltzray.models.pth import write_public
from boltzray.models.public import unsaid

from .runtime.config import results_home
from .runtime.progress import say

FACTS = ("head_dim", "scale_nm", "system", "atom_types", "bins", "temperature", "atom_order")  # of `models.load`


@dataclass(frozen=True, kw_only=True)
class ConvertJob:
    """Write the flow `input` as `output`: a public state dict where that ends in .pth, else a checkpoint folder.

    The others are for a `.pth` that does not record them: `head_dim`, `scale_nm` (σ, nm), `system`; `atom_types` of an
    ECNF of a single system; of Robin `bins` (centres of the first and the last), the `temperature` of its draws, and
    `atom_order` (amber | file).
    """

    input: str
    output: str
    head_dim: int | None = None
    scale_nm: float | None = None
    system: str | None = None
    atom_types: tuple[int, ...] | None = None
    bins: tuple[float, float] | None = None
    temperature: float | None = None
    atom_order: Literal["amber", "file"] | None = None

    def __post_init__(self) -> None:
        if not self.input or not self.output:
            raise ValueError("give input= and output=, a checkpoint folder and a .pth file, or the other way round")


def convert(job: ConvertJob) -> Path:
    """Run `job`; returns the path written. Raises: ValueError where something lies there already."""
    home = results_home()
    output = home / Path(job.output).expanduser()
    if output.exists():
        raise ValueError(f"{output} exists: give another output=, or delete it")
    source = models.locate(job.input, home)
    flow = models.load(source, **{name: getattr(job, name) for name in FACTS})
    millions = sum(p.numel() for p in flow.parameters()) / 1e6
    if output.suffix == ".pth":
        write_public(flow, output)
        lost = " ".join(f"{name}={_plain(value)}" for name, value in unsaid(flow).items())
        say(f"{output}: {millions:.2f} M parameters; a .pth does not record {lost}: give them to who loads it")
    else:
        provenance = {"converted_from": job.input, "sha256": models.checkpoint.fingerprint(source)}
        if source.is_dir():
            provenance |= models.checkpoint.describe(source).provenance
        models.save(flow, output, provenance)
        say(f"{output}: {millions:.2f} M parameters, σ = {flow.scale_nm:g} nm")
    return output


def _plain(value: Any) -> str:
    """As jobs take it on the command line."""
    if isinstance(value, tuple):
        return f"[{','.join(map(_plain, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
