"""The simulation job with method=remd: what it writes, what it survives, and what it refuses."""

import json
import math
import os
import re
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from boltzray.data.catalogue import DataConfig, list_folder
from boltzray.data.sources import refresh_reference
from boltzray.molecules import OpenMMEnergy, Peptide
from boltzray.molecules.reference_record import read_record, record_path
from boltzray.molecules.references import load_reference
from boltzray.molecules.replica_exchange import ExchangeConfig, load_ladder, load_rung
from boltzray.molecules.runs import MDConfig
from boltzray.molecules.tars import read_shard
from boltzray.runtime.cluster import Cluster
from boltzray.runtime.config import parse
from boltzray.simulation.ladders import run_ladders
from boltzray.simulation.md_batches import MDReplica, batch_replicas
from boltzray.simulation.simulate import SimulateJob, _plan, simulate

MD = MDConfig(
    friction_per_ps=50.0,
    hydrogen_mass_da=3.0,
    timestep_fs=2.0,
    warmup_ps=0.2,
    interval_ps=0.04,
    frames_per_chunk=2,
)
REMD = ExchangeConfig(temperatures_k=(310.0, 420.0, 560.0), exchange_ps=0.01)
JOB = SimulateJob(
    sequences=("GG",),
    method="remd",
    time_ns=0.0008,
    replicas=3,
    hold_out=2,
    compile="never",
    out="data",
    md=MD,
    remd=REMD,
)
SHORT = replace(JOB, time_ns=0.00008, replicas=2, hold_out=1)
NAME = "GG_remd_310_0.04_2"
LADDERS = [NAME, f"{NAME}_r1", f"{NAME}_r2"]
REFERENCE = Path("trajectories_subsampled", "val", "2AA", "GG_subsampled.npz")

pytestmark = pytest.mark.usefixtures("ray_cluster")


def contents(out: Path) -> dict[str, bytes]:
    paths = [*out.glob("md/*/*.npz"), *out.glob("md/*/chunks/*.npz"), *out.glob("webdatasets/*/*.tar")]
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(paths)}


def shard_frames(out: Path) -> list[bytes]:
    """Frames that a folder trains on, in an order that is the same for the same frames."""
    sizes = {"GG": Peptide.from_sequence("GG").n_atoms}
    shards = sorted(out.glob("webdatasets/*/*.tar"))
    return sorted(frame.positions.tobytes() for shard in shards for frame in read_shard(shard, sizes).frames)


def frames(x: np.ndarray) -> list[bytes]:
    return sorted(one.tobytes() for one in x)


@pytest.fixture(scope="module")
def alone(module_home: Path, ray_cluster: None) -> Path:
    """The data folder of `JOB`, of which nothing was disturbed."""
    return simulate(JOB)


def test_shards_hold_the_lowest_rung_of_the_ladders_to_train_on(alone: Path) -> None:
    assert sorted(path.name for path in alone.glob("md/*")) == LADDERS
    assert json.loads((alone / "runs.json").read_text()) == {
        name: ["GG", role, 0] for name, role in zip(LADDERS, ["train", "held out", "held out"], strict=True)
    }
    assert len(shard_frames(alone)) == 20
    assert shard_frames(alone) == frames(load_rung(alone / "md" / NAME, 0))
    assert list_folder(DataConfig(), str(alone)).chosen == ["GG"]


def test_the_reference_is_of_all_rungs_by_weight(alone: Path) -> None:
    stored, held = load_reference(alone / REFERENCE), [load_ladder(alone / "md" / name) for name in LADDERS[1:]]
    assert (stored.conditions, stored.engine) == ("amber14-obc1 at 310 K", "batched")
    assert stored.run_lengths == (60, 60), "two ladders of 20 frames of 3 rungs"
    assert stored.log_weights is not None
    assert stored.tica is not None
    np.testing.assert_array_equal(stored.positions_nm.reshape(2, 20, 3, 17, 3), [x.positions_nm for x in held])
    peptide = Peptide.from_sequence("GG")
    energy = OpenMMEnergy(peptide, 310.0).evaluate(stored.positions_nm.astype(np.float64)).energy.reshape(2, 20, 3)
    np.testing.assert_allclose(energy, [x.energy_kT for x in held], atol=0.02)
    weighted, lowest = (stored.weights.reshape(energy.shape) * energy).sum(), energy[..., 0]
    error = lowest.std() / np.sqrt(lowest.size / 4)  # energies are correlated for some frames
    assert abs(weighted - lowest.mean()) < 4 * error, (weighted, lowest.mean(), error)
    assert energy.mean() - lowest.mean() > 4 * error, "without weights they are of another temperature"


