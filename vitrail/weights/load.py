"""Published tensors into a model: names by a table, shapes by `resize`, and a report of what became of every one.

Everything is worked out and checked before the first number of the model is touched.
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
from vitrail.weights.read import RawWeights, nonfinite_names
from vitrail.weights.report import LoadReport, list_names
from vitrail.weights.resize import fit_tensor
from vitrail.weights.rules import Drop, Rule, convert

Table = tuple[Rule | Drop, ...]
OURS: dict[str, Table] = {
    "vitrail": (Rule("backbone.{rest}", "{rest}"), Rule("heads.{rest}", "heads.{rest}")),
    "vitrail:backbone": (Rule("{rest}", "{rest}"),),
}
INSIDE = (
    "opt/target/",
    "params/img/",
    "params/",
    "backbone.",
    "model.",
    "encoder.",
)  # what a model is often wrapped in
RESIZE = "resize=True (--resize) fits tables, patches and channels"
LEAVE = "leave_head=True (--new-head) loads the rest and leaves the head as it is"


@dataclass(frozen=True)
class LoadOptions:
    """What may be done beyond copying. strict: a name that is missing or unexpected is an error."""

    strict: bool = True
    resize: bool = False
    new_head: bool = False
    grid: tuple[int, int] | None = None  # (height, width) that position tables were made for; None: a square one


@dataclass(frozen=True)
class MatchedTensors:
    """A file's tensors in our names, by the table that knew most of them."""

    source: str
    tensors: dict[str, Tensor]  # names as in the state dict of the model
    unknown: tuple[str, ...]
    dropped: dict[str, str]
    notes: tuple[str, ...]


def choose_source(
    model: nn.Module, raw: RawWeights, tables: Mapping[str, Table], source: str = "auto"
) -> MatchedTensors:
    """The reading of a file that leaves the fewest names unknown or missing. `source`: a key of `tables`, or "auto" for any.

    A key "timm:swiglu" is another layout of the source "timm". Errors: `UsageError` for a source that is not there.
    """
    tables = {**tables, **OURS}
    known = dict.fromkeys(key.partition(":")[0] for key in tables)
    if source != "auto":
        choose(source, ["auto", *known], "source", f"sources: auto, {', '.join(known)}")
    wanted = needed(model)
    best: MatchedTensors | None = None
    least = 0
    equals: list[str] = []
    for key, rules in tables.items():
        if source not in ("auto", key.partition(":")[0]):
            continue
        for tensors, notes in readings(raw):
            made = convert(tensors, rules)
            found = {full(name, model): t for name, t in made.tensors.items()}
            score = len(made.unknown) + len(set(wanted) - set(found)) + len(set(found) - set(wanted)) + len(notes)
            if best is None or score < least:
                best = MatchedTensors(key, found, tuple(made.unknown), made.dropped, (*raw.notes, *notes))
                least, equals = score, []
            elif score == least:
                equals.append(key.partition(":")[0])
    assert best is not None
    own = best.source.partition(":")[0]
    others = [name for name in dict.fromkeys(equals) if name != own]
    said = (
        f"the names are those of {' and '.join(others)} as well; {own} was taken, --format says otherwise"
        if others
        else ""
    )
    return replace(best, notes=(*best.notes, *([said] if said else [])))


def readings(raw: RawWeights) -> Iterator[tuple[dict[str, Tensor], tuple[str, ...]]]:
    """A file's tensors as they are, and without a prefix that wraps the model."""
    tensors = {
        name: t for name, t in raw.tensors.items() if t.numel()
    }  # what has no numbers is no parameter of any model
    yield tensors, ()
    for prefix in INSIDE:
        inside = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        rest = [name for name in tensors if not name.startswith(prefix)]
        if not prefix.endswith(
            "/"
        ):  # a head stands beside its model; beside opt/target/ stands the state of an optimiser
            if inside.keys() & set(rest):
                continue
            inside, rest = inside and {**inside, **{name: tensors[name] for name in rest}}, []
        if inside:
            yield (
                inside,
                (
                    f"{prefix!r} was taken off the names",
                    *([f"outside of it, left: {list_names(rest)}"] if rest else []),
                ),
            )


def full(name: str, model: nn.Module) -> str:
    """A name inside the backbone as one of the whole model."""
    return f"backbone.{name}" if isinstance(model, HeadedModel) and not name.startswith("heads.") else name


