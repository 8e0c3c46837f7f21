"""Draws of ECNF++ next to a straightforward implementation: an edge list, and a backward pass a coordinate.

Both have the same random weights, and solve the ODE by Dormand and Prince's method to the same tolerance; the
straightforward one with the divergence as part of its state, and one step size for the batch.

    python benchmarks/ecnf.py                           # the released size, AA
    python benchmarks/ecnf.py --draws 0 --batch 1 4     # one velocity and divergence only
"""

import argparse
import datetime
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from boltzray.models import Conditioning, Flow, FlowConfig
from boltzray.models.config import GraphConfig
from boltzray.models.ecnf import ECNF, embedded, mask_of
from boltzray.models.flow import normal_log_density
from boltzray.models.graph_network import REACH, SMALL, GraphNetwork
from boltzray.models.ode import ERROR, NODES, STAGES
from boltzray.molecules import Peptide
from boltzray.runtime.cpu_affinity import keep_memory


class EdgeList:
    """The network on a list of edges, as equivariant graph networks are usually written."""

    def __init__(self, network: GraphNetwork, embedding: Tensor) -> None:
        self.network, self.embedding = network, embedding  # (1, N, C)
        self.n = embedding.shape[1]
        i, j = torch.meshgrid(torch.arange(self.n), torch.arange(self.n), indexing="ij")
        self.rows, self.columns = i[i != j], j[i != j]

    def velocity(self, t: float, x: Tensor) -> Tensor:
        batch, n, _ = x.shape
        shift = n * torch.arange(batch)[:, None]
        rows, columns = (self.rows + shift).flatten(), (self.columns + shift).flatten()
        y = start = x.reshape(-1, 3)
        h = (self.embedding + t * self.network.embedding.weight[:, -1]).expand(batch, -1, -1).flatten(0, 1)
        d0 = (y[rows] - y[columns]).square().sum(1, keepdim=True)
        for layer in self.network.layers:
            away = y[rows] - y[columns]
            d = away.square().sum(1, keepdim=True)
            e = layer.edge_mlp(torch.cat([h[rows], h[columns], d, d0], 1))  # type: ignore[operator]
            e = e * torch.sigmoid(layer.att_mlp(e))  # type: ignore[operator]
            pull = torch.tanh(layer.coord_mlp(e)) * REACH / len(self.network.layers)  # type: ignore[operator]
            moved = torch.zeros_like(y).index_add(0, rows, away / ((d + SMALL).sqrt() + 1) * pull)
            message = torch.zeros_like(h).index_add(0, rows, e)
            y, h = y + moved, h + layer.node_mlp(torch.cat([h, message], 1))  # type: ignore[operator]
        v = (y - start).view_as(x)
        return v - v.mean(1, keepdim=True)

    def velocity_and_divergence(self, t: float, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            v = self.velocity(t, x)
            trace = torch.zeros(len(x))
            for i in range(3 * self.n):
                (row,) = torch.autograd.grad(v.flatten(1)[:, i].sum(), x, retain_graph=True)
                trace += row.flatten(1)[:, i]
        return v.detach(), trace

    def push(self, z: Tensor, tolerance: float) -> tuple[Tensor, Tensor, int]:
        """x, log q, and how often velocity and divergence were computed."""
        state = torch.cat([z.flatten(1), torch.zeros(len(z), 1)], 1)
        count = 0

        def slope(t: float, y: Tensor) -> Tensor:
            nonlocal count
            count += 1
            v, trace = self.velocity_and_divergence(t, y[:, :-1].view_as(z))
            return torch.cat([v.flatten(1), trace[:, None]], 1)

        t, h, first = 0.0, 0.02, slope(0.0, state)
        while t < 1.0:
            h = min(h, 1.0 - t)
            k = [first]
            for node, weights in zip(NODES[1:], STAGES, strict=True):
                end = state + h * sum(w * s for w, s in zip(weights, k, strict=True))
                k.append(slope(t + node * h, end))
            error = h * sum(w * s for w, s in zip(ERROR, k, strict=True))
            norm = float((error / (tolerance * (1 + torch.maximum(state.abs(), end.abs())))).square().mean().sqrt())
            if norm <= 1:
                t, state, first = (1.0 if h >= 1.0 - t else t + h), end, k[-1]
            h *= min(5.0, max(0.2, 0.9 * max(norm, 1e-10) ** -0.2))
        return state[:, :-1].view_as(z), normal_log_density(z) - state[:, -1], count


def forward_mode(network: GraphNetwork, c: Tensor, mask: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """Trace (B,) of the dense network by torch's own forward mode, all directions at once."""
    n = x[0].numel()
    directions = torch.eye(n, dtype=x.dtype).view(n, 1, *x.shape[1:]).expand(n, *x.shape)

    def along(direction: Tensor) -> Tensor:
        result: Tensor = torch.func.jvp(lambda y: network(t, y, c, mask), (x,), (direction,))[1]
        return result

    return torch.vmap(along)(directions).flatten(2).diagonal(dim1=0, dim2=2).sum(1)


class Times(NamedTuple):
    """CPU seconds of a sample: the fastest of some repeats."""

    edge_list: float
    forward_mode: float
    ours: float
    velocity: float


def evaluation(flow: ECNF, plain: EdgeList, c: Conditioning, batch: int, repeats: int) -> Times:
    """One velocity with its divergence, of a batch; all variants in turn, and checked against each other."""
    x = torch.randn(batch, plain.n, 3, generator=torch.Generator().manual_seed(1))
    t, mask = torch.full((batch,), 0.5), mask_of(c)
    v, trace = plain.velocity_and_divergence(0.5, x)
    torch.testing.assert_close(flow.velocity(0.5, x, c), v, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(flow.divergence(0.5, x, c), trace, atol=1e-2, rtol=1e-4)
    runs: list[Callable[[], object]] = [
        lambda: plain.velocity_and_divergence(0.5, x),
        lambda: forward_mode(flow.network, embedded(c), mask, t, x),
        lambda: [flow.divergence(0.5, row[None], c) for row in x],
        lambda: [flow.velocity(0.5, row[None], c) for row in x],
    ]
    rounds = [[seconds(run) / batch for run in runs] for _ in range(repeats)]
    return Times(*(min(times) for times in zip(*rounds, strict=True)))


def seconds(run: Callable[[], object]) -> float:
    """CPU time, of one thread: the machine may have other work."""
    start = time.process_time()
    run()
    return time.process_time() - start


def random_flow(channels: int, layers: int, tolerance: float) -> ECNF:
    torch.manual_seed(0)
    graph = GraphConfig(shortest=2, longest=4, tolerance=tolerance)
    flow = Flow(FlowConfig(channels=channels, layers_per_block=layers, graph=graph), 0.28)
    assert isinstance(flow, ECNF)
    with torch.no_grad():
        for layer in flow.network.layers:
            layer.coord_mlp[2].weight.normal_(std=0.1 / math.sqrt(channels))  # type: ignore[index, union-attr, operator]
    return flow.requires_grad_(False).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--layers", type=int, default=9)
    parser.add_argument("--peptide", nargs="+", default=["AA"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--draws", type=int, default=1, help="drawn together by both; 0 for none")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    flow = random_flow(arguments.channels, arguments.layers, arguments.tolerance)
    print(f"One thread, torch {torch.__version__}, {datetime.date.today()}")
    print("CPU seconds a sample of one velocity with its divergence\n")
    print("| peptide | batch | edge list, backward | dense, torch's forward mode | ours | times | velocity alone |")
    print("|---|---|---|---|---|---|---|")
    for sequence in arguments.peptide:
        c = flow.condition(Peptide.from_sequence(sequence))
        plain = EdgeList(flow.network, embedded(c))
        for batch in arguments.batch:
            row = evaluation(flow, plain, c, batch, arguments.repeats)
            cells = [f"{value:.3f}" for value in row[:3]]
            gain = f"{row.edge_list / row.ours:.1f} | {row.velocity:.4f}"
            print(f"| {sequence} | {batch} | {' | '.join(cells)} | {gain} |", flush=True)
        if arguments.draws:
            draw(flow, plain, c, arguments.draws, arguments.tolerance)


def draw(flow: ECNF, plain: EdgeList, c: Conditioning, n: int, tolerance: float) -> None:
    z = torch.randn(n, plain.n, 3, generator=torch.Generator().manual_seed(2))
    z = z - z.mean(1, keepdim=True)
    ours: list[Tensor] = []
    theirs: list[Any] = []
    mine = seconds(lambda: ours.extend(flow.push(z, c))) / n
    other = seconds(lambda: theirs.extend(plain.push(z, tolerance))) / n
    x, log_q = ours
    print(
        f"\n{n} draw(s) to {tolerance:g}, seconds each: straightforward {other:.1f} ({theirs[2]} divergences), ours "
        f"{mine:.2f}: {other / mine:.1f} times. Farthest apart: coordinates {float((x - theirs[0]).abs().max()):.1g}, "
        f"log q {float((log_q - theirs[1]).abs().max()):.1g}\n",
        flush=True,
    )


if __name__ == "__main__":
    main()
