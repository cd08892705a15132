"""The network for given labels, with classifier-free guidance (Ho & Salimans 2022, arxiv.org/abs/2207.12598), and noise
by image."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitrail.data.sampling import derive_seed

ROWS = 64  # pairs of a time and a class that are computed at once: 50 MB for the largest DiT
Denoise = Callable[[Tensor, float], Tensor]  # x [B C H W] and their time -> the prediction


class Guidance(NamedTuple):
    """scale: extrapolation from the unconditional to the conditional prediction, 1 for none. channels: how many of the
    first are guided, 0 for all; DiT guides 3 of 4. Between `low` and `high`, exclusive: the times with guidance."""

    scale: float = 1.0
    channels: int = 0
    low: float = float("-inf")
    high: float = float("inf")


def guide_model(model: Any, labels: Tensor, guidance: Guidance, times: Sequence[float] = ()) -> Denoise:
    """The network for labels [B]. Both predictions come from one batch; without guidance only one is computed.

    times: the times of the sampler, in order; their conditionings are computed for several at once.
    """
    both, cache = torch.cat([labels, torch.full_like(labels, model.null)]), ConditioningCache(model, labels, times)

    def denoise(x: Tensor, t: float) -> Tensor:
        if guidance.scale == 1.0 or not guidance.low < t < guidance.high:
            return model.denoise(x, cache(t, labels))
        out = model.denoise(torch.cat([x, x]), cache(t, both))
        conditional, unconditional = out.chunk(2)
        count = guidance.channels or x.shape[1]
        guided = torch.lerp(unconditional[:, :count], conditional[:, :count], guidance.scale)
        return torch.cat([guided, conditional[:, count:]], dim=1)

    return denoise


class ConditioningCache:
    """The conditioning of a network, computed once for each class of a batch, and ahead for several times: the weights
    for times and classes, a third of a DiT's, are then read once in many steps, and no class is computed twice."""

    def __init__(self, model: Any, labels: Tensor, times: Sequence[float]):
        self.model, self.times = model, list(dict.fromkeys(times))
        self.classes = torch.cat([labels, labels.new_tensor([model.null])]).unique()  # sorted
        self.conditionings: dict[float, Any] = {}

    def __call__(self, t: float, labels: Tensor) -> Any:
        """For labels [B] at a time."""
        if t not in self.conditionings:
            self.compute(t)
        return self.conditionings[t].select(torch.searchsorted(self.classes, labels))

    def compute(self, t: float) -> None:
        """For this time and those after it, as many as `ROWS` allows; earlier ones are dropped."""
        count, first = len(self.classes), self.times.index(t) if t in self.times else None
        times = [t] if first is None else self.times[first : first + max(1, ROWS // count)]
        each = torch.tensor(times, device=self.classes.device).repeat_interleave(count)
        condition = self.model.condition(each, self.classes.repeat(len(times)))
        self.conditionings = {time: condition.select(slice(i * count, (i + 1) * count)) for i, time in enumerate(times)}


class NoiseStreams:
    """Noise [B C H W] at every call, each image's from its own generator, seeded by the seed and the image's number: an
    image does not depend on the others in the batch."""

    def __init__(self, seed: int, numbers: Sequence[int], shape: tuple[int, ...], device: torch.device | str = "cpu"):
        self.generators = [torch.Generator("cpu").manual_seed(derive_seed(seed, 0, number)) for number in numbers]
        self.shape, self.device = shape, device

    def __call__(self) -> Tensor:
        return torch.stack([torch.randn(self.shape, generator=g, device="cpu") for g in self.generators]).to(
            self.device
        )


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
