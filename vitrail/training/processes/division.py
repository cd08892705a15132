"""How the model of a session is divided among processes: decided when it is built, done before its first step."""

import torch
from torch import nn

from vitrail.analysis.block_values import count_block_values
from vitrail.engine.checkpoint import SavedCheckpoint
from vitrail.engine.memory import usable_memory
from vitrail.engine.processes.choice import ONE_PROCESS, Needs, ParallelChoice, choose_parallel
from vitrail.engine.processes.formulas import checkpointing_of, nearest_batches
from vitrail.engine.processes.parallel import LossModule, all_blocks, compile_blocks, refuse_batch_norm
from vitrail.engine.processes.world import World
from vitrail.errors import UsageError
from vitrail.recipe import Recipe
from vitrail.training.session import Session


def batch_shares(batch: int, processes: int, micro_batch: int | None, mixing: bool) -> tuple[int, int]:
    """The batch size per process and the micro-batch size. Errors: `UsageError` where it is not divisible."""
    if batch % processes:
        near = nearest_batches(batch, processes)
        fewer = max(n for n in range(1, processes) if batch % n == 0)
        raise UsageError(
            f"batch size {batch} is not divisible by {processes} processes",
            f"start {fewer} processes; or a new run with --batch-size {' or '.join(map(str, near))}",
        )
    per_process = batch // processes
    size = min(micro_batch or per_process, per_process)
    if mixing and (per_process % 2 or size % 2):
        raise UsageError(
            f"MixUp and CutMix pair images, and {per_process} per process in micro-batches of {size} is not even",
            "use an even --batch-size and --runtime.micro-batch, or --augment.mixup 0 --augment.cutmix 0",
        )
    return per_process, size


def decide_division(recipe: Recipe, net: nn.Module, world: World, images: int, views: float) -> ParallelChoice:
    """The division that a recipe asks for, the same on every process; on a GPU batch norms of a divided model are
    replaced by those that sum over processes. images: of a process in a step, at most; views: of each of them. Errors:
    `UsageError`."""
    if world.size == 1:
        return ONE_PROCESS
    wanted = recipe.runtime.parallel
    choice = world.on_rank_zero(lambda: choose_parallel(wanted, count_needs(recipe, net, world, images, views)))
    if choice.shards > 1:
        refuse_batch_norm(net, choice.name, world.device.type)
        nn.SyncBatchNorm.convert_sync_batchnorm(net)
    return choice


def count_needs(recipe: Recipe, net: nn.Module, world: World, images: int, views: float) -> Needs:
    """What the decision depends on, of the process that decides."""
    local = world.per_machine
    budget = usable_memory(world.device)
    return Needs(
        processes=world.size,
        per_machine=local,
        parameters=sum(p.numel() for p in net.parameters()),
        averages=sum(1 for decay in (recipe.optim.ema_decay, recipe.optim.ema_decay_2) if decay),
        images=min(images, recipe.runtime.micro_batch or images),
        values=round(count_block_values(net, recipe.input.size) * views),
        checkpointing=checkpointing_of(recipe.runtime.grad_checkpoint),
        number_bytes=4 if recipe.train.precision == "fp32" else 2,
        budget=budget // local if world.device.type == "cpu" else budget,
        can_shrink=recipe.runtime.micro_batch is None,
    )


def blank_model(net: nn.Module, parallel: ParallelChoice) -> nn.Module | None:
    """A copy without weights of a model that will be divided, before anything in it is replaced; None of others."""
    if parallel.shards == 1:
        return None
    from vitrail.engine.processes.fsdp import blank_copy

    return blank_copy(net)


def divide_session(session: Session) -> None:
    """Divides the state of a session in place, where so decided; collective. Its weights are loaded, and no step is
    done."""
    state, shards, blank = session.state, session.parallel.shards, session.blank
    if shards == 1 or blank is None:
        return
    check_folder(session)
    from vitrail.engine.processes.fsdp import build_mesh, divide_state

    blocks = all_blocks(state.model)
    if session.recipe.train.compile:
        compile_blocks(blocks)
    loss_of = LossModule(state.model, session.bundle.task)
    lists = [stage.parameters for stage in session.unfreeze_stages]
    divide_state(state, loss_of, blank, build_mesh(session.world, shards), session.precision, lists)
    if session.world.device.type == "cuda":
        torch.cuda.empty_cache()


def check_folder(session: Session) -> None:
    """Errors: `UsageError` where a process does not see the folder of the run, into which each writes its part."""
    path = session.folder.path
    seen = session.world.gather_objects(path.is_dir())
    if not all(seen):
        what = f"process {seen.index(False)} does not see {path}, and each process of a divided model writes there"
        raise UsageError(what, "give --out on a file system that all machines share, or --parallel ddp")


def load_divided(session: Session, saved: SavedCheckpoint) -> None:
    """The state of a checkpoint, whole or in pieces, into the divided state of a session. Errors: `CheckpointError`."""
    from vitrail.engine.processes.restore import load_pieces

    if saved.parts:
        session.state.load(saved.parts, saved.numbers)
    else:
        load_pieces(session.state, saved)
