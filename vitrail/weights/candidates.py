"""The ways to read a file: every table of names converts the names of its tensors, its `infer` reads a config off the
shapes, and the model of that config is built without memory and held against the tensors.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitrail import catalog
from vitrail.errors import UsageError
from vitrail.foreign_names import translate
from vitrail.recipe import Choice
from vitrail.validation import update_config
from vitrail.weights.clues import Clues, Open
from vitrail.weights.load import OURS, Table, without_prefixes
from vitrail.weights.published import PublishedInfo, load_table, lookup_by_source
from vitrail.weights.read import RawWeights
from vitrail.weights.rules import convert
from vitrail.weights.sidecars import CountOf, Ratio, Sidecar, Small, Whole
from vitrail.weights.variants import GEOMETRY, choose_variant, differing, same_value

LATER = re.compile(r"(?:^|[./_])(?:[2-9]|\d{2,})(?:[./]|$)")  # in the name of a tensor of a later block than the second
NEAR = 3  # names more that a table may not know than the best one
MOST_TENSORS = 20_000  # of a file; large models have 2,000
MOST_TOKENS = 2**14  # cells of a grid that only a sidecar claims


@dataclass(frozen=True)
class Candidate:
    """A family and one of its sources, as they read the file. wrong: what differs from the model of `model`."""

    family: str
    source: str
    info: PublishedInfo
    clues: Clues
    fields: dict[str, Any]
    model: Choice = field(default_factory=Choice)
    wrong: tuple[str, ...] = ()
    open: dict[str, Open] = field(default_factory=dict)
    contradictions: tuple[str, ...] = ()


class Reading(NamedTuple):
    """A table of names and the tensors that it is to convert."""

    family: str
    source: str
    rules: Table
    raw: dict[str, Tensor]


def families() -> list[str]:
    """The families with a table of published names."""
    return catalog.list_modules("weights/tables")


def list_candidates(
    shapes: Mapping[str, Tensor], sidecar: Sidecar, given: Choice, source: str, rooms: list[str]
) -> list[Candidate]:
    """The ways to read the file whose table knows its config, with what is wrong about each. Tables of published names
    come first, then our own names."""
    infos = {family: info for family in rooms if (info := load_table(family)).infer is not None}
    found: list[Candidate] = []
    for own in (False, True):
        if any(not candidate.wrong for candidate in found):
            break
        for reading in likely_readings(all_readings(shapes, infos, source, own)):
            converted = convert(reading.raw, reading.rules)
            clues = Clues(converted.tensors, reading.raw, reading.source, sidecar, given.keys)
            info = infos[reading.family]
            fields = info.infer(clues) if info.infer is not None else None
            if fields is not None:
                candidate = Candidate(reading.family, reading.source, info, clues, fields)
                found.append(hold_against(complete(candidate, given), converted.unknown))
    return found


def all_readings(
    shapes: Mapping[str, Tensor], infos: Mapping[str, PublishedInfo], source: str, own: bool = False
) -> list[Reading]:
    """Every table of the families with every way that the file's names may have a prefix. own: by our names."""
    tensors = [raw for raw, _ in without_prefixes(RawWeights(dict(shapes), {}, ""))]
    return [
        Reading(family, key, rules, raw)
        for family, info in infos.items()
        for key, rules in (OURS if own else info.sources).items()
        for raw in tensors
        if source in ("auto", key.partition(":")[0])
    ]


def nearest_names(shapes: Mapping[str, Tensor]) -> tuple[Reading, list[str]] | None:
    """The table that knows most names of the first blocks of a file that is no model here, and those that it does not
    know; None where none knows a third, or one knows all names and only the shapes differ."""
    first = {name: t for name, t in shapes.items() if not LATER.search(name)}
    infos = {family: load_table(family) for family in families()}
    found = [(reading, convert(reading.raw, reading.rules).unknown) for reading in all_readings(first, infos, "auto")]

    def key(pair: tuple[Reading, list[str]]) -> tuple[Any, ...]:
        own = catalog.load_module("models", pair[0].family)  # a family with the config of another is a kind of that
        return len(pair[1]), own.Config.__module__ != own.__name__, len(pair[0].rules)

    best = min(found, key=key, default=None)
    return best if best is not None and 0 < 3 * len(best[1]) <= 2 * len(first) else None


def likely_readings(readings: list[Reading]) -> list[Reading]:
    """Those whose tables know the names of the first blocks about as well as the best does: of many tables, few."""
    unknown = []
    for reading in readings:
        first = {name: t for name, t in reading.raw.items() if not LATER.search(name)}
        unknown.append((len(convert(first, reading.rules).unknown), len(first)))
    least = min((count for count, _ in unknown), default=0)
    return [
        reading
        for reading, (count, total) in zip(readings, unknown, strict=True)
        if count <= least + NEAR and 2 * count <= total
    ]


