"""A teacher for distillation: any trained model that can look at the student's images and name the student's classes."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.data.sampling import Keys
from vitrail.data.transforms.preprocess import Preprocess, as_channels
from vitrail.errors import CheckpointError, UsageError, nearest
from vitrail.inference.predictor import load_predictor as trained
from vitrail.recipe import AugmentConfig, Recipe
from vitrail.validation import as_path
from vitrail.weights.preprocessing import IMAGENET
from vitrail.weights.read import read_weights

LIBRARIES = ("timm", "torchvision")


@dataclass
class Teacher:
    """A frozen model behind what its images must be. `columns`: where its answers have the student's classes, in their order."""

    model: nn.Module
    name: str
    input: Preprocess  # what it was trained on
    student: Preprocess  # what the images it is shown were made into
    columns: Tensor
    cache: "TeacherCache | None" = None

    @torch.no_grad()
    def __call__(self, images: Tensor, keys: Keys) -> Tensor:
        """Logits [B K] of normalised, augmented and mixed student images [B C h w]."""
        if self.cache is not None and (found := self.cache.find(keys)) is not None:
            return torch.from_numpy(found).to(images.device)
        logits = self.model(self.prepare_images(images)).float()[:, self.columns]
        if self.cache is not None:
            self.cache.add(keys, logits.cpu().numpy())
        return logits

    def prepare_images(self, images: Tensor) -> Tensor:
        """The same images in the teacher's size, channels and range."""
        pixels = images * as_channels(self.student.std, images) + as_channels(self.student.mean, images)
        if self.input.channels != self.student.channels:
            pixels = pixels.mean(1, keepdim=True).expand(-1, self.input.channels, -1, -1)
        if tuple(pixels.shape[2:]) != self.input.size:
            pixels = F.interpolate(pixels, self.input.size, mode="bilinear", antialias=True)
        return (pixels - as_channels(self.input.mean, images)) / as_channels(self.input.std, images)


class TeacherCache:
    """Answers on disk, float32 [showings N K], by showing and image; a place that was not filled yet is NaN."""

    def __init__(self, file: Path, shape: tuple[int, int, int]):
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            new = file.with_name(f".{os.getpid()}-{file.name}")
            np.lib.format.open_memmap(new, mode="w+", dtype=np.float32, shape=shape)[:] = np.nan
            new.replace(file)  # whole or not at all, whoever else is making it
        self.rows = np.load(file, mmap_mode="r+")
        if self.rows.shape != shape:
            raise CheckpointError(
                f"{file} holds answers of shape {self.rows.shape}, not {shape}",
                "name another folder: --task.keep FOLDER",
            )

    def find(self, keys: Keys) -> np.ndarray | None:
        """Rows [B K], or None where one of them is missing."""
        found = np.asarray(self.rows[keys.epochs % len(self.rows), keys.ids])
        return None if np.isnan(found).any() else found

    def add(self, keys: Keys, rows: np.ndarray) -> None:
        self.rows[keys.epochs % len(self.rows), keys.ids] = rows


def build_teacher(
    recipe: Recipe, classes: tuple[str, ...], student: Preprocess, count: int, device: torch.device
) -> Teacher:
    """The teacher that a recipe names. Errors: `UsageError`, `CheckpointError`."""
    wanted: str = recipe.task.keys.get("teacher", "")
    if not wanted:
        raise UsageError("distillation needs a teacher", "--task.teacher RUN, or timm:NAME, or torchvision:NAME")
    library, _, name = wanted.partition(":")
    file: str = recipe.task.keys.get("teacher_weights", "")
    if library in LIBRARIES and name:
        made, pre, columns = (
            library_model(library, name, file, student, len(classes)),
            default_input(student),
            torch.arange(len(classes)),
        )
    else:
        if file:
            raise UsageError(
                "task.teacher_weights goes with a teacher by name", f"--task.teacher timm:NAME, or give {file} alone"
            )
        own = trained(wanted)
        made, pre, columns = own.model, own.preprocess, match_columns(classes, own.classes, wanted)
    if pre.channels != student.channels and student.channels not in (1, 3):
        raise UsageError(
            f"the teacher takes {pre.channels} channels, the images have {student.channels}",
            "train a teacher on such images",
        )
    made.to(device).eval().requires_grad_(False)
    return Teacher(made, wanted, pre, student, columns.to(device), answers(recipe, made, count, len(classes)))


