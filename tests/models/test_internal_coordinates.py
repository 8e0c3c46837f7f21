"""Internal coordinates: there and back, the Jacobian, invariance, chirality, padding, and what lies outside."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from boltzray.models.augment import random_rotations
from boltzray.models.internal_coordinates import (
    InternalTables,
    Rigid,
    frame,
    latents_to_rigid,
    rigid_log_density,
    rigid_motion,
    rigid_to_latents,
    to_internal,
    to_positions,
)
from boltzray.molecules import Peptide
from boltzray.molecules.zmatrix import geometry_version

SCALE = 0.2  # nm


def _shaken(peptides: list[Peptide], size: float = 0.003) -> tuple[Tensor, InternalTables, Tensor]:
    """Normalised positions (P, N, 3) near those of the files, tables, and numbers of atoms."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(len(peptides), max(p.n_atoms for p in peptides), 3, dtype=torch.float64)
    for row, peptide in zip(x, peptides, strict=True):
        noise = torch.randn((peptide.n_atoms, 3), generator=generator, dtype=torch.float64)
        row[: peptide.n_atoms] = (torch.from_numpy(peptide.positions) + size * noise) / SCALE
    return x, InternalTables.of(peptides, geometry_version()), torch.tensor([p.n_atoms for p in peptides])


@pytest.mark.parametrize("sequences", [["AA"], ["PP"], ["GG", "AA", "WF"], ["ACDEFGHI"], ["KLMNPQRS"], ["TVWYPH"]])
def test_there_and_back(sequences: list[str]) -> None:
    x, t, n_atoms = _shaken([Peptide.from_sequence(s) for s in sequences])
    y, logdet = to_internal(x * SCALE, t)
    rigid = latents_to_rigid(rigid_to_latents(rigid_motion(x, t), n_atoms), n_atoms)
    back, logdet_back = to_positions(y, rigid, t, SCALE)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=0)
    torch.testing.assert_close(logdet_back, logdet, atol=1e-9, rtol=0)
    assert y.abs()[t.present].max() < 30  # thermal deviations, or radians, off what is built and shaken


def test_log_determinant_is_that_of_the_jacobian() -> None:
    peptide = Peptide.from_sequence("GG")
    x, t, n_atoms = _shaken([peptide])
    present = t.present.flatten()

    def coordinates(flat: Tensor) -> Tensor:
        x = flat.view(1, -1, 3)
        y, _ = to_internal(x * SCALE, t)
        return torch.cat([y.flatten()[present], rigid_to_latents(rigid_motion(x, t), n_atoms)[0]])

    jacobian = torch.autograd.functional.jacobian(coordinates, x.flatten())
    _, logdet = to_internal(x * SCALE, t)
    rigid = rigid_motion(x, t)
    latents = rigid_to_latents(rigid, n_atoms)
    of_latents = -0.5 * latents.square().sum() - 3 * math.log(2 * math.pi)
    expected = logdet + (3 * peptide.n_atoms - 3) * math.log(SCALE) + rigid_log_density(rigid.center, n_atoms)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], (expected - of_latents)[0], atol=1e-8, rtol=0)


def test_coordinates_do_not_see_the_rigid_motion_and_tell_mirror_images_apart() -> None:
    x, t, _ = _shaken([Peptide.from_sequence("AL")])
    turn = frame(torch.tensor([[0.3, 1.0, -2.0]], dtype=torch.float64))
    torch.testing.assert_close(turn @ turn.transpose(1, 2), torch.eye(3, dtype=torch.float64)[None])
    assert torch.linalg.det(turn) > 0
    y, _ = to_internal(x * SCALE, t)
    moved, _ = to_internal((x @ turn.transpose(1, 2) + 0.7) * SCALE, t)
    torch.testing.assert_close(moved, y, atol=1e-8, rtol=0)
    mirrored, _ = to_internal(-x * SCALE, t)
    assert (mirrored - y).abs().max() > 10  # siblings at −120° instead of +120°, in units of some 0.1 rad


def test_padding_changes_nothing() -> None:
    peptides = [Peptide.from_sequence(s) for s in ("GG", "AW")]
    x, t, _ = _shaken(peptides)
    y, logdet = to_internal(x * SCALE, t)
    for i, peptide in enumerate(peptides):
        n = peptide.n_atoms
        alone, logdet_alone = to_internal(x[i : i + 1, :n] * SCALE, InternalTables.of([peptide], geometry_version()))
        torch.testing.assert_close(y[i : i + 1, :n], alone)
        torch.testing.assert_close(logdet[i], logdet_alone[0])
        assert not y[i, n:].any()


def test_gradients_are_finite_with_padding() -> None:
    x, t, _ = _shaken([Peptide.from_sequence(s) for s in ("GG", "AW")])
    x = x.requires_grad_()
    y, logdet = to_internal(x * SCALE, t)
    (gradient,) = torch.autograd.grad(y.sum() + logdet.sum(), x)
    assert gradient.isfinite().all()


def test_what_lies_outside_the_chart_is_nan() -> None:
    peptide = Peptide.from_sequence("AA")
    x, t, _ = _shaken([peptide])
    y, _ = to_internal(x * SCALE, t)
    y = y.repeat(3, 1, 1)
    y[1, -1, 0] = -1000.0  # a negative bond
    y[2, -1, 2] = 1000.0  # many turns
    rigid = Rigid(torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64))
    positions, logdet = to_positions(y, rigid, t, SCALE)
    assert positions[0].isfinite().all()
    assert positions[1:].isnan().all()
    assert logdet.isfinite().all()


def test_latents_of_the_rigid_motion_are_standard_normal() -> None:
    """Random rotations and means ~ N(0, I/N) give uncorrelated normal numbers."""
    peptide = Peptide.from_sequence("AA")
    n_atoms = torch.tensor([peptide.n_atoms])
    generator = torch.Generator().manual_seed(1)
    rotation = torch.from_numpy(random_rotations(20_000, np.random.default_rng(2)))
    x, t, _ = _shaken([peptide])
    x = (x - x.mean(1, keepdim=True)) @ rotation.transpose(1, 2)
    x = x + torch.randn((20_000, 1, 3), generator=generator, dtype=torch.float64) / math.sqrt(peptide.n_atoms)
    z = rigid_to_latents(rigid_motion(x, t), n_atoms)
    error = 5 / math.sqrt(len(z))
    assert z.mean(0).abs().max() < error
    assert (z.T @ z / len(z) - torch.eye(6, dtype=torch.float64)).abs().max() < 1.5 * error
