"""What samplers ask: the network for given labels, with guidance (Ho & Salimans 2022, arxiv.org/abs/2207.12598), and noise by picture."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitrail.data.sampling import seed_of

Denoise = Callable[[Tensor, float], Tensor]  # x [B C H W] and the time of all of them -> what the network says


class Guidance(NamedTuple):
    """scale: how far beyond what it says without a label the network is driven, 1 for not at all. channels: how many of the first are
    driven, 0 for all of the picture's. DiT drives 3 of 4. From `low` to `high`, both left out: the times at which it is done."""

    scale: float = 1.0
    channels: int = 0
    low: float = float("-inf")
    high: float = float("inf")


def guided(model: Any, labels: Tensor, guidance: Guidance) -> Denoise:
    """The network for labels [B]. Both answers come from one batch, and where there is nothing to guide only one is asked for."""
    both = torch.cat([labels, torch.full_like(labels, model.null)])

    def denoise(x: Tensor, t: float) -> Tensor:
        if guidance.scale == 1.0 or not guidance.low < t < guidance.high:
            return model(x, torch.full((len(x),), t, device=x.device), labels)
        out = model(torch.cat([x, x]), torch.full((2 * len(x),), t, device=x.device), both)
        said, blind = out.chunk(2)
        driven = guidance.channels or x.shape[1]
        towards = torch.lerp(blind[:, :driven], said[:, :driven], guidance.scale)
        return torch.cat([towards, said[:, driven:]], dim=1)

    return denoise


class Streams:
    """Noise [B C H W] at every call, each picture's from a generator of its own that knows the seed and the picture's number alone: so a
    picture is the same whatever others are made beside it."""

    def __init__(self, seed: int, numbers: Sequence[int], shape: tuple[int, ...], device: torch.device | str = "cpu"):
        self.generators = [torch.Generator("cpu").manual_seed(seed_of(seed, 0, number)) for number in numbers]
        self.shape, self.device = shape, device

    def __call__(self) -> Tensor:
        return torch.stack([torch.randn(self.shape, generator=g, device="cpu") for g in self.generators]).to(self.device)


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
