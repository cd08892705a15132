"""Gaussian diffusion as DiT has it: a chain of steps that each add a little noise, a network that predicts the noise, and samplers.

Sources: DDPM (Ho et al. 2020, arxiv.org/abs/2006.11239); the learned variance and the shortened chain of Improved DDPM (Nichol & Dhariwal
2021, arxiv.org/abs/2102.09672); DDIM (Song et al. 2020, arxiv.org/abs/2010.02502). Equal to the code of DiT, whose bound is in bits and is
added without division by the number of steps.
"""

from collections.abc import Callable, Iterator, Sequence
from math import exp, log, pi, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from vitrail.errors import UsageError
from vitrail.tasks.diffusion.guidance import Denoise

FIRST, LAST, STEPS = 1e-4, 2e-2, 1000  # beta rises from the first to the last in a chain of 1000
GREY = 1 / 255  # half the distance between two neighbouring grey levels in [-1, 1]
SURE = 0.999  # beyond this a value in [-1, 1] is the darkest or the brightest grey level
LEAST = 1e-12  # of a probability


class Row(NamedTuple):
    """The coefficients of one step of the chain: floats, or tensors [B 1 1 1]. With a the product of 1 - beta so far:"""

    signal: Tensor | float  # sqrt(a)
    noise: Tensor | float  # sqrt(1 - a)
    clean: Tensor | float  # sqrt(1/a)
    dirt: Tensor | float  # sqrt(1/a - 1)
    from_start: Tensor | float  # the weight of x_0 in the posterior mean
    from_here: Tensor | float  # the weight of x_t in it
    least: Tensor | float  # the log of the posterior variance, the least
    most: Tensor | float  # log beta, the greatest
    fixed: Tensor | float  # the log variance of a network without its own


class Chain:
    """Steps 0 (nearly clean) to K-1 (noise). `times`: the condition of the network at each of them."""

    def __init__(self, betas: Tensor, times: Sequence[int]):
        """`betas` float64 [K], K at least 2."""
        self.times = tuple(times)
        self.kept = torch.cumprod(1 - betas, 0)  # a, float64 [K]
        self.before = torch.cat([torch.ones(1, dtype=torch.float64, device="cpu"), self.kept[:-1]])
        least = betas * (1 - self.before) / (1 - self.kept)
        least = torch.cat([least[1:2], least[1:]])  # the first is zero, without a logarithm
        self.table = torch.stack([
            self.kept.sqrt(), (1 - self.kept).sqrt(), (1 / self.kept).sqrt(), (1 / self.kept - 1).sqrt(),
            betas * self.before.sqrt() / (1 - self.kept), (1 - self.before) * (1 - betas).sqrt() / (1 - self.kept),
            least.log(), betas.log(), torch.cat([least[:1], betas[1:]]).log(),
        ], dim=1)  # fmt: skip  # [K 9]

    def __len__(self) -> int:
        return len(self.times)

    def row(self, place: int) -> Row:
        return Row(*self.table[place].tolist())

    def rows(self, places: Tensor) -> Row:
        """One step for each image, int64 [B]."""
        rows = self.table.float().to(places.device)[places]  # [B 9]
        return Row(*(column[:, None, None, None] for column in rows.unbind(1)))


def linear_betas(steps: int = STEPS) -> Chain:
    """Betas that rise evenly; scaled by the number of steps, so that the end is as noisy."""
    scale = STEPS / steps
    return Chain(torch.linspace(scale * FIRST, scale * LAST, steps, dtype=torch.float64, device="cpu"), range(steps))


def respace_chain(chain: Chain, steps: int) -> Chain:
    """The chain with only `steps` steps, evenly spaced from the first to the last. Errors: `UsageError`."""
    if not 2 <= steps <= len(chain):
        raise UsageError(
            f"a chain of {len(chain)} steps cannot be sampled in {steps}", f"--steps from 2 to {len(chain)}"
        )
    stride, reached, kept = (len(chain) - 1) / (steps - 1), 0.0, []
    for _ in range(steps):
        kept.append(round(reached))
        reached += stride  # added up as in the original, since a half may round either way
    return select_places(chain, kept)


def select_places(chain: Chain, places: Sequence[int]) -> Chain:
    """The chain of these steps alone, in rising order: each adds the noise of all steps since the one before."""
    kept = chain.kept[list(places)]
    betas = 1 - kept / torch.cat([torch.ones(1, dtype=torch.float64, device="cpu"), kept[:-1]])
    return Chain(betas, [chain.times[i] for i in places])


def add_noise(row: Row, x0: Tensor, noise: Tensor) -> Tensor:
    return row.signal * x0 + row.noise * noise


