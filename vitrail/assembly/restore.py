"""A model out of a file. What the file says of it is data: its fields are checked first, then names and shapes on the
meta device, and only what matches the tensors of the file gets memory."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from vitrail.analysis.cost import on_meta_device
from vitrail.assembly.model import FORMAT, ModelBundle, assemble_model, build_preprocess
from vitrail.contracts import trunk_of
from vitrail.errors import CheckpointError, VitrailError
from vitrail.recipe import InputConfig, Recipe, from_tables
from vitrail.storage.tensors import StoredTensor, read_about, read_header, refuse_nonfinite, unpack
from vitrail.validation import check_fields
from vitrail.weights.report import list_names

LONGEST_ORIGIN = 500  # characters of a name, an address or a licence
SURPLUS = 1000  # parameters that a model may register while it is built, beyond twice the tensors of its file
FREE_BYTES, TIMES = 256 * 2**20, 4  # computed tables: at most so many bytes beyond so many times those of the file


class Description(NamedTuple):
    """What a file says of its model, each field of its type."""

    recipe: Recipe
    classes: tuple[str, ...]
    multi_label: bool
    origin: dict[str, Any] = {}  # noqa: RUF012  of the weights that it began with


def restore_bundle(path: Path) -> ModelBundle:
    """The model in a .safetensors file that `describe_bundle` describes. Errors: `CheckpointError`."""
    header = read_header(path)
    description = parse_description(read_about(header, path), path)
    check_fits(description, header.tensors, path)
    bundle = build(description, unpack(path)[0], path)
    return dataclasses.replace(bundle, model=bundle.model.eval())


def parse_description(about: dict[str, Any], path: Path) -> Description:
    """The description in a file's metadata. Errors: `CheckpointError` that names the field."""
    if not about:
        fix = "only files that vitrail wrote can be loaded by themselves; vitrail import converts others"
        raise CheckpointError(f"{path} does not name its model", fix)
    if type(about.get("format")) is not int or about["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {str(about.get('format'))[:40]}, this vitrail reads {FORMAT}",
            "use the version that wrote it",
        )
    kinds = {"recipe": dict[str, dict[str, Any]], "classes": list[str], "multi_label": bool}
    check_fields(about, kinds, str(path))
    with as_checkpoint_error(path):
        recipe = from_tables(about["recipe"], str(path))
    return Description(recipe, tuple(about["classes"]), about["multi_label"], read_origin(about.get("origin")))


def read_origin(value: Any) -> dict[str, Any]:
    """What a file says of the weights that its model began with: texts and numbers that are not long."""
    rows = value.items() if isinstance(value, dict) else ()
    return {k[:40]: v for k, v in rows if isinstance(v, str | int | float) and len(str(v)) <= LONGEST_ORIGIN}


@contextmanager
def as_checkpoint_error(path: Path) -> Iterator[None]:
    """Whatever goes wrong with what a file says is an error of the file."""
    try:
        yield
    except VitrailError as error:
        raise CheckpointError(f"{path} describes no model that this vitrail has: {error.what}", error.fix) from None
    except Exception as error:  # of torch or of Python, on numbers that make no model
        why = " ".join(str(error).split())[:160] or type(error).__name__
        what = f"{path} describes no model that can be built: {why}"
        raise CheckpointError(what, "it was edited, or written by another version") from None


def check_fits(description: Description, tensors: Mapping[str, StoredTensor], path: Path) -> None:
    """Holds names and shapes of the description model, built on the meta device, against those of a file. Errors:
    `CheckpointError`."""
    with as_checkpoint_error(path), limit_parameters(2 * len(tensors) + SURPLUS), on_meta_device():
        model = assemble_model(description.recipe, description.classes, description.multi_label).model
        check_input(description.recipe.input, model)
    state = model.state_dict()
    missing, surplus = sorted(state.keys() - tensors.keys()), sorted(tensors.keys() - state.keys())
    other = [
        f"{name} is {list(t.shape)} and should be {list(state[name].shape)}"
        for name, t in tensors.items()
        if name in state
        and (t.shape != tuple(state[name].shape) or t.is_floating_point != state[name].is_floating_point())
    ]
    lists = (("missing", missing), ("not its own", surplus))
    reasons = [f"{what} {list_names(names)}" for what, names in lists if names]
    if reasons or other:
        raise CheckpointError(
            f"{path} does not fit the model it names: {'; '.join([*other[:3], *reasons])}"[:400],
            "it was edited, or written by another version",
        )
    needed = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    stored = sum(t.numel() * t.element_size() for t in state.values())
    if needed > TIMES * stored + FREE_BYTES:
        raise CheckpointError(
            f"{path} has {stored:,} bytes of tensors, and its model needs {needed:,} bytes of tables beside them",
            "it was edited: such an image size was not trained on",
        )


def check_input(given: InputConfig, model: nn.Module) -> None:
    """Errors: `CheckpointError`, `UsageError` for a preprocessing that does not fit the model."""
    if given.size is None and given.mean is None:
        return  # it has none, and predicts nothing by itself
    build_preprocess(given)
    channels = trunk_of(model).config.channels
    if given.vae_hash is None and channels != given.channels:
        raise CheckpointError(
            f"its preprocessing gives {given.channels} channels, its model takes {channels}", "it was edited"
        )


@contextmanager
def limit_parameters(most: int) -> Iterator[None]:
    """Ends building a model that registers more parameters. Errors: `CheckpointError`."""
    count = 0

    def register(module: nn.Module, name: str, parameter: Any) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise CheckpointError(
                f"the recipe in the file has more than {most:,} parameters, its tensors are fewer",
                "it was edited, or written by another version",
            )

    handle = register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        handle.remove()


def build(description: Description, tensors: Mapping[str, Tensor], path: Path) -> ModelBundle:
    """The model with its weights; it fits, as `check_fits` says. Errors: `CheckpointError`."""
    refuse_nonfinite(dict(tensors), path)
    with as_checkpoint_error(path):
        bundle = assemble_model(description.recipe, description.classes, description.multi_label)
        bundle.model.load_state_dict(dict(tensors))
    return dataclasses.replace(bundle, origin=description.origin)


def stored_tensors(tensors: Mapping[str, Tensor]) -> dict[str, StoredTensor]:
    """Tensors as a header describes them."""
    kinds = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16"}
    return {name: StoredTensor(kinds.get(t.dtype, "I64"), tuple(t.shape)) for name, t in tensors.items()}
