"""Forward passes with temporary hooks, which leave the model unchanged."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.contracts import HeadedModel, Trunk
from vitrail.errors import UsageError
from vitrail.layers.modes import evaluation_mode
from vitrail.types import CellOutput, DetectionOutput

ModelInputs = Tensor | tuple  # images [B C H W], or all inputs of a model, the images first


def backbone_of(model: nn.Module) -> nn.Module:
    """The backbone under the head, or the model itself."""
    return model.backbone if isinstance(model, HeadedModel) else model


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of the backbone in order of depth, by their names in the model. Errors: `UsageError` where there are
    none."""
    blocks = block_list(model)
    if not blocks:
        raise UsageError(
            f"a {type(model).__name__} has no `blocks`", "use a model of vitrail.create or vitrail.backbone"
        )
    names = {id(m): name for name, m in model.named_modules()}
    return {names[id(block)]: block for block in blocks}


def block_list(model: nn.Module) -> Sequence[nn.Module]:
    """The blocks of the backbone, or of the denoiser, in order of depth; none of another module."""
    inner: Any = backbone_of(model)
    return list(inner.blocks) if isinstance(inner, Trunk) else []


@contextmanager
def temporary_hooks(hooks: Iterable[Any]) -> Iterator[None]:
    """Handles of hooks, all removed at the end."""
    handles = list(hooks)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def prepare_inputs(model: nn.Module, inputs: ModelInputs) -> tuple:
    """The inputs of a model on the device of its parameters. Errors: `UsageError` for other than a batch of images."""
    args = tuple(inputs) if isinstance(inputs, tuple) else (inputs,)
    if (
        not args
        or not isinstance(args[0], Tensor)
        or args[0].ndim != 4
        or not args[0].is_floating_point()
        or not len(args[0])
    ):
        is_tensor = args and isinstance(args[0], Tensor)
        kind = f"{args[0].dtype} {tuple(args[0].shape)}" if is_tensor else f"a {type(inputs).__name__}"
        raise UsageError(
            f"{kind} is not a batch of images", "use floats [B C H W], normalised as the model expects them"
        )
    device = next((p.device for p in model.parameters()), args[0].device)
    return tuple(a.to(device) if isinstance(a, Tensor) else a for a in args)


HookFunction = Callable[[str, Any, tuple, Any], Any]  # name, module, arguments, output -> another output or None


def run_with_hooks(model: nn.Module, args: Sequence[Any], watched: Mapping[str, nn.Module], see: HookFunction) -> Any:
    """The output of a model in evaluation mode; calls `see` after every watched module. The caller decides about
    gradients."""

    def after(name: str) -> Callable[..., Any]:
        return lambda module, args, out: see(name, module, args, out)

    with evaluation_mode(model), temporary_hooks([m.register_forward_hook(after(name)) for name, m in watched.items()]):
        return model(*args)


def class_scores(output: Any, classes: Tensor | int | None) -> Tensor:
    """The score of one class for each image, [B]: its logit, summed over the cells of a map, or the maximum over a
    detector's queries ("no object" is no class) or cells. classes: an index, one for each image [B], or None for the
    predicted class."""
    logits = output.class_scores().amax(1) if isinstance(output, DetectionOutput | CellOutput) else output
    if not isinstance(logits, Tensor) or logits.ndim < 2:
        raise UsageError(f"an output {type(output).__name__} has no class scores", "use a model with its head")
    logits = logits.flatten(2).sum(2) if logits.ndim > 2 else logits
    if classes is None:
        labels = logits.argmax(1)
    else:
        labels = torch.as_tensor(classes, device=logits.device).expand(len(logits))
        if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
            raise UsageError(
                f"class {labels.tolist()} is not one of {logits.shape[1]}", f"classes are 0 to {logits.shape[1] - 1}"
            )
    return logits.gather(1, labels[:, None])[:, 0]
