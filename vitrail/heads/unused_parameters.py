"""Parameters of a backbone that get no gradient, because a head uses only some of its maps."""

from collections.abc import Sequence
from typing import Any

import torch

from vitrail.layers.modes import evaluation_mode

_KNOWN: dict[tuple[type, str, tuple[int, ...]], frozenset[str]] = {}  # a head is assembled several times in a process


def freeze_unused_parameters(backbone: Any, sources: Sequence[int]) -> None:
    """Freezes the parameters that none of the maps at `sources` depends on, such as those of summaries: ranks that
    train together must agree on which parameters have gradients."""
    key = (type(backbone), repr(backbone.config), tuple(sources))
    if key not in _KNOWN:
        _KNOWN[key] = find_unused_parameters(backbone, sources)
    for name, p in backbone.named_parameters():
        if name in _KNOWN[key]:
            p.requires_grad_(False)


def find_unused_parameters(backbone: Any, sources: Sequence[int]) -> frozenset[str]:
    """The names of these parameters, determined with gradients on torch's meta device, where nothing is computed."""
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
    return frozenset(name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None)
