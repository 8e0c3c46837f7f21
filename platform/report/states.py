"""States of a peptide in the reference and in each ensemble, side by side, and what is to be said of a difference.

Shapes: T draws, N atoms, S states.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from boltzray.molecules.convergence import StateEstimate
from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.observables import chirality_signs, unmirror
from boltzray.molecules.torsion_states import Atoms, HasStates, TorsionState, occupied, states_of

Difference = Literal["", "missing", "extra", "differs"]

MIN_DRAWS = 5.0  # effective ones that a state should have, before their absence says anything
MISSING_FRACTION, MISSING_SIGMA = 0.2, 5.0
DIFFERS_SIGMA, DIFFERS_SHARE = 4.0, 0.03
SEEN = 1.2  # errors; a state of one run alone has an error as large as its share, one of two runs 0.7 of it


class HasPositions(HasStates, Protocol):
    """A peptide with positions, which have its handedness."""

    @property
    def positions(self) -> NDArray[Any]: ...


@dataclass(frozen=True, kw_only=True)
class StateShare:
    """Weighted share of one state in an ensemble, its standard error, and how many draws are in it.

    `effective`: draws, or ancestors where they are fewer, that the whole ensemble is worth.
    """

    share: float
    error: float
    draws: int
    effective: float


@dataclass(frozen=True, kw_only=True)
class StateRow:
    """One state: in the reference, and in each ensemble, with its difference from the reference."""

    torsion: Atoms
    reference: StateEstimate
    shares: tuple[StateShare, ...]
    differences: tuple[Difference, ...]


def state_rows(
    peptide: HasPositions, ensembles: Sequence[Ensemble], estimates: Sequence[StateEstimate]
) -> list[StateRow]:
    """Compare the shares of all states of the reference; draws that are mirror images are mirrored back first."""
    known = {estimate.label: estimate for estimate in estimates}
    states = [state for state in states_of(peptide) if state.label in known] if known else []
    references = [known[state.label] for state in states]
    shares = [_shares(peptide, ensemble, states) for ensemble in ensembles] if states else []
    found = [differences(references, column, [state.atoms for state in states]) for column in shares]
    return [
        StateRow(
            torsion=state.atoms,
            reference=references[i],
            shares=tuple(column[i] for column in shares),
            differences=tuple(column[i] for column in found),
        )
        for i, state in enumerate(states)
    ]


def _shares(peptide: HasPositions, ensemble: Ensemble, states: Sequence[TorsionState]) -> list[StateShare]:
    signs = chirality_signs(peptide.positions[None], peptide.topology)[0]
    with np.errstate(invalid="ignore"):  # draws that failed
        positions = unmirror(ensemble.positions_nm, peptide.topology, signs)[0]
    inside = occupied(states, positions)
    effective = min(ensemble.effective_draws, ensemble.diagnostics.get("n_roots", math.inf))
    weights = ensemble.weights
    shares = np.minimum(weights @ inside, 1.0)
    # Of the ratio estimator, by the delta method; and no less than that of as many equal draws, for families of SMC.
    spread = np.sqrt(np.square(weights) @ np.square(inside - shares))
    errors = np.maximum(spread, np.sqrt(shares * (1 - shares) / effective)) if effective > 0 else spread
    return [
        StateShare(share=share, error=error, draws=draws, effective=effective)
        for share, error, draws in zip(shares.tolist(), errors.tolist(), inside.sum(axis=0).tolist(), strict=True)
    ]


def differences(
    references: Sequence[StateEstimate], shares: Sequence[StateShare], torsions: Sequence[Atoms]
) -> list[Difference]:
    """Say of each state whether the ensemble lacks it, has it alone, or has another share of it.

    Of a torsion the states that are missing or extra are named, or else the one that differs most: the others follow.
    """
    found: list[Difference] = [_absence(a, b) for a, b in zip(references, shares, strict=True)]
    settled = {torsion for torsion, difference in zip(torsions, found, strict=True) if difference}
    sigmas = [_sigmas(a, b) for a, b in zip(references, shares, strict=True)]
    for i in sorted(range(len(found)), key=lambda i: -sigmas[i]):
        apart = abs(references[i].share - shares[i].share) > DIFFERS_SHARE and sigmas[i] > DIFFERS_SIGMA
        if apart and torsions[i] not in settled:
            found[i] = "differs"
            settled.add(torsions[i])
    return found


def _absence(reference: StateEstimate, ensemble: StateShare) -> Difference:
    """Return `missing` or `extra` where one has the state, and the other none or far too little."""
    p, q, n = reference.share, ensemble.share, ensemble.effective
    if n <= 0:
        return ""
    if p > SEEN * reference.error and p * n >= MIN_DRAWS and q < MISSING_FRACTION * p:
        expected = math.sqrt(p * (1 - p) / n)  # error of the draws, did they have this share
        if q == 0 or p - q > MISSING_SIGMA * math.hypot(reference.error, expected):
            return "missing"
    if q > max(MISSING_SIGMA * ensemble.error, reference.high) and p < MISSING_FRACTION * q:
        return "extra"
    return ""


def _sigmas(reference: StateEstimate, ensemble: StateShare) -> float:
    """Difference in standard errors; 0 where one has nothing of the state, or no error."""
    p, q, n = reference.share, ensemble.share, ensemble.effective
    if not (p > 0 and q > 0 and n > 0):
        return 0.0
    error = math.hypot(reference.error, max(ensemble.error, math.sqrt(p * (1 - p) / n)))
    return abs(p - q) / error if error > 0 else 0.0
