"""Where a number stopped being finite: looked for once, when a step has failed, so that good steps pay nothing."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from vitrail.types import Batch

Kind = Literal["images", "weights", "forward", "loss", "gradient", "norm"]


class NonFiniteFinding(NamedTuple):
    """kind: what was the first that is not finite; where: the name of the layer, the loss terms or the parameters concerned, the
    first one first; batch: what entered the model in this process, by name."""

    kind: Kind
    where: tuple[str, ...]
    batch: dict[str, Tensor]

    @property
    def message(self) -> str:
        """The finding in a few words."""
        first, more = (self.where or ("",))[0], len(self.where) - 1
        rest = f" and {more:,} more" if more > 0 else ""
        return {
            "images": "the images that entered the model are not finite",
            "weights": f"the weights themselves are not finite any more ({first}{rest})",
            "forward": f"first seen in what {first} gives",
            "loss": f"the model's answer is finite, the loss of it is not ({first}{rest})",
            "gradient": f"the loss is finite; first in the gradient of {first}{rest}",
            "norm": "every gradient is finite, only their common norm is not",
        }[self.kind]


def find_nonfinite(
    loss_of: nn.Module, batches: Sequence[Batch], bad_terms: Sequence[str], again: Callable[[int], Any]
) -> NonFiniteFinding:
    """What went wrong in a step. `again(i)` computes the loss of `batches[i]` once more, with the chances it had."""
    batch = entered(batches)
    if not all(is_finite(b.inputs) for b in batches):
        return NonFiniteFinding("images", (), batch)
    named = [(name.removeprefix("model."), p) for name, p in loss_of.named_parameters()]
    if spoilt := tuple(name for name, p in named if not is_finite(p)):
        return NonFiniteFinding("weights", spoilt, batch)
    if bad_terms:
        layer = first_layer(loss_of, len(batches), again)
        return (
            NonFiniteFinding("forward", (layer,), batch) if layer else NonFiniteFinding("loss", tuple(bad_terms), batch)
        )
    gradients = tuple(name for name, p in reversed(named) if p.grad is not None and not is_finite(p.grad))
    return NonFiniteFinding(
        "gradient" if gradients else "norm", gradients, batch
    )  # backward goes from the head down: reversed


def is_finite(t: Tensor) -> bool:
    return bool(torch.isfinite(t.detach()).all())


@torch.no_grad()
def first_layer(loss_of: nn.Module, count: int, again: Callable[[int], Any]) -> str:
    """The first module whose output is not finite, the innermost one; "" where every output is."""
    seen: list[str] = []

    def watch(name: str) -> Any:
        def look(module: nn.Module, given: Any, made: Any) -> None:
            if not seen and not all(is_finite(t) for t in tree_leaves(made) if isinstance(t, Tensor)):
                seen.append(name.removeprefix("model."))

        return look

    hooks = [m.register_forward_hook(watch(name)) for name, m in loss_of.named_modules() if name not in ("", "model")]
    try:
        for i in range(count):
            if not seen:
                again(i)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0] if seen else ""


def entered(batches: Sequence[Batch]) -> dict[str, Tensor]:
    """The tensors of the batch as they went into the model, on the CPU: "inputs", and "targets" or what these consist of."""
    found = {"inputs": torch.cat([b.inputs.detach().cpu() for b in batches])}
    if all(isinstance(b.targets, Tensor) for b in batches):
        return {**found, "targets": torch.cat([b.targets.detach().cpu() for b in batches])}
    for i, batch in enumerate(batches):
        leaves = [t for t in tree_leaves(batch.targets) if isinstance(t, Tensor)]
        found.update({f"targets.{i}.{k}": t.detach().cpu() for k, t in enumerate(leaves)})
    return found
