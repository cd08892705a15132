"""Empty tensors in checkpoints: a model has no parameter without elements, since sharding breaks on it."""

from torch import Tensor, nn


def ignore_empty(module: nn.Module) -> None:
    """Lets `load_state_dict` ignore empty tensors that the module has no parameters for."""
    module.register_load_state_dict_pre_hook(drop_empty)


def drop_empty(module: nn.Module, tensors: dict[str, Tensor], prefix: str, *rest: object) -> None:
    own = {name for name, _ in module.named_parameters(recurse=False)}
    for name in [n for n, t in tensors.items() if n.startswith(prefix) and not t.numel()]:
        leaf = name.removeprefix(prefix)
        if "." not in leaf and leaf not in own:
            del tensors[name]
