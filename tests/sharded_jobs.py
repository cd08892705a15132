"""Three training steps of small models of every family with the head of every task, whole in one process or divided
among several: what each process of test_sharding.py does."""

import json
import pickle
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import tiny
import torch
import view_runs
from test_denoisers import small as small_denoiser
from test_models import SIZES, small

from vitrail.assembly.run_directory import RunFolder
from vitrail.data.loader import LoadedBatch
from vitrail.engine.precision import Precision
from vitrail.engine.processes import restore, writer
from vitrail.engine.processes import world as worlds
from vitrail.engine.processes.parallel import LossModule, all_blocks, compile_blocks, recompute
from vitrail.engine.processes.tensors import whole_tensor
from vitrail.engine.train import LoopSettings, MicroBatch, train_steps
from vitrail.errors import VitrailError
from vitrail.recipe import Choice, OptimConfig, Recipe, TrainConfig
from vitrail.tasks import (
    classification,
    contrastive,
    detection,
    diffusion,
    joint_embedding,
    masked_autoencoding,
    segmentation,
    self_distillation,
)
from vitrail.training import create, loop, resume
from vitrail.training.optimizer import build_state
from vitrail.training.processes import division
from vitrail.types import Batch, DetectionTargets, Views, each_tensor

STEPS, IMAGES = 3, 4


class Case(NamedTuple):
    """A model by its family, a task, and what of a recipe matters here."""

    family: str
    task: str = "classes"
    optimizer: str = "adamw"
    ema: float = 0.0
    precision: str = "fp32"
    checkpointing: str = "none"
    freeze: str | int = "none"
    unfreeze: tuple[int, ...] = ()
    parallel: str = "fsdp"

    @property
    def name(self) -> str:
        parts = (part for part in self if part not in (0.0, "none", (), "fp32", "fsdp"))
        return "-".join(str(part[0] if isinstance(part, tuple) else part) for part in parts)


def build_task(case: Case):
    if case.task == "boxes":
        return detection.build(detection.Config(classes=3, queries=4, width=16, heads=2, decoder=1, hidden=16))
    if case.task == "cells":
        return detection.build(detection.Config(classes=3, head="dense", width=16, convs=1))
    if case.task in ("linear", "upernet", "mask"):
        width = 0 if case.task in ("linear", "mask") else 16
        return segmentation.build(segmentation.Config(classes=3, head=case.task, width=width))
    if case.task == "images":
        return diffusion.build(diffusion.Config(classes=3, objective={"dit": "gaussian", "jit": "flow"}[case.family]))
    if case.task in ("pairs", "softmax"):
        text = {
            "text_width": 32,
            "text_depth": 2,
            "text_heads": 2,
            "vocabulary": 300,
            "context": 8,
            "tokenizer_size": 8,
        }
        return contrastive.build(contrastive.Config("sigmoid" if case.task == "pairs" else "softmax", **text))
    if case.task in ("views", "balanced"):
        small_head = {"prototypes": 8, "hidden": 16, "bottleneck": 8, "freeze_last_layer": 0.4}
        centering = "sinkhorn" if case.task == "balanced" else "mean"
        views = {"centering": centering, "local_crops": 0, "local_size": 0}
        return self_distillation.build(self_distillation.Config(**small_head, **views))
    if case.task == "joint":
        small_head = {"embedding": 4, "hidden": 16, "directions": 16}
        return joint_embedding.build(joint_embedding.Config(**small_head, local_crops=0))
    if case.task == "patches":
        return masked_autoencoding.build(masked_autoencoding.Config(decoder_width=32, decoder_depth=1))
    return classification.build(classification.Config(classes=3))


def build_inputs(case: Case, size: tuple[int, int]):
    if case.task in ("views", "balanced", "joint"):
        return Views(torch.randn(IMAGES, 2, 3, *size), torch.randn(IMAGES, 3, 3, 32, 32))
    return torch.randn(IMAGES, 3, *size)


def build_targets(case: Case, size: tuple[int, int]):
    if case.task in ("boxes", "cells"):
        boxes = torch.tensor([[[4.0, 4, 30, 40], [20, 10, 50, 50]], [[8, 8, 40, 20], [0, 0, 0, 0]]] * 2)
        labels, sizes = torch.tensor([[0, 1], [2, -1]] * 2), torch.tensor([list(size)] * 4)
        return DetectionTargets(boxes, labels, sizes, torch.full((4,), 1.5))
    if case.task in ("linear", "upernet", "mask"):
        return torch.randint(0, 3, (IMAGES, *size))
    if case.task in ("views", "balanced", "joint", "patches"):
        return torch.zeros(IMAGES, 0)
    if case.task in ("pairs", "softmax"):
        return torch.randint(2, 300, (IMAGES, 8))
    labels = torch.arange(IMAGES) % 3
    return labels if case.task == "images" else torch.nn.functional.one_hot(labels, 3).float()


