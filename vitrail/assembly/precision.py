"""How a run computes: its precision, as set or by the device and the size of the model, and its threads."""

import dataclasses

import torch

from vitrail.analysis.cost import cost, on_meta_device
from vitrail.assembly.resolve import Names
from vitrail.engine.precision import BF16_MACS, BF16_MACS_PYRAMID, PrecisionChoice, choose_precision
from vitrail.engine.world import World
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
    known = names or Names()
    return choose_precision(wanted, device, lambda: count_macs(recipe, known), lambda: least_macs(recipe, known))


def least_macs(recipe: Recipe, names: Names) -> int:
    """The multiply-adds from which bf16 is faster: fewer where most of them are 3x3 convolutions in channels-last."""
    with on_meta_device():
        model = names.model(recipe.model, recipe.input.size, recipe.input.channels)
    has_pyramid = any(isinstance(m, PyramidStem) for m in model.modules())
    return BF16_MACS_PYRAMID if has_pyramid else BF16_MACS


def count_macs(recipe: Recipe, names: Names) -> int:
    """Multiply-adds of one image in the backbone or denoiser of a recipe; 0 where they cannot be counted."""
    with on_meta_device():
        model = names.model(recipe.model, recipe.input.size, recipe.input.channels)
    try:
        return cost(model).macs
    except (RuntimeError, NotImplementedError):  # a family whose forward pass needs numbers
        return 0
