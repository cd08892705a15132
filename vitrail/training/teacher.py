"""A teacher for distillation: any trained model for the student's images and classes."""

import hashlib
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
from vitrail.inference.predictor import load_predictor
from vitrail.recipe import AugmentConfig, Recipe
from vitrail.storage.json_text import to_json
from vitrail.validation import as_path
from vitrail.weights.preprocessing import IMAGENET
from vitrail.weights.read import read_weights

LIBRARIES = ("timm", "torchvision")


@dataclass
class Teacher:
    """A frozen model and its preprocessing. `columns`: of its outputs, those of the student's classes, in their
    order."""

    model: nn.Module
    name: str
    input: Preprocess  # the preprocessing of the teacher
    student: Preprocess  # the preprocessing of the images it gets
    columns: Tensor
    cache: "TeacherCache | None" = None

    @torch.no_grad()
    def __call__(self, images: Tensor, keys: Keys) -> Tensor:
        """Logits [B K] of normalised, augmented and mixed student images [B C h w]."""
        if self.cache is not None and (logits := self.cache.find(keys)) is not None:
            return torch.from_numpy(logits).to(images.device)
        outputs = self.model(self.prepare_images(images)).float()[:, self.columns]
        if self.cache is not None:
            self.cache.add(keys, outputs.cpu().numpy())
        return outputs

    def prepare_images(self, images: Tensor) -> Tensor:
        """The same images in the teacher's size, channels and range."""
        pixels = images * as_channels(self.student.std, images) + as_channels(self.student.mean, images)
        if self.input.channels != self.student.channels:
            pixels = pixels.mean(1, keepdim=True).expand(-1, self.input.channels, -1, -1)
        if tuple(pixels.shape[2:]) != self.input.size:
            pixels = F.interpolate(pixels, self.input.size, mode="bilinear", antialias=True)
        return (pixels - as_channels(self.input.mean, images)) / as_channels(self.input.std, images)


class TeacherCache:
    """Logits on disk, float32 [epochs N K], by epoch and image; NaN where they are not computed yet."""

    def __init__(self, file: Path, shape: tuple[int, int, int]):
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            new = file.with_name(f".{os.getpid()}-{file.name}")
            np.lib.format.open_memmap(new, mode="w+", dtype=np.float32, shape=shape)[:] = np.nan
            new.replace(file)  # atomic, in case another process creates it too
        self.rows = np.load(file, mmap_mode="r+")
        if self.rows.shape != shape:
            raise CheckpointError(
                f"{file} has logits of shape {self.rows.shape}, not {shape}",
                "name another folder: --task.keep FOLDER",
            )

    def find(self, keys: Keys) -> np.ndarray | None:
        """Rows [B K], or None where one of them is missing."""
        rows = np.asarray(self.rows[keys.epochs % len(self.rows), keys.ids])
        return None if np.isnan(rows).any() else rows

    def add(self, keys: Keys, rows: np.ndarray) -> None:
        self.rows[keys.epochs % len(self.rows), keys.ids] = rows


def build_teacher(
    recipe: Recipe, classes: tuple[str, ...], student: Preprocess, count: int, device: torch.device
) -> Teacher:
    """The teacher of a recipe. Errors: `UsageError`, `CheckpointError`."""
    wanted: str = recipe.task.keys.get("teacher", "")
    if not wanted:
        raise UsageError("distillation needs a teacher", "--task.teacher RUN, or timm:NAME, or torchvision:NAME")
    library, _, name = wanted.partition(":")
    file: str = recipe.task.keys.get("teacher_weights", "")
    if library in LIBRARIES and name:
        net, pre, columns = (
            library_model(library, name, file, student, len(classes)),
            default_input(student),
            torch.arange(len(classes)),
        )
    else:
        if file:
            raise UsageError(
                "task.teacher_weights is for a teacher by name", f"--task.teacher timm:NAME, or give {file} alone"
            )
        predictor = load_predictor(wanted)
        net, pre = predictor.model, predictor.preprocess
        columns = match_columns(classes, predictor.classes, wanted)
    if pre.channels != student.channels and student.channels not in (1, 3):
        raise UsageError(
            f"the teacher takes {pre.channels} channels, the images have {student.channels}",
            "train a teacher on such images",
        )
    net.to(device).eval().requires_grad_(False)
    return Teacher(net, wanted, pre, student, columns.to(device), open_cache(recipe, net, count, len(classes)))


