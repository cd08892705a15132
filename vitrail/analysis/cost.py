"""What a model costs, counted by torch's own operator counter on the meta device: nothing is computed, any size is quick."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vitrail.layers.attention import attentions


@dataclass(frozen=True)
class Cost:
    """For one image. `macs`: multiply-adds of matrix products, convolutions and attention (papers call them FLOPs).
    `attention_bytes`: fp32 attention weights of all layers, if they were written out as looking at them does; the fused
    kernel never holds them. Where attention is sparse, both count the pairs that are seen. `activation_bytes`: fp32 outputs
    of every leaf module, about what training keeps."""

    parameters: int
    trainable: int
    macs: int
    attention_bytes: int
    activation_bytes: int
    parameter_bytes: int
    by_part: dict[str, int]  # multiply-adds of each direct part of the backbone, and of the head

    def lines(self) -> list[str]:
        """The same in words."""
        rows = [
            ("parameters", f"{self.parameters:,}" + ("" if self.trainable == self.parameters else f" ({self.trainable:,} learn)")),
            ("multiply-adds", f"{self.macs / 1e9:.3f} G" if self.macs >= 1e8 else f"{self.macs / 1e6:.3f} M"),
            ("attention weights", f"{self.attention_bytes / 2**20:.2f} MiB if written out"),
            ("activations", f"{self.activation_bytes / 2**20:.2f} MiB"),
            ("weights on disk", f"{self.parameter_bytes / 2**20:.2f} MiB"),
        ]
        return [f"{name:<18} {value}" for name, value in rows]


def cost(model: nn.Module, size: tuple[int, int] | int | None = None) -> Cost:
    """The cost of one image of `size` (height, width), by default the model's own. The model is not touched."""
    from torch.utils.flop_counter import FlopCounterMode

    config = getattr(getattr(model, "backbone", model), "config", None)
    size = getattr(config, "size", (224, 224)) if size is None else (size, size) if isinstance(size, int) else size
    ghost = on_meta(model)
    images = torch.empty(1, getattr(config, "channels", 3), *size, device="meta")
    seen: dict[str, int] = {"attention": 0, "activations": 0, "unseen": 0}
    hooks = [m.register_forward_pre_hook(attention_hook(seen)) for m in attentions(ghost).values()]
    hooks += [m.register_forward_hook(activation_hook(seen)) for m in ghost.modules() if not any(m.children())]
    with torch.no_grad():
        ghost(images)  # looking costs operations of its own, so it is not done while counting
        for hook in hooks:
            hook.remove()
        with FlopCounterMode(display=False) as counter:
            ghost(images)
    parts = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    top = type(ghost).__name__
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        macs=counter.get_total_flops() // 2 - seen["unseen"],
        attention_bytes=seen["attention"],
        activation_bytes=seen["activations"],
        parameter_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        by_part={n.removeprefix(f"{top}."): v for n, v in parts.items() if n.count(".") in (1, 2) and n.startswith(top) and v},
    )


def on_meta(model: nn.Module) -> nn.Module:
    """The same structure without its numbers, in evaluation mode."""
    import copy

    memo: dict[int, Any] = {}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
    for b in model.buffers():
        memo[id(b)] = torch.empty_like(b, device="meta")
    return copy.deepcopy(model, memo).eval()


def attention_hook(seen: dict[str, int]) -> Any:
    def hook(module: Any, args: tuple) -> None:
        found = module.project(*args)
        q, k, v = found[:3]
        rows, every = q.shape[0] * q.shape[1], q.shape[2] * k.shape[2]
        pairs = every if found.seen is None else found.seen.pairs()
        seen["attention"] += rows * pairs * 4
        seen["unseen"] += rows * (every - pairs) * (q.shape[3] + v.shape[3])  # counted by torch, left out by a sparse kernel

    return hook


def activation_hook(seen: dict[str, int]) -> Any:
    def hook(module: nn.Module, args: tuple, out: Any) -> None:
        if isinstance(out, torch.Tensor):
            seen["activations"] += out.numel() * 4

    return hook
