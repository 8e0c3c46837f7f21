"""All that only a GPU can show: results against those of a CPU first, then rates. Prints Markdown.

    bash benchmarks/gpu.sh                                finds a Python, ends after eight minutes at the latest
    bash benchmarks/gpu.sh --only graphs decode_rates     some sections alone
    bash benchmarks/gpu.sh --device cpu                   small sizes, in a minute of one core: is this script right?
    python benchmarks/gpu.py --export benchmarks/gpu.npz  the peptides' tables, made anew; needs OpenMM

Apart from `--export` it needs torch and numpy alone. A section that fails is named with the last line of its error, and
the others go on; exit code 1 then, or when a check was left out for want of time, and 2 where there is no GPU.
"""

import argparse
import copy
import json
import math
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boltzray.data.collate import CollatedBatch
from boltzray.models import Conditioning, Flow, FlowConfig, checkpoint, locate, log_prob_and_gradient
from boltzray.models.augment import augment
from boltzray.models.conditioning import Precision
from boltzray.models.config import PROSE_ORDERINGS, GraphConfig
from boltzray.models.ecnf import ECNF
from boltzray.models.flow_decoder import Decoder
from boltzray.models.robin import RobinFlow
from boltzray.molecules import BatchedEnergy
from boltzray.molecules.batched.dynamics import Noise, Replicas, generator, langevin_step, thermal_velocities
from boltzray.molecules.constants import KB
from boltzray.samplers import Endpoints, LocalPopulation, SMCConfig, SMCState, com_log_density, smc_step, snis
from boltzray.training.train_step import Learner, LogDensity, TrainConfig

TABLES = Path(__file__).with_name("gpu.npz")
PEPTIDES = ("AA", "ARIP")
SHIPPED = "boltzray://peptides-small"
SCALE_NM = 0.35
PRECISIONS: tuple[Precision, ...] = ("float32", "bf16")
SECTION_S = 150  # the longest that a section may take
SKIPPED = "skipped: no CUDA"
Gradients = dict[str, Tensor]


class Failed(Exception):
    """A check that did not hold; its row has been printed."""


@dataclass
class Run:
    """Device and sizes of this run, and the rows of the section that is on."""

    device: torch.device
    small: bool
    layers: int
    ends: float
    checks: int = 0
    failures: int = 0

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        """Seconds that are left."""
        return self.ends - time.monotonic()

    def row(self, *cells: object) -> None:
        print(f"| {' | '.join(map(str, cells))} |", flush=True)

    def header(self, *names: str) -> None:
        print()
        self.row(*names)
        print("|---" * len(names) + "|")

    def hold(self, what: str, found: str, wanted: str, ok: bool) -> None:
        """A row of a check; one that does not hold fails the section at its end."""
        self.checks, self.failures = self.checks + 1, self.failures + (not ok)
        self.row(what, found, wanted, "passed" if ok else "**FAILED**")

    def agree(self, what: str, got: Tensor, want: Tensor, tolerance: float) -> None:
        """Check that two tensors are finite and nowhere further apart than `tolerance`."""
        away = float((got.detach().cpu().double() - want.detach().cpu().double()).abs().max())
        self.hold(what, f"{away:.1e}", f"{tolerance:.0e}", away <= tolerance)

    def skip(self, what: str) -> None:
        self.row(what, "", "", SKIPPED)


# Peptides and flows


@dataclass(frozen=True)
class Stored:
    """A peptide as flows take it (`models.tables.PeptideLike`), its energy and frames, out of a file."""

    sequence: str
    arrays: dict[str, np.ndarray]

    def part(self, name: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(name + "/"): a for key, a in self.arrays.items() if key.startswith(name + "/")}

    @property
    def n_atoms(self) -> int:
        return len(self.arrays["positions_nm"])

    @property
    def encodings(self) -> dict[str, np.ndarray]:
        return self.part("encodings")

    @property
    def orderings(self) -> dict[str, np.ndarray]:
        return self.part("orderings")

    @property
    def amber_order(self) -> np.ndarray:
        return self.arrays["amber_order"]

    def internal(self, geometry: str | None = None) -> dict[str, np.ndarray]:
        known = str(self.arrays["geometry"])
        if geometry not in (None, known):
            raise ValueError(f"{TABLES} has geometry {known}, the flow {geometry}: --export it anew")
        return self.part("internal")

    def energy(self) -> BatchedEnergy:
        """Its force field, float64 on the CPU."""
        with tempfile.TemporaryDirectory() as folder:
            np.savez(Path(folder, "tables.npz"), **self.part("energy"))  # type: ignore[arg-type]
            return BatchedEnergy.load(Path(folder, "tables.npz")).double()

    def frames_nm(self, n: int) -> np.ndarray:
        """Positions at a minimum of the energy, shaken."""
        noise = np.random.default_rng(0).standard_normal((n, self.n_atoms, 3))
        return self.arrays["positions_nm"] + 0.004 * noise

    def frames(self, n: int, scale_nm: float) -> Tensor:
        """The same as training has them."""
        return torch.from_numpy(augment(self.frames_nm(n), scale_nm, np.random.default_rng(1)))


