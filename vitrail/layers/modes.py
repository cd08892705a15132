"""Evaluation mode for a while, after which every module is in the mode that it had: a frozen norm stays frozen."""

from contextlib import AbstractContextManager, ExitStack

from torch import nn


def evaluation_mode(model: nn.Module) -> AbstractContextManager[ExitStack]:
    """Evaluation mode; afterwards every module is in its previous mode."""
    stack = ExitStack()
    stack.callback(restore_modes, [(m, m.training) for m in model.modules()])
    model.eval()
    return stack


def restore_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    for m, training in modes:
        m.training = training
