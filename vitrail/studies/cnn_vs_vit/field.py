"""The effective receptive field: which pixels what a block says of the middle of the image depends on, by its gradient.

Source: Luo et al. 2016, "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", section 2.
"""

import torch
from torch import Tensor, nn

from vitrail.analysis.block_outputs import BlockOutput, visit_outputs


def fields(model: nn.Module, images: Tensor) -> list[Tensor]:
    """For every block, the mean over images of the absolute gradient of its middle cell, the sum of its channels weighed at random, with
    respect to each pixel: [H W], summing to 1, or zeros where nothing comes through."""
    found: list[Tensor] = []
    given = images.detach().clone().requires_grad_()

    def see(state: BlockOutput) -> None:
        cells = state.cells()  # [B h w D]
        middle = cells[:, (cells.shape[1] - 1) // 2, (cells.shape[2] - 1) // 2]
        draw = torch.randn(middle.shape[1], generator=torch.Generator().manual_seed(0)).to(
            middle
        )  # a plain sum is constant after a norm
        gradient = torch.autograd.grad((middle * draw).sum(), given, retain_graph=True)[0]
        seen = gradient.abs().sum(1).double().mean(0)
        found.append(seen / seen.sum().clamp(min=1e-30))

    with torch.enable_grad():
        visit_outputs(model, (given,), see)
    return found


def radius(field: Tensor) -> float:
    """How far from its own middle a field [H W] that sums to 1 lies: the root of the mean square of the distance, in pixels."""
    y = torch.arange(field.shape[0], dtype=field.dtype, device=field.device)
    x = torch.arange(field.shape[1], dtype=field.dtype, device=field.device)
    down, across = field.sum(1), field.sum(0)
    spread = [float((p * (t - (p * t).sum()) ** 2).sum()) for p, t in ((down, y), (across, x))]
    return sum(spread) ** 0.5


def even(size: tuple[int, int]) -> float:
    """The radius of a field that is the same everywhere."""
    return radius(torch.full(size, 1 / (size[0] * size[1]), dtype=torch.float64))
