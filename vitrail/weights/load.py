"""Loads published tensors into a model: names by a table, shapes by `resize`, and a report on every tensor.

Everything is computed and checked before the model is modified.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.contracts import HeadedModel
from vitrail.errors import CheckpointError, choose
from vitrail.layers.position import Position
from vitrail.layers.relative import RelativeBias
from vitrail.storage.tensors import nonfinite_names
from vitrail.weights.read import RawWeights
from vitrail.weights.report import LoadReport, list_names
from vitrail.weights.resize import fit_tensor
from vitrail.weights.rules import Drop, Rule, convert

Table = tuple[Rule | Drop, ...]
OURS: dict[str, Table] = {
    "vitrail": (Rule("backbone.{rest}", "{rest}"), Rule("heads.{rest}", "heads.{rest}")),
    "vitrail:backbone": (Rule("{rest}", "{rest}"),),
}
WRAPPING_PREFIXES = (
    "opt/target/", "params/img/", "params/", "backbone.", "model.", "encoder.", "timm_model.", "visual.trunk.",
)  # fmt: skip
ALONE = ("/", "visual.trunk.")  # ends of those beside which is nothing of the model: an optimizer's state, a text tower
RESIZE = "resize=True (--resize) resizes tables, patches and channels"
NEW_HEAD = "new_head=True (--new-head) loads the rest and re-initialises the head"


@dataclass(frozen=True)
class LoadOptions:
    """Options beyond copying. strict: a missing or unexpected name is an error."""

    strict: bool = True
    resize: bool = False
    new_head: bool = False
    grid: tuple[int, int] | None = None  # (height, width) of position tables; None: square
    new: frozenset[str] = frozenset()  # names of the model that may be missing and keep their initial values


@dataclass(frozen=True)
class MatchedTensors:
    """A file's tensors in our names, by the table that matches best."""

    source: str
    tensors: dict[str, Tensor]  # names as in the state dict of the model
    unknown: tuple[str, ...]
    dropped: dict[str, str]
    notes: tuple[str, ...]


def choose_source(
    model: nn.Module, raw: RawWeights, tables: Mapping[str, Table], source: str = "auto"
) -> MatchedTensors:
    """The table that leaves the fewest names unknown or missing. `source`: a key of `tables`, or "auto" for any.

    A key "timm:swiglu" is another layout of the source "timm". Errors: `UsageError` for an unknown source.
    """
    tables = {**tables, **OURS}
    names = dict.fromkeys(key.partition(":")[0] for key in tables)
    if source != "auto":
        choose(source, ["auto", *names], "source", f"sources: auto, {', '.join(names)}")
    expected = required_tensors(model)
    best: MatchedTensors | None = None
    lowest = 0
    ties: list[str] = []
    for key, rules in tables.items():
        if source not in ("auto", key.partition(":")[0]):
            continue
        for tensors, notes in without_prefixes(raw):
            converted = convert(tensors, rules)
            renamed = {full_name(name, model): t for name, t in converted.tensors.items()}
            score = (
                len(converted.unknown)
                + len(set(expected) - set(renamed))
                + len(set(renamed) - set(expected))
                + len(notes)
            )
            if best is None or score < lowest:
                best = MatchedTensors(key, renamed, tuple(converted.unknown), converted.dropped, (*raw.notes, *notes))
                lowest, ties = score, []
            elif score == lowest:
                ties.append(key.partition(":")[0])
    assert best is not None
    own = best.source.partition(":")[0]
    others = [name for name in dict.fromkeys(ties) if name != own]
    if not others:
        return best
    note = f"the names match {' and '.join(others)} as well; read as {own}, --format selects another"
    return replace(best, notes=(*best.notes, note))


