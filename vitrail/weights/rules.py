"""Converts tensors between other libraries' layouts and ours: rules as data, applied in both directions.

A rule pairs names: `{i}` matches one part of a dotted name, `{rest}` any number of them. Our names are those inside the
backbone; a head's begin with "heads.". Tensors are converted by a list of named, invertible steps.

    Rule("blocks.{i}.attn.proj.{p}", "blocks.{i}.attn.proj.{p}")
    Rule(("q.{p}", "k.{p}", "v.{p}"), "qkv.{p}", "fuse")
    Rule("kernel", "weight", "linear")

`{all}` in our name: theirs stacks the tensors of all blocks along the first axis. `{each}`: theirs serves all blocks,
and each of ours has a copy; the way back is to names of single blocks.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from vitrail.errors import CheckpointError

CHANNELS = 3  # of published weights of patches that are rows of numbers


class Step(NamedTuple):
    """A conversion of a rule's tensors, and its inverse."""

    forward: Callable[[list[Tensor]], list[Tensor]]
    backward: Callable[[list[Tensor], int], list[Tensor]]  # second argument: number of their tensors


def elementwise(there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Step:
    return Step(lambda ts: [there(t) for t in ts], lambda ts, n: [back(t) for t in ts])


def patch_kernel(t: Tensor) -> Tensor:
    """[D p*p*3] -> [D 3 p p]."""
    side = math.isqrt(t.shape[1] // CHANNELS)
    return t.unflatten(1, (side, side, CHANNELS)).permute(0, 3, 1, 2)


def place_registers(registers: Tensor, table: Tensor) -> list[Tensor]:
    """Registers [R D] with their rows of a table [R+N D] added, and the rows of its grid. Errors: `ValueError` for a
    table that has none for them."""
    cells = len(table) - len(registers)
    if cells < 1 or math.isqrt(cells) ** 2 != cells:
        raise ValueError("no rows of registers")
    return [registers + table[: len(registers)], table[len(registers) :]]


STEPS: dict[str, Step] = {
    # q, k, v into qkv, along the first axis
    "fuse": Step(lambda ts: [torch.cat(ts)], lambda ts, n: list(ts[0].chunk(n))),
    "split": Step(lambda ts: list(ts[0].chunk(3)), lambda ts, n: [torch.cat(ts)]),  # and the other way
    "linear": elementwise(lambda t: t.transpose(-2, -1), lambda t: t.transpose(-2, -1)),  # [in out] and [out in]
    "conv": elementwise(lambda t: t.permute(3, 2, 0, 1), lambda t: t.permute(2, 3, 1, 0)),  # HWIO and OIHW
    "bgr": elementwise(
        lambda t: t.flip(1), lambda t: t.flip(1)
    ),  # a convolution over blue, green, red; ours is over red, green, blue
    # a linear layer [K D], and as a 1x1 convolution [K D 1 1]; a bias is as it is
    "pointwise": elementwise(
        lambda t: t[..., None, None] if t.ndim == 2 else t, lambda t: t.flatten(1) if t.ndim == 4 else t
    ),
    "row": elementwise(lambda t: t.reshape(t.shape[1:]), lambda t: t[None]),  # a leading axis of one
    # registers that have a place each in the table before those of the grid: the sum is what the first block sees
    "placed": Step(
        lambda ts: place_registers(ts[0][0], ts[1][0]),
        lambda ts, n: [ts[0][None], torch.cat([torch.zeros_like(ts[0]), ts[1]])[None]],
    ),
    "vector": elementwise(lambda t: t[None], lambda t: t.reshape(t.shape[1:])),  # [D] and [1 D]
    # queries apart from keys and values, out of a matrix of all three
    "query_apart": Step(lambda ts: [ts[0].chunk(3)[0], torch.cat(ts[0].chunk(3)[1:])], lambda ts, n: [torch.cat(ts)]),
    # a linear layer over patches, each row by row with its channels last, and a convolution
    "patches": elementwise(patch_kernel, lambda t: t.permute(0, 2, 3, 1).flatten(1)),
    # channels of four neighbours in the last axis: as nn.Unfold has them, and as Swin does, lower before right
    "unfold": elementwise(
        lambda t: t.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]].transpose(-1, -2).flatten(-2),
        lambda t: t.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :].transpose(-1, -2).flatten(-2),
    ),
    # a table over a grid [1 h w D] and [h*w D]; the way back is to a square
    "cells": elementwise(lambda t: t.flatten(0, 2), lambda t: t.unflatten(0, (1, math.isqrt(len(t)), -1))),
    "heads_in": elementwise(lambda t: t.flatten(1).mT, lambda t: t.mT),  # a kernel [D h d] and [h*d D]
    "heads_bias": elementwise(lambda t: t.flatten(), lambda t: t),  # [h d] and [h*d]
    "heads_out": elementwise(lambda t: t.flatten(0, 1).mT, lambda t: t.mT),  # a kernel [h d D] and [D h*d]
    "keyless": Step(  # a fused bias whose third for keys is zero, into those of queries and of values
        lambda ts: [ts[0].chunk(3)[0], ts[0].chunk(3)[2]],
        lambda ts, n: [torch.cat([ts[0], torch.zeros_like(ts[0]), ts[1]])],
    ),
}


