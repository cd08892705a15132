"""Initialisers, chosen by the class of a module; and what a model ignores when weights are loaded: empty tensors, since
it has no parameter without elements, on which sharding breaks."""

from typing import Literal

from torch import Tensor, nn

Init = Literal["truncated", "jax"]


def initialise(root: nn.Module, kind: Init) -> None:
    """"truncated": every linear weight trunc-normal 0.02, biases zero (DeiT, timm).
    "jax": Xavier-uniform weights, biases of the MLP N(0, 1e-6), the rest zero (the original ViT). Convolutions are
    He-normal before an activation (the stem's) and LeCun-normal otherwise (the patch embedding), in both.
    """  # fmt: skip
    for name, m in root.named_modules():
        if isinstance(m, nn.Linear) and kind == "truncated":
            nn.init.trunc_normal_(m.weight, std=0.02)
            zero(m.bias)
        elif isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight)
            if m.bias is not None and ".mlp." in f".{name}.":
                nn.init.normal_(m.bias, std=1e-6)
            else:
                zero(m.bias)
        elif isinstance(m, nn.Conv2d):
            gain = 1.0 if name.endswith("proj") else 2.0
            nn.init.trunc_normal_(m.weight, std=(gain / m.weight[0].numel()) ** 0.5)
            zero(m.bias)


def zero(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)


def ignore_empty(module: nn.Module) -> None:
    """Lets `load_state_dict` ignore empty tensors that the module has no parameters for."""
    module.register_load_state_dict_pre_hook(drop_empty)


def drop_empty(module: nn.Module, tensors: dict[str, Tensor], prefix: str, *rest: object) -> None:
    own = {name for name, _ in module.named_parameters(recurse=False)}
    for name in [n for n, t in tensors.items() if n.startswith(prefix) and not t.numel()]:
        leaf = name.removeprefix(prefix)
        if "." not in leaf and leaf not in own:
            del tensors[name]