def match_columns(classes: tuple[str, ...], theirs: tuple[str, ...], name: str) -> Tensor:
    """The columns of the teacher's outputs for the student's classes. Errors: `UsageError` for a class it does not
    have."""
    if missing := [c for c in classes if c not in theirs]:
        known = ", ".join(map(repr, theirs[:6])) or "none"
        raise UsageError(
            f"the teacher {name} has no class {', '.join(map(repr, missing[:4]))}; it has {known}",
            "use a teacher that was trained on the same classes",
        )
    return torch.tensor([theirs.index(c) for c in classes])


def library_model(library: str, name: str, file: str, student: Preprocess, classes: int) -> nn.Module:
    """A model of timm's or torchvision's by name, with its own weights or those in `file`. Errors: `UsageError`,
    `CheckpointError`."""
    try:
        if library == "timm":
            import timm

            names: list[str] = timm.list_models()
            create: Callable[..., nn.Module] = timm.create_model
        else:
            from torchvision import models

            names, create = models.list_models(), models.get_model
    except ImportError:
        raise UsageError(f"the teacher needs {library}, which is not installed", f"pip install {library}") from None
    if name.partition(".")[0] not in names:
        near = nearest(name, names)
        raise UsageError(
            f"{library} has no model {name!r}",
            f"did you mean {' or '.join(near)}?" if near else f"see {library}'s list",
        )
    if not file:
        return with_own_weights(library, name, create, classes)
    net = create(name, num_classes=classes)
    try:
        net.load_state_dict(read_weights(as_path(file)).tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{file} does not fit {library}'s {name}: {' '.join(str(error).split())[:240]}",
            "a teacher has the classes of the data",
        ) from None
    return net


def with_own_weights(library: str, name: str, create: Callable[..., nn.Module], classes: int) -> nn.Module:
    with torch.device("meta"):  # before anything is downloaded
        own = vars(create(name)).get("num_classes", 1000)  # torchvision's are ImageNet's
    if own != classes:
        raise UsageError(
            f"{library}'s {name} has {own} classes, the data has {classes}",
            "train a teacher on the same classes and name its run, or --task.teacher-weights FILE",
        )
    try:
        return create(name, pretrained=True) if library == "timm" else create(name, weights="DEFAULT")
    except Exception as error:  # any error of a download
        raise UsageError(
            f"the weights of {library}'s {name} cannot be downloaded: {str(error)[:160]}", "--task.teacher-weights FILE"
        ) from None


def default_input(student: Preprocess) -> Preprocess:
    """The preprocessing of a library model: ImageNet's statistics in three channels, at the student's size."""
    return Preprocess(student.size, 3, IMAGENET.mean, IMAGENET.std)


def open_cache(recipe: Recipe, net: nn.Module, count: int, classes: int) -> TeacherCache | None:
    """The cache of the logits, if task.keep is set. Errors: `UsageError` where images are mixed, since no two are then
    the same."""
    folder: str = recipe.task.keys.get("keep", "")
    if not folder:
        return None
    a, train = recipe.augment, recipe.train
    if a.mixup or a.cutmix:
        raise UsageError(
            "the teacher's logits cannot be cached: MixUp and CutMix give it a new image every time",
            "leave task.keep out",
        )
    if recipe.data.sampler == "balanced" and is_random(a):
        raise UsageError(
            "the teacher's logits cannot be cached: balanced sampling repeats rare classes too often",
            "leave task.keep out",
        )
    epochs = -(-(train.steps or 1) * (train.batch_size or 1) // count) * a.repeated_aug
    if not is_random(a) and not train.start_size:
        epochs = 1
    about = {
        "augment": asdict(a),
        "input": asdict(recipe.input),
        "data": recipe.data.keys,
        "count": count,
        "teacher": digest(net),
    }
    if epochs > 1:  # random augmentation depends on the seed
        about |= {"seed": train.seed, "grow": [train.start_size, train.full_size_at, train.steps, train.batch_size]}
    name = hashlib.sha256(to_json(about, sort_keys=True, default=str).encode()).hexdigest()[:24]
    return TeacherCache(as_path(folder) / f"answers-{name}.npy", (epochs, count, classes))


def is_random(augment: AugmentConfig) -> bool:
    """Whether an image is augmented differently every epoch."""
    a = augment
    settings: tuple[Any, ...] = (
        a.crop != "none",
        a.hflip,
        a.vflip,
        a.randaugment_ops,
        a.auto_augment != "none",
        a.color_jitter,
        a.random_erasing,
    )
    return any(settings)


def digest(net: nn.Module) -> str:
    """A hash of the weights of a model."""
    total = hashlib.sha256()
    for tensor in net.state_dict().values():
        total.update(
            tensor.detach().cpu().contiguous().view(torch.uint8).numpy() if tensor.ndim else str(tensor.item()).encode()
        )
    return total.hexdigest()
