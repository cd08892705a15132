"""The effective receptive field of a block: the gradient of its centre cell with respect to each pixel.

Source: Luo et al. 2016, "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", section 2.
"""

import torch
from torch import Tensor, nn

from vitrail.analysis.block_outputs import BlockOutput, visit_outputs


def fields(model: nn.Module, images: Tensor) -> list[Tensor]:
    """For every block, the effective receptive field [H W], which sums to 1, or zeros where no gradient passes.

    That is the mean over images of the absolute gradient of its centre cell (a random weighted sum of its channels)
    with respect to each pixel.
    """
    result: list[Tensor] = []
    inputs = images.detach().clone().requires_grad_()

    def record(state: BlockOutput) -> None:
        cells = state.cells()  # [B h w D]
        middle = cells[:, (cells.shape[1] - 1) // 2, (cells.shape[2] - 1) // 2]
        # random weights: a plain sum is constant after a norm
        weights = torch.randn(middle.shape[1], generator=torch.Generator().manual_seed(0)).to(middle)
        gradient = torch.autograd.grad((middle * weights).sum(), inputs, retain_graph=True)[0]
        saliency = gradient.abs().sum(1).double().mean(0)
        result.append(saliency / saliency.sum().clamp(min=1e-30))

    with torch.enable_grad():
        visit_outputs(model, (inputs,), record)
    return result


def radius(field: Tensor) -> float:
    """The radius of a field [H W] that sums to 1: the root mean square distance from its centroid, in pixels."""
    y = torch.arange(field.shape[0], dtype=field.dtype, device=field.device)
    x = torch.arange(field.shape[1], dtype=field.dtype, device=field.device)
    down, across = field.sum(1), field.sum(0)
    spread = [float((p * (t - (p * t).sum()) ** 2).sum()) for p, t in ((down, y), (across, x))]
    return sum(spread) ** 0.5


def even(size: tuple[int, int]) -> float:
    """The radius of a uniform field."""
    return radius(torch.full(size, 1 / (size[0] * size[1]), dtype=torch.float64))