@cache
def peptide(sequence: str) -> Stored:
    with np.load(TABLES) as file:
        start = sequence + "/"
        return Stored(sequence, {name.removeprefix(start): file[name] for name in file.files if name.startswith(start)})


def export(path: Path) -> None:
    """Write what `Stored` reads; needs OpenMM. Float32: the checks compare with the same numbers in float64."""
    import openmm

    from boltzray.molecules import OpenMMEnergy, Peptide
    from boltzray.molecules.energy import make_context
    from boltzray.molecules.forcefield import create_system

    geometry = shipped_weights()[2]
    arrays: dict[str, Any] = {}
    for sequence in PEPTIDES:
        made = Peptide.from_sequence(sequence)
        context = make_context(create_system(made))
        context.setPositions(made.positions)
        openmm.LocalEnergyMinimizer.minimize(context)
        minimum = np.array(context.getState(positions=True).getPositions(asNumpy=True)._value, np.float32)
        frames = (minimum + 0.004 * np.random.default_rng(2).standard_normal((2, *minimum.shape))).astype(np.float32)
        known, energy = OpenMMEnergy(made).evaluate(frames), BatchedEnergy(made).float()
        parts: dict[str, dict[str, Any]] = {
            "encodings": made.encodings,
            "orderings": {name: made.orderings[name] for name in PROSE_ORDERINGS},
            "internal": made.internal(geometry),
            "energy": {name: buffer.numpy() for name, buffer in energy.named_buffers()},
            "openmm": {"frames_nm": frames, "energy": known.energy, "gradient": np.float32(known.gradient)},
        }
        parts["energy"]["temperature_k"] = np.array(energy.temperature_k)
        arrays |= {f"{sequence}/{part}/{name}": a for part, named in parts.items() for name, a in named.items()}
        arrays |= {f"{sequence}/positions_nm": minimum, f"{sequence}/amber_order": made.amber_order}
        arrays[f"{sequence}/geometry"] = np.array(geometry)
    np.savez_compressed(path, **arrays)


def random_flow(strength: float = 0.8, **config: Any) -> Flow:
    """A flow away from its initial weights, tame enough that the inverse of random latents stays finite."""
    torch.manual_seed(0)
    flow = Flow(FlowConfig(**config), SCALE_NM)
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            deviation = strength / math.sqrt(parameter.shape[1]) if parameter.ndim == 2 else 0.02
            parameter.add_((0.1 if "proj_out" in name else 1.0) * deviation * torch.randn_like(parameter))
    return flow.requires_grad_(False).eval()


def cartesian(run: Run, *, adaptive: bool = True) -> Flow:
    """A small Prose, or TarFlow."""
    sizes = (64, 2, 1) if run.small else (256, 4, 2)
    return random_flow(channels=sizes[0], head_dim=64 if adaptive else 32, blocks=sizes[1],
                       layers_per_block=sizes[2], adaptive=adaptive, lookahead=adaptive)  # fmt: skip


@cache
def full_prose(layers: int) -> Flow:
    """Prose of the released width, with random weights; of the released size with 8 layers."""
    return random_flow(layers_per_block=layers)


def released(run: Run) -> Flow:
    """A copy of it, on the device; a small one on a CPU."""
    return (cartesian(run) if run.small else copy.deepcopy(full_prose(run.layers))).to(run.device)


def robin(run: Run, *, full: bool = False) -> Flow:
    """A small Robin, or one of the released size, with random weights."""
    sizes = (64, 1, 64) if run.small else (768, 16, 8192) if full else (256, 2, 256)
    return random_flow(coordinates="binned", channels=sizes[0], head_dim=64, blocks=1, layers_per_block=sizes[1],
                       bins=sizes[2], temperature=0.95)  # fmt: skip


