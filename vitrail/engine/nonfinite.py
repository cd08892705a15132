"""Finds where a number stopped being finite: once, after a step has failed, so that other steps cost nothing."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from vitrail.types import Batch

Kind = Literal["images", "weights", "forward", "loss", "gradient", "norm"]


class NonFiniteFinding(NamedTuple):
    """kind: the first stage that is not finite; where: the names of the layer, the loss terms or the parameters, first
    one first; batch: the inputs of the model in this process, by name."""

    kind: Kind
    where: tuple[str, ...]
    batch: dict[str, Tensor]

    @property
    def message(self) -> str:
        """The finding in a line."""
        first, more = (self.where or ("",))[0], len(self.where) - 1
        rest = f" and {more:,} more" if more > 0 else ""
        return {
            "images": "the images that entered the model are not finite",
            "weights": f"the weights themselves are not finite any more ({first}{rest})",
            "forward": f"first in the output of {first}",
            "loss": f"the model's output is finite, its loss is not ({first}{rest})",
            "gradient": f"the loss is finite; first in the gradient of {first}{rest}",
            "norm": "every gradient is finite, only their total norm is not",
        }[self.kind]


def find_nonfinite(
    loss_of: nn.Module, batches: Sequence[Batch], bad_terms: Sequence[str], again: Callable[[int], Any]
) -> NonFiniteFinding:
    """The cause in a step. `again(i)` recomputes the loss of `batches[i]`, with the same random numbers."""
    batch = collect_inputs(batches)
    if not all(is_finite(t) for b in batches for t in tree_leaves(b.inputs)):
        return NonFiniteFinding("images", (), batch)
    named = [(name.removeprefix("model."), p) for name, p in loss_of.named_parameters()]
    if nonfinite := tuple(name for name, p in named if not is_finite(p)):
        return NonFiniteFinding("weights", nonfinite, batch)
    if bad_terms:
        layer = first_layer(loss_of, len(batches), again)
        return (
            NonFiniteFinding("forward", (layer,), batch) if layer else NonFiniteFinding("loss", tuple(bad_terms), batch)
        )
    gradients = tuple(name for name, p in reversed(named) if p.grad is not None and not is_finite(p.grad))
    # backward goes from the head down: reversed
    return NonFiniteFinding("gradient" if gradients else "norm", gradients, batch)


def is_finite(t: Tensor) -> bool:
    return bool(torch.isfinite(t.detach()).all())


@torch.no_grad()
def first_layer(loss_of: nn.Module, count: int, again: Callable[[int], Any]) -> str:
    """The first module whose output is not finite, the innermost one; "" where every output is."""
    first: list[str] = []

    def make_hook(name: str) -> Any:
        def check_output(module: nn.Module, inputs: Any, output: Any) -> None:
            if not first and not all(is_finite(t) for t in tree_leaves(output) if isinstance(t, Tensor)):
                first.append(name.removeprefix("model."))

        return check_output

    hooks = [
        m.register_forward_hook(make_hook(name)) for name, m in loss_of.named_modules() if name not in ("", "model")
    ]
    try:
        for i in range(count):
            if not first:
                again(i)
    finally:
        for hook in hooks:
            hook.remove()
    return first[0] if first else ""


def collect_inputs(batches: Sequence[Batch]) -> dict[str, Tensor]:
    """The tensors of the batch as the model got them, on the CPU: "inputs" and "targets", or their
    tensors."""
    if all(isinstance(b.inputs, Tensor) for b in batches):
        tensors = {"inputs": torch.cat([b.inputs.detach().cpu() for b in batches])}
    else:
        names = type(batches[0].inputs)._fields
        tensors = {
            f"inputs.{name}": torch.cat([b.inputs[i].detach().cpu() for b in batches]) for i, name in enumerate(names)
        }
    if all(isinstance(b.targets, Tensor) for b in batches):
        return {**tensors, "targets": torch.cat([b.targets.detach().cpu() for b in batches])}
    for i, batch in enumerate(batches):
        leaves = [t for t in tree_leaves(batch.targets) if isinstance(t, Tensor)]
        tensors.update({f"targets.{i}.{k}": t.detach().cpu() for k, t in enumerate(leaves)})
    return tensors
