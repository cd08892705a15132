"""Gradient CAM: which cells of a map a class score depends on. It needs no attention, so it works for every family.

Grad-CAM (Selvaraju et al. 2016, arxiv.org/abs/1610.02391, section 3): channels weighted by the mean of their gradient,
the positive part of their sum. It is computed at the last block whose cells the output still depends on. In a
convolutional network, or where the summary is the mean of the cells, that is the last block; with a class token it is
the one before, since the last block's cells are not used (or, with one block, its input).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.analysis.block_outputs import BlockOutput, visit_outputs
from vitrail.analysis.hooks import ModelInputs, class_scores, prepare_inputs
from vitrail.errors import UsageError


def gradient_cam(model: nn.Module, images: ModelInputs, classes: Tensor | int | None = None) -> Tensor:
    """The relevance of each cell for a class, [B h w], zero or more. classes: an index, one per image [B], or None for
    the predicted one.

    With two branches (CrossViT) both maps are summed on the grid of the first.
    Errors: `UsageError` for a model without a head, and where the output depends on no cell.
    """
    args = prepare_inputs(model, images)
    args = (args[0].detach().clone().requires_grad_(), *args[1:])
    outputs: list[BlockOutput] = []
    with torch.enable_grad():
        score = class_scores(visit_outputs(model, args, outputs.append, before=True), classes).sum()
        gradients = torch.autograd.grad(score, [s.raw for s in outputs], allow_unused=True)
    blocks: dict[str, list[tuple[BlockOutput, Tensor]]] = {}
    for state, gradient in zip(outputs, gradients, strict=True):
        if gradient is not None and state.grid is not None and bool(state.cells(gradient).any()):
            blocks.setdefault(state.block, []).append((state, gradient))
    if not blocks:
        raise UsageError(
            "the output depends on no cell of any block",
            "check that the head is trained and uses the backbone's output",
        )
    return sum_branches(blocks[list(blocks)[-1]])


def sum_branches(branches: Sequence[tuple[BlockOutput, Tensor]]) -> Tensor:
    """The maps of the branches of one block and their gradients -> one map [B h w]."""
    maps = []
    for state, gradient in branches:
        weights = state.cells(gradient).mean((1, 2))  # [B D]
        maps.append(torch.einsum("bhwd,bd->bhw", state.cells(), weights).clamp(min=0).detach().float().cpu())
    return sum((resize_to_image(m, maps[0].shape[1:]) for m in maps[1:]), maps[0])


def resize_to_image(maps: Tensor, size: Sequence[int], extent: Sequence[int] | None = None) -> Tensor:
    """Maps [... h w] at the resolution of images, bilinear: [... H W]. extent: the height and width that the cells
    cover, where that is more than the image because of padding."""
    size = (size[0], size[1])
    whole = size if extent is None else (max(extent[0], size[0]), max(extent[1], size[1]))
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    large = F.interpolate(flat, whole, mode="bilinear", align_corners=False)[:, 0, : size[0], : size[1]]
    return large.reshape(*maps.shape[:-2], *size)