def without_prefixes(raw: RawWeights) -> Iterator[tuple[dict[str, Tensor], tuple[str, ...]]]:
    """A file's tensors as they are, and without each wrapping prefix."""
    tensors = {name: t for name, t in raw.tensors.items() if t.numel()}  # an empty tensor is no parameter of any model
    yield tensors, ()
    for prefix in WRAPPING_PREFIXES:
        inside = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        rest = [name for name in tensors if not name.startswith(prefix)]
        if not prefix.endswith(ALONE):  # a head is beside its model
            if inside.keys() & set(rest):
                continue
            inside, rest = inside and {**inside, **{name: tensors[name] for name in rest}}, []
        if inside:
            ignored = [f"without this prefix, ignored: {list_names(rest)}"] if rest else []
            yield inside, (f"the prefix {prefix!r} was removed", *ignored)


def full_name(name: str, model: nn.Module) -> str:
    """The name of a backbone's tensor in the whole model."""
    return f"backbone.{name}" if isinstance(model, HeadedModel) and not name.startswith("heads.") else name


def required_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that a file must contain: batch counters of normalisation are optional."""
    return {n: t for n, t in model.state_dict().items() if not n.endswith(".num_batches_tracked")}


def load_tensors(model: nn.Module, raw: RawWeights, chosen: MatchedTensors, options: LoadOptions) -> LoadReport:
    """Copies the tensors into the model. Errors: `CheckpointError`; the model is then unchanged."""
    expected, state = required_tensors(model), model.state_dict()
    excluded: dict[str, str] = {}
    resized: dict[str, str] = {}
    tensors = dict(chosen.tensors)
    if options.new_head:
        excluded = {
            n: "classifier head re-initialised"
            for n in list(tensors)
            if is_of_head(n, state, model) and tensors.pop(n) is not None
        }
    unexpected = [*chosen.unknown, *(n for n in tensors if n not in state)]
    tensors = {n: t for n, t in tensors.items() if n in state}
    new = options.new | (head_of(expected, model).keys() if options.new_head else set())
    missing = [n for n in expected if n not in tensors and n not in new]
    if options.strict and (missing or unexpected):
        raise CheckpointError(describe_mismatch(chosen.source, missing, unexpected), suggest_fix(missing, unexpected))
    wrong: dict[str, str] = {}
    for name in list(tensors):
        reshape(name, tensors, model, state[name], options, resized, wrong)
    if wrong:
        reasons = "; ".join(f"{n} {why}" for n, why in list(wrong.items())[:4])
        fix = NEW_HEAD if all(n.startswith("heads.") for n in wrong) else RESIZE
        raise CheckpointError(f"{len(wrong)} tensors do not fit: {reasons}", fix)
    if bad := nonfinite_names(tensors):
        raise CheckpointError(
            f"{len(bad)} tensors contain NaN or infinity: {list_names(bad)}", "use another copy of the file"
        )
    if not tensors:
        raise CheckpointError(f"no tensor of the file matches this model (read as {chosen.source})", "check --model")
    with torch.no_grad():
        for name, t in tensors.items():
            state[name].copy_(t)
    fraction = sum(t.numel() for n, t in expected.items() if n in tensors) / max(
        1, sum(t.numel() for t in expected.values())
    )
    kinds = sorted(
        {
            f"{t.dtype} to {state[n].dtype}".replace("torch.", "")
            for n, t in tensors.items()
            if t.dtype != state[n].dtype
        }
    )
    notes = (*chosen.notes, *(f"converted from {k}" for k in kinds))
    names = tuple(sorted(tensors)), tuple(missing), tuple(unexpected)
    random = tuple(sorted(n for n in new if n in expected and n not in tensors))
    return LoadReport(chosen.source, raw.sha256, *names, resized, excluded, chosen.dropped, fraction, notes, random)


def reshape(
    name: str,
    tensors: dict[str, Tensor],
    model: nn.Module,
    parameter: Tensor,
    options: LoadOptions,
    resized: dict[str, str],
    wrong: dict[str, str],
) -> None:
    """Resizes one tensor to the shape of its parameter, or records in `wrong` why not."""
    tensor = tensors[name]
    if parameter.is_meta:
        wrong[name] = "has no storage: the model is on the meta device"
    elif tensor.is_floating_point() != parameter.is_floating_point():
        wrong[name] = f"is {tensor.dtype} in the file and {parameter.dtype} in the model".replace("torch.", "")
    if name in wrong:
        return
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    has_grid = isinstance(module, Position | RelativeBias) and leaf == "table"
    is_other_grid = has_grid and options.grid is not None and module.grid != options.grid
    if tensor.shape == parameter.shape and not is_other_grid:
        return
    resized_tensor = fit_tensor(tensor, module, leaf, channels_of(model), options.grid)
    sizes = f"is {list(tensor.shape)} in the file and {list(parameter.shape)} in the model"
    if resized_tensor is None or resized_tensor.tensor.shape != parameter.shape:
        is_transposed = tensor.ndim == 2 and tensor.mT.shape == parameter.shape
        wrong[name] = sizes + (" (transposed)" if is_transposed else "")
    elif not (options.resize or resized_tensor.exact):
        wrong[name] = f"{sizes} ({resized_tensor.how})"
    elif (
        resized_tensor.token is not None
        and (token_name := f"{owner.rpartition('.')[0]}.tokens".lstrip(".")) not in tensors
    ):
        wrong[name] = f"{sizes}, and there is no {token_name} for its rows"
    else:
        if resized_tensor.token is not None:
            tensors[token_name] = tensors[token_name] + resized_tensor.token
        tensors[name], resized[name] = resized_tensor.tensor, resized_tensor.how


def channels_of(model: nn.Module) -> int:
    """The number of input channels of a model."""
    inner: Any = model.backbone if isinstance(model, HeadedModel) else model
    return inner.config.channels


def head_of(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a state dict that belong to the head of a model."""
    return {name: t for name, t in state.items() if is_of_head(name, state, model)}


