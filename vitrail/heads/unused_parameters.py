"""Parameters of a backbone that get no gradient, because a head uses only some of its maps."""

from collections.abc import Sequence
from typing import Any

import torch

from vitrail.layers.modes import evaluation_mode


def freeze_unused_parameters(backbone: Any, sources: Sequence[int]) -> None:
    """Freezes the parameters that none of the maps at `sources` depends on, such as those of summaries: ranks that
    train together must agree on which parameters have gradients.

    They are determined with gradients on torch's meta device, where nothing is computed.
    """
    config = backbone.config
    with evaluation_mode(backbone), torch.inference_mode(False), torch.enable_grad(), torch.device("meta"):
        parameters = {
            name: torch.empty_like(p, device="meta", requires_grad=True) for name, p in backbone.named_parameters()
        }
        buffers = {name: torch.empty_like(b, device="meta") for name, b in backbone.named_buffers()}
        images = torch.empty(1, config.channels, *config.size)
        maps = torch.func.functional_call(backbone, {**parameters, **buffers}, (images,)).maps
        total = torch.stack([maps[source].sum() for source in sources]).sum()
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    for p, gradient in zip(backbone.parameters(), gradients, strict=True):
        if gradient is None:
            p.requires_grad_(False)