@cache
def shipped_weights() -> tuple[FlowConfig, float, str | None, dict[str, Tensor]]:
    """The flow in the box, read here: `models.load` needs pydantic and safetensors, more than torch and numpy."""
    folder = locate(SHIPPED)
    about = json.loads((folder / checkpoint.DESCRIPTION).read_text())
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in about["config"].items()
    }
    content = bytearray((folder / checkpoint.WEIGHTS).read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    named = {name: entry for name, entry in json.loads(content[8:start]).items() if name != "__metadata__"}
    assert {entry["dtype"] for entry in named.values()} == {"F32"}
    spans = {name: slice(*(start + at for at in entry["data_offsets"])) for name, entry in named.items()}
    state = {
        name: torch.frombuffer(content[span], dtype=torch.float32).reshape(named[name]["shape"])
        for name, span in spans.items()
    }
    return FlowConfig(**settings), about["scale_nm"], about["geometry"], state


def shipped() -> Flow:
    """A new instance of the flow in the box."""
    config, scale_nm, geometry, state = shipped_weights()
    flow = Flow(config, scale_nm, geometry)
    flow.load_state_dict(state)
    return flow.requires_grad_(False).eval()


def noise(flow: Flow, n: int, sequence: str, seed: int = 0) -> Tensor:
    return torch.from_numpy(flow.noise(np.random.default_rng(seed), n, peptide(sequence).n_atoms))


# Checks


def check_environment(run: Run) -> None:
    run.header("what", "is")
    run.row("Python, torch, numpy", f"{sys.version.split()[0]}, {torch.__version__}, {np.__version__}")
    if run.cuda:
        about = torch.cuda.get_device_properties(run.device)
        run.row("device", f"{about.name}, {about.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")
        run.row("bf16", torch.cuda.is_bf16_supported(including_emulation=False))
    else:
        run.row("device", f"CPU, {torch.get_num_threads()} thread(s): sizes are small, and rates say nothing of a GPU")
    run.row("float32 products", f"{torch.get_float32_matmul_precision()}: no TF32")


def check_flow(run: Run, flow: Flow, tolerance: float) -> None:
    """Draws and log q on the device against float64 on the CPU, and of bf16 draws that weights correct what is off."""
    run.header("check", "found", "at most", "")
    for sequence in PEPTIDES[: 1 if run.small else 2]:
        there, exact = copy.deepcopy(flow).to(run.device), copy.deepcopy(flow).double()
        c, c64 = there.condition(peptide(sequence)), exact.condition(peptide(sequence))
        z = noise(flow, 8, sequence)
        got, want = there.draw(z.to(run.device), c), exact.draw(z.double(), c64)
        rows = torch.ones(len(z), dtype=torch.bool)
        if got.tokens is not None and want.tokens is not None:  # a bin beside, at the edge of two, is no error
            rows = (got.tokens.cpu() == want.tokens).all(1)
            run.hold(f"{sequence}, draws of the same bins", f"{int(rows.sum())} of 8", "6 or more", int(rows.sum()) > 5)
        run.agree(f"{sequence}, draws", got.x.cpu()[rows], want.x[rows], tolerance)
        run.agree(f"{sequence}, log q of draws", got.log_q.cpu()[rows], want.log_q[rows], 10 * tolerance)
        if isinstance(there, RobinFlow) and got.tokens is not None:
            again = there.token_log_prob(got.tokens, c).double().sum(1)
            again = again - 3 * peptide(sequence).n_atoms * math.log(there.bins.width)
        else:
            x = want.x.float()
            density = there.log_prob(x.to(run.device), c)
            run.agree(f"{sequence}, log q", density, exact.log_prob(x.double(), c64), 10 * tolerance)
            again = there.log_prob(got.x, c)
        run.agree(f"{sequence}, log q of a draw again", again, got.log_q, 10 * tolerance)
        check_bf16(run, there, c, sequence)


def check_bf16(run: Run, flow: Flow, c: Conditioning, sequence: str) -> None:
    """Draws in bf16, weighted onto the density in float32: both are normalised, so log Z is 0 if log q is exact."""
    draws = flow.draw(noise(flow, 96 if run.small else 4096, sequence, 3).to(run.device), c, "bf16")
    if isinstance(flow, RobinFlow) and draws.tokens is not None:
        forward = flow.token_log_prob(draws.tokens, c).double().sum(1)
        forward = forward - 3 * peptide(sequence).n_atoms * math.log(flow.bins.width)
    else:
        forward = flow.log_prob(draws.x, c)
    apart = float((forward.double() - draws.log_q.double()).abs().mean())
    weighted = snis(None, draws.log_q, forward)
    bound = 5 * weighted.log_z_error + 1e-3
    run.hold(f"{sequence}, log Z of float32 by draws in bf16, {apart:.1e} apart on average",
             f"{weighted.log_z:.1e}", f"{bound:.1e}", abs(weighted.log_z) <= bound and apart > 0)  # fmt: skip


def check_ecnf(run: Run) -> None:
    graph = GraphConfig(shortest=2, longest=4, tolerance=1e-5)
    flow = random_flow(0.1, channels=32 if run.small else 64, layers_per_block=3, graph=graph)
    there, exact = copy.deepcopy(flow).to(run.device), copy.deepcopy(flow).double()
    assert isinstance(there, ECNF)
    assert isinstance(exact, ECNF)
    run.header("check", "found", "at most", "")
    for sequence in PEPTIDES[: 1 if run.small else 2]:
        c, c64 = there.condition(peptide(sequence)), exact.condition(peptide(sequence))
        z = noise(flow, 2, sequence)
        here = z.to(run.device)
        run.agree(f"{sequence}, velocity", there.velocity(0.5, here, c), exact.velocity(0.5, z.double(), c64), 1e-4)
        trace = exact.divergence(0.5, z.double(), c64)
        run.agree(
            f"{sequence}, divergence", there.divergence(0.5, here, c), trace, 1e-5 * (10 + float(trace.abs().max()))
        )
        if sequence == "AA":
            got, want = there.push(here, c), exact.push(z.double(), c64)
            run.agree(f"{sequence}, draws", got[0], want[0], 1e-3)
            run.agree(f"{sequence}, log q of draws", got[1], want[1], 1e-2)


def check_exact_draws(run: Run) -> None:
    """Move one latent at a time: what its token is stretched by is in log q, in either precision."""
    run.header("check", "found", "at most", "")
    for name, adaptive in (("Prose", True), ("TarFlow", False)):
        flow = random_flow(channels=128, head_dim=64, blocks=1, layers_per_block=2, adaptive=adaptive,
                           lookahead=adaptive).to(run.device)  # fmt: skip
        c, z = flow.condition(peptide("AA")), noise(flow, 1, "AA").to(run.device)
        for precision in PRECISIONS:
            x, logdet = flow.inverse(z, c, precision)
            total = 0.0
            for token in range(z.shape[1]):  # alone in its batch: rows of one batch may be rounded differently
                moved = z.clone()
                moved[0, token] += 1.0
                stretched = (flow.inverse(moved, c, precision)[0] - x)[0, token].double()
                total += float((stretched / (moved - z)[0, token].double()).log().sum())
            run.agree(f"{name}, log-determinant in {precision}", torch.tensor(total), logdet[0], 2e-5)
            if precision == "bf16":  # or this would see no difference
                forward = abs(total + float(flow(x, c)[1]))
                run.hold(f"{name}, that of a forward pass", f"{forward:.1e}", "more than 1e-04", forward > 1e-4)


def check_graphs(run: Run) -> None:
    """Decoding with recorded graphs against the same without, after batches of other sizes have taken their place."""
    run.header("check", "found", "at most", "")
    flows: dict[str, Callable[[], Flow]] = {
        "Prose": partial(cartesian, run), "internal, shipped": shipped, "Robin": partial(robin, run)
    }  # fmt: skip
    for name, make in flows.items():
        for precision in PRECISIONS:
            if not run.cuda:
                run.skip(f"{name}, {precision}")
                continue
            flow = make().to(run.device)
            recorded, plain = flow.condition(peptide("AA")), flow.condition(peptide("AA"))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                for n in (64, 17, 5, 64):
                    flow.draw(noise(flow, n, "AA", n).to(run.device), recorded, precision)
            (decoder,), other = recorded.decoders.values(), noise(flow, 64, "AA", 9).to(run.device)
            assert isinstance(decoder, Decoder)
            graphs = len(decoder.graphs)
            why = str(caught[-1].message).splitlines()[0][:100] if caught else f"{graphs} graphs"
            run.hold(f"{name}, {precision}: recorded", why, "2 graphs", graphs == 2)
            flow.draw(other[:3], plain, precision)
            (without,) = plain.decoders.values()
            assert isinstance(without, Decoder)
            without.records, without.graphs = False, {}
            got, want = flow.draw(other, recorded, precision), flow.draw(other, plain, precision)
            # Libraries may choose other products in a graph; in bf16 one rounding of them shows.
            tolerance = 1e-4 if precision == "float32" else 1e-2
            rows = torch.ones(64, dtype=torch.bool, device=run.device)
            if got.tokens is not None and want.tokens is not None:
                rows = (got.tokens == want.tokens).all(1)
                run.hold(
                    f"{name}, {precision}: same bins", f"{int(rows.sum())} of 64", "48 or more", int(rows.sum()) >= 48
                )
            run.agree(f"{name}, {precision}: draws", got.x[rows], want.x[rows], tolerance)
            run.agree(f"{name}, {precision}: log q", got.log_q[rows], want.log_q[rows], 10 * tolerance)


def check_energy(run: Run) -> None:
    run.header("check", "found", "at most", "")
    for sequence in PEPTIDES:
        p, exact = peptide(sequence), peptide(sequence).energy()
        given = p.part("openmm")
        known = exact.evaluate(torch.from_numpy(given["frames_nm"]).double())
        assert known.gradient is not None
        # OpenMM's own forces are of single precision.
        run.agree(f"{sequence}, CPU against OpenMM, kT", known.energy, torch.from_numpy(given["energy"]), 1e-2)
        run.agree(f"{sequence}, the gradient, kT/nm", known.gradient, torch.from_numpy(given["gradient"]), 0.5)
        x = torch.from_numpy(p.frames_nm(32 if run.small else 1024))
        want = exact.evaluate(x)
        assert want.gradient is not None
        modes = [(torch.float64, False), (torch.float32, False)]
        for dtype, compiled in [*modes, (torch.float32, True)] if run.cuda else modes:
            energy = p.energy().to(dtype).to(run.device)
            name = f"{sequence}, {str(dtype).removeprefix('torch.')}{', compiled' if compiled else ''}"
            if compiled and (why := energy.try_compile(x[:64].to(run.device, dtype))):
                run.hold(name, why, "compiles", False)
                continue
            got = energy.evaluate(x.to(run.device, dtype))
            assert got.gradient is not None
            both = (1e-8, 1e-6) if dtype == torch.float64 else (5e-3, 0.5)
            run.agree(f"{name}, kT", got.energy, want.energy, both[0])
            run.agree(f"{name}, gradient, kT/nm", got.gradient, want.gradient, both[1])
        if not run.cuda:
            run.skip(f"{sequence}, compiled")


def check_dynamics(run: Run) -> None:
    """From a minimum and velocities of the temperature, friction has brought half of the energy after 200 steps."""
    run.header("check", "found", "wanted", "")
    p, replicas, steps = peptide("AA"), 32 if run.small else 1024, 300
    energy = p.energy().float().to(run.device)
    x = torch.from_numpy(p.arrays["positions_nm"]).to(energy.mass).repeat(replicas, 1, 1)
    normal = Noise([generator(0, i) for i in range(replicas)], x)
    state = Replicas(x, thermal_velocities(energy, normal.draw(1)[0]))
    step = langevin_step(energy, timestep_fs=0.5, friction_per_ps=50.0)
    found = []
    for i, drawn in enumerate(normal.draw(steps)):
        state = step(state, drawn)
        if i >= 200:
            kinetic = 0.5 * (energy.mass[:, None] * state.v.square()).sum((1, 2)).mean()
            found.append(float(2 * kinetic / (3 * p.n_atoms * KB)))
    mean, error = float(np.mean(found)), energy.temperature_k * math.sqrt(2 / (3 * p.n_atoms * replicas))
    wanted, bound = energy.temperature_k, 6 * error + 0.03 * energy.temperature_k
    run.hold("temperature, K", f"{mean:.1f}", f"{wanted:.0f} ± {bound:.0f}", abs(mean - wanted) <= bound)
    finite = all(bool(part.isfinite().all()) for part in state)
    run.hold("positions and velocities", "finite" if finite else "not finite", "finite", finite)


def endpoints(flow: Flow, c: Conditioning, energy: BatchedEnergy, x: Tensor) -> Endpoints:
    """Densities of a flow and of the force field, as `boltzray.sampling` has them."""
    log_q, grad_q = log_prob_and_gradient(flow, x, c)
    found = energy.evaluate(x * flow.scale_nm)
    assert found.gradient is not None
    centre, slope = com_log_density(x)
    return Endpoints(log_q, centre - found.energy, grad_q, slope - flow.scale_nm * found.gradient, found.ok)


def check_samplers(run: Run) -> None:
    """SNIS and one step of SMC on the device, against the CPU from the same proposals and random numbers."""
    run.header("check", "found", "at most", "")
    n, device, cpu = 64 if run.small else 256, run.device, torch.device("cpu")
    flow, energy = shipped(), peptide("AA").energy().float()
    x, _ = flow.push(noise(flow, n, "AA"), flow.condition(peptide("AA")))
    found: dict[tuple[str, torch.device], Any] = {}
    usual: dict[str, Any] = {"schedule": "linear", "n_steps": 4, "n_leapfrog": 3, "ess_threshold": 1.0}
    configs = {
        "mala": SMCConfig(kernel="mala", step_size=2.5e-5, **usual),
        "hmc": SMCConfig(kernel="hmc", step_size=7e-3, **usual),
    }
    for place in (cpu, device):
        there, own = copy.deepcopy(flow).to(place), copy.deepcopy(energy).to(place)
        c = there.condition(peptide("AA"))
        evaluate = partial(endpoints, there, c, own)
        ends = evaluate(x.to(place))
        found["snis", place] = snis(x.to(place), ends.log_q, ends.log_p)
        for name, config in configs.items():
            population = LocalPopulation.start(x.to(place), evaluate, config.block_size, seed=0)
            record, _ = smc_step(population, config, 0, SMCState.start(n, config))
            assert population.blocks[0].x.device.type == place.type
            found[name, place] = record
    for name in ("snis", "mala", "hmc"):
        got, want = found[name, device], found[name, cpu]
        fields = ("ess", "log_z", "n_failed") if name == "snis" else ("ess", "log_z", "acceptance")
        for field in fields:
            mine, other = (torch.tensor(float(getattr(record, field))) for record in (got, want))
            run.agree(f"{name}, {field} {float(mine):.3f}", mine, other, 0.03)
    size = found["snis", device].ess
    run.hold("ESS of the shipped flow, AA", f"{size:.2f}", "at least 0.3", size > 0.3)


# Training


def batch_of(flow: Flow, n: int, sequences: tuple[str, ...] = PEPTIDES) -> CollatedBatch:
    """Frames of several peptides in turn, padded, or of one with one row of tables."""
    which = torch.arange(n) % len(sequences)
    longest = max(peptide(sequence).n_atoms for sequence in sequences)
    x, energy_kT = torch.zeros(n, longest, 3), torch.zeros(n)
    for i, sequence in enumerate(sequences):
        p, rows = peptide(sequence), which == i
        frames = p.frames(int(rows.sum()), flow.scale_nm)
        x[rows, : p.n_atoms] = frames
        energy_kT[rows] = p.energy().evaluate(frames.double() * flow.scale_nm, gradient=False).energy.float()
    tables = flow.tables([peptide(sequence) for sequence in sequences]).to("cpu")
    return CollatedBatch(x, tables.rows(which if len(sequences) > 1 else torch.tensor([0])), energy_kT, which)


def learned(
    flow: Flow, device: torch.device, batch: CollatedBatch, *, parallel: bool = False, **settings: Any
) -> tuple[float, Gradients]:
    """Loss and gradients of one step."""
    if settings.get("compile"):
        torch.compiler.reset()  # of one function torch makes eight variants, and goes on without compiling
    own = copy.deepcopy(flow).to(device).requires_grad_(True)
    model: torch.nn.Module = LogDensity(own)
    model = torch.nn.parallel.DistributedDataParallel(model) if parallel else model
    learner = Learner(own, TrainConfig(steps=10, clip=1e9, **settings), device=device, model=model)
    gradients: Gradients = {}

    def keep(*_: Any) -> None:
        gradients.update({name: p.grad.detach().clone() for name, p in own.named_parameters() if p.grad is not None})

    learner.optimizer.register_step_pre_hook(keep)
    loss = float(learner.train_step([batch])["loss"])
    moved = any(not torch.equal(a.cpu(), b) for a, b in zip(own.parameters(), flow.parameters(), strict=True))
    return loss if moved and not int(learner.bad) else math.nan, gradients


def compare(run: Run, name: str, got: tuple[float, Gradients], want: tuple[float, Gradients], tolerance: float) -> None:
    """Loss, and gradients by their relative distance over all parameters."""
    run.agree(f"{name}: loss {got[0]:.4f}", torch.tensor(got[0]), torch.tensor(want[0]), tolerance)
    assert got[1].keys() == want[1].keys()
    pairs = [(got[1][key].cpu().double(), w.cpu().double()) for key, w in want[1].items()]
    squares = [(float((g - w).square().sum()), float(w.square().sum())) for g, w in pairs]
    away = math.sqrt(sum(a for a, _ in squares) / sum(b for _, b in squares))
    run.hold(f"{name}: gradient, relative", f"{away:.1e}", f"{10 * tolerance:.0e}", away <= 10 * tolerance)


def check_training(run: Run) -> None:
    run.header("check", "found", "at most", "")
    for name, flow in (("Prose", cartesian(run)), ("internal, shipped", shipped())):
        batch = batch_of(flow, 6 if run.small else 64)
        settings: dict[str, Any] = {"energy_weight": 0.1} if name != "Prose" else {}
        plain = learned(flow, run.device, batch, precision="float32", **settings)
        if run.cuda:
            on_cpu = learned(flow, torch.device("cpu"), batch, precision="float32", **settings)
            compare(run, f"{name}, float32 against the CPU's", plain, on_cpu, 1e-4)
        again = learned(flow, run.device, batch, precision="float32", checkpointing=True, **settings)
        compare(run, f"{name}, activation checkpointing", again, plain, 1e-5)
        low = learned(flow, run.device, batch, precision="bf16", **settings)
        compare(run, f"{name}, bf16 against float32", low, plain, 1e-2)
    muon = learned(cartesian(run), run.device, batch_of(cartesian(run), 4), precision="bf16", optimizer="muon")
    finite = all(bool(g.isfinite().all()) for g in muon[1].values())
    run.hold("Prose, Muon: loss", f"{muon[0]:.4f}", "finite", finite and math.isfinite(muon[0]))


def check_parallel(run: Run) -> None:
    """Data-parallel training with one process: NCCL on CUDA, Gloo on CPUs."""
    run.header("check", "found", "at most", "")
    if not run.cuda:
        run.skip("NCCL")
    backend = "nccl" if run.cuda else "gloo"
    torch.distributed.init_process_group(
        backend, store=torch.distributed.HashStore(), rank=0, world_size=1, timeout=timedelta(seconds=60)
    )
    try:
        one = torch.ones(3, device=run.device)
        torch.distributed.all_reduce(one)
        run.agree(f"{backend}, all_reduce", one, torch.ones(3), 0)
        for name, flow in (("Prose", cartesian(run)), ("internal, shipped", shipped())):
            batch = batch_of(flow, 6 if run.small else 64)
            for precision in PRECISIONS:
                alone = learned(flow, run.device, batch, precision=precision)
                together = learned(flow, run.device, batch, parallel=True, precision=precision)
                compare(
                    run, f"{name}, {backend}, {precision}", together, alone, 1e-6 if precision == "float32" else 1e-4
                )
    finally:
        torch.distributed.destroy_process_group()


def check_compile(run: Run) -> None:
    run.header("check", "found", "at most", "")
    for name, make in (("Prose", partial(cartesian, run)), ("internal, shipped", shipped)):
        if not run.cuda:
            run.skip(name)
            continue
        flow: Flow = make()
        batch = batch_of(flow, 64)
        for precision in PRECISIONS if name == "Prose" else PRECISIONS[1:]:  # compiling takes its time
            plain = learned(flow, run.device, batch, precision=precision)
            compiled = learned(flow, run.device, batch, precision=precision, compile=True)
            compare(
                run, f"{name}, {precision}, compiled layers", compiled, plain, 1e-4 if precision == "float32" else 3e-2
            )


# Rates


def rate(run: Run, call: Callable[[], object], count: int) -> float:
    """`count` per call and second: the best of up to five calls in a second, after one that does not count."""
    best, calls, ends = math.inf, 0, math.inf
    while calls < 6 and time.monotonic() < ends:
        if run.cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        if run.cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began) if calls else math.inf
        if not calls:
            ends = time.monotonic() + (0.2 if run.small else 1.0)
        calls += 1
    return count / best


