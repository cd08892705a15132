"""What tasks on several crops of each image share: the crops, and the model's answers to them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.contracts import Backbone
from vitrail.data.transforms.multi_crop import MultiCrop
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import UsageError
from vitrail.layers.modes import evaluation_mode
from vitrail.recipe import Recipe
from vitrail.types import Views


def build_multi_crop(
    recipe: Recipe, preprocess: Preprocess, config: Any, blur: Sequence[float], solarize: Sequence[float]
) -> MultiCrop:
    """The crops of a task's config. blur, solarize: probabilities, of each global crop and then of the local ones."""
    a = recipe.augment
    local = (config.local_size, config.local_size)
    count = config.global_crops + config.local_crops
    blurs, inversions = ((*part, *([part[-1]] * count))[:count] for part in (blur, solarize))
    return MultiCrop(preprocess, recipe.train.seed, config.global_crops, config.local_crops, local, config.global_scale,
                     config.local_scale, bool(a.hflip), a.vflip, config.color_jitter, config.grayscale, blurs,
                     inversions)  # fmt: skip


def check_views(config: Any) -> None:
    """Errors: `UsageError` for crops that cannot be."""
    for name in ("global_scale", "local_scale"):
        low, high = getattr(config, name)
        if low > high or high == 0:
            flag = f"--task.{name.replace('_', '-')}"
            raise UsageError(f"task.{name} is from {low} to {high}", f"the smaller fraction comes first: {flag} 0.05 1")
    if config.local_crops and not config.local_size:
        raise UsageError(
            "task.local_size, the side of local crops in pixels, is 0", "leave it out, or --task.local-crops 0"
        )


def as_backbone(trunk: nn.Module) -> Backbone:
    """Errors: `UsageError` for a trunk that gives no features."""
    if isinstance(trunk, Backbone):
        return trunk
    raise UsageError(f"{type(trunk).__name__} gives no features of images", "--model vit/small, or another backbone")


def check_local_size(trunk: Any, side: int) -> None:
    """Errors: `UsageError` for a backbone that does not take images of the size of local crops."""
    parameter = next(trunk.parameters())
    try:
        with torch.no_grad(), evaluation_mode(trunk):
            trunk(torch.zeros(1, trunk.config.channels, side, side, device=parameter.device))
    except (UsageError, RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        what = f"{type(trunk).__name__} does not take local crops of {side}x{side}: {reason}"
        raise UsageError(what, "another --task.local-size, or --task.local-crops 0") from None


def project_views(model: nn.Module, views: Views) -> Tensor:
    """What the model makes of every crop, global ones first: [B V K]."""
    rows = [model(crops.flatten(0, 1)).float().unflatten(0, crops.shape[:2]) for crops in views if crops.numel()]
    return torch.cat(rows, dim=1)