def part_of(values, rows: slice):
    return each_tensor(lambda t: t[rows], values)


def train(case: Case, world: worlds.World, shards: int, compiled: bool = False) -> dict:
    """The losses, gradient norms and whole weights after three steps of a global batch of four images in micro-batches
    of two: two of one process, or one of each of two."""
    torch.manual_seed(0)
    task = build_task(case)
    net = task.assemble(small_denoiser(case.family) if case.task == "images" else small(case.family))
    for p in net.parameters():
        p.data += 0.02 * torch.randn_like(p)  # nothing at zero, so that nothing hides
    # eps: Adam makes whole steps of gradients that are zero but for rounding
    moves = {"name": case.optimizer, "eps": 1e-6, "ema_decay": case.ema}
    optim = OptimConfig(**moves, freeze=case.freeze, unfreeze_steps=case.unfreeze)
    state, stages = build_state(
        Recipe(train=TrainConfig(steps=STEPS, precision=case.precision), optim=optim), net, task, world.device
    )
    precision = Precision(case.precision, world.device.type)
    if shards > 1:
        from vitrail.engine.processes.fsdp import blank_copy, build_mesh, divide_state

        blank = blank_copy(net)
    recompute(all_blocks(net), case.checkpointing)
    if compiled:
        compile_blocks(all_blocks(net))
    if shards > 1:
        lists = [stage.parameters for stage in stages]
        divide_state(state, LossModule(net, task), blank, build_mesh(world, shards), precision, lists)
    size = (16, 16) if case.task == "images" else SIZES.get(case.family, [(64, 64)])[0]
    torch.manual_seed(1)
    batches = [Batch(build_inputs(case, size), build_targets(case, size)) for _ in range(STEPS)]
    own = slice(world.rank * IMAGES // world.size, (world.rank + 1) * IMAGES // world.size)
    firsts = range(own.start, own.stop, 2)

    def prepare(piece, step):
        rows = slice(piece.first, min(piece.first + 2, own.stop))
        whole = batches[step]
        return Batch(part_of(whole.inputs, rows), part_of(whole.targets, rows))

    pieces = [
        [MicroBatch(LoadedBatch(part_of(b.inputs, slice(f, min(f + 2, own.stop))), None, None), f) for f in firsts]
        for b in batches
    ]
    loop = LoopSettings(lambda step: 1e-3, prepare, 1.0, 0, precision, world, lambda: False, stages, steps=STEPS)
    reports = list(train_steps(state, task, pieces, loop))
    state.gather()
    model = state.model if state.sharded is None else state.sharded.gather(state.model)
    return {
        "losses": torch.stack([torch.stack(list(r.terms.values())).sum() for r in reports]).float(),
        "norms": torch.stack([r.grad_norm for r in reports]).float(),
        "weights": {name: t.detach().clone() for name, t in model.state_dict().items()},
        "best": {name: t.detach().clone() for name, t in state.best_model.state_dict().items()},
        "task": {name: t.clone() for name, t in task.state().items()},
    }


CHEAP = [  # every optimizer, task and kind of checkpointing
    Case("vit", optimizer="muon", ema=0.5),
    Case("swin", "linear", "lamb"),
    Case("dit", "images", checkpointing="selective"),
    Case("jit", "images", checkpointing="full"),
    Case("vit", "cells", "sgd", freeze=1, unfreeze=(1,)),
    Case("vit", "views", ema=0.5, checkpointing="full"),
    Case("vit", "views", ema=0.5, parallel="ddp"),
    Case("vit", "balanced", ema=0.5, checkpointing="full"),
    Case("vit", "balanced", ema=0.5, parallel="ddp"),
    Case("vit", "joint", checkpointing="full"),
    Case("vit", "joint", parallel="ddp"),
    Case("vit", "patches", checkpointing="full"),
    Case("vit", "patches", parallel="ddp"),
    Case("vit", "pairs", "muon", ema=0.5, checkpointing="full"),
    Case("clip", "softmax", parallel="ddp"),
]
WITHOUT_BATCH_NORM = [
    "vit", "deit", "hybrid", "swin", "swin_v2", "pvt", "pvt_v2", "crossvit", "clip", "dinov3", "beit", "eva",
    "siglip", "samvit",
]  # fmt: skip
REST = [
    Case("pvt_v2", "boxes", checkpointing="selective"),
    *(Case(family) for family in WITHOUT_BATCH_NORM),
    *(Case("swin", task) for task in ("upernet", "mask", "boxes", "cells")),
    *(Case(family, "images", "muon", 0.5) for family in ("dit", "jit")),
]

LOW = [Case("vit", precision="bf16"), Case("dit", "images", precision="bf16"), Case("vit", precision="fp16")]
COMPILED = Case("vit", "linear", checkpointing="full")


def names(cases: list[Case]) -> list[str]:
    return [case.name for case in cases]


def count(folder: Path, world: worlds.World, more: list[str]) -> None:
    """The collectives of one step of a model with two blocks."""
    from torch.distributed.tensor.debug import CommDebugMode

    with CommDebugMode() as counted:
        train(Case("vit"), world, world.size)
    if world.is_first:
        numbers = {str(operator).rpartition(".")[2]: n for operator, n in counted.get_comm_counts().items()}
        (folder / "collectives.json").write_text(json.dumps(numbers))


def faults(folder: Path, world: worlds.World, more: list[str]) -> None:
    """A loss of one process that is no number; a disk that refuses the part of one process; a folder that one does not
    see."""
    session = begin(folder, world, "poisoned")
    loss, calls = classification.Classification.loss, []

    def bad(self, model, batch):
        calls.append(1)
        terms = loss(self, model, batch)
        return {k: v * float("nan") for k, v in terms.items()} if len(calls) == 3 and world.rank == 1 else terms

    classification.Classification.loss = bad
    facts = {"nan": failure(lambda: list(loop.run_training(session)))}
    classification.Classification.loss = loss
    write, notes = writer.write_piece, []

    def full(temporary, rank, snapshot):
        return "no space left" if rank == 1 and not notes else write(temporary, rank, snapshot)

    writer.write_piece = full
    session = begin(folder, world, "full")
    for event in loop.run_training(session):
        if event.kind == "note" or (not world.is_first and session.state.step == 3):
            notes.append(event.values.get("text", ""))
    writer.write_piece = write
    hidden = begin(folder, world, "hidden", parallel="ddp")
    hidden.folder = RunFolder(folder / ("hidden" if world.is_first else "elsewhere"))
    facts["folder"] = failure(lambda: division.check_folder(hidden))
    facts["notes"] = notes
    (folder / f"faults-{world.rank}.json").write_text(json.dumps(facts))


def failure(work) -> str:
    try:
        work()
        return "none"
    except VitrailError as error:
        return error.what


def hybrid(folder: Path, world: worlds.World, more: list[str]) -> None:
    """Two copies, each divided among two processes: steps, a checkpoint by HSDP, and the same run by FSDP and back."""
    case = Case("vit", ema=0.5)
    found = train(case, world, 2)
    if world.is_first:
        torch.save(found, folder / f"{case.name}.pt")
    tiny.npz(folder) if world.is_first else None
    world.meet()
    for _ in loop.run_training(begin(folder, world, "straight", parallel="hsdp")):
        pass
    session = begin(folder, world, "changing", parallel="hsdp")
    events = loop.run_training(session)
    for _ in events:
        if session.state.step == 3:
            break
    events.close()
    for step, parallel in ((5, "fsdp"), (6, "hsdp")):
        world.meet()
        session = resume.resume_session(
            RunFolder(folder / "changing"), [("runtime", {"parallel": parallel})], [], world
        )
        events = loop.run_training(session)
        for event in events:
            if session.state.step == step and event.kind != "done" and step < 6:
                break
        events.close()


def keep_loaded(state, folder: Path, world: worlds.World) -> None:
    """All that a resumed run has loaded, whole, in a file."""
    parts = state.tensors()
    gathered = {part: {name: whole_tensor(t) for name, t in tensors.items()} for part, tensors in parts.items()}
    if world.is_first:
        torch.save(gathered, folder / "loaded.pt")


def widen(folder: Path, world: worlds.World, more: list[str]) -> None:
    """A run that two processes began goes on in these; what they loaded, whole."""
    resumed = resume.resume_session(RunFolder(folder / "wide"), [], [], world)
    keep_loaded(resumed.state, folder, world)
    for _ in loop.run_training(resumed):
        pass


def exactness(folder: Path, world: worlds.World, more: list[str]) -> None:
    """16-bit types, and compiled blocks."""
    for case in LOW:
        found = train(case, world, world.size)
        if world.is_first:
            torch.save(found, folder / f"{case.name}.pt")
    compiling, torch.compile = torch.compile, partial(torch.compile, backend="eager", fullgraph=True)
    found = train(COMPILED, world, world.size, compiled=True)
    torch.compile = compiling
    if world.is_first:
        torch.save(found, folder / f"{COMPILED.name}.pt")


def steps(folder: Path, world: worlds.World, wanted: list[str]) -> None:
    for case in (case for case in [*CHEAP, *REST] if case.name in wanted):
        found = train(case, world, world.size if case.parallel == "fsdp" else 1)
        if world.is_first:
            torch.save(found, folder / f"{case.name}.pt")


STILL = {"dropout": 0.0, "drop_path": 0.0}


def recipe(folder: Path, **runtime):
    own = {"micro_batch": 8, "save_every": 2, "parallel": "fsdp", **runtime}
    plan = {"steps": 6, "eval_every": 3}
    return tiny.recipe(folder / "tiny.npz", STILL, {"mixup": 0.0, "cutmix": 0.0}, train=plan, runtime=own)


def begin(folder: Path, world: worlds.World, name: str, **runtime):
    return create.create_session(recipe(folder, **runtime), folder / name, world)[0]


def runs(folder: Path, world: worlds.World, more: list[str]) -> None:
    """A divided run; the same saved in the background; and one that ends after its second checkpoint, and goes on."""
    tiny.npz(folder) if world.is_first else None
    world.meet()
    for name, keys in (("whole", {}), ("background", {"async_checkpoint": True})):
        session = begin(folder, world, name, **keys)
        for event in loop.run_training(session):
            assert event.kind != "note", event
    world.meet()
    session = begin(folder, world, "half")
    events = loop.run_training(session)
    for _ in events:
        if session.state.step == 5:
            break
    events.close()
    world.meet()
    if world.is_first:  # for one process alone, and for other numbers of them
        for copy in ("alone", "ddp", "damaged"):
            shutil.copytree(folder / "half", folder / copy)
    resumed = resume.resume_session(RunFolder(folder / "half"), [], [], world)
    keep_loaded(resumed.state, folder, world)
    for _ in loop.run_training(resumed):
        pass
    given, largest = [("runtime", {"parallel": "ddp"})], watch_objects()
    resumed = resume.resume_session(RunFolder(folder / "ddp"), given, [], world)
    elsewhere = folder / ("ddp" if world.is_first else "not-here") / "checkpoints"
    sent, _ = restore.load_newest(elsewhere, world, pieces=True)
    if not world.is_first:
        torch.save(sent.parts, folder / "sent.pt")
    (folder / f"objects-{world.rank}.json").write_text(json.dumps(max(largest)))
    assert resumed.state.sharded is None
    for _ in loop.run_training(resumed):
        pass


def watch_objects() -> list[int]:
    """Gets the bytes of each object that is broadcast from now on."""
    sizes, broadcast = [0], torch.distributed.broadcast_object_list

    def watched(objects, *more, **rest):
        sizes.append(len(pickle.dumps(objects)))
        broadcast(objects, *more, **rest)

    torch.distributed.broadcast_object_list = watched
    return sizes


def teacher(folder: Path, world: worlds.World, more: list[str]) -> None:
    """A divided run with a divided teacher, and one that ends after its first checkpoint and goes on."""
    data = folder / "views"
    tiny.npz(data, channels=3, size=20) if world.is_first else None
    world.meet()
    small_head = {"prototypes": 8, "hidden": 16, "bottleneck": 8, "local_crops": 2, "local_size": 8}
    made = view_runs.recipe(data / "tiny.npz", Choice("self_distillation", small_head), parallel="fsdp")
    for name in ("taught", "taught-half"):
        for event in (events := loop.run_training(create.create_session(made, folder / name, world)[0])):
            if name == "taught-half" and event.kind == "train" and event.step == 3:
                break
        events.close()
        world.meet()
    for _ in loop.run_training(resume.resume_session(RunFolder(folder / "taught-half"), [], [], world)):
        pass


def work(words: list[str]) -> int:
    """words: a folder, jobs, and the names of cases."""
    known = (steps, runs, count, hybrid, widen, exactness, faults, teacher)
    folder, jobs = Path(words[0]), {job.__name__: job for job in known}
    world = worlds.join("cpu", 60)
    for job in (word for word in words if word in jobs):
        jobs[job](folder, world, words)
    worlds.leave(world)
    return 0


if __name__ == "__main__":
    work(sys.argv[1:])