def test_the_record_says_how_it_was_made(alone: Path) -> None:
    record = read_record(alone / REFERENCE)
    assert record is not None
    assert record.is_of(alone / REFERENCE)
    assert (record.method, record.engine, record.runs, record.frames) == ("replica exchange", "batched", 2, 120)
    assert record.time_ns == pytest.approx((0.0008, 0.0008))
    assert record.total_ns == pytest.approx(0.0008 * 2 * 3)
    assert record.energy_evaluations == 2 * 3 * (400 + 100 + 80), "steps, those of the warm-up, attempts to swap"
    assert record.ladder is not None
    assert record.ladder.temperatures_k == REMD.temperatures_k
    walkers = [load_ladder(alone / "md" / name).walkers.astype(int) for name in LADDERS[1:]]
    walked = [np.vstack([np.arange(3), w]) for w in walkers]
    rates = [np.mean([(np.diff(w, axis=0)[r::2, r] != 0).mean() for w in walked]) for r in range(2)]
    assert record.ladder.swap_rates == pytest.approx(rates)
    assert 0 < min(rates) < max(rates) < 1
    assert not record.converged
    assert record.reasons[0] == "2 independent runs, at least 4 are needed"


def test_frames_that_are_held_out_by_prepare_do_not_replace_it(alone: Path) -> None:
    before = [path.read_bytes() for path in (alone / REFERENCE, record_path(alone / REFERENCE))]
    refresh_reference(alone, Peptide.from_sequence("GG"), 310.0, "amber14-obc1")
    assert [path.read_bytes() for path in (alone / REFERENCE, record_path(alone / REFERENCE))] == before


def test_a_page_shows_it(alone: Path) -> None:
    page = (alone / "simulations" / "GG.html").read_text()
    assert "Replica exchange of GG" in page
    assert "Not converged: 2 independent runs" in page
    pictures = list((alone / "simulations" / "GG_figures").glob("*.png"))
    assert len(pictures) >= 4
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_a_killed_worker_changes_nothing_and_ladders_can_be_added(alone: Path, module_home: Path) -> None:
    undisturbed = contents(alone)
    assert len(undisturbed) == 3 * (10 + 1) + 1
    first = module_home / "disturbed" / "md" / NAME / "chunks" / "chunk_1.npz"
    killed: list[int] = []

    def kill() -> None:
        while not first.exists():
            time.sleep(0.001)
        for process in psutil.Process().children(recursive=True):  # nobody else's
            if process.name().startswith("ray::run_ladders"):
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    disturbed = simulate(replace(JOB, out="disturbed"))
    thread.join()
    assert killed
    assert contents(disturbed) == undisturbed
    assert (disturbed / REFERENCE).read_bytes() == (alone / REFERENCE).read_bytes()
    more = contents(simulate(replace(JOB, replicas=4, time_ns=SHORT.time_ns, out="disturbed")))
    assert len(more) == len(undisturbed) + 1 + 1
    chunks = {name: content for name, content in undisturbed.items() if name.endswith(".npz")}
    assert {name: more[name] for name in chunks} == chunks