def match_columns(classes: tuple[str, ...], theirs: tuple[str, ...], name: str) -> Tensor:
    """Where the teacher's answers have the student's classes. Errors: `UsageError` for a class it does not know."""
    if strange := [c for c in classes if c not in theirs]:
        known = ", ".join(map(repr, theirs[:6]))
        raise UsageError(f"the teacher {name} does not know {', '.join(map(repr, strange[:4]))}; it knows {known}",
                         "a teacher is trained on the same classes")  # fmt: skip
    return torch.tensor([theirs.index(c) for c in classes])


def library_model(library: str, name: str, file: str, student: Preprocess, classes: int) -> nn.Module:
    """A model of timm's or torchvision's by name, with its own weights or those in `file`. Errors: `UsageError`, `CheckpointError`."""
    try:
        if library == "timm":
            import timm

            names: list[str] = timm.list_models()
            create: Callable[..., nn.Module] = timm.create_model
        else:
            from torchvision import models

            names, create = models.list_models(), models.get_model
    except ImportError:
        raise UsageError(
            f"the teacher is one of {library}'s, which is not installed", f"pip install {library}"
        ) from None
    if name.partition(".")[0] not in names:
        near = nearest(name, names)
        raise UsageError(
            f"{library} has no model {name!r}",
            f"did you mean {' or '.join(near)}?" if near else f"see {library}'s list",
        )
    if not file:
        return with_own_weights(library, name, create, classes)
    made = create(name, num_classes=classes)
    try:
        made.load_state_dict(read_weights(as_path(file)).tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{file} does not fit {library}'s {name}: {' '.join(str(error).split())[:240]}",
                              "a teacher has the classes of the data") from None  # fmt: skip
    return made


def with_own_weights(library: str, name: str, create: Callable[..., nn.Module], classes: int) -> nn.Module:
    with torch.device("meta"):  # before anything is fetched
        own = getattr(create(name), "num_classes", 1000)  # torchvision's are ImageNet's
    if own != classes:
        raise UsageError(f"{library}'s {name} tells {own} classes apart, the data has {classes}",
                         "train a teacher on the same classes and name its run, or --task.teacher-weights FILE")  # fmt: skip
    try:
        return create(name, pretrained=True) if library == "timm" else create(name, weights="DEFAULT")
    except Exception as error:  # whatever a download may meet
        raise UsageError(
            f"the weights of {library}'s {name} cannot be had: {str(error)[:160]}", "--task.teacher-weights FILE"
        ) from None


def default_input(student: Preprocess) -> Preprocess:
    """A library's model is taken to want ImageNet's statistics in three channels, at the student's size."""
    return Preprocess(student.size, 3, IMAGENET.mean, IMAGENET.std)


def answers(recipe: Recipe, made: nn.Module, count: int, classes: int) -> TeacherCache | None:
    """Where answers are kept, if that was asked for. Errors: `UsageError` where images are mixed, since no two are then the same."""
    folder: str = recipe.task.keys.get("keep", "")
    if not folder:
        return None
    a, plan = recipe.augment, recipe.train
    if a.mixup or a.cutmix:
        raise UsageError(
            "the teacher's answers cannot be kept: MixUp and CutMix show it a new image every time",
            "leave task.keep out",
        )
    if recipe.data.sampler == "balanced" and random(a):
        raise UsageError("the teacher's answers cannot be kept: balanced sampling shows rare classes more often than can be foreseen",
                         "leave task.keep out")  # fmt: skip
    shown = (
        -(-(plan.steps or 1) * (plan.batch_size or 1) // count) * a.repeated_aug if random(a) or plan.start_size else 1
    )
    about = {
        "augment": asdict(a),
        "input": asdict(recipe.input),
        "data": recipe.data.keys,
        "count": count,
        "teacher": digest(made),
    }
    if shown > 1:  # chance, and with it what is seen in a showing, comes from the seed
        about |= {"seed": plan.seed, "grow": [plan.start_size, plan.full_size_at, plan.steps, plan.batch_size]}
    name = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:24]
    return TeacherCache(as_path(folder) / f"answers-{name}.npy", (shown, count, classes))


def random(augment: AugmentConfig) -> bool:
    """Whether an image looks different every time it is shown."""
    a = augment
    chances: tuple[Any, ...] = (
        a.crop != "none",
        a.hflip,
        a.vflip,
        a.randaugment_ops,
        a.auto_augment != "none",
        a.color_jitter,
        a.random_erasing,
    )
    return any(chances)


def digest(made: nn.Module) -> str:
    """What the numbers of a model hash to."""
    found = hashlib.sha256()
    for tensor in made.state_dict().values():
        found.update(
            tensor.detach().cpu().contiguous().view(torch.uint8).numpy() if tensor.ndim else str(tensor.item()).encode()
        )
    return found.hexdigest()
