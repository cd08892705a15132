"""A trained model ready for use: pictures of any kind in, labels with probabilities out."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.checks import Positive, checked, place
from vitrail.contracts import DenseTask, Task
from vitrail.data.decode import decode
from vitrail.data.preprocess import Preprocess
from vitrail.engine import checkpoint
from vitrail.engine.checkpoint import Saved
from vitrail.engine.precision import Precision
from vitrail.errors import CheckpointError, UsageError
from vitrail.recipe import Recipe, Seed
from vitrail.run import folder, model
from vitrail.run.evaluate import windowed
from vitrail.run.folder import RunFolder
from vitrail.run.latents import elsewhere
from vitrail.run.model import Described
from vitrail.run.sample import BATCH, asked, several, usual
from vitrail.run.sample import pictures as drawn
from vitrail.run.scene import GROUP
from vitrail.tasks.diffusion import Sampling

OTHER = {  # what a model that tells no classes does, and the remedy
    "images": ("the model makes pictures and does not tell what is in them", "sample() makes some"),
    "masks": ("the model tells masks, not the class of a picture", "scenes(pictures) tells them"),
    "boxes": ("the model tells boxes, not the class of a picture", "scenes(pictures) tells them"),
}
WHAT = "give a path, a PIL image, an array [H W C] or a tensor [C H W], or many of them"


class Prediction(NamedTuple):
    """What is said of some pictures: row i of `probabilities` [N K] belongs to picture i, columns to the classes."""

    labels: list[str]
    probabilities: Tensor


@dataclass(frozen=True)
class Predictor:
    """A model from a run, a model folder or a file, with its classes, recipe and preprocessing."""

    model: nn.Module
    classes: tuple[str, ...]
    recipe: Recipe
    task: Task
    source: Path

    @property
    def preprocess(self) -> Preprocess:
        return model.preprocess(self.recipe.input)

    @property
    def described(self) -> Described:
        return Described(self.model, self.task, self.recipe, self.classes)

    def scenes(self, pictures: Any) -> list[np.ndarray]:
        """What a model for masks or boxes says of one picture or many, given as to `predict`.

        Masks: a label map uint8 [H W] each, at the picture's own size. Boxes: float32 [n 6] each, left, top, right, bottom in the picture's
        pixels, score, class; the best first. Errors: as `predict`.
        """
        pre, task, found = self.preprocess, self.task, []
        if not isinstance(task, DenseTask):
            raise UsageError("the model tells classes, not masks or boxes", "predict(pictures) tells them")
        windows = windowed(self.described, Precision("fp32", next(self.model.parameters()).device.type))
        was_training = self.model.training
        self.model.eval()
        items = one_by_one(pictures)
        for start in range(0, len(items), GROUP):
            found += task.predict_images(windows, [pixels(item, pre) for item in items[start : start + GROUP]])
        self.model.train(was_training)
        return found

    @torch.no_grad()
    def predict(self, pictures: Any, batch: int = 64) -> Prediction:
        """Labels and probabilities of one picture or many: paths, PIL images, uint8 arrays [H W C] or [H W],
        or tensors [C H W] / [B C H W] (uint8, or floats in [0, 1]).

        With several labels a picture, `labels` holds those of at least 0.5, joined by "|".
        Errors: `BadImage` for a picture that cannot be read, `UsageError` for something that is no picture.
        """
        if not self.task.is_classifier:
            raise UsageError(*OTHER[self.task.output])
        pre, rows, batch = self.preprocess, [], checked(batch, Positive, "batch")
        items = one_by_one(pictures)
        was_training = self.model.training
        self.model.eval()
        device = next(self.model.parameters()).device
        for start in range(0, len(items), batch):
            stacked = torch.stack([pre.picture(pixels(item, pre)) for item in items[start : start + batch]])
            rows.append(self.task.predict(self.model, pre.batch(stacked.to(device))).float().cpu())
        self.model.train(was_training)
        probabilities = torch.cat(rows) if rows else torch.zeros(0, len(self.classes))
        return Prediction([self.label(row) for row in probabilities], probabilities)

    def sample(self, classes: Sequence[str | int] = (), count: int = 8, seed: int = 0, guidance: float | None = None,
               steps: int = 50, how: Sampling | None = None, batch: int = BATCH) -> np.ndarray:  # fmt: skip
        """Pictures that a denoiser makes, uint8 [N H W C]: `count` of every class by name or index, by default of all.

        The same seed gives the same pictures at any batch. how: everything else, in place of `guidance` and `steps`.
        Errors: `UsageError`, for a model that makes no pictures too.
        """
        labels = asked(self.described, classes)
        wish = several(labels, checked(count, Positive, "count"), checked(seed, Seed, "seed"))
        chosen = usual(self.described, how, guidance, checked(steps, Positive, "steps"))
        return drawn(self.described, wish, chosen, checked(batch, Positive, "batch"))

    def label(self, row: Tensor) -> str:
        if self.task.multi_label:
            return "|".join(name for name, p in zip(self.classes, row.tolist(), strict=True) if p >= 0.5)
        return self.classes[int(row.argmax())]


def one_by_one(pictures: Any) -> Sequence[Any]:
    """One picture or many -> a list of pictures."""
    if isinstance(pictures, Tensor | np.ndarray):
        axes = (3,) if isinstance(pictures, Tensor) else (2, 3)
        if pictures.ndim not in (*axes, 4):
            raise UsageError(f"{shape(pictures)} is not a picture", WHAT)
        return [pictures] if pictures.ndim in axes else list(pictures)
    if isinstance(pictures, str | Path | bytes) or hasattr(pictures, "convert") or hasattr(pictures, "read"):
        return [pictures]
    if isinstance(pictures, Iterable) and not isinstance(pictures, dict):
        return list(pictures)
    raise UsageError(f"{shape(pictures)} is not a picture", WHAT)


def pixels(item: Any, pre: Preprocess) -> np.ndarray:
    """One picture, whatever it is -> uint8 [H W C]."""
    if hasattr(item, "read") and not hasattr(item, "convert"):
        item = item.read()
    if isinstance(item, str | Path | bytes) or hasattr(item, "convert"):
        channels = pre.channels if pre.channels in (1, 3, 4) else 3
        item = decode(Path(item) if isinstance(item, str) else item, channels, background=pre.background)
    if isinstance(item, Tensor) and item.ndim == 3:
        item = (item.float() if item.is_floating_point() else item).detach().cpu().numpy().transpose(1, 2, 0)
    if not isinstance(item, np.ndarray) or item.ndim not in (2, 3):
        raise UsageError(f"{shape(item)} is not a picture", WHAT)
    have = item.shape[2] if item.ndim == 3 else 1
    if not item.size or have not in {1, 3, 4, pre.channels}:
        told = "has no pixels" if not item.size else f"would have {have} channels; the model takes {pre.channels}"
        raise UsageError(f"{shape(item)} {told}", WHAT)
    if item.dtype == np.uint8:
        return item if item.flags.writeable else item.copy()  # torch warns of what it could write to and must not
    if item.dtype == np.uint16:
        return np.rint(item / 257.0).astype(np.uint8)
    if not np.issubdtype(item.dtype, np.floating) or not np.isfinite(item).all() or item.min() < 0 or item.max() > 1:
        raise UsageError(f"an array of {item.dtype} from {item.min()} to {item.max()} is not a picture", "give uint8, or floats in [0, 1]")
    return np.rint(item * 255).astype(np.uint8)


def shape(item: Any) -> str:
    return f"something of shape {tuple(item.shape)}" if hasattr(item, "shape") else f"a {type(item).__name__}"


def load(source: str | Path, device: str = "cpu", average: int = 1, vae: str = "") -> Predictor:
    """As `found`; vae: where the autoencoder of a model of latents lies now. Errors: `CheckpointError`, also for another autoencoder."""
    made = found(source, device, average)
    return dataclasses.replace(made, recipe=elsewhere(made.recipe, vae))


def found(source: str | Path, device: str, average: int) -> Predictor:
    """A predictor from a run (its folder, or its name under runs/), a model folder, a checkpoint or a .safetensors file.

    A run that is not finished gives its newest sound checkpoint. average: 2 for the second average of a run. Errors: `CheckpointError`.
    """
    if average == 2:
        return second(folder.find(source), device)
    path = place(source)
    if path.is_file():
        return predictor(model.restore(path), path, device)
    if path.is_dir() and (path / "model.safetensors").is_file() and not (path / "state.json").is_file():
        described = model.restore(path / "model.safetensors")
        if RunFolder(path).is_run:
            described = Described(described.model, described.task, RunFolder(path).recipe(), described.classes)
        return predictor(described, path, device)
    run = folder.find(source)
    if run.weights.is_file() and not (path / "state.json").is_file():
        return found(run.weights.parent, device, 1)
    saved = checkpoint.load(path) if (path / "state.json").is_file() else checkpoint.newest(run.checkpoints)[0]
    if saved is None:
        raise CheckpointError(f"{run.path} has no weights yet", f"vitrail train --resume {run.path} goes on with it")
    return predictor(revived(run, saved, saved.parts.get("ema", saved.parts["model"])), saved.path, device)


def second(run: RunFolder, device: str) -> Predictor:
    """By the second average of a run. Errors: `CheckpointError` where it keeps none."""
    if run.second.is_file():
        return predictor(dataclasses.replace(model.restore(run.second), recipe=run.recipe()), run.second, device)
    saved = checkpoint.newest(run.checkpoints)[0]
    if saved is None or "ema2" not in saved.parts:
        raise CheckpointError(f"{run.path} keeps no second average of its weights", "leave --ema out; optim.ema2 keeps one from the start")
    return predictor(revived(run, saved, saved.parts["ema2"]), saved.path, device)


def revived(run: RunFolder, saved: Saved, tensors: dict[str, Tensor]) -> Described:
    """The model of a run with weights of one of its checkpoints. Errors: `CheckpointError`."""
    about = run.about()
    described = model.assemble(run.recipe(), tuple(about["classes"]), about["multi_label"])
    try:
        described.model.load_state_dict(tensors)
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"{saved.path} does not fit its recipe ({' '.join(str(error).split())[:200]})", "was recipe.toml edited?"
        ) from None
    return described


def predictor(described: Described, path: Path, device: str) -> Predictor:
    from vitrail.engine.world import best_device, named_device

    place = best_device() if device == "auto" else named_device(device)
    return Predictor(described.model.to(place).eval(), described.classes, described.recipe, described.task, path)
