"""vitrail: Vision Transformers from pixels to a report.

>>> import vitrail
>>> model = vitrail.create("vit/nano", classes=10, channels=1)
>>> model(images).shape                    # images [B 1 28 28]
torch.Size([B, 10])

Nothing heavy is imported until it is used.
"""

from typing import TYPE_CHECKING, Any, Literal

import vitrail.export
import vitrail.models  # noqa: F401  both now: imported later, they would replace the functions below
from vitrail.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from vitrail.analysis.attention import Heads, LayerAttention, Layers
    from vitrail.analysis.cost import Cost
    from vitrail.export.exporter import ExportResult
    from vitrail.inference.predictor import Prediction, Predictor
    from vitrail.report.run import Run
    from vitrail.weights.published import LoadReport

__all__ = [
    "Prediction", "Predictor", "Run", "__version__", "attention", "backbone", "cost", "create", "embed", "export",
    "load", "load_weights", "models", "save", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The classes, imported when they are asked for."""
    if name == "Run":
        from vitrail.report.run import Run

        return Run
    if name in ("Prediction", "Predictor"):
        from vitrail.inference import predictor

        return vars(predictor)[name]
    raise AttributeError(f"module 'vitrail' has no attribute {name!r}")


def train(data: "str | Path | Mapping[str, Any] | None" = None, model: "str | Mapping[str, Any] | None" = None,
          **keys: Any) -> "Run":  # fmt: skip
    """Trains as `vitrail train` does, with the same result to the bit: `vitrail.train("photos", epochs=30)`.

    Keywords are the flags of the command (weights, task, epochs, steps, batch_size, lr, weight_decay, img_size, seed,
    workers, precision, device, out, resume, resume_if_there, allow_change, recipe, quiet) and the sections of a recipe
    as tables: augment={"mixup": 0.2}, model={"name": "vit/nano", "depth": 6}, data={"path": "photos", "fraction": 0.5};
    or keys by their full names, **{"augment.mixup": 0.2}. `vitrail train --help all` lists every key. What is omitted
    is chosen from the data. quiet: print only the final metrics.

    Returns the finished `Run`. Errors: those of the command, as exceptions: `UsageError`, `DataError`, `RunError`,
    `CheckpointError`; `Interrupted` after Ctrl-C (the run is saved; `vitrail.train(resume=RUN)` continues it).
    """
    from vitrail.cli import from_python

    folder = from_python.train({"data": data, "model": model, **keys})
    from vitrail.report.run import Run

    return Run(folder)


def models(family: str | None = None) -> list[str]:
    """The names of all models, or of one family, as "family/variant". Imports no family."""
    from vitrail import catalog

    return catalog.list_names("models", family)


def create(name: str, classes: int | None = None, weights: "bool | str | Path" = False, accept_licence: str = "",
           **keys: Any) -> "nn.Module":  # fmt: skip
    """A classifier: images [B C H W] -> logits [B classes]. For dit and jit a denoiser with so many classes: noisy
    images [B C H W], times [B], labels int64 [B] -> [B C H W], or twice the channels with a learned variance.

    Its weights are random, unless `weights` names some: True for the published ones that are recommended for the model,
    a name that `vitrail weights` lists, "hf:ORG/REPO", "timm:NAME.TAG", "torchvision:NAME", an address, a file, a
    folder or a run. They are fetched once, and verified at every use; accept_licence names a licence that restricts
    their use. classes: by default 1000, or those of the weights; for another number the head is new.

    `keys` are the fields of the family's `Config`, such as size=(224, 224), channels=3, patch=16, depth=12;
    `vitrail models vit/base` lists them. Errors: `UsageError` (a ValueError) that names the nearest known name or key.
    """
    from vitrail.assembly.save import create_typed

    refuse_weights(keys)
    return create_typed(name, weights, classes, with_square_size(keys), accept_licence)


def backbone(name: str, weights: "bool | str | Path" = False, accept_licence: str = "", **keys: Any) -> "nn.Module":
    """A backbone: images [B C H W] -> `Features(summaries, maps)`. Arguments as in `create`."""
    from vitrail.assembly.save import backbone_typed

    refuse_weights(keys)
    return backbone_typed(name, weights, with_square_size(keys), accept_licence)


def refuse_weights(keys: dict[str, Any]) -> None:
    """Errors: `UsageError` for what other libraries call the weights to begin with."""
    from vitrail.errors import UsageError

    for key in ("pretrained", "checkpoint_path"):
        if key in keys:
            raise UsageError(
                f"{key} is no key of a model",
                "weights=True loads published ones, weights=NAME others; a run: vitrail.load",
            )


def with_square_size(keys: dict[str, Any]) -> dict[str, Any]:
    """`size=224` stands for 224 x 224."""
    from vitrail.validation import as_plain

    return {k: ((v, v) if k == "size" and isinstance(as_plain(v), int) else v) for k, v in keys.items()}


def cost(model: "nn.Module", size: "tuple[int, int] | int | None" = None) -> "Cost":
    """Parameters, multiply-adds, bytes of attention and activations for one image of `size`, by default the model's
    own."""
    from torch import nn

    from vitrail.analysis.cost import cost as count
    from vitrail.errors import UsageError
    from vitrail.validation import Positive, validate

    if not isinstance(model, nn.Module):
        raise UsageError(f"a {type(model).__name__} is not a model", "vitrail.cost(vitrail.create(NAME))")
    return count(
        model,
        None if size is None else validate(with_square_size({"size": size})["size"], tuple[Positive, Positive], "size"),
    )


def attention(model: "nn.Module | Predictor", images: Any, layers: "Layers" = None,
              heads: "Heads" = None) -> "list[LayerAttention]":  # fmt: skip
    """The weights of each softmax attention, `LayerAttention.weights` [B heads N N], and their positions on the image.
    The model is unchanged.

    images: for what `load` gives, images as its `predict` takes them; for a model, floats [B C H W], preprocessed, or a
    tuple of all its inputs. layers: numbers in order of depth (-1 the last), or names of modules. heads: numbers, or
    "mean", "min", "max". Errors: `UsageError`, also for a model that has no softmax attention.
    """
    import torch

    from vitrail.analysis.attention import attention as compute_attention
    from vitrail.errors import UsageError
    from vitrail.inference.predictor import Predictor

    if isinstance(model, Predictor):
        return compute_attention(model.model, model.read(images), layers, heads)
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"a {type(model).__name__} is not a model", "vitrail.attention(vitrail.load(RUN), images)")
    return compute_attention(model, images, layers, heads)


def embed(source: "str | Path | Predictor", images: Any = None, texts: "str | Sequence[str] | None" = None,
          device: str = "cpu", batch: int = 32) -> "Tensor":  # fmt: skip
    """Embeddings of images, or of texts, float32 [N E] of unit length: `images @ texts.T` are their cosines.

    source: a run, a model folder, a file, or what `load` gives. images: as its `predict` takes them. texts need a model
    with a text tower (`--task contrastive`); of images every model has some, the features of its backbone. batch:
    images at a time. Errors: `UsageError`, `CheckpointError`; `BadImage` for an image that cannot be read.
    """
    from vitrail.inference.embeddings import embed_any

    return embed_any(source, images, texts, device, batch)


def save(model: "nn.Module", folder: "str | Path", classes: "tuple[str, ...] | list[str] | None" = None) -> "Path":
    """Writes a model made by `create` as a folder with model.safetensors and a manifest. An existing folder is
    refused."""
    from vitrail.assembly.save import save_model
    from vitrail.inference.predictor import Predictor

    return save_model(model.bundle if isinstance(model, Predictor) else model, folder, classes)


def load(source: "str | Path", device: str = "cpu", vae: str = "",
         checkpoint: "Literal['best', 'last']" = "best", engine: str = "", merge: Any = None,
         labels: "Sequence[str]" = ()) -> Any:  # fmt: skip
    """A trained model from a run, a model folder or a .safetensors file: a `Predictor` with `.model`, `.classes`,
    `.recipe`, `.predict(...)`; called with images it predicts. Of the folder of an export the same without `.model`:
    engine names what runs it, by default the one for its file.

    vae: of a model of latents, the folder of its autoencoder. checkpoint: of a run, the weights of its best evaluation,
    if it kept them, or the last. merge: of ViTs, how many tokens each block merges, "half", or a share of all; None: as
    it was trained. labels: of a model with a text tower, texts that name the classes. Errors:
    `CheckpointError`; `UsageError` for a model that cannot.
    """
    from vitrail.errors import choose
    from vitrail.inference.embeddings import load_labelled

    choose(checkpoint, ("best", "last"), "checkpoint")
    return load_labelled(
        source, [labels] if isinstance(labels, str) else labels, engine, device, checkpoint, vae, merge
    )


def export(source: "str | Path", format: str = "onnx", out: "str | Path" = "", **keys: Any) -> "ExportResult":
    """Writes a run, a model folder or a file as one that runs without vitrail, and proves that its answers are those of
    torch: `.folder`, `.info`, `.proof`.

    Keywords are the flags of `vitrail export`: attention, int8, dynamic, data, split, image_type, merge, overwrite,
    force, and those of the format, such as runtime. out: a new folder, by default export/FORMAT in that of the run.
    Errors: `UsageError`, `CheckpointError`, `DataError`; `RunError` where the proof fails: then nothing is written.
    """
    from vitrail.export import exporter

    return exporter.export(source, exporter.make_request(format, keys), out)


def load_weights(
    model: "nn.Module",
    path: "str | Path",
    source: str = "auto",
    strict: bool = True,
    resize: bool = False,
    new_head: bool = False,
    grid: "tuple[int, int] | None" = None,
    sha256: str | None = None,
) -> "LoadReport":
    """Published weights (.safetensors, .pth, .npz) into a model of `create` or `backbone`; other contents than tensors
    are refused.

    source: the naming scheme of the tensors ("timm", "transformers", "torchvision", "google", "original"); "auto": the
    best match. strict: a name that is missing or unexpected is an error. resize: position tables, patches and channels
    may be resampled. new_head: load all but the head. grid: (height, width) in patches that the file's position table
    was made for, if not square. Errors: `CheckpointError`, and then the model is as it was.
    """
    from vitrail.weights.published import LoadOptions
    from vitrail.weights.published import load_weights as load_published

    return load_published(model, path, source, LoadOptions(strict, resize, new_head, grid), sha256)
