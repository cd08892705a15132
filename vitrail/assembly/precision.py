"""How a run computes: its precision, as set or by the device and the size of the model, and its threads."""

import dataclasses
from functools import cache

import torch
from torch import nn

from vitrail.analysis.cost import cost, on_meta_device
from vitrail.assembly.resolve import Names
from vitrail.engine.precision import BF16_MACS, BF16_MACS_PYRAMID, PrecisionChoice, choose_precision
from vitrail.engine.processes.world import World
from vitrail.layers.patch import PyramidStem
from vitrail.recipe import Recipe


def resolve_precision(recipe: Recipe, names: Names, world: World) -> tuple[Recipe, list[str]]:
    """The recipe with its precision by name and its number of threads, and the reason where the precision was "auto".
    Processors may differ: that of process 0 decides."""
    asked = recipe.train.precision
    chosen = world.on_rank_zero(lambda: inference_precision(asked, recipe, world.device, names))
    train = dataclasses.replace(recipe.train, precision=chosen.name)  # type: ignore[arg-type]
    reasons = [f"train.precision = {chosen.name}: {chosen.reason}"] if asked == "auto" else []
    runtime = dataclasses.replace(recipe.runtime, threads=recipe.runtime.threads or torch.get_num_threads())
    return dataclasses.replace(recipe, train=train, runtime=runtime), reasons


def inference_precision(
    wanted: str, recipe: Recipe, device: torch.device, names: Names | None = None
) -> PrecisionChoice:
    """The precision of a trained model: `wanted` by name, or for "auto" the one for the device and the model."""
    model = cache(lambda: build_on_meta(recipe, names or Names()))
    return choose_precision(wanted, device, lambda: count_macs(model()), lambda: least_macs(model()))


def build_on_meta(recipe: Recipe, names: Names) -> nn.Module:
    """The backbone or denoiser of a recipe, without numbers."""
    with on_meta_device():
        return names.model(recipe.model, recipe.input.size, recipe.input.channels)


def least_macs(model: nn.Module) -> int:
    """The multiply-adds from which bf16 is faster: fewer where most of them are 3x3 convolutions in channels-last."""
    has_pyramid = any(isinstance(m, PyramidStem) for m in model.modules())
    return BF16_MACS_PYRAMID if has_pyramid else BF16_MACS


def count_macs(model: nn.Module) -> int:
    """Multiply-adds of one image; 0 where they cannot be counted."""
    try:
        return cost(model).macs
    except (RuntimeError, NotImplementedError):  # a family whose forward pass needs numbers
        return 0