def cell(run: Run, call: Callable[[], float]) -> str:
    """A number of a table, or why there is none."""
    if run.left() < 25:
        return "no time left"
    try:
        return f"{call():,.4g}"
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return "out of memory"


def size_of(flow: Flow) -> str:
    c = flow.config
    size = f"{sum(p.numel() for p in flow.parameters()) / 1e6:.1f} M: {c.channels} channels"
    return f"{size}, {c.blocks} × {c.layers_per_block} layers"


ONE_CORE = "one core"  # column of what benchmarks/README.md has for one core, of the same flow


def rate_decode(run: Run) -> None:
    """Draws a second; conditions, weights and graphs are prepared before."""
    flow = released(run)
    print(f"\nProse, random weights, {size_of(flow)}. One core: of 8 × 8 layers, whatever `--layers` is here.")
    run.header("flow", "peptide", "batch", "float32, draws/s", "bf16, draws/s", f"{ONE_CORE}: float32, bf16")
    known = {"AA": "8.5, 13.9", "ARIP": "2.2, 3.2"}
    flows = [("Prose", flow, known), ("internal, shipped", shipped().to(run.device), {"AA": "1,373, –"})]
    flows.append(("Robin, random weights", robin(run, full=True).to(run.device), {}))
    for name, own, cores in flows:
        for sequence in PEPTIDES[: 1 if run.small or "Robin" in name else 2]:
            for batch in (8,) if run.small else (256, 2048):
                z = noise(own, batch, sequence).to(run.device)
                c = own.condition(peptide(sequence))  # a new one for each batch: graphs keep memory
                cells = [cell(run, partial(rate, run, partial(own.draw, z, c, p), batch)) for p in PRECISIONS]
                run.row(name, sequence, batch, *cells, cores.get(sequence, "–"))


