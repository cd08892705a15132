"""Gradient flow block by block: norms of activations and gradients, and the contribution of each residual branch."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.analysis.hooks import blocks_of, temporary_hooks
from vitrail.errors import UsageError
from vitrail.layers.attention import Attention, merge_heads
from vitrail.layers.drop import DropPath, SkipPath
from vitrail.layers.modes import evaluation_mode
from vitrail.types import TokenLayout

TINY = 1e-30


class Norms(NamedTuple):
    """Root mean squares over a batch of the output of a part and of the loss's gradient there."""

    activation: float
    gradient: float


class BlockFlow(NamedTuple):
    """One block. parts: queries, keys, values and output of each attention, and every other part that has weights, by
    name. branches: |branch| / |x + branch| of each residual branch in order, or of the whole block where they cannot be
    separated; empty where it changes the shape."""

    name: str
    out: Norms
    parts: dict[str, Norms]
    branches: tuple[float, ...]


def measure_flow(model: nn.Module, loss: Callable[[nn.Module], Tensor | Mapping[str, Tensor]]) -> list[BlockFlow]:
    """Every block of the backbone for one batch, in evaluation mode; the model and its gradients are not changed.

    loss: from the model to a scalar, or to named ones that are summed, as `lambda m: task.loss(m, batch)`.
    Errors: `UsageError` for a loss that does not depend on any block.
    """
    recorder = FlowRecorder(
        dict(inner for name, block in blocks_of(model).items() for inner in open_block(name, block))
    )
    with torch.enable_grad(), evaluation_mode(model), temporary_hooks(recorder.hooks()):
        losses = loss(model)
        total = sum(losses.values()) if isinstance(losses, Mapping) else losses
        tensors = [t for t in recorder.tensors.values() if t.requires_grad]
        if not isinstance(total, Tensor) or total.ndim or not total.requires_grad or not tensors:
            raise UsageError(
                "this loss has no gradient",
                "return a scalar that depends on trainable weights of the model",
            )
        gradients = torch.autograd.grad(total, tensors, allow_unused=True)
    gradient_by_id = {id(t): g for t, g in zip(tensors, gradients, strict=True)}
    norms = {key: Norms(rms(t), rms(gradient_by_id.get(id(t)))) for key, t in recorder.tensors.items()}
    parts = {name: {p: n for (block, p), n in norms.items() if block == name and p} for name in recorder.blocks}
    return [BlockFlow(n, norms[n, ""], parts[n], recorder.shares(n)) for n in recorder.blocks if (n, "") in norms]


def rms(x: Tensor | None) -> float:
    return 0.0 if x is None else float(x.detach().float().square().mean().sqrt())


class FlowRecorder:
    """Records of one forward pass: tensors of the graph by (block, part), inputs of blocks, and outputs of residual
    branches."""

    def __init__(self, blocks: Mapping[str, nn.Module]):
        self.blocks = blocks
        self.tensors: dict[tuple[str, str], Tensor] = {}
        self.inputs: dict[str, Tensor] = {}
        self.added: dict[str, list[Tensor]] = {name: [] for name in blocks}

    def hooks(self) -> list[Any]:
        handles: list[Any] = []
        for name, block in self.blocks.items():
            handles += [
                block.register_forward_pre_hook(self.enters(name)),
                block.register_forward_hook(self.leaves(name, "")),
            ]
            for part, module in block.named_modules():
                if isinstance(module, Attention):
                    handles.append(module.register_forward_hook(self.attends(name, part)))
                elif isinstance(module, DropPath | SkipPath):
                    handles.append(module.register_forward_hook(self.adds(name)))
            handles += [
                m.register_forward_hook(self.leaves(name, part)) for part, m in block.named_children() if is_mixer(m)
            ]
        return handles

    def enters(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple) -> None:
            if args and isinstance(args[0], Tensor):
                self.inputs[name] = args[0].detach()

        return hook

    def leaves(self, name: str, part: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, out: Any) -> None:
            if isinstance(out, tuple) and isinstance(out[-1], TokenLayout):  # of a block that merges tokens
                out = out[0]
            if isinstance(out, Tensor):
                self.tensors[name, part] = out

        return hook

    def adds(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, out: Tensor) -> None:
            self.added[name].append((out if isinstance(module, DropPath) else out - args[0]).detach())

        return hook

    def attends(self, name: str, part: str) -> Callable[..., Tensor]:
        """Attention again from queries, keys and values that are in the graph; its result replaces the first."""

        def hook(module: Attention, args: tuple, out: Tensor) -> Tensor:
            inputs = module.inputs(*args)
            mixed = F.scaled_dot_product_attention(inputs.queries, inputs.keys, inputs.values, inputs.mask())
            again = module.dropout(module.proj(merge_heads(mixed)))
            for label, tensor in zip(("q", "k", "v", "proj"), (*inputs[:3], again), strict=True):
                self.tensors[name, f"{part}.{label}".lstrip(".")] = tensor
            return again

        return hook

    def shares(self, name: str) -> tuple[float, ...]:
        """|branch| / |x + branch|, branch by branch where they add up to the block's output."""
        x, out = self.inputs.get(name), self.tensors[name, ""].detach()
        if x is None or x.shape != out.shape:
            return ()
        ratios, stream = [], x
        for branch in self.added[name]:
            if branch.shape != stream.shape:
                break
            stream = stream + branch
            ratios.append(rms(branch) / max(rms(stream), TINY))
        if ratios and out.isfinite().all() and torch.allclose(stream, out, rtol=1e-3, atol=1e-3 * rms(out)):
            return tuple(ratios)
        return (rms(out - x) / max(rms(out), TINY),)


def open_block(name: str, block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """A block with its name, or its children where it consists of lists alone, as a block of two branches."""
    inner = list(block.named_children())
    if isinstance(block, nn.ModuleList) or all(isinstance(m, nn.ModuleList) for _, m in inner):
        for part, module in inner:
            yield from open_block(f"{name}.{part}", module)
    else:
        yield name, block


def is_mixer(module: nn.Module) -> bool:
    """Whether a part has weight matrices and contains no attention."""
    inside = list(module.modules())
    return not any(isinstance(m, Attention) for m in inside) and any(
        isinstance(m, nn.Linear | nn.Conv2d) for m in inside
    )
