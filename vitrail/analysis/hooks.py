"""Running a model so that something can be seen of it, and leaving it as it was."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.contracts import HeadedModel, Trunk
from vitrail.errors import UsageError
from vitrail.types import DetectionOutput

ModelInputs = Tensor | tuple  # images [B C H W], or all that a model takes, the images first


def backbone_of(model: nn.Module) -> nn.Module:
    """What is under the head, or the model itself."""
    return model.backbone if isinstance(model, HeadedModel) else model


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of the backbone in order of depth, by their names in the model. Errors: `UsageError` where there are none."""
    blocks = block_list(model)
    if not blocks:
        raise UsageError(
            f"a {type(model).__name__} has no `blocks` to look at", "give a model of vitrail.create or vitrail.backbone"
        )
    names = {id(m): name for name, m in model.named_modules()}
    return {names[id(block)]: block for block in blocks}


def block_list(model: nn.Module) -> Sequence[nn.Module]:
    """The blocks of the backbone, or of the denoiser, in order of depth; none of another module."""
    inner: Any = backbone_of(model)
    return list(inner.blocks) if isinstance(inner, Trunk) else []


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """In evaluation mode; afterwards every module is in the mode that it was in."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training


@contextmanager
def temporary_hooks(hooks: Iterable[Any]) -> Iterator[None]:
    """Handles of hooks, all removed at the end."""
    held = list(hooks)
    try:
        yield
    finally:
        for hook in held:
            hook.remove()


def prepare_inputs(model: nn.Module, given: ModelInputs) -> tuple:
    """What the model takes, where its parameters are. Errors: `UsageError` for what is no batch of images."""
    args = tuple(given) if isinstance(given, tuple) else (given,)
    if (
        not args
        or not isinstance(args[0], Tensor)
        or args[0].ndim != 4
        or not args[0].is_floating_point()
        or not len(args[0])
    ):
        told = (
            f"{args[0].dtype} {tuple(args[0].shape)}"
            if args and isinstance(args[0], Tensor)
            else f"a {type(given).__name__}"
        )
        raise UsageError(
            f"{told} is not a batch of images", "give floats [B C H W], normalised as the model wants them"
        )
    device = next((p.device for p in model.parameters()), args[0].device)
    return tuple(a.to(device) if isinstance(a, Tensor) else a for a in args)


HookFunction = Callable[
    [str, Any, tuple, Any], Any
]  # name, module, its arguments, its output -> another output or None


def run_with_hooks(model: nn.Module, args: Sequence[Any], watched: Mapping[str, nn.Module], see: HookFunction) -> Any:
    """The output of a model in evaluation mode, while `see` is called after every watched module. The caller decides about gradients."""

    def after(name: str) -> Callable[..., Any]:
        return lambda module, args, out: see(name, module, args, out)

    with evaluation_mode(model), temporary_hooks([m.register_forward_hook(after(name)) for name, m in watched.items()]):
        return model(*args)


def class_scores(output: Any, classes: Tensor | int | None) -> Tensor:
    """What is said of one class for each image, [B]: its logit, summed over the places of a map, or the best of a detector's
    queries ("nothing" is no class). classes: an index, one for each image [B], or None for what the model holds likeliest."""
    logits = output.logits[..., :-1].amax(1) if isinstance(output, DetectionOutput) else output
    if not isinstance(logits, Tensor) or logits.ndim < 2:
        raise UsageError(
            f"a model that gives {type(output).__name__} says nothing of classes", "give a model with its head"
        )
    logits = logits.flatten(2).sum(2) if logits.ndim > 2 else logits
    if classes is None:
        wanted = logits.argmax(1)
    else:
        wanted = torch.as_tensor(classes, device=logits.device).expand(len(logits))
        if int(wanted.min()) < 0 or int(wanted.max()) >= logits.shape[1]:
            raise UsageError(
                f"class {wanted.tolist()} is not among {logits.shape[1]}", f"classes are 0 to {logits.shape[1] - 1}"
            )
    return logits.gather(1, wanted[:, None])[:, 0]