def rate_density(run: Run) -> None:
    """Log q and its gradient by the coordinates, as SMC takes them."""
    run.header("flow", "peptide", "batch", "log q/s", "log q and gradient/s")
    for name, flow in (("Prose", released(run)), ("internal, shipped", shipped().to(run.device))):
        for sequence in PEPTIDES[: 1 if run.small else 2]:
            batch = 8 if run.small else 256
            c, x = flow.condition(peptide(sequence)), peptide(sequence).frames(batch, flow.scale_nm).to(run.device)
            with torch.no_grad():
                alone = cell(run, partial(rate, run, partial(flow.log_prob, x, c), batch))
            both = cell(run, partial(rate, run, partial(log_prob_and_gradient, flow, x, c), batch))
            run.row(name, sequence, batch, alone, both)


def rate_training(run: Run) -> None:
    """Frames a second of whole steps in bf16."""
    flow = cartesian(run) if run.small else full_prose(run.layers)
    print(
        f"\nProse, {size_of(flow)}. The paper's run made 37 frames a second and H100 (8 × 8 layers, 2 to 8 residues)."
    )
    run.header("flow", "frames of", "batch", "bf16, frames/s", "layers compiled, frames/s", ONE_CORE)
    known = {("internal, shipped", "AA"): "831"}
    for name, own in (("Prose", flow), ("internal, shipped", shipped())):
        for sequences in (("AA",),) if run.small else (("AA",), ("ARIP",), PEPTIDES):
            batch = batch_of(own, 4 if run.small else 128, sequences)
            cells = [cell(run, partial(training_rate, run, own, batch, compiled=False))]
            if run.cuda and run.left() > 100:
                cells.append(cell(run, partial(training_rate, run, own, batch, compiled=True)))
            else:
                cells.append("no time left" if run.cuda else SKIPPED)
            run.row(name, " and ".join(sequences), len(batch.x), *cells, known.get((name, *sequences), "–"))


