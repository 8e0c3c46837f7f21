"""Convert public `.pth` files to checkpoint folders, and back."""

from dataclasses import dataclass
from pathlib import Path

from boltzray import models
from boltzray.models.pth import write_public

from .runtime.config import results_home
from .runtime.progress import say


@dataclass(frozen=True, kw_only=True)
class ConvertJob:
    """Write the flow `input` as `output`: a public state dict where that ends in .pth, else a checkpoint folder.

    `head_dim`, `scale_nm` (σ, nm), `system` and `atom_types` (of an ECNF of a single system) are for a `.pth` that does
    not record them.
    """

    input: str
    output: str
    head_dim: int | None = None
    scale_nm: float | None = None
    system: str | None = None
    atom_types: tuple[int, ...] | None = None

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
    given = {"head_dim": job.head_dim, "scale_nm": job.scale_nm, "system": job.system, "atom_types": job.atom_types}
    flow = models.load(source, **given)  # type: ignore[arg-type]
    millions = sum(p.numel() for p in flow.parameters()) / 1e6
    if output.suffix == ".pth":
        write_public(flow, output)
        lost = f"scale_nm={flow.scale_nm:g}"
        if flow.config.graph and flow.config.system:
            lost += f" system={flow.config.system}, nor the atoms' types"
        elif not flow.config.graph:
            lost = f"head_dim={flow.config.head_dim} {lost}"
        say(f"{output}: {millions:.2f} M parameters; a .pth does not record {lost}, give them to who loads it")
    else:
        provenance = {"converted_from": job.input, "sha256": models.checkpoint.fingerprint(source)}
        if source.is_dir():
            provenance |= models.checkpoint.describe(source).provenance
        models.save(flow, output, provenance)
        say(f"{output}: {millions:.2f} M parameters, σ = {flow.scale_nm:g} nm")
    return output
