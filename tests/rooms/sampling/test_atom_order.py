"""One peptide under the names and in the order of other programs: the same density and draws, written as given."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from boltzray import models
from boltzray.molecules import Peptide
from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.stereo import atom_map, atom_names
from boltzray.molecules.storage import read_json
from boltzray.sampling.atom_order import OrderedPeptide
from boltzray.sampling.energy_actors import EnergyConfig
from boltzray.sampling.flow_actors import ActorsConfig
from boltzray.sampling.sample import SampleJob, sample
from boltzray.sampling.sample_files import read_samples
from tests.naming import STYLES, written

TWENTY = "PACDEFGHIKLMNQRSTVWY"
BUNDLED = "boltzray://peptides-small"


def ensemble(x: np.ndarray) -> Ensemble:
    n = len(x)
    return Ensemble(
        name="SNIS", chunks=[x], log_weights=np.zeros(n), energy_kT=np.zeros(n), log_q=np.zeros(n), diagnostics={}
    )


@pytest.mark.parametrize("reordered", [False, True])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", ["internal", "cartesian"])
def test_all_residues_under_other_names_have_the_same_density_and_draws(
    kind: str, style: str, reordered: bool, checkpoint: Path
) -> None:
    flow = models.load(BUNDLED if kind == "internal" else checkpoint)
    built = Peptide.from_sequence(TWENTY)
    ordered = OrderedPeptide.of(Peptide.from_pdb(written(built, style, reordered=reordered)), flow)
    x = torch.from_numpy(built.positions[None]).float() / flow.scale_nm
    with torch.no_grad():
        expected = flow.log_prob(x, flow.condition(built))
        own = torch.from_numpy(ordered.given.positions[None][:, ordered.given.iupac_order]).float() / flow.scale_nm
        found = flow.log_prob(own, flow.condition(ordered.peptide))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    draws = [
        flow.sample(flow.condition(peptide), 3, torch.Generator().manual_seed(0))[0].numpy()
        for peptide in (built, ordered.peptide)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    back = next(iter(ordered.as_given([ensemble(draws[0])])[0].chunks))
    np.testing.assert_array_equal(back[:, ordered.given.iupac_order], draws[0])


def test_frames_of_either_naming_have_the_density_that_they_had(data: Path) -> None:
    """Frames of MD under names that are not those of their PDB file: log q of the bundled flow, as it was trained."""
    flow = models.load(BUNDLED)
    peptide = Peptide.from_pdb(data / "pdbs" / "train" / "GP.pdb")
    built = Peptide.from_sequence("GP")
    other = peptide.at(peptide.positions)
    x = torch.from_numpy(built.positions[None]).float() / flow.scale_nm
    index = atom_map(built, other)
    with torch.no_grad():
        here = flow.log_prob(x, flow.condition(built))
        there = flow.log_prob(x[:, index], flow.condition(other))
    torch.testing.assert_close(here, there, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("ray_cluster")
def test_a_job_on_a_file_in_another_order_gives_the_same_draws(home: Path, checkpoint: Path) -> None:
    built = Peptide.from_sequence("LE")
    (home / "own.pdb").write_text(built.to_pdb())
    (home / "gromacs.pdb").write_text(written(built, "gromacs", reordered=True))
    job = SampleJob(
        pdb="own.pdb",
        checkpoint=str(checkpoint),
        out=str(home / "own"),
        data_dir="none",
        sampler="snis",
        samples=16,
        energy=EnergyConfig(engine="openmm"),
        actors=ActorsConfig(flow_replicas=1, energy_actors=1),
    )
    one, (drawn,) = read_samples(sample(job))
    recorded = home / "own" / "sample.json"

    def as_earlier_versions() -> None:
        recorded.write_text(json.dumps({k: v for k, v in read_json(recorded).items() if k != "atom_order"}))
        (home / "own" / ".sample.json.sha256").unlink()

    as_earlier_versions()
    assert sample(job) == home / "own", "finished by an earlier version"
    as_earlier_versions()
    (home / "own" / "run").mkdir()
    with pytest.raises(ValueError, match="that an earlier version began, under other names of atoms"):
        sample(job)
    other, (again,) = read_samples(sample(replace(job, pdb="gromacs.pdb", out=str(home / "gromacs"))))
    assert atom_names(other) == atom_names(Peptide.from_pdb(home / "gromacs.pdb"))
    np.testing.assert_array_equal(again.positions_nm[:, atom_map(other, one)], drawn.positions_nm)
    for name in ("log_weights", "energy_kT", "log_q"):
        np.testing.assert_array_equal(getattr(again, name), getattr(drawn, name))
