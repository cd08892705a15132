"""Initialisers, chosen by the class of a module."""

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