def test_a_ladder_does_not_depend_on_its_batch(alone: Path, tmp_path: Path) -> None:
    pdb, settings = (alone / "pdbs" / "train" / "GG.pdb").read_text(), alone / "md" / LADDERS[1] / "run.json"
    seed = json.loads(settings.read_text())["settings"]["seed"]
    batch = (MDReplica("GG", 1, pdb, 17, str(tmp_path), seed, (310.0, 420.0, 560.0)),)
    assert len(list(run_ladders(batch, "batched", MD, REMD, 0.08, "never"))) == 1
    for file in ("warmup.npz", "chunks/chunk_0.npz"):
        assert (tmp_path / file).read_bytes() == (alone / "md" / LADDERS[1] / file).read_bytes()


def test_another_rung_has_its_own_folder(alone: Path, module_home: Path) -> None:
    job = replace(JOB, remd=replace(REMD, rung=1))
    with pytest.raises(ValueError, match=r"amber14-obc1 at 310 K: give another out= for one in .* at 420 K") as error:
        simulate(job)
    assert "\n" not in str(error.value)
    shutil.copytree(alone / "md", module_home / "warmer" / "md")  # they are not simulated again
    out = simulate(replace(job, out="warmer"))
    assert shard_frames(out) == frames(load_rung(alone / "md" / NAME, 1)) != shard_frames(alone)
    assert list_folder(DataConfig(), str(out)).temperature_k == 420.0, "that of its frames, for the flow's energies"
    assert list_folder(DataConfig(), str(alone)).temperature_k == 310.0
    stored = load_reference(out / REFERENCE)
    assert stored.conditions == "amber14-obc1 at 420 K"
    energy = [load_ladder(alone / "md" / name).energy_kT for name in LADDERS[1:]]
    weighted, base = (stored.weights.reshape(2, 20, 3) * energy).sum(), np.array(energy)[..., 1]
    assert abs(weighted - base.mean()) < 4 * base.std() / np.sqrt(base.size / 4)


def test_what_is_held_out_stays_so(alone: Path) -> None:
    """A later command with fewer ladders, or none held out: they are not trained on, the reference stays."""
    undisturbed = contents(alone), (alone / REFERENCE).read_bytes()
    simulate(replace(JOB, replicas=2, hold_out=0))
    assert (contents(alone), (alone / REFERENCE).read_bytes()) == undisturbed
    with pytest.raises(ValueError, match="is a reference in amber14-obc1 at 310 K"):
        simulate(replace(JOB, hold_out=0, remd=replace(REMD, rung=1)))
    with pytest.raises(ValueError, match="trains on runs of GG: give another out= for a reference"):
        simulate(replace(JOB, split="test"))
    assert (contents(alone), (alone / REFERENCE).read_bytes()) == undisturbed


def test_plain_dynamics_do_not_replace_the_reference(alone: Path) -> None:
    undisturbed = (alone / REFERENCE).read_bytes()
    with pytest.raises(ValueError, match=r"is a reference by replica exchange, .*: give another out=, or hold_out=0$"):
        simulate(replace(JOB, method="md"))
    assert (alone / REFERENCE).read_bytes() == undisturbed


@pytest.mark.parametrize(
    ("remd", "message"),
    [
        (
            replace(REMD, temperatures_k=(310.0, 400.0, 560.0)),
            r"temperatures_k was \[310\.0, 420\.0, 560\.0\] and is now",
        ),
        (replace(REMD, exchange_ps=0.02), r"exchange_ps was 0\.01 and is now 0\.02"),
    ],
)
def test_changed_settings_are_refused(alone: Path, remd: ExchangeConfig, message: str) -> None:
    undisturbed = contents(alone)
    with pytest.raises(ValueError, match=f"holds another run .*{message}") as error:
        simulate(replace(JOB, remd=remd))
    assert "\n" not in str(error.value)
    assert contents(alone) == undisturbed