def complete(candidate: Candidate, given: Choice) -> Candidate:
    """The candidate with the fields that a sidecar or the source states, and its variant. What was typed holds."""
    clues, info = candidate.clues, candidate.info
    module = catalog.load_module("models", candidate.family)
    fields, wrong = dict(candidate.fields), []
    for name, theirs in info.config_names.items():
        path, value = clues.sidecar.find(kind_of(name, vars(module.Config())[name]), theirs)
        if value is None:
            continue
        if name in fields and not isinstance(fields[name], Open) and not same_value(name, fields[name], value):
            wrong.append(f"{clues.sidecar.path_of(path)} is {value}, and the tensors have {fields[name]}")
        else:
            fields[name] = value
    known = {f.name for f in dataclasses.fields(module.Config)}
    usual = lookup_by_source(info.settings, candidate.source, {})
    fields = {**{k: v for k, v in usual.items() if k in known}, **fields}
    typed = vars(update_config(module.Config(), given.keys, given.name or candidate.family))
    fields |= {key: typed[key] for key in (k.replace("-", "_") for k in given.keys) if decides(key, fields)}
    fields, left_open = settle(fields, module.VARIANTS, hinted_config(candidate, given, module.VARIANTS))
    variant, keys = choose_variant(module.VARIANTS, fields)
    if given.name.partition("/")[0] == candidate.family and (own := given.name.partition("/")[2]) in module.VARIANTS:
        variant, keys = own, differing(module.VARIANTS[own], fields)
    model = Choice(f"{candidate.family}/{variant}", keys)
    return replace(candidate, fields=fields, model=model, contradictions=tuple(wrong), open=left_open)


def kind_of(name: str, default: Any) -> Any:
    """What a sidecar may give for a field with such a default."""
    if isinstance(default, tuple):
        each: Any = Ratio if isinstance(default[0], float) else Whole
        return tuple[each, ...]
    if isinstance(default, bool):
        return bool
    return CountOf if isinstance(default, int) else Small if "eps" in name else Ratio


def decides(key: str, fields: Mapping[str, Any]) -> bool:
    """Whether a typed key takes part in reading the file: a size, patch or number of channels does not, where the file
    has its own, since its tensors can be resized."""
    return key not in GEOMETRY or isinstance(fields.get(key), Open)


def hinted_config(candidate: Candidate, given: Choice, variants: Mapping[str, Any]) -> Any:
    """The config of the variant that was typed, or that a sidecar calls by the name of another library; or None."""
    family, _, typed = given.name.partition("/")
    if family == candidate.family:
        return variants.get(typed)
    model = translate(candidate.clues.sidecar.kind, [f"{candidate.family}/{name}" for name in variants])
    if model is None:
        return None
    own = variants[model.name.partition("/")[2]]
    return replace(own, **{k: v for k, v in model.keys.items() if k in vars(own) and k != "size"})


def settle(fields: dict[str, Any], variants: Mapping[str, Any], hint: Any) -> tuple[dict[str, Any], dict[str, Open]]:
    """Open fields get the value of the variant that was named, or of all variants that fit; what stays open."""
    left = {name: value for name, value in fields.items() if isinstance(value, Open)}
    fits = [hint] if hint is not None else [v for v in variants.values() if not differing(v, fields)]
    for name in list(left):
        values = list(dict.fromkeys(vars(config)[name] for config in fits))
        if len(values) == 1:
            fields[name] = values[0]
            del left[name]
    return fields, left


def hold_against(candidate: Candidate, unknown: list[str]) -> Candidate:
    """The candidate with what differs between the file and the model, built without memory. A missing head, and one for
    other features, is no difference: it is new then."""
    module, variant = catalog.load_module("models", candidate.family), candidate.model.name.partition("/")[2]
    config = replace(module.VARIANTS[variant], **candidate.model.keys)
    config = replace(config, **{name: left.values[0] for name, left in candidate.open.items()})
    try:
        if vars(module).get("KIND") == "denoiser":
            check_size(config)
        with torch.device("meta"):
            state = module.build(config).state_dict()
    except UsageError as error:
        return replace(candidate, wrong=(error.what,))
    except (RuntimeError, ValueError, ArithmeticError, TypeError) as error:  # sizes that no model of the family has
        return replace(candidate, wrong=((str(error).splitlines() or ["it cannot be built"])[0][:120],))
    theirs = {n: t for n, t in candidate.clues.tensors.items() if not n.startswith("heads.") or n in state}
    missing = [n for n, t in state.items() if n not in theirs and t.numel() and not n.endswith(".num_batches_tracked")]
    unexpected = [n for n in theirs if n not in state]
    other = [f"{n} {list(t.shape)}" for n, t in theirs.items() if n in state and state[n].shape != t.shape]
    parts = (("missing", missing), ("unknown", unknown + unexpected), ("of another shape", other))
    wrong = tuple(f"{what} {name}" for what, names in parts for name in names)
    return replace(candidate, wrong=wrong)


def check_size(config: Any) -> None:
    """Errors: `UsageError` for a grid of positions larger than any denoiser's: tables of sines would be computed."""
    (height, width), patch = config.size, config.patch
    if (height // patch) * (width // patch) > MOST_TOKENS:
        raise UsageError(f"a size of {height}x{width} has more than {MOST_TOKENS:,} patches of {patch} pixels")


def rank(candidates: list[Candidate], sidecar: Sidecar) -> list[Candidate]:
    """The best first: the least that differs, then what the sidecar names, then the plainest name."""
    model = translate(sidecar.kind, catalog.list_names("models"))
    hint = (model.name if model is not None else sidecar.kind).replace("-", "_").lower()

    def key(candidate: Candidate) -> tuple[Any, ...]:
        own = catalog.load_module("models", candidate.family)
        usual = lookup_by_source(candidate.info.settings, candidate.source, {})
        plain = {k: v for k, v in candidate.model.keys.items() if k not in GEOMETRY and k not in usual}
        squeezed = candidate.family.replace("_", "")
        return (
            len(candidate.wrong),
            sidecar.writer not in ("", candidate.source.partition(":")[0]),
            not hint.replace("_", "").startswith(squeezed),
            len(plain),
            len(candidate.open) > 0,
            own.Config.__module__ != own.__name__,
        )

    return sorted(candidates, key=key)