AXIS_OF_HEADS = {"heads_in": 1, "heads_bias": 0, "heads_out": 0}  # steps whose inverse needs the number of heads


class Rule(NamedTuple):
    """Their names, our names (one or several each), and the steps from theirs to ours, in order."""

    theirs: str | tuple[str, ...]
    ours: str | tuple[str, ...]
    steps: str | tuple[str, ...] = ()


class Drop(NamedTuple):
    """A name of theirs without a counterpart in ours, and why that loses nothing."""

    theirs: str
    why: str


class Converted(NamedTuple):
    """The result of conversion: our tensors, names that no rule matches, and dropped names with reasons."""

    tensors: dict[str, Tensor]
    unknown: list[str]
    dropped: dict[str, str]


def convert(tensors: Mapping[str, Tensor], rules: Iterable[Rule | Drop]) -> Converted:
    """Their tensors in our names. The first rule that matches a name applies; no two of theirs give one of ours."""
    remaining, dropped = dict(tensors), {}
    result: dict[str, Tensor] = {}
    for rule in rules:
        fits = matcher(rule.theirs if isinstance(rule, Drop) else several(rule.theirs)[0])
        for name in list(remaining):
            values = fits(name)
            if values is None or name not in remaining:
                continue
            if isinstance(rule, Drop):
                dropped[name] = rule.why
                del remaining[name]
                continue
            group = [fill(p, values) for p in several(rule.theirs)]
            if any(g not in remaining for g in group):
                continue  # an incomplete group is left to later rules, else its names are unknown
            parts = [remaining[g] for g in group]
            if is_copied(rule):
                ours = fill(several(rule.ours)[0], {**values, "each": "{each}"})
                converted = copy_to_blocks(ours, parts[0], result)
            else:
                converted = apply_rule(rule, values, parts)
            if converted is None or converted.keys() & result.keys():
                continue
            result.update(converted)
            for g in group:
                del remaining[g]
    return Converted({name: t.contiguous() for name, t in result.items()}, sorted(remaining), dropped)


def is_copied(rule: Rule) -> bool:
    return "{each}" in several(rule.ours)[0]