def test_a_pilot_is_run_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With OpenMM, on eight rungs; a test reference is of all ladders, and without shards."""
    remd = ExchangeConfig(pilot_ps=0.1, exchange_ps=0.02)
    job = replace(SHORT, engine="openmm", split="test", remd=remd)
    out = simulate(job)
    (path,) = out.glob("md/ladders/*.json")
    assert path.name == f"{NAME}.json"
    before, chosen = path.stat().st_mtime_ns, json.loads(path.read_text())
    ladder = load_ladder(out / "md" / NAME).temperatures_k
    assert list(ladder) == chosen["temperatures_k"]
    assert (ladder[0], ladder[-1]) == (310.0, 800.0)
    assert 2 <= len(ladder) <= 6
    printed = capsys.readouterr().out
    assert f"GG: {', '.join(f'{t:.0f}' for t in ladder)} K, neighbours to swap at" in printed
    assert "GG: Not converged: 2 independent runs" in printed
    settings = json.loads((out / "md" / NAME / "run.json").read_text())["settings"]
    assert settings["engine"] == "openmm"
    record = read_record(out / "trajectories_subsampled" / "test" / "2AA" / "GG_subsampled.npz")
    assert record is not None
    assert (record.engine, record.runs, record.frames) == ("openmm", 2, 2 * 2 * len(ladder))
    assert not (out / "webdatasets").exists()
    undisturbed = contents(out)
    simulate(replace(job, time_ns=0.00016))
    assert path.stat().st_mtime_ns == before
    longer = contents(out)
    assert len(longer) == len(undisturbed) + 2
    assert {name: longer[name] for name in undisturbed} == undisturbed
    with pytest.raises(
        ValueError, match=r"is of another pilot \(swap_rate was 0\.3 and is now 0\.2\): give another out="
    ) as error:
        simulate(replace(job, remd=replace(remd, swap_rate=0.2)))
    assert "\n" not in str(error.value)


def test_settings() -> None:
    job = SimulateJob(method="remd")
    assert (job.runs, job.held) == (8, 4)
    assert replace(job, split="test").held == 8
    given = {"method": "remd", "remd": {"temperatures_k": [310, 400]}, "md": {"hydrogen_mass_da": 3, "timestep_fs": 2}}
    assert parse(SimulateJob, given).remd.temperatures_k == (310.0, 400.0)
    for wrong, message in (
        ({"mixed": True}, r"^mixed=true is of method=md: a ladder fills a batch by itself$"),
        ({"replicas": 2, "hold_out": 2}, r"hold_out=2 of 2 replicas leaves nothing to train on: raise replicas"),
        ({"method": "rex"}, r"^method='rex' is unknown: choose md or remd$|Input should be 'md' or 'remd'"),
        ({"time_ns": math.nan}, r"time_ns must be positive"),
        ({"time_ns": math.inf}, r"time_ns must be positive"),
        ({"remd": {"swap_rate": 0}}, r"^remd: swap_rate=0\.0: give a fraction between 0 and 1"),
        ({"remd": {"rung": -1}}, r"^remd: rung=-1: give 0 to 127"),
        ({"remd": {"temperatures_k": [310, 400], "rung": 2}}, r"^remd: rung=2: give 0 to 1"),
        (
            {"remd": {"temperatures_k": [310, math.inf]}},
            r"temperatures_k=\[310\.0, inf\]: give positive numbers, rising",
        ),
        (
            {"remd": {"temperatures_k": [*range(310, 510)]}},
            r"^remd: temperatures_k has 200 temperatures: give 2 to 128",
        ),
        ({"remd": {"max_temperature_k": 300}}, r"remd\.max_temperature_k=300: give more than md\.temperature_k"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            parse(SimulateJob, {"method": "remd", **wrong})
        assert "\n" not in str(error.value)


def test_as_many_ladders_as_are_named_take_no_longer() -> None:
    def batches(ladders: int) -> list[tuple[MDReplica, ...]]:
        runs = [MDReplica("GG", i, "", 17, "", i, (310.0, 420.0, 560.0)) for i in range(ladders)]
        return batch_replicas(runs, "batched", False, two)

    two = Cluster(cpus=2, gpus=0, local=True)
    found = re.search(r"replicas=(\d+) would take no longer", _plan(replace(JOB, replicas=4), batches(4), two))
    assert found is not None
    assert len(batches(int(found[1]))) == 2
    assert len(batches(int(found[1]) + 1)) > 2