def needed(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model that a file must have: counters of batches are never missing."""
    return {n: t for n, t in model.state_dict().items() if not n.endswith(".num_batches_tracked")}


def load_tensors(model: nn.Module, raw: RawWeights, chosen: MatchedTensors, options: LoadOptions) -> LoadReport:
    """Copies the tensors into the model. Errors: `CheckpointError`, and then the model is as it was."""
    wanted, state = needed(model), model.state_dict()
    left_out: dict[str, str] = {}
    resized: dict[str, str] = {}
    tensors = dict(chosen.tensors)
    if options.new_head:
        left_out = {
            n: "the head was to be left" for n in list(tensors) if is_of_head(n, state) and tensors.pop(n) is not None
        }
    unexpected = [*chosen.unknown, *(n for n in tensors if n not in state)]
    tensors = {n: t for n, t in tensors.items() if n in state}
    missing = [n for n in wanted if n not in tensors and not (options.new_head and n.startswith("heads."))]
    if options.strict and (missing or unexpected):
        raise CheckpointError(describe_mismatch(chosen.source, missing, unexpected), advice(missing, unexpected))
    wrong: dict[str, str] = {}
    for name in list(tensors):
        reshape(name, tensors, model, state[name], options, resized, wrong)
    if wrong:
        raise CheckpointError(f"{len(wrong)} tensors do not fit: " + "; ".join(f"{n} {why}" for n, why in list(wrong.items())[:4]),
                              LEAVE if all(n.startswith("heads.") for n in wrong) else RESIZE)  # fmt: skip
    if bad := nonfinite_names(tensors):
        raise CheckpointError(
            f"{len(bad)} tensors hold NaN or infinity: {list_names(bad)}", "use another copy of the file"
        )
    if not tensors:
        raise CheckpointError(
            f"no tensor of the file has a place in this model (read as {chosen.source})", "is it the right model?"
        )
    with torch.no_grad():
        for name, t in tensors.items():
            state[name].copy_(t)
    counted = sum(t.numel() for n, t in wanted.items() if n in tensors) / max(
        1, sum(t.numel() for t in wanted.values())
    )
    kinds = sorted(
        {
            f"{t.dtype} to {state[n].dtype}".replace("torch.", "")
            for n, t in tensors.items()
            if t.dtype != state[n].dtype
        }
    )
    notes = (*chosen.notes, *(f"numbers turned from {k}" for k in kinds))
    return LoadReport(chosen.source, raw.sha256, tuple(sorted(tensors)), tuple(missing), tuple(unexpected), resized, left_out,
                      chosen.dropped, counted, notes)  # fmt: skip


def reshape(name: str, tensors: dict[str, Tensor], model: nn.Module, place: Tensor, options: LoadOptions, resized: dict[str, str],
            wrong: dict[str, str]) -> None:  # fmt: skip
    """Brings one tensor into the shape of its place, or says in `wrong` why not."""
    tensor = tensors[name]
    if place.is_meta:
        wrong[name] = "has no numbers to be replaced: the model is on the meta device"
    elif tensor.is_floating_point() != place.is_floating_point():
        wrong[name] = f"is of {tensor.dtype} in the file and of {place.dtype} in the model".replace("torch.", "")
    if name in wrong:
        return
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    gridded = isinstance(module, Position | RelativeBias) and leaf == "table"
    stated = gridded and options.grid is not None and module.grid != options.grid
    if tensor.shape == place.shape and not stated:
        return
    fitted = fit_tensor(tensor, module, leaf, channels_of(model), options.grid)
    sizes = f"is {list(tensor.shape)} in the file and {list(place.shape)} in the model"
    if fitted is None or fitted.tensor.shape != place.shape:
        turned = tensor.ndim == 2 and tensor.mT.shape == place.shape
        wrong[name] = sizes + (" (transposed)" if turned else "")
    elif not (options.resize or fitted.exact):
        wrong[name] = f"{sizes} ({fitted.how})"
    elif fitted.token is not None and (beside := f"{owner.rpartition('.')[0]}.tokens".lstrip(".")) not in tensors:
        wrong[name] = f"{sizes}, and there is no {beside} to take its rows"
    else:
        if fitted.token is not None:
            tensors[beside] = tensors[beside] + fitted.token
        tensors[name], resized[name] = fitted.tensor, fitted.how


def channels_of(model: nn.Module) -> int:
    """Of the images that it takes."""
    inner: Any = model.backbone if isinstance(model, HeadedModel) else model
    return inner.config.channels


def is_of_head(name: str, state: Mapping[str, Tensor]) -> bool:
    """Whether a tensor is the head's: a hidden layer before it goes with it where the model has no place for one."""
    return name.startswith("heads.") or (name.startswith("backbone.pre_logits.") and name not in state)


def describe_mismatch(source: str, missing: list[str], unexpected: list[str]) -> str:
    parts = [
        f"{what} {list_names(names)}" for what, names in (("missing", missing), ("unexpected", unexpected)) if names
    ]
    return f"read as {source}, the file and the model do not have the same names; {'; '.join(parts)}"


HINTS = {  # part of a name: the key of a model that makes or unmakes it
    "gamma": "--model.layer-scale", "ls1": "--model.layer-scale", "registers": "--model.registers", "reg_token": "--model.registers",
    "register_tokens": "--model.registers", "pre_logits": "--model.pre-logits", "pooler": "--model.pre-logits",
    "q_norm": "--model.qk-norm", "w12": "--model.mlp swiglu", "dist_token": "--model.tokens 2", "position": "--model.position",
}  # fmt: skip


def advice(missing: list[str], unexpected: list[str]) -> str:
    """What would make the names agree, as far as it can be told from them."""
    names = [*missing, *unexpected]
    heads = [n for n in names if n.startswith(("heads.", "head.", "classifier."))]
    if heads and len(heads) == len(names):
        return LEAVE
    blocks = {n.split("blocks.")[-1].split(".")[0] for n in names if "blocks." in n}
    keys = list(dict.fromkeys(key for part, key in HINTS.items() if any(part in n for n in names)))
    if keys:
        return f"look at {', '.join(keys)}" + ("; and " + LEAVE if heads else "")
    if blocks:
        return "is it the right model, of the right depth? vitrail models lists them"
    return "is it the right model? strict=False loads what fits"