def start(row: Row, x: Tensor, noise: Tensor) -> Tensor:
    """The clean image for a noise in x."""
    return row.clean * x - row.dirt * noise


def mean_before(row: Row, x0: Tensor, x: Tensor) -> Tensor:
    """The posterior mean of the step before, given x_0 and x_t."""
    return row.from_start * x0 + row.from_here * x


def log_variance(row: Row, out: Tensor, channels: int) -> Tensor | float:
    """The learned log variance [B 2C H W] between least and most, or the fixed one."""
    if out.shape[1] == channels:
        return row.fixed
    share = (out[:, channels:] + 1) / 2
    return share * row.most + (1 - share) * row.least


def gaussian_losses(row: Row, out: Tensor, x0: Tensor, x: Tensor, noise: Tensor, first: Tensor) -> dict[str, Tensor]:
    """Per image [B]: "mse" of the noise, and with a learned variance "vb", the variational bound in bits per dimension. It
    trains the variance only: the mean is detached. `first` [B]: whether the step is the chain's first."""
    channels = x.shape[1]
    predicted = out[:, :channels]
    losses = {"mse": (noise - predicted).square().flatten(1).mean(1)}
    if out.shape[1] != channels:
        mean = mean_before(row, start(row, x, predicted.detach()), x)
        spread = log_variance(row, out, channels)
        assert isinstance(spread, Tensor)
        far = divergence(mean_before(row, x0, x), row.least, mean, spread)
        near = -shade_log_probability(x0, mean, spread / 2)
        losses["vb"] = torch.where(first, near.flatten(1).mean(1), far.flatten(1).mean(1)) / log(2)
    return losses


def divergence(mean1: Tensor, log1: Tensor | float, mean2: Tensor, log2: Tensor) -> Tensor:
    """From one normal distribution to another, in nats, by their means and the logarithms of their variances."""
    return 0.5 * (log2 - log1 - 1 + (log1 - log2).exp() + (mean1 - mean2).square() * (-log2).exp())


def shade_log_probability(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """The log probability of a grey level of 256 in [-1, 1], under a discretised normal distribution."""
    scale, centred = (-log_std).exp(), x - mean
    below, above = area(scale * (centred - GREY)), area(scale * (centred + GREY))
    brightest = (1 - below).clamp(min=LEAST).log()
    between = torch.where(x > SURE, brightest, (above - below).clamp(min=LEAST).log())
    return torch.where(x < -SURE, above.clamp(min=LEAST).log(), between)


def area(x: Tensor) -> Tensor:
    """The normal distribution function, as the original approximates it."""
    return 0.5 * (1 + torch.tanh(sqrt(2 / pi) * (x + 0.044715 * x.pow(3))))


def ddpm_steps(
    denoise: Denoise, x: Tensor, chain: Chain, draw: Callable[[], Tensor], clip: bool = False
) -> Iterator[Tensor]:
    """Back along the chain, from noise x [B C H W], with new noise at every step but the last: yields x after each.

    clip: the predicted clean image is clipped to [-1, 1] at each step.
    """
    for i in reversed(range(len(chain))):
        row, out = chain.row(i), denoise(x, chain.times[i]).float()
        spread = log_variance(row, out, x.shape[1])
        x = mean_before(row, predict_clean(row, x, out, clip), x)
        if i:
            x = x + ((0.5 * spread).exp() if isinstance(spread, Tensor) else exp(0.5 * spread)) * draw()
        yield x


def ddim_steps(
    denoise: Denoise, x: Tensor, chain: Chain, draw: Callable[[], Tensor], clip: bool = False, eta: float = 0.0
) -> Iterator[Tensor]:
    """Back along the chain deterministically (eta 0), or with the noise of `ddpm_steps` at the least variance (eta 1)."""
    for i in reversed(range(len(chain))):
        row, out = chain.row(i), denoise(x, chain.times[i]).float()
        x0 = predict_clean(row, x, out, clip)
        noise = (row.clean * x - x0) / row.dirt
        kept, before = float(chain.kept[i]), float(chain.before[i])
        spread = eta * sqrt((1 - before) / (1 - kept)) * sqrt(1 - kept / before)
        x = sqrt(before) * x0 + sqrt(max(0.0, 1 - before - spread**2)) * noise
        if i and eta:
            x = x + spread * draw()
        yield x


def predict_clean(row: Row, x: Tensor, out: Tensor, clip: bool) -> Tensor:
    x0 = start(row, x, out[:, : x.shape[1]])
    return x0.clamp(-1, 1) if clip else x0