def copy_to_blocks(ours: str, tensor: Tensor, converted: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A copy of a tensor for every block that has other tensors already; None where there is none."""
    blocks = {found[1] for name in converted if (found := re.match(r"blocks\.(\d+)\.", name))}
    return {ours.replace("{each}", i): tensor for i in sorted(blocks)} or None


def apply_rule(rule: Rule, placeholders: dict[str, str], parts: list[Tensor]) -> dict[str, Tensor] | None:
    """Applies the steps of a rule to one group of their tensors; None where the axes do not fit the steps."""
    result: dict[str, Tensor] = {}
    stacked = any("{all}" in ours for ours in several(rule.ours))
    if stacked and any(t.ndim == 0 or len(t) != len(parts[0]) for t in parts):
        return None
    for i in range(len(parts[0]) if stacked else 1):
        tensors = [t[i] for t in parts] if stacked else parts
        try:
            for step in several(rule.steps):
                tensors = STEPS[step].forward(tensors)
        except (RuntimeError, IndexError, ValueError):
            return None
        if len(tensors) != len(several(rule.ours)):
            return None
        values = {**placeholders, "all": str(i)} if stacked else placeholders
        result.update(zip((fill(p, values) for p in several(rule.ours)), tensors, strict=True))
    return result


def revert(tensors: Mapping[str, Tensor], rules: Iterable[Rule | Drop], heads: int = 0) -> dict[str, Tensor]:
    """Our tensors in their names: the inverse of `convert`. heads: number of attention heads, for steps that split
    them.

    The first rule that matches a name applies. Errors: `CheckpointError` for a name that no rule matches.
    """
    remaining, result = dict(tensors), {}
    for rule in rules:
        if isinstance(rule, Drop) or is_copied(rule):
            continue
        fits = matcher(several(rule.ours)[0])
        stacks: dict[str, dict[int, Tensor]] = {}
        for name in list(remaining):
            values = fits(name)
            if (
                values is None
                or name not in remaining
                or any(fill(p, values) not in remaining for p in several(rule.ours))
            ):
                continue
            parts = apply_inverse([remaining[fill(p, values)] for p in several(rule.ours)], rule, heads)
            if len(parts) != len(several(rule.theirs)):
                continue
            for p in several(rule.ours):
                del remaining[fill(p, values)]
            for theirs, part in zip((fill(p, values) for p in several(rule.theirs)), parts, strict=True):
                if "all" in values:
                    stacks.setdefault(theirs, {})[int(values["all"])] = part
                else:
                    result[theirs] = part
        result.update({theirs: torch.stack([of[i] for i in sorted(of)]) for theirs, of in stacks.items()})
    if remaining:
        raise CheckpointError(
            f"{', '.join(sorted(remaining)[:5])} have no name in that format", "add a rule to the table of the family"
        )
    return {name: t.contiguous() for name, t in result.items()}


def apply_inverse(parts: list[Tensor], rule: Rule, heads: int) -> list[Tensor]:
    """Applies the inverse steps of a rule."""
    for step in reversed(several(rule.steps)):
        parts = STEPS[step].backward(parts, len(several(rule.theirs)))
        if step in AXIS_OF_HEADS:
            if not heads:
                raise CheckpointError(
                    "that format splits attention heads, and their number is not given", "revert(..., heads=12)"
                )
            parts = [t.unflatten(AXIS_OF_HEADS[step], (heads, -1)) for t in parts]
    return parts


def several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def match(pattern: str, name: str) -> dict[str, str] | None:
    """The values of a pattern's placeholders in a name, or None for no match."""
    return matcher(pattern)(name)


@lru_cache(maxsize=8192)
def matcher(pattern: str) -> Callable[[str], dict[str, str] | None]:
    """`match` for one pattern and many names."""
    parts = re.split(r"\{(\w+)\}", pattern)
    kinds = {"rest": ".+", "all": r"\d+"}
    named: set[str] = set()
    regex = ""
    for i, part in enumerate(parts):
        if i % 2 == 0:
            regex += re.escape(part)
        else:
            regex += f"(?P={part})" if part in named else f"(?P<{part}>{kinds.get(part, '[^.]+')})"
            named.add(part)
    compiled = re.compile(regex)

    def fits(name: str) -> dict[str, str] | None:
        matched = compiled.fullmatch(name)
        return matched.groupdict() if matched else None

    return fits


def fill(pattern: str, values: Mapping[str, str]) -> str:
    return pattern.format(**values)
