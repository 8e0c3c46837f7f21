"""The inverse token by token: packed products, bf16 with its exact density, batches that do not fit."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from boltzray import models
from boltzray.models.block_decoder import BlocksDecoder, attend
from boltzray.models.conditioning import Precision
from boltzray.models.flow_decoder import Decoder, split_on_oom
from boltzray.models.products import Product
from boltzray.samplers.snis import snis
from golden_flows import peptide, random_flow

PRECISIONS: list[Precision] = ["float32", "bf16"]
ONE_BLOCK = {"channels": 128, "head_dim": 64, "blocks": 1}  # wide enough for packed products


def tame_flow(**config: Any) -> models.Flow:
    """Its blocks change little, so that the inverse of random latents stays finite."""
    flow = random_flow(**config)
    for block in flow.blocks:
        block.proj_out.weight.mul_(0.1)
        block.proj_out.bias.mul_(0.1)
    return flow


def test_attention_in_chunks_is_attention() -> None:
    q, k, v = torch.randn(40, 6, 64).double(), *torch.randn(2, 33, 40, 6, 64).double()
    want = F.scaled_dot_product_attention(q[:, :, None], k.permute(1, 2, 0, 3), v.permute(1, 2, 0, 3), scale=1.0)
    torch.testing.assert_close(attend(q, k, v), want[:, :, 0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("inputs", [64, 256])  # float32: one is packed, one is not
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_products(inputs: int, dtype: torch.dtype, tolerance: float) -> None:
    weight, bias, other = torch.randn(96, inputs) / math.sqrt(inputs), torch.randn(96), torch.randn(5, 96)
    x = torch.randn(5, inputs)
    exact, product = F.linear(x.double(), weight.double(), bias.double()), Product(weight, bias, dtype)
    cases = [
        (product(x), exact),
        (product(x, "gelu"), F.gelu(exact)),
        (product(x, "swish"), F.silu(exact)),
        (product.plus(x, other.to(dtype)), exact + other),
        (product.times(x, other.to(dtype)), exact * other),
    ]
    for got, want in cases:
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), want, atol=tolerance, rtol=tolerance)
    if dtype == torch.bfloat16:  # a residual stream keeps its own precision
        assert product.plus(x, other).dtype == torch.float32


@pytest.mark.parametrize("adaptive", [True, False])
def test_float32_agrees_with_float64(archives: dict[str, Any], adaptive: bool) -> None:
    flow = tame_flow(channels=128, head_dim=64, adaptive=adaptive, lookahead=adaptive)
    ala = peptide(archives["prose_small"], "AA")
    z = torch.randn(9, 23, 3)
    want, logdet = flow.inverse(z.double(), flow.condition(ala))
    flow.float()
    got, logdet32 = flow.inverse(z, flow.condition(ala))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logdet32.double(), logdet, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels", [16, 128])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_log_determinant_is_of_what_was_done(archives: dict[str, Any], channels: int, precision: Precision) -> None:
    """Move one token at a time: what its latent is stretched by is exp(a), and Σa the log-determinant."""
    flow = tame_flow(**(ONE_BLOCK | {"channels": channels, "head_dim": min(channels, 64)})).float()
    c = flow.condition(peptide(archives["prose_small"], "AA"))
    base = torch.randn(1, 23, 3)
    x, logdet = flow.inverse(base, c, precision)
    total = torch.zeros((), dtype=torch.float64)
    for token in range(23):  # alone in its batch: rows of one batch may be rounded differently
        z = base.clone()
        z[0, token] += 1.0
        moved, _ = flow.inverse(z, c, precision)
        total += ((moved - x)[0, token].double() / (z - base)[0, token].double()).log().sum()
    error = abs(float(total - logdet))
    assert error < 1e-4
    if precision == "bf16":  # the forward pass in float32 has another density: the test would see the difference
        assert abs(float(total + flow(x, c)[1])) > 5 * error


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bits_do_not_depend_on_what_was_drawn_before(archives: dict[str, Any], precision: Precision) -> None:
    flow = tame_flow(**ONE_BLOCK).float()
    ala = peptide(archives["prose_small"], "AA")
    used, fresh = flow.condition(ala), flow.condition(ala)
    z = torch.randn(8, 23, 3)
    flow.push(torch.randn(3, 23, 3), used, precision)
    for got, want in zip(flow.push(z, used, precision), flow.push(z, fresh, precision), strict=True):
        assert torch.equal(got, want)


def test_a_batch_that_does_not_fit_is_split(archives: dict[str, Any]) -> None:
    flow = tame_flow()
    c = flow.condition(peptide(archives["prose_small"], "AA"))
    decoder = Decoder(BlocksDecoder(flow.blocks, c, "float32"), alone=True, records=False)
    z, sizes = torch.randn(11, 23, 3, dtype=torch.float64), []

    def with_room_for_three(z: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(z))
        if len(z) > 3:
            raise torch.OutOfMemoryError("no room")
        return decoder(z)

    x, logdet = split_on_oom(with_room_for_three, z)
    want, want_logdet = decoder(z)
    torch.testing.assert_close(x, want, atol=1e-12, rtol=0)
    torch.testing.assert_close(logdet, want_logdet, atol=1e-12, rtol=0)
    assert sizes == [11, 6, 3, 3, 5, 3, 2]

    def without_room(z: Tensor) -> tuple[Tensor, Tensor]:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        split_on_oom(without_room, z)


def test_drawn_coordinates_may_get_gradients(archives: dict[str, Any]) -> None:
    flow = tame_flow().requires_grad_(True)
    c = flow.condition(peptide(archives["prose_small"], "AA"))
    x, _ = flow.inverse(torch.randn(2, 23, 3, dtype=torch.float64), c)
    assert not x.requires_grad
    assert models.log_prob_and_gradient(flow, x, c)[1].abs().max() > 0


def test_an_unknown_precision_is_refused(archives: dict[str, Any]) -> None:
    flow = tame_flow()
    c = flow.condition(peptide(archives["prose_small"], "AA"))
    with pytest.raises(ValueError, match="choose float32 or bf16"):
        flow.sample(c, 2, precision="fp8")  # type: ignore[arg-type]


class Cluster:
    """A Gaussian in which every atom is as far from every other; log Z is known."""

    def __init__(self, n_atoms: int) -> None:
        self.covariance = 0.5 * torch.eye(n_atoms, dtype=torch.float64) + 0.5
        self.precision, self.factor = self.covariance.inverse(), torch.linalg.cholesky(self.covariance)
        self.log_z = 1.5 * float(n_atoms * math.log(2 * math.pi) + torch.logdet(self.covariance))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn((n, len(self.factor), 3), generator=generator, dtype=torch.float64)
        return (self.factor @ noise).float()

    def log_density(self, x: Tensor) -> Tensor:
        """Without its constant."""
        return -0.5 * torch.einsum("bid,ij,bjd->b", x.double(), self.precision, x.double())


def trained(ala: Any, target: Cluster, steps: int, batch: int, **config: int) -> models.Flow:
    torch.manual_seed(0)
    flow = models.Flow(models.FlowConfig(**config), 0.17)
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator, tables = torch.Generator().manual_seed(1), flow.tables([ala])
    for _ in range(steps):
        x = 1.07 * target.sample(batch, generator)  # wider than the target, or its tails would have the weights
        loss = -flow.log_prob(x, flow.conditioning(tables)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return flow.requires_grad_(False).eval()


def check_bf16_is_exact(ala: Any, flow: models.Flow, target: Cluster, n: int) -> None:
    shares = {}
    parts = 16
    for precision in PRECISIONS:
        x, log_q = flow.sample(flow.condition(ala), n, torch.Generator().manual_seed(2), precision)
        log_p = target.log_density(x)
        result = snis(x, log_q, log_p, treatment="none")
        sigma = abs(result.log_z - target.log_z) / result.log_z_error
        weights = result.log_w.softmax(0)
        waves = x.double().cos().mean(-1)  # bounded, so that errors are estimated well
        mean = (weights[:, None] * waves).sum(0)
        error = (weights[:, None] * (waves - mean)).square().sum(0).sqrt()
        moment_sigma = float(((mean - (-target.covariance.diagonal() / 2).exp()) / error).abs().max())
        blocks = (log_p - log_q).view(parts, -1).softmax(-1)
        shares[precision] = 1 / blocks.square().sum(-1) / blocks.shape[1]
        print(f"{precision}: log Z {result.log_z:.3f} ± {result.log_z_error:.3f}, expected {target.log_z:.3f}")
        print(f"  ESS {result.ess:.3f}, log Z off by {sigma:.1f} σ, moments by at most {moment_sigma:.1f} σ")
        assert result.ess > 0.1
        assert sigma < 5
        assert moment_sigma < 5
    difference = shares["bf16"] - shares["float32"]
    assert abs(difference.mean()) < 5 * shares["float32"].std() / math.sqrt(parts)


def test_bf16_draws_are_exact(archives: dict[str, Any]) -> None:
    ala = peptide(archives["prose_small"], "AA")
    target = Cluster(23)
    flow = trained(ala, target, steps=250, batch=128, channels=16, head_dim=16, blocks=2, layers_per_block=1)
    check_bf16_is_exact(ala, flow, target, 4096)


@pytest.mark.slow
def test_bf16_draws_are_exact_in_a_wider_flow(archives: dict[str, Any]) -> None:
    ala = peptide(archives["prose_small"], "AA")
    target = Cluster(23)
    flow = trained(ala, target, steps=250, batch=64, channels=128, head_dim=64, blocks=2, layers_per_block=1)
    check_bf16_is_exact(ala, flow, target, 8192)
