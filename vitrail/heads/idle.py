"""What of a backbone has nothing to learn, because a head reads some of its maps only."""

from collections.abc import Sequence
from typing import Any

import torch


def freeze_idle(backbone: Any, sources: Sequence[int]) -> None:
    """Freezes the parameters that none of the maps at `sources` depends on, such as those that make summaries: processes that train
    together must agree on who has a gradient.

    They are found by following what torch would differentiate, on its meta device, where nothing is computed.
    """
    was_training, config = backbone.training, backbone.config
    with torch.inference_mode(False), torch.enable_grad(), torch.device("meta"):
        there = {name: torch.empty_like(p, device="meta", requires_grad=True) for name, p in backbone.named_parameters()}
        buffers = {name: torch.empty_like(b, device="meta") for name, b in backbone.named_buffers()}
        images = torch.empty(1, config.channels, *config.size)
        maps = torch.func.functional_call(backbone.eval(), {**there, **buffers}, (images,)).maps
    backbone.train(was_training)
    reached = leaves([maps[source].grad_fn for source in sources])
    for name, p in backbone.named_parameters():
        if id(there[name]) not in reached:
            p.requires_grad_(False)


def leaves(waiting: list[Any]) -> set[int]:
    """The tensors, by identity, that are at the beginning of graphs of derivatives."""
    seen, found = set(), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting += [before for before, _ in node.next_functions]
    return found
