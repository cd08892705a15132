"""What each process of a distributed test does: one job by name, results as files in a folder."""

import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import tiny
import torch

from vitrail.assembly.run_directory import RunFolder
from vitrail.engine.processes import world as worlds
from vitrail.engine.processes.parallel import LossModule
from vitrail.engine.train import accumulate_gradients
from vitrail.errors import Interrupted, VitrailError
from vitrail.evaluation.evaluate import evaluate
from vitrail.recipe import Choice, DataConfig, EvalConfig, OptimConfig, Recipe, RuntimeConfig, TrainConfig
from vitrail.tasks.classification import Classification
from vitrail.training import create, loop, resume
from vitrail.training.steps import loop_settings, remaining_batches

STILL = {"dropout": 0.0, "drop_path": 0.0}


class Never:
    def is_requested(self):
        return False


def one_gradient(folder: Path, world: worlds.World) -> None:
    """The gradient of the first step, of all processes together."""
    running, _ = create.create_session(
        tiny.recipe(folder / "tiny.npz", model=STILL, runtime={"micro_batch": 4}),
        folder / f"gradient{world.size}",
        world,
    )
    loss_of = LossModule(running.state.model, running.bundle.task)
    if world.size > 1:
        loss_of = torch.nn.parallel.DistributedDataParallel(loss_of, broadcast_buffers=False)
    pieces = next(iter(remaining_batches(running)))
    accumulate_gradients(running.state, loss_of, pieces, loop_settings(running, Never()))
    if world.is_first:
        vector = torch.cat([p.grad.flatten() for p in running.state.model.parameters() if p.grad is not None])
        torch.save(vector, folder / f"gradient{world.size}.pt")


def whole_run(folder: Path, world: worlds.World, name: str, model=()) -> None:
    running, _ = create.create_session(tiny.recipe(folder / "tiny.npz", model=dict(model)), folder / name, world)
    for _ in loop.run_training(running):
        pass


def denoiser(folder: Path, world: worlds.World, name: str) -> None:
    """A run that makes images, judged by the classifier that was trained before, with images kept at every moment."""
    from vitrail.training import samples

    samples.SHARE = 100.0
    small = Choice("jit/nano", {"width": 16, "depth": 2, "heads": 2, "context": 2, "context_start": 1, "bottleneck": 8})
    plan = TrainConfig(steps=4, batch_size=16, precision="fp32", eval_every=2)
    machine = RuntimeConfig(micro_batch=4, workers=0)
    made = Recipe(model=small, data=DataConfig("", {"path": str(folder / "tiny.npz")}),
                  optim=OptimConfig(lr=3e-3, ema_decay=0.5, warmup_steps=0), train=plan,
                  runtime=machine, eval=EvalConfig(str(folder / "alone")))  # fmt: skip
    running, _ = create.create_session(made, folder / name, world)
    for _ in loop.run_training(running):
        pass


def judgements(folder: Path, world: worlds.World) -> None:
    """Sets of 17, 33 and 1 images and one with several labels an image, each counted once."""
    for name in ("17", "33", "1", "multi"):
        running, _ = create.create_session(tiny.recipe(folder / f"data{name}" / "tiny.npz",
                                                        augment={"mixup": 0.0, "cutmix": 0.0}),
                                 folder / f"judged{name}-{world.size}", world)  # fmt: skip
        split = running.dataset.splits["val"]
        metrics, found, _ = evaluate(running.bundle, split, world, running.preprocess, 0, batch=4)
        said = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        place = folder / f"judged{name}-{world.size}-{world.rank}"
        place.with_suffix(".json").write_text(json.dumps(said))
        torch.save((found.rows, found.targets), place.with_suffix(".pt"))


def differing(folder: Path, world: worlds.World, key: str) -> None:
    """Process 1 is started with something else."""
    path, changed, version = folder / "tiny.npz", create.prepare_run, torch.__version__
    made = tiny.recipe(path)
    if world.rank == 1:
        if key == "train.seed":
            made = tiny.recipe(path, train={"seed": 7})
        elif key == "optim.lr":
            made = tiny.recipe(path, optim={"lr": 0.5})
        elif key == "torch":
            torch.__version__ = "0.0"
        elif key == "the data set":

            def prepare(*given):
                found = changed(*given)
                entries = tuple(e._replace(size=e.size + 1) for e in found.dataset.entries)
                return replace(found, dataset=replace(found.dataset, entries=entries))

            create.prepare_run = prepare
    refused(folder, world, key, lambda: create.create_session(made, folder / "differing", world))
    create.prepare_run, torch.__version__ = changed, version


def resumed_differently(folder: Path, world: worlds.World) -> None:
    given = [("optim", {"lr": 0.5})] if world.rank == 1 else []
    refused(
        folder,
        world,
        "resume",
        lambda: resume.resume_session(RunFolder(folder / "finished"), given, ["optim.lr"], world),
    )


def refused(folder: Path, world: worlds.World, name: str, work) -> None:
    try:
        work()
        said = "accepted"
    except VitrailError as error:
        said = error.what
    (folder / f"refused-{name}-{world.rank}.txt").write_text(said)