def training_rate(run: Run, flow: Flow, batch: CollatedBatch, *, compiled: bool) -> float:
    if compiled:
        torch.compiler.reset()
    own = copy.deepcopy(flow).to(run.device).requires_grad_(True)
    learner = Learner(own, TrainConfig(steps=1000, precision="bf16", compile=compiled), device=run.device)
    return rate(run, lambda: learner.train_step([batch]), len(batch.x))


def rate_energy(run: Run) -> None:
    """Energies with gradients, and steps of Langevin dynamics with the noise of each replica, drawn on the CPU."""
    run.header("peptide", "engine", "batch", "energy and gradient/s", "replica-steps/s", "without drawing noise",
               f"{ONE_CORE}, compiled")  # fmt: skip
    known = {"AA": "135,119; 136,411", "ARIP": "25,553; 25,968"}
    for sequence in PEPTIDES:
        for compiled in (False, True):
            energy = peptide(sequence).energy().float().to(run.device)
            energy.compiled = compiled
            for batch in (64,) if run.small else (4096, 65536):
                engine = "compiled" if compiled else "eager"
                if compiled and not run.cuda:
                    run.row(sequence, engine, batch, SKIPPED, "", "", known[sequence])
                    continue
                x = torch.from_numpy(peptide(sequence).frames_nm(batch)).to(energy.mass)
                cells = [cell(run, partial(rate, run, partial(energy.evaluate, x), batch))]
                if batch <= 4096:
                    cells += [cell(run, partial(dynamics_rate, run, energy, x, draws=d)) for d in (True, False)]
                run.row(sequence, engine, batch, *cells, *[""] * (3 - len(cells)), known[sequence])


