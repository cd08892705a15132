"""Small runs of tasks that learn from several crops of each image, and what is asked of them."""

import dataclasses
import math

import tiny
import torch

from vitrail.engine import checkpoint
from vitrail.engine import train as engine
from vitrail.engine.teacher import MeanTeacher
from vitrail.recipe import Choice
from vitrail.training import loop
from vitrail.training.steps import loop_settings, remaining_batches

STILL = {"dropout": 0.0, "drop_path": 0.0}


class Never:
    def is_requested(self):
        return False


def numbers(*shape):
    """Numbers that need no generator."""
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + 0.3).view(shape)


def recipe(data, task: Choice, model=(), ema=0.9, **runtime):
    """Four steps with a checkpoint after two; dropout is on."""
    made = tiny.recipe(
        data, augment={"mixup": 0.0, "cutmix": 0.0, "random_erasing": 0.0}, train={"steps": 4},
        model={"size": [16, 16], **dict(model)}, runtime={"save_every": 2, **runtime}, optim={"ema_decay": ema},
    )  # fmt: skip
    return dataclasses.replace(made, task=task, input=dataclasses.replace(made.input, size=(16, 16)))


def whole_and_resumed(made, folder):
    """The last checkpoints of a run, and of one that was left after its first checkpoint and resumed: the same to the
    bit."""
    tiny.finish(tiny.begin(made, folder / "whole"))
    for event in loop.run_training(tiny.begin(made, folder / "half")):
        if event.kind == "saved" and event.step == 2:
            break
    tiny.finish(tiny.again(folder / "half"))
    one, other = (checkpoint.load_newest(folder / name / "checkpoints")[0].parts for name in ("whole", "half"))
    for part in one:
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part]), part
    return one


def first_gradient(running):
    """The gradient of the first step, as a vector."""
    settings, task = loop_settings(running, Never()), running.bundle.task
    engine.teacher.start_teacher(running.state, task)
    loss_of = engine.loss_module(running.state, task, settings)
    engine.accumulate_gradients(running.state, loss_of, next(iter(remaining_batches(running))), settings)
    if isinstance(task, MeanTeacher):
        task.end_step(lambda row: row)
    return torch.cat([p.grad.flatten() for p in running.state.model.parameters()])
