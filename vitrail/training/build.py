"""Builds a session from a recipe: model, optimiser, data feed and teacher."""

import torch

from vitrail.assembly import model
from vitrail.assembly.resolve import Names
from vitrail.assembly.run_directory import RunFolder
from vitrail.data.dataset import Dataset
from vitrail.data.loader import default_workers
from vitrail.engine.processes.parallel import all_blocks, recompute
from vitrail.engine.processes.world import World
from vitrail.recipe import Recipe
from vitrail.training.feed import (
    Feed,
    build_growth,
    build_mixing,
    check_norms,
    reduce_decoding,
    smallest_micro_batch,
)
from vitrail.training.optimizer import build_state
from vitrail.training.processes.cached_images import cache_in_memory
from vitrail.training.processes.division import batch_shares, blank_model, decide_division
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
    blocks = all_blocks(net)
    p = recipe.train
    mixing = build_mixing(recipe)
    per_process, micro_batch = batch_shares(p.batch_size or 1, world.size, recipe.runtime.micro_batch, mixing.is_on)
    pre, task = model.build_preprocess(recipe.input), bundle.task
    transform = task.transform(recipe, pre)
    parallel = decide_division(recipe, net, world, per_process, transform.views)
    state, stages = build_state(recipe, net, bundle.task, world.device)
    blank = blank_model(net, parallel)
    recompute(blocks, recipe.runtime.grad_checkpoint)
    if p.compile and blank is None:
        for block in blocks:
            block.compile()
    train = dataset.splits["train"]
    check_norms(net, recipe, smallest_micro_batch(per_process, micro_batch), world.device)
    task.fit_class_weights(torch.from_numpy(train.labels))
    teacher = None if task.teacher is None else build_teacher(recipe, dataset.classes, pre, len(train), world.device)
    feed = Feed(
        transform, p.seed, task, world.device, p.batch_size or 1, per_process, micro_batch, mixing, growth, teacher
    )
    dataset = reduce_decoding(recipe, dataset, task)
    notes = [f"runtime.parallel = {parallel.name}: {parallel.reason}"] if parallel.reason else []
    if recipe.runtime.cache_images and recipe.input.vae is None:
        cached, more = cache_in_memory(dataset, world)
        notes += more
    else:
        cached = dataset
    workers = recipe.runtime.workers
    if workers is None:
        workers = default_workers(dataset.splits["train"], transform.works_per_image, world.per_machine)
    notes = [*dataset.notes, *notes]
    return Session(
        folder, recipe, cached, bundle, state, feed, world, workers, notes,
        unfreeze_stages=stages, parallel=parallel, blank=blank,
    )  # fmt: skip
