"""What Python prints of a model: a few lines instead of every layer."""

from torch import nn


def describe_model(model: nn.Module, about: str) -> str:
    """The class, the number of parameters, and where the layers are. about: what else is known of it."""
    parameters = sum(p.numel() for p in model.parameters())
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    trained = f", {frozen:,} of them frozen" if frozen else ""
    return (
        f"{type(model).__name__}: {parameters:,} parameters{trained}; {about}\n"
        f"  parts: {', '.join(name for name, _ in model.named_children())}\n"
        f"  every layer: print(torch.nn.Module.__repr__(model))"
    )