def dynamics_rate(run: Run, energy: BatchedEnergy, x: Tensor, *, draws: bool) -> float:
    normal = Noise([generator(0, i) for i in range(len(x))], x)
    drawn, steps = normal.draw(10), 10
    state = Replicas(x, thermal_velocities(energy, drawn[0]))
    step = langevin_step(energy, timestep_fs=1.0, friction_per_ps=0.3)

    def ten() -> None:
        nonlocal state
        for row in normal.draw(steps) if draws else drawn:
            state = step(state, row)

    return rate(run, ten, steps * len(x))


SECTIONS: dict[str, Callable[[Run], None]] = {
    "environment": check_environment,
    "prose": lambda run: check_flow(run, cartesian(run), 1e-4),
    "tarflow": lambda run: check_flow(run, cartesian(run, adaptive=False), 1e-4),
    "internal": lambda run: check_flow(run, shipped(), 1e-4),
    "robin": lambda run: check_flow(run, robin(run), 1e-4),
    "ecnf": check_ecnf,
    "exact_draws": check_exact_draws,
    "graphs": check_graphs,
    "energy": check_energy,
    "dynamics": check_dynamics,
    "samplers": check_samplers,
    "training": check_training,
    "parallel": check_parallel,
    "compile": check_compile,
    "decode_rates": rate_decode,
    "energy_rates": rate_energy,
    "density_rates": rate_density,
    "training_rates": rate_training,
}


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what takes longer."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"took longer than {seconds:.0f} s")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def perform(run: Run, name: str) -> str:
    """Outcome of one section: passed, measured, FAILED or left out."""
    print(f"\n## {name}", flush=True)
    if run.left() < 5:
        return "left out: no time"
    run.checks, run.failures, began = 0, 0, time.monotonic()
    try:
        with limit(min(SECTION_S, run.left())):
            SECTIONS[name](run)
            if run.cuda:
                torch.cuda.synchronize()
        if run.failures:
            raise Failed(f"{run.failures} of the rows above")
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        print(f"\n**FAILED**: {type(error).__name__}: {lines[-1]}", flush=True)
        return "**FAILED**"
    print(f"\n{time.monotonic() - began:.1f} s", flush=True)
    if name.endswith("_rates") or name == "environment":
        return "measured"
    return f"passed: {run.checks} checks" if run.checks else SKIPPED


