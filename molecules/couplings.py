"""³J couplings over three bonds by Karplus relations, for the protons that a residue has.

Shapes: T frames. Units: Hz, radians.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .atom_lookup import AtomLookup

Floats = NDArray[np.float64]
Atoms = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Karplus:
    """J(θ) = a cos²θ + b cos θ + c, in Hz, and the standard deviation of couplings measured in proteins from it."""

    a: float
    b: float
    c: float
    error: float

    def __call__(self, angle: Floats) -> Floats:
        cosine = np.cos(angle)
        result: Floats = self.a * cosine**2 + self.b * cosine + self.c
        return result


# Vögeli, Ying, Grishaev & Bax 2007 (J. Am. Chem. Soc. 129, 9377), θ = φ − 60°: mdtraj's default.
HN_HA = Karplus(a=8.40, b=-1.36, c=0.33, error=0.36)
# Pérez, Löhr, Rüterjans & Schmidt 2001 (J. Am. Chem. Soc. 123, 7081): the mean C₀ 5.83, C₁ −1.37, C₂ 3.61 of all
# residues, a = 2 C₂ and c = C₀ − C₂. What single substituents add, up to about 1 Hz, is left out.
HA_HB = Karplus(a=7.22, b=-1.37, c=2.22, error=1.0)


@dataclass(frozen=True, kw_only=True)
class Coupling:
    """A coupling of two protons, or the mean over those of a methyl: a torsion each, with what is added to it."""

    label: str
    relation: Karplus
    torsions: tuple[Atoms, ...]
    shift: float = 0.0

    def of(self, torsions: Floats) -> Floats:
        """Couplings (T,) of torsions (T, k)."""
        mean: Floats = self.relation(torsions + self.shift).mean(axis=1)
        return mean


def couplings(atoms: AtomLookup) -> list[Coupling]:
    """List ³J(HN,Hα) and ³J(Hα,Hβ), residue by residue.

    An HN is the one hydrogen of an amide: PRO has none, and those of a charged N-terminus exchange with water. For the
    amide φ stands, which frames have more exactly than the plane of H: θ = φ − 60° to Hα and to HA2 of GLY, φ + 60° to
    its HA3. `mdtraj.compute_J3_HN_HA` gives the first for every φ, PRO's too.
    """
    return [c for i in range(len(atoms.residues)) for c in (*_amide(atoms, i), *_side_chain(atoms, i))]


def _amide(atoms: AtomLookup, i: int) -> Iterator[Coupling]:
    here, before = atoms.residues[i], atoms.residues[i - 1] if i else {}
    if not ({"H", "N", "CA", "C"} <= here.keys() and "C" in before and before["C"] in atoms.neighbours[here["N"]]):
        return
    phi = (before["C"], here["N"], here["CA"], here["C"])
    for alpha, shift in (("HA", -60.0), ("HA2", -60.0), ("HA3", 60.0)):
        if alpha in here:
            label = f"³J({atoms.labels[i]} HN,{_greek(alpha)})"
            yield Coupling(label=label, relation=HN_HA, torsions=(phi,), shift=np.radians(shift))


def _side_chain(atoms: AtomLookup, i: int) -> Iterator[Coupling]:
    here = atoms.residues[i]
    if not {"HA", "CA", "CB"} <= here.keys():
        return
    betas = [name for name in ("HB", "HB1", "HB2", "HB3") if name in here]
    groups = [betas] if len(betas) == 3 else [[name] for name in betas]
    for names in groups:
        torsions = tuple((here["HA"], here["CA"], here["CB"], here[name]) for name in names)
        beta = "Hβ" if len(names) == 3 else _greek(names[0])
        yield Coupling(label=f"³J({atoms.labels[i]} Hα,{beta})", relation=HA_HB, torsions=torsions)


def _greek(name: str) -> str:
    return name.replace("HA", "Hα").replace("HB", "Hβ")
