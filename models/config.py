"""Size and kind of a flow.

Source: prose (arXiv 2508.18175), the single systems of SBG (TarFlow, arXiv 2412.06329), Robin (arXiv 2606.27361), ECNF
of TBG (arXiv 2406.14426).
"""

import math
from dataclasses import dataclass
from typing import Literal

from boltzray.molecules.residues import VOCABULARIES

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
KINDS = ("cartesian", "internal", "binned")
BIN_SETTINGS = ("bins", "bin_range", "temperature", "max_atoms", "center")  # of a flow over bins alone
LARGEST = 65536  # of each size: more is a slip, and would end in a lack of memory
BIN_ORDERINGS = ("amber", "identity")  # of a flow over bins: AMBER's residue templates, or as atoms are given
SYSTEM_ORDERINGS = ("identity", "identity_flip")  # tokens as the PDB file lists them


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """Settings of an equivariant continuous flow (ECNF) alone: see `models.ecnf`.

    A transferable one takes peptides of `shortest` to `longest` residues. A single system has `atom_types`, a number
    from 0 for each atom; atoms that share one are exchangeable. Empty: each has its own.
    `tolerance`: absolute and relative, of each sample's ODE. `noise`: of the points between latents and data that it is
    trained on, in normalised coordinates; 0.01 for ECNF, none for ECNF++.
    """

    shortest: int = 2
    longest: int = 4
    atom_types: tuple[int, ...] = ()
    tolerance: float = 1e-4
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest <= LARGEST:
            raise ValueError(f"shortest={self.shortest} and longest={self.longest} residues: give 1 or more, in order")
        if self.atom_types and not 0 <= min(self.atom_types) <= max(self.atom_types) <= LARGEST:
            raise ValueError("atom_types are numbers from 0, one for each atom")
        if not 0.0 < self.tolerance < 1.0 or not 0.0 <= self.noise < 1.0:
            raise ValueError("tolerance must lie between 0 and 1, noise be 0 or a small number such as 0.01")


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Size and kind of a flow.

    `adaptive` layers with `lookahead` make Prose, plain ones without make TarFlow. `orderings` are used in turn,
    block by block; empty stands for the published ones.

    With `coordinates=internal` it is a density over bonds, angles and torsions, autoregressive over the atoms in one
    causal pass of `layers_per_block` layers, with mixtures of `components` normal densities (`dihedral_components`
    wrapped ones for rotatable dihedrals); see `autoregressive`. It need not learn rotations and stiff bonds, and does
    with little training. It is ours; the published ones are Cartesian.

    With `graph` it is an equivariant continuous flow, of `channels` and `layers_per_block` layers; `head_dim`,
    `blocks`, `adaptive`, `lookahead`, `orderings` and `token` say nothing then.
    With `coordinates=binned` it is Robin (ArBG): one coordinate after the other, each one of `bins` from `bin_range`,
    in one causal pass of `layers_per_block` layers, for at most `max_atoms`. `temperature` divides the logits of draws,
    and belongs to the density. `center`: the frames it is trained on have a centre of mass from N(0, I/N) (`gaussian`),
    or at the origin (`zero`, as the published transferable one); the weights must know which.

    `vocabulary`: of the residues of a transferable flow (`molecules.residues`): 1, the public one, has the twenty, 2
    adds caps and states of protonation.

    A single-system flow knows one peptide, or any other molecule: `system` names it as `Peptide.sequence` does
    (`ACE-A-NME`), and `system_atoms` counts its atoms. It has plain layers, a learned vector for each token's position,
    and no condition, so any atoms will do; of internal coordinates it is of a `molecules.Molecule`, which has a
    z-matrix. Its `token` is an atom, or one coordinate of an atom (x, y, z of the first, then of the
    second, …). Of the published ones (conf/model/single_*.yaml) GYDPETGTWG's tokens are atoms and ACE-A-NME's
    coordinates; that AAA, ACE-AAA-NME and AAAAAA have coordinates too is our reading, and a public .pth says it itself.
    """

    channels: int = 384
    head_dim: int = 64
    blocks: int = 8
    layers_per_block: int = 8
    adaptive: bool = True
    lookahead: bool = True
    orderings: tuple[str, ...] = ()
    system: str = ""
    system_atoms: int = 0
    token: Literal["atom", "coordinate"] = "atom"
    coordinates: Literal["cartesian", "internal", "binned"] = "cartesian"
    components: int = 3
    dihedral_components: int = 8
    graph: GraphConfig | None = None
    bins: int = 8192
    bin_range: tuple[float, float] = (-4.5, 4.5)
    temperature: float = 1.0
    max_atoms: int = 178
    center: Literal["gaussian", "zero"] = "gaussian"
    vocabulary: int = 1

    def __post_init__(self) -> None:
        sizes = (self.channels, self.head_dim, self.blocks, self.layers_per_block)
        if not 1 <= min(sizes) <= max(sizes) <= LARGEST:
            raise ValueError(f"channels, head_dim, blocks and layers_per_block must be at least 1, at most {LARGEST}")
        if self.vocabulary not in VOCABULARIES:
            raise ValueError(f"vocabulary={self.vocabulary} is unknown: choose {' or '.join(map(str, VOCABULARIES))}")
        if self.vocabulary > 1 and (self.graph or self.coordinates == "binned"):
            raise ValueError("an ECNF and a Robin have the public vocabulary: leave vocabulary= out")
        if self.graph:
            self._check_graph(self.graph)
            return
        if self.channels % self.head_dim or self.channels % 2:
            raise ValueError(
                f"channels={self.channels} must be even and a multiple of head_dim={self.head_dim}: "
                f"try channels={max(1, self.channels // self.head_dim) * self.head_dim}"
            )
        if not self.orderings and self.coordinates == "cartesian":
            published = PROSE_ORDERINGS if self.adaptive else TARFLOW_ORDERINGS
            object.__setattr__(self, "orderings", SYSTEM_ORDERINGS if self.system else published)
        if self.coordinates not in KINDS or min(self.components, self.dihedral_components) < 1:
            raise ValueError(
                f"coordinates={self.coordinates!r}: choose cartesian or internal, or binned, with 1 or more components"
            )
        if self.coordinates != "cartesian" and self.blocks != 1:
            raise ValueError(
                f"a flow of {self.coordinates} coordinates has one block, not {self.blocks}: set blocks=1 and its "
                "depth as layers_per_block"
            )
        if self.coordinates == "binned":
            self._check_bins()
        else:
            self._check_system()

    def _check_bins(self) -> None:
        if not self.orderings:
            object.__setattr__(self, "orderings", BIN_ORDERINGS[bool(self.system_atoms) :][:1])
        low, high = self.bin_range
        if not 2 <= self.bins <= LARGEST or not -math.inf < low < high < math.inf:
            raise ValueError(
                f"bins={self.bins} from {low} to {high}: give 2 to {LARGEST}, and a range such as [-4.5, 4.5]"
            )
        if not 0.0 < self.temperature < math.inf or not 1 <= self.max_atoms <= LARGEST:
            raise ValueError(f"temperature={self.temperature} and max_atoms={self.max_atoms} must be above 0")
        if self.center not in ("gaussian", "zero"):
            raise ValueError(f"center={self.center!r} is unknown: choose gaussian or zero")
        if len(self.orderings) != 1 or self.orderings[0] not in BIN_ORDERINGS or self.token != "atom":
            raise ValueError(
                f"a flow over bins visits atoms in one order: give orderings=[{BIN_ORDERINGS[0]}] or identity"
            )
        if self.system and not self.system_atoms:
            raise ValueError(f"give system_atoms=, the number of atoms of {self.system}")
        if self.system_atoms not in (0, self.max_atoms):
            raise ValueError(f"a flow of one system has max_atoms= as many as system_atoms={self.system_atoms}")

    def _check_graph(self, graph: GraphConfig) -> None:
        if self.coordinates != "cartesian":
            raise ValueError("an ECNF has Cartesian coordinates: leave coordinates= out")
        if bool(self.system) != bool(self.system_atoms):
            raise ValueError("system and system_atoms go together: give both, or neither")
        if graph.atom_types and len(graph.atom_types) != self.system_atoms:
            raise ValueError(
                f"graph.atom_types has {len(graph.atom_types)} numbers for {self.system_atoms} atoms of a single "
                "system: give one for each, or none"
            )

    def _check_system(self) -> None:
        if self.token not in ("atom", "coordinate"):
            raise ValueError(f"token={self.token!r} is unknown: choose atom or coordinate")
        if self.system and self.coordinates == "cartesian" and (self.adaptive or self.lookahead):
            raise ValueError("a single-system flow has no condition: set adaptive=false and lookahead=false")
        if self.system and self.coordinates == "internal" and self.token != "atom":
            raise ValueError("a token of a flow of internal coordinates is an atom: leave token= out")
        if self.system and self.system_atoms < 1:
            raise ValueError(f"give system_atoms=, the number of atoms of {self.system}")
        if not self.system and (self.system_atoms or self.token != "atom"):
            raise ValueError("system_atoms and token are of a single-system flow: give system=, or leave them out")
        if unknown := set(self.orderings) - set(SYSTEM_ORDERINGS) if self.system else set():
            raise ValueError(f"a single-system flow has no ordering {min(unknown)!r}: use {SYSTEM_ORDERINGS}")

    @property
    def kind(self) -> str:
        """Name of the class of flows, in `flow.KINDS`."""
        return "graph" if self.graph else self.coordinates

    @property
    def ordering_names(self) -> tuple[str, ...]:
        """The ordering of each block, in turn."""
        return tuple(self.orderings[k % len(self.orderings)] for k in range(self.blocks if self.orderings else 0))

    @property
    def token_dim(self) -> int:
        """Coordinates in a token."""
        return 1 if self.token == "coordinate" else 3

    @property
    def system_tokens(self) -> int:
        """Tokens of the only peptide of a single-system flow."""
        return self.system_atoms * 3 // self.token_dim
