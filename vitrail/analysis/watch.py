"""Running a model so that something can be seen of it, and leaving it as it was."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.analysis.places import Around, strides_of
from vitrail.errors import UsageError

Given = Tensor | tuple  # pictures [B C H W], or all that a model takes, the pictures first


def backbone_of(model: nn.Module) -> nn.Module:
    """What is under the head, or the model itself."""
    inner = getattr(model, "backbone", None)
    return inner if isinstance(inner, nn.Module) and hasattr(inner, "blocks") else model


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of the backbone in order of depth, by their names in the model. Errors: `UsageError` where there are none."""
    blocks = getattr(backbone_of(model), "blocks", None)
    if blocks is None:
        raise UsageError(f"a {type(model).__name__} has no `blocks` to look at", "give a model of vitrail.create or vitrail.backbone")
    names = {id(m): name for name, m in model.named_modules()}
    return {names[id(block)]: block for block in blocks}


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """In evaluation mode; afterwards every module is in the mode that it was in."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training


@contextmanager
def hooked(hooks: Iterable[Any]) -> Iterator[None]:
    """Handles of hooks, all removed at the end."""
    held = list(hooks)
    try:
        yield
    finally:
        for hook in held:
            hook.remove()


def inputs(model: nn.Module, given: Given) -> tuple:
    """What the model takes, where its parameters are. Errors: `UsageError` for what is no batch of pictures."""
    args = tuple(given) if isinstance(given, tuple) else (given,)
    if not args or not isinstance(args[0], Tensor) or args[0].ndim != 4 or not args[0].is_floating_point() or not len(args[0]):
        told = f"{args[0].dtype} {tuple(args[0].shape)}" if args and isinstance(args[0], Tensor) else f"a {type(given).__name__}"
        raise UsageError(f"{told} is not a batch of pictures", "give floats [B C H W], normalised as the model wants them")
    device = next((p.device for p in model.parameters()), args[0].device)
    return tuple(a.to(device) if isinstance(a, Tensor) else a for a in args)


Seer = Callable[[str, Any, tuple, Any, Around], Any]  # name, module, its arguments, its output, what is around -> another output or None


def run(model: nn.Module, args: Sequence[Any], watched: Mapping[str, nn.Module], see: Seer) -> Any:
    """The output of a model in evaluation mode, while `see` is called after every watched module. The caller decides about gradients."""
    pictures, stack = args[0], list[tuple[nn.Module, tuple]]()
    size, strides = (pictures.shape[2], pictures.shape[3]), strides_of(backbone_of(model))

    def enter(module: nn.Module, args: tuple) -> None:
        stack.append((module, args))

    def leave(module: nn.Module, args: tuple, out: Any) -> None:
        stack.pop()

    def after(name: str) -> Callable[..., Any]:
        return lambda module, args, out: see(name, module, args, out, Around(len(pictures), size, strides, tuple(stack)))

    above = {id(m): m for name in watched for m in ancestors(model, name)}
    hooks = [m.register_forward_hook(after(name)) for name, m in watched.items()]
    hooks += [m.register_forward_pre_hook(enter) for m in above.values()]
    hooks += [m.register_forward_hook(leave) for m in above.values()]
    with still(model), hooked(hooks):
        return model(*args)


def ancestors(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """The modules that a named one is inside of, the model first."""
    parts = name.split(".")
    for i in range(len(parts) if name else 0):
        yield model.get_submodule(".".join(parts[:i]))


def scores(output: Any, classes: Tensor | int | None) -> Tensor:
    """What is said of one class for each picture, [B]: its logit, summed over the places of a map, or the best of a detector's
    queries ("nothing" is no class). classes: an index, one for each picture [B], or None for what the model holds likeliest."""
    logits = output.logits[..., :-1].amax(1) if hasattr(output, "logits") else output
    if not isinstance(logits, Tensor) or logits.ndim < 2:
        raise UsageError(f"a model that gives {type(output).__name__} says nothing of classes", "give a model with its head")
    logits = logits.flatten(2).sum(2) if logits.ndim > 2 else logits
    if classes is None:
        wanted = logits.argmax(1)
    else:
        wanted = torch.as_tensor(classes, device=logits.device).expand(len(logits))
        if int(wanted.min()) < 0 or int(wanted.max()) >= logits.shape[1]:
            raise UsageError(f"class {wanted.tolist()} is not among {logits.shape[1]}", f"classes are 0 to {logits.shape[1] - 1}")
    return logits.gather(1, wanted[:, None])[:, 0]
