"""Straight paths from noise to images as JiT has them (Li & He 2025, arxiv.org/abs/2511.13720): z = t x + (1 - t) noise.

The network predicts the image x, the noise "eps" or the velocity v = x - noise; the loss is in any of the three: table 1 of the
paper. Divisors are clamped at `FLOOR`, in training and sampling.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Space = Literal["x", "eps", "v"]
FLOOR = 0.05
Velocity = Callable[[Tensor, float], Tensor]  # z [B C H W] and the time of all of them -> dz/dt


def interpolate(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Images and noise [B C H W] at times t [B 1 1 1]."""
    return t * x + (1 - t) * noise


def flow_target(x: Tensor, noise: Tensor, prediction: Space) -> Tensor:
    """The target of the network."""
    return {"x": x, "eps": noise, "v": x - noise}[prediction]


def weight(t: Tensor, prediction: Space, loss: Space) -> Tensor:
    """The weight of a prediction error in the space of the loss, at times t, without signs."""
    done, left = t.clamp(min=FLOOR), (1 - t).clamp(min=FLOOR)
    return {
        ("x", "x"): torch.ones_like(t), ("x", "eps"): t / left,               ("x", "v"): 1 / left,
        ("eps", "x"): (1 - t) / done,   ("eps", "eps"): torch.ones_like(t),   ("eps", "v"): 1 / done,
        ("v", "x"): 1 - t,              ("v", "eps"): t,                      ("v", "v"): torch.ones_like(t),
    }[prediction, loss]  # fmt: skip


def velocity(out: Tensor, z: Tensor, t: float, prediction: Space) -> Tensor:
    """dz/dt from the prediction of the network."""
    if prediction == "x":
        return (out - z) / max(1 - t, FLOOR)
    return (z - out) / max(t, FLOOR) if prediction == "eps" else out


def flow_times(steps: int) -> list[float]:
    return torch.linspace(0, 1, steps + 1, device="cpu").tolist()


def euler(speed: Velocity, z: Tensor, steps: int) -> Iterator[Tensor]:
    """From noise z at time 0 to images at time 1: yields z after each step."""
    for t, after in pairwise(flow_times(steps)):
        z = z + (after - t) * speed(z, t)
        yield z


def heun(speed: Velocity, z: Tensor, steps: int) -> Iterator[Tensor]:
    """The same with the mean of the velocity here and there; the last step is Euler's, since x gives no velocity at time 1."""
    for t, after in pairwise(flow_times(steps)):
        here = speed(z, t)
        ahead = z + (after - t) * here
        if after < 1:
            ahead = z + (after - t) * (0.5 * (here + speed(ahead, after)))
        z = ahead
        yield z