def is_of_head(name: str, state: Mapping[str, Tensor], model: nn.Module) -> bool:
    """Whether a tensor belongs to the head: so does a hidden layer before it, where the model has none."""
    if isinstance(model, HeadedModel) and not name.startswith("backbone."):
        return True
    return name.startswith("heads.") or (name.startswith("backbone.pre_logits.") and name not in state)


def describe_mismatch(source: str, missing: list[str], unexpected: list[str]) -> str:
    parts = [
        f"{what} {list_names(names)}" for what, names in (("missing", missing), ("unexpected", unexpected)) if names
    ]
    return f"read as {source}, the names of file and model differ; {'; '.join(parts)}"


HINTS = {  # part of a name: the setting of the model that adds or removes it
    "gamma": "--model.layer-scale", "ls1": "--model.layer-scale", "registers": "--model.registers",
    "reg_token": "--model.registers", "register_tokens": "--model.registers", "pre_logits": "--model.pre-logits",
    "pooler": "--model.pre-logits", "q_norm": "--model.qk-norm", "w12": "--model.mlp swiglu",
    "dist_token": "--model.tokens 2", "position": "--model.position",
}  # fmt: skip


def suggest_fix(missing: list[str], unexpected: list[str]) -> str:
    """A remedy for a mismatch, guessed from the names."""
    names = [*missing, *unexpected]
    heads = [n for n in names if n.startswith(("heads.", "head.", "classifier."))]
    if heads and len(heads) == len(names):
        return NEW_HEAD
    blocks = {n.split("blocks.")[-1].split(".")[0] for n in names if "blocks." in n}
    keys = list(dict.fromkeys(key for part, key in HINTS.items() if any(part in n for n in names)))
    if keys:
        return f"check {', '.join(keys)}" + ("; and " + NEW_HEAD if heads else "")
    if blocks:
        return "check the model and its depth; vitrail models lists them"
    return "check the model; strict=False (--no-strict) loads what fits"
