"""Weights of a given scale, and how similar the tokens of an image become."""

import torch
from torch import Tensor, nn

from vitrail.analysis.hooks import blocks_of, temporary_hooks
from vitrail.layers.modes import evaluation_mode


def rescale(model: nn.Module, scale: float) -> None:
    """Initialises every matrix in the blocks: normal, with std `scale` / sqrt(inputs); 1 preserves the variance."""
    for block in blocks_of(model).values():
        for module in block.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=scale / module.in_features**0.5)


@torch.no_grad()
def token_similarity(model: nn.Module, images: Tensor) -> float:
    """The mean cosine of two tokens of an image after the last block: 1 if all are equal, NaN if they are zero."""
    outputs: list[Tensor] = []
    last = list(blocks_of(model).values())[-1]
    with (
        evaluation_mode(model),
        temporary_hooks([last.register_forward_hook(lambda module, args, out: outputs.append(out))]),
    ):
        model(images)
    x = outputs[0].double()
    unit = x / x.norm(dim=-1, keepdim=True)
    count = unit.shape[1]
    return float(((unit.sum(1).square().sum(-1) - count) / (count * (count - 1))).mean())