def not_finite(folder: Path, world: worlds.World) -> None:
    """At step 5 the loss of process 1 alone is not a number."""
    running, _ = create.create_session(
        tiny.recipe(folder / "tiny.npz", runtime={"micro_batch": None}), folder / "poisoned", world
    )
    loss, calls = Classification.loss, []

    def bad(self, model, batch):
        calls.append(1)
        terms = loss(self, model, batch)
        return {k: v * float("nan") for k, v in terms.items()} if len(calls) == 5 and world.rank == 1 else terms

    Classification.loss = bad
    last = []

    def follow():
        for event in loop.run_training(running):
            if event.kind == "train":
                last[:] = [p.detach().clone() for p in running.state.model.parameters()]

    refused(folder, world, "nan", follow)
    Classification.loss = loss
    same = all(torch.equal(a, b) for a, b in zip(last, running.state.model.parameters(), strict=True))
    (folder / f"nan-{world.rank}.json").write_text(json.dumps({"same": same, "step": running.state.step}))


def stopped(folder: Path, world: worlds.World) -> None:
    """Process 1 alone is told to stop; saving takes long. Each says when it left, and whether the checkpoint was
    there."""
    import os
    import signal

    from vitrail.engine import checkpoint

    running, _ = create.create_session(
        tiny.recipe(folder / "tiny.npz", runtime={"save_every": 1000}), folder / "stopped", world
    )
    save = checkpoint.save

    def slow(*given):
        time.sleep(1.0)
        return save(*given)

    checkpoint.save = slow
    code = 0
    try:
        for event in loop.run_training(running):
            if event.kind == "train" and event.step == 3 and world.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
    except Interrupted as error:
        code = error.code
    there = (folder / "stopped" / "checkpoints" / checkpoint.checkpoint_name(running.state.step)).is_dir()
    (folder / f"stopped-{world.rank}.json").write_text(
        json.dumps({"code": code, "step": running.state.step, "saved": there})
    )


def waited_for(folder: Path, world: worlds.World) -> None:
    """The disk of each process in turn is slow; whether the other one was in a collective before it was read."""
    store, entered = world.peers.meeting, {}
    functions = {"broadcast_object_list": "first disk", "all_gather_object": "second disk"}
    real = {name: vars(torch.distributed)[name] for name in functions}

    def watched(name):
        def collective(*given):
            entered[name] = store.check([functions[name]])
            return real[name](*given)

        return collective

    def read(disk):
        time.sleep(0.3)
        store.set(disk, "read")
        return "read"

    for name in functions:
        setattr(torch.distributed, name, watched(name))
    found = world.on_rank_zero(lambda: read("first disk"))
    if world.rank == 1:
        read("second disk")
    world.assert_equal_across_ranks({"the same": 1})
    for name, function in real.items():
        setattr(torch.distributed, name, function)
    (folder / f"waited-{world.rank}.json").write_text(json.dumps({"found": found, **entered}))


def half_a_run(folder: Path, world: worlds.World, name: str) -> None:
    """Ends after the checkpoint of step 6."""
    running, _ = create.create_session(tiny.recipe(folder / "tiny.npz", model=STILL), folder / name, world)
    events = loop.run_training(running)
    for event in events:
        if event.step == 7:
            break
    events.close()
    world.meet()
    if world.is_first:
        for copy in ("half-1", "half-4"):  # to go on with other numbers of processes
            shutil.copytree(folder / name, folder / copy)


def the_other_half(folder: Path, world: worlds.World, name: str) -> None:
    resumed = resume.resume_session(RunFolder(folder / name), [], [], world)
    for _ in loop.run_training(resumed):
        pass


def skipped_collective(folder: Path, world: worlds.World) -> None:
    """Process 1 leaves out the collective at the end of step 5, and waits for something else."""
    import threading

    from vitrail.engine import train

    average, calls = train.average_terms, []

    def leave_out(terms, settings):
        calls.append(1)
        return threading.Event().wait() if len(calls) == 5 and world.rank == 1 else average(terms, settings)

    train.average_terms = leave_out
    made = tiny.recipe(folder / "tiny.npz", runtime={"timeout": 4.0})
    running, _ = create.create_session(made, folder / "skipped", world)
    for _ in loop.run_training(running):
        pass


def work(words: list[str]) -> int:
    folder, jobs = Path(words[0]), words[1:]
    world = worlds.join("cpu", 60)
    for job in jobs:
        match job.split(":"):
            case ["gradient"]:
                one_gradient(folder, world)
            case ["run", name]:
                whole_run(folder, world, name)
            case ["still", name]:
                whole_run(folder, world, name, STILL)
            case ["denoise", name]:
                denoiser(folder, world, name)
            case ["judge"]:
                judgements(folder, world)
            case ["differ", key]:
                differing(folder, world, key)
            case ["resume"]:
                resumed_differently(folder, world)
            case ["nan"]:
                not_finite(folder, world)
            case ["wait"]:
                waited_for(folder, world)
            case ["half", name]:
                half_a_run(folder, world, name)
            case ["other-half", name]:
                the_other_half(folder, world, name)
            case ["skip"]:
                skipped_collective(folder, world)
            case ["stop"]:
                stopped(folder, world)
    worlds.leave(world)
    return 0


if __name__ == "__main__":
    work(sys.argv[1:])