def usable(device: torch.device) -> bool:
    """Tell whether the device still works: some errors of CUDA end it for the whole process."""
    try:
        torch.ones(1, device=device).sum().item()
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes for a CPU; --device cpu implies it")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--seconds", type=float, default=450, help="what has not begun by then is left out")
    parser.add_argument("--layers", type=int, default=8, help="layers a block in the rates of Prose; released: 8")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write the peptides' tables; needs OpenMM")
    arguments = parser.parse_args()
    if arguments.export:
        export(arguments.export)
        return 0
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU that torch can use: --device cpu runs the same at small sizes", file=sys.stderr)
        return 2
    torch.set_float32_matmul_precision("highest")
    small, device = arguments.small or arguments.device == "cpu", torch.device(arguments.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    run = Run(device, small, arguments.layers, time.monotonic() + arguments.seconds)
    names, outcomes = arguments.only or list(SECTIONS), {}
    for i, name in enumerate(names):
        outcomes[name] = perform(run, name)
        if "FAILED" in outcomes[name] and not usable(device) and names[i + 1 :]:
            summary(outcomes)
            print("\nThe device is lost to this process; the rest in a new one.", flush=True)
            options = ["--seconds", str(max(run.left(), 1.0)), "--layers", str(run.layers)] + ["--small"] * small
            subprocess.run([sys.executable, __file__, *options, "--only", *names[i + 1 :]], check=False)
            return 1
    summary(outcomes)
    checks = [outcome for name, outcome in outcomes.items() if not name.endswith("_rates") or "FAILED" in outcome]
    return int(any("FAILED" in outcome or "left out" in outcome for outcome in checks))


def summary(outcomes: dict[str, str]) -> None:
    print("\n## Summary\n\n| section | outcome |\n|---|---|")
    for name, outcome in outcomes.items():
        print(f"| {name} | {outcome} |")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
