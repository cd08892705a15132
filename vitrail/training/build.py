"""Builds a session from a recipe: model, optimiser, data feed and teacher."""

import os
from typing import Any

import torch

from vitrail.assembly import model
from vitrail.assembly.resolve import Names
from vitrail.assembly.run_directory import RunFolder
from vitrail.contracts import trunk_of
from vitrail.data.cache import cache_images
from vitrail.data.dataset import Dataset
from vitrail.data.loader import default_workers
from vitrail.data.splits import evaluation_part
from vitrail.engine.processes.parallel import recompute
from vitrail.engine.processes.world import World
from vitrail.recipe import Recipe
from vitrail.training.feed import Feed, batch_shares, build_growth, build_mixing, check_norms, smallest_micro_batch
from vitrail.training.optimizer import build_state
from vitrail.training.session import Session
from vitrail.training.teacher import build_teacher


def build_session(
    recipe: Recipe, dataset: Dataset, folder: RunFolder, world: World, names: Names | None = None
) -> Session:
    """The session of a recipe with every option set; the same on every process. Errors: `UsageError`."""
    torch.manual_seed(recipe.train.seed)
    if recipe.runtime.threads:
        torch.set_num_threads(recipe.runtime.threads)
    bundle = model.assemble_model(recipe, dataset.classes, dataset.multi_label, names)
    net = bundle.model.to(world.device)
    growth = build_growth(recipe, bundle, world.device)
    blocks: list[Any] = list(trunk_of(net).blocks)
    state, stages = build_state(recipe, net, bundle.task, world.device)
    if recipe.runtime.grad_checkpoint:
        recompute(blocks)
    if recipe.train.compile:
        for block in blocks:
            block.compile()
    p = recipe.train
    pre, mixing = model.build_preprocess(recipe.input), build_mixing(recipe)
    task, train = bundle.task, dataset.splits["train"]
    transform = task.transform(recipe, pre)
    per_process, micro_batch = batch_shares(p.batch_size or 1, world.size, recipe.runtime.micro_batch, mixing.is_on)
    check_norms(net, recipe, smallest_micro_batch(per_process, micro_batch), world.device)
    task.fit_class_weights(torch.from_numpy(train.labels))
    teacher = None if task.teacher is None else build_teacher(recipe, dataset.classes, pre, len(train), world.device)
    feed = Feed(
        transform, p.seed, task, world.device, p.batch_size or 1, per_process, micro_batch, mixing, growth, teacher
    )
    notes: list[str] = []
    if recipe.runtime.cache_images and recipe.input.vae is None:
        cached, notes = cache_in_memory(dataset, world)
    else:
        cached = dataset
    workers = recipe.runtime.workers
    if workers is None:
        workers = default_workers(dataset.splits["train"], transform.works_per_image, world.size)
    return Session(
        folder, recipe, cached, bundle, state, feed, world, workers, [*dataset.notes, *notes], unfreeze_stages=stages
    )


def cache_in_memory(dataset: Dataset, world: World) -> tuple[Dataset, list[str]]:
    """The data set with its training and evaluation images cached in memory, and notes."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))  # set by torchrun: processes on this machine
    return cache_images(dataset, list(dict.fromkeys(["train", evaluation_part(dataset, final=False)])), local)
