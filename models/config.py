"""Size and kind of a flow. Source: prose (arXiv 2508.18175)."""

from dataclasses import dataclass

PROSE_ORDERINGS = (
    "n2c_backbone-first_standard",
    "n2c_residue-by-residue_standard_flip",
    "n2c_backbone-first_standard_flip",
    "n2c_residue-by-residue_standard",
    "n2c_backbone-first_variant",
    "n2c_residue-by-residue_variant_flip",
    "n2c_backbone-first_variant_flip",
    "n2c_residue-by-residue_variant",
)
TARFLOW_ORDERINGS = ("n2c_residue-by-residue_standard", "n2c_residue-by-residue_standard_flip")


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Size and kind of a flow.

    `adaptive` layers with `lookahead` make Prose, plain ones without make TarFlow. `orderings` are used in turn,
    block by block; empty stands for the published ones.
    """

    channels: int = 384
    head_dim: int = 64
    blocks: int = 8
    layers_per_block: int = 8
    adaptive: bool = True
    lookahead: bool = True
    orderings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.channels % self.head_dim or self.channels % 2:
            raise ValueError(
                f"channels={self.channels} must be even and a multiple of head_dim={self.head_dim}: "
                f"try channels={max(1, self.channels // self.head_dim) * self.head_dim}"
            )
        if min(self.blocks, self.layers_per_block) < 1:
            raise ValueError("blocks and layers_per_block must be at least 1")
        if not self.orderings:
            names = PROSE_ORDERINGS if self.adaptive else TARFLOW_ORDERINGS
            object.__setattr__(self, "orderings", names)

    @property
    def ordering_names(self) -> tuple[str, ...]:
        """The ordering of each block, in turn."""
        return tuple(self.orderings[k % len(self.orderings)] for k in range(self.blocks))
