"""What a file of published weights is: family, variant and config, from the names and shapes of its tensors and from
what lies beside them.

Only where two answers remain must a person decide, and both are named.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vitrail import catalog
from vitrail.errors import CheckpointError
from vitrail.foreign_names import nearest_kind
from vitrail.recipe import Choice, InputConfig
from vitrail.weights.candidates import MOST_TENSORS, Candidate, families, list_candidates, nearest_names, rank
from vitrail.weights.clues import as_pair
from vitrail.weights.published import assume_input, lookup_by_source
from vitrail.weights.report import list_names
from vitrail.weights.sidecar_input import read_input
from vitrail.weights.sidecars import Sidecar, check_args
from vitrail.weights.typed import read_as_typed
from vitrail.weights.variants import SHAPE, choose_variant, differing


@dataclass(frozen=True)
class Identified:
    """model: its name, and the keys that differ from its variant's. source: a key of the family's table. input: the
    preprocessing. classes: the names of the head's, None where the files have none; outputs: how many, 0 without head;
    left_out: why another tower of the file is not read, "" where there is none."""

    model: Choice
    source: str
    input: InputConfig
    classes: tuple[str, ...] | None = None
    outputs: int = 0
    reasons: tuple[str, ...] = ()
    input_reason: str = ""
    left_out: str = ""


def identify(
    tensors: Mapping[str, Tensor], sidecar: Sidecar | None = None, given: Choice | None = None, source: str = "auto"
) -> Identified:
    """What the tensors of a file are. sidecar: what lies beside them; given: the model, or keys of it, that a person
    typed; source: the naming scheme, "auto" for any. Only names and shapes are read: meta tensors suffice.

    A file that does not fit a typed model is read as that: what fits is loaded, and the loader reports the rest.
    Errors: `CheckpointError` that names both where two answers remain, the nearest family where none fits, and the
    model of the weights where another was typed.
    """
    sidecar, given = sidecar or Sidecar(), given or Choice()
    if len(tensors) > MOST_TENSORS:
        raise CheckpointError(f"the file has {len(tensors):,} tensors, more than any model here", "check the file")
    shapes = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
    typed = given.name.partition("/")[0]
    found = rank(list_candidates(shapes, sidecar, given, source, [typed] if typed else families()), sidecar)
    if not found or found[0].wrong:
        others = rank(list_candidates(shapes, sidecar, Choice(), source, families()), sidecar) if typed else []
        if others and not others[0].wrong and others[0].family != typed:
            raise wrong_model(given.name, others[0])
        if typed:
            model, key, given_input, outputs = read_as_typed(shapes, given, source)
            return Identified(model, key, given_input, None, outputs, (), f"as is usual for {key}")
        raise no_model(found[0] if found else None, shapes, sidecar.kind)
    best = found[0]
    if best.contradictions and not sidecar.certain:
        other = identify(tensors, None, given, source)
        why = f"{sidecar.file} beside it is of another model, and not used: {best.contradictions[0]}"
        return replace(other, reasons=(*other.reasons, why))
    if best.contradictions:
        fix = f"they belong to different models: remove {sidecar.file}, or bring the one of these weights"
        raise CheckpointError("; ".join(best.contradictions[:3]), fix)
    if given.name and (different := differs_from(given, best)):
        raise wrong_model(given.name, replace(best, model=different))
    check_args(sidecar)
    if best.open:
        raise undecided(best)
    return describe(best, sidecar, found)


def differs_from(given: Choice, best: Candidate) -> Choice | None:
    """The model of the weights, where it is of another size than the one typed."""
    module = catalog.load_module("models", best.family)
    keys = {key.replace("-", "_") for key in given.keys}
    if not {k for k in best.model.keys if k in SHAPE} - keys:
        return None
    fields = {k: v for k, v in best.fields.items() if k not in keys}
    variant, differences = choose_variant(module.VARIANTS, fields)
    return Choice(f"{best.family}/{variant}", differences)


def describe(best: Candidate, sidecar: Sidecar, found: list[Candidate]) -> Identified:
    """The result, with its reasons."""
    module, variant = catalog.load_module("models", best.family), best.model.name.partition("/")[2]
    config = replace(module.VARIANTS[variant], **best.model.keys)
    head = best.clues.shape("heads.0.weight")
    assumed, stated = assume_input(best.info, best.clues, vars(config)), read_input(sidecar)
    keys = {"size": config.size, **assumed.preprocessing._asdict(), **stated}
    if cuts_edge(keys["size"], config):
        keys["size"] = config.size
    given = InputConfig(channels=config.channels, **keys)
    where = sidecar.writer and f" and {sidecar.writer}'s files beside them"
    settings = lookup_by_source(best.info.settings, best.source, {})  # reported as such
    shown = " ".join(f"{k} {show(v)}" for k, v in best.model.keys.items() if settings.get(k) != v)
    reasons = [f"these are weights of {best.model.name}{f' ({shown})' if shown else ''}: as the tensors{where} have it"]
    input_reason = "as the file beside them says" if stated else assumed.reason
    same = [c for c in found[1:] if not c.wrong and c.family != best.family]
    if same and not sidecar.writer:
        reasons.append(f"{same[0].model.name} has the same tensors: --model {same[0].model.name} reads them as that")
    outputs = head[0] if len(head) == 2 else 0
    names = sidecar.class_names(outputs) if outputs else None
    return Identified(best.model, best.source, given, names, outputs, tuple(reasons), input_reason)


def cuts_edge(size: tuple[int, int], config: Any) -> bool:
    """Whether images of a size lose less than a patch at the edge, which others leave out (SigLIP for 384 pixels sees
    378): ours would pad it, and move all patches, so images of what is seen are nearer."""
    patch = as_pair(vars(config).get("patch"))
    if patch is None or size == config.size:
        return False
    return all(s // p * p == c for s, p, c in zip(size, patch, config.size, strict=True))


def show(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value).lower()


def flags(model: Choice) -> str:
    """The model as it is typed: its size, since the rest is read from the file."""
    keys = (f"--model.{k.replace('_', '-')} {show(v)}" for k, v in model.keys.items() if k in (*SHAPE, "heads"))
    return " ".join([f"--model {model.name}", *keys])


def undecided(best: Candidate) -> CheckpointError:
    """Two answers remain: both are named."""
    what = " and ".join(dict.fromkeys(value.what for value in best.open.values()))
    variants = catalog.load_module("models", best.family).VARIANTS
    fits = [
        f"--model {best.family}/{name}"
        for name, config in variants.items()
        if not differing(config, best.fields) and all(vars(config)[k] in v.values for k, v in best.open.items())
    ]
    if len(fits) < 2:
        name, value = next(iter(best.open.items()))
        fits = [f"--model.{name.replace('_', '-')} {show(v)}" for v in value.values]
    size = " ".join(f"{k} {show(v)}" for k, v in best.fields.items() if k in SHAPE)
    what = f"these are weights of {best.family} ({size}), and nothing in the file says {what}"
    return CheckpointError(what, f"{' or '.join(fits[:6])} says it")


def wrong_model(name: str, right: Candidate) -> CheckpointError:
    """Another model was typed than the file has."""
    size = " ".join(f"{k} {show(v)}" for k, v in right.model.keys.items() if k in SHAPE)
    model = right.model.name if right.model.name != name else f"{right.family} of another size ({size})"
    return CheckpointError(
        f"these are weights of {model}, not of {name}",
        f"{flags(right.model)}, or leave --model out",
    )


def no_model(nearest: Candidate | None, shapes: Mapping[str, Tensor], kind: str) -> CheckpointError:
    """No family fits. kind: what the file beside the tensors calls the model."""
    if nearest is None:
        called = f"is {kind[:60]}" if kind else "has such tensors"
        what = f"no model here {called}: {list_names(shapes)}"
        if (alike := nearest_names(shapes)) is not None:
            (family, source, _, _), unknown = alike
            what = f"no model here {called}; nearest is {family} read as {source}, which has no {list_names(unknown)}"
        near = nearest_kind(kind, catalog.list_names("models"))
        also = f"; near by name: {', '.join(near)}" if near else ""
        return CheckpointError(what + also, "vitrail models lists the models; --format and --model name one")
    listed = "; ".join(nearest.wrong[:4]) + ("; ..." if nearest.wrong[4:] else "")
    what = f"no model here has these tensors; nearest is {nearest.model.name} read as {nearest.source}: {listed}"
    return CheckpointError(what, "vitrail import FILE --model NAME --no-strict --out FOLDER loads what fits")
