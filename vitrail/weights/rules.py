"""How someone else's tensors become ours and go back: rules as data, read in both directions.

A rule pairs names: `{i}` stands for one part of a dotted name, `{rest}` for any number of them. Names of ours are those inside the
backbone; a head's begin with "heads.". What happens to the numbers is a list of named steps, each with its way back.

    Rule("blocks.{i}.attn.proj.{p}", "blocks.{i}.attn.proj.{p}")
    Rule(("q.{p}", "k.{p}", "v.{p}"), "qkv.{p}", "fuse")
    Rule("kernel", "weight", "linear")

`{all}` in a name of ours: theirs holds the tensors of all blocks in one, stacked along the first axis.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vitrail.errors import CheckpointError


class Step(NamedTuple):
    """What is done to the tensors of a rule on their way in, and its inverse."""

    forward: Callable[[list[Tensor]], list[Tensor]]
    backward: Callable[
        [list[Tensor], int], list[Tensor]
    ]  # the second argument: how many tensors there were on their side


def each(there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Step:
    return Step(lambda ts: [there(t) for t in ts], lambda ts, n: [back(t) for t in ts])


STEPS: dict[str, Step] = {
    "fuse": Step(
        lambda ts: [torch.cat(ts)], lambda ts, n: list(ts[0].chunk(n))
    ),  # q, k, v into qkv, along the first axis
    "linear": each(lambda t: t.mT, lambda t: t.mT),  # [in out] and [out in]
    "conv": each(lambda t: t.permute(3, 2, 0, 1), lambda t: t.permute(2, 3, 1, 0)),  # HWIO and OIHW
    "bgr": each(lambda t: t.flip(1), lambda t: t.flip(1)),  # a convolution over blue, green, red: ours see red first
    "row": each(lambda t: t.reshape(t.shape[1:]), lambda t: t[None]),  # a leading axis of one
    "heads_in": each(lambda t: t.flatten(1).mT, lambda t: t.mT),  # a kernel [D h d] and [h*d D]
    "heads_bias": each(lambda t: t.flatten(), lambda t: t),  # [h d] and [h*d]
    "heads_out": each(lambda t: t.flatten(0, 1).mT, lambda t: t.mT),  # a kernel [h d D] and [D h*d]
    "keyless": Step(  # a fused bias whose keys' third is held at zero, into that of queries and that of values
        lambda ts: [ts[0].chunk(3)[0], ts[0].chunk(3)[2]],
        lambda ts, n: [torch.cat([ts[0], torch.zeros_like(ts[0]), ts[1]])],
    ),
}


AXIS_OF_HEADS = {
    "heads_in": 1,
    "heads_bias": 0,
    "heads_out": 0,
}  # steps whose way back must be told the number of heads


class Rule(NamedTuple):
    """Names of theirs, names of ours (one or several each), and the steps between them, in order on the way in."""

    theirs: str | tuple[str, ...]
    ours: str | tuple[str, ...]
    steps: str | tuple[str, ...] = ()


class Drop(NamedTuple):
    """A name of theirs that has no place in ours, and why that loses nothing."""

    theirs: str
    why: str


class Converted(NamedTuple):
    """What conversion made: our tensors, names that no rule knows, and names dropped with their reason."""

    tensors: dict[str, Tensor]
    unknown: list[str]
    dropped: dict[str, str]


def convert(tensors: Mapping[str, Tensor], rules: Iterable[Rule | Drop]) -> Converted:
    """Their tensors in our names. The first rule that matches a name takes it; two of theirs never become one of ours."""
    left, dropped = dict(tensors), {}
    made: dict[str, Tensor] = {}
    for rule in rules:
        fits = matcher(rule.theirs if isinstance(rule, Drop) else several(rule.theirs)[0])
        for name in list(left):
            found = fits(name)
            if found is None or name not in left:
                continue
            if isinstance(rule, Drop):
                dropped[name] = rule.why
                del left[name]
                continue
            group = [fill(p, found) for p in several(rule.theirs)]
            if any(g not in left for g in group):
                continue  # half a group is left to later rules, and in the end to the list of unknown names
            brought = bring(rule, found, [left[g] for g in group])
            if brought is None or brought.keys() & made.keys():
                continue
            made.update(brought)
            for g in group:
                del left[g]
    return Converted({name: t.contiguous() for name, t in made.items()}, sorted(left), dropped)


def bring(rule: Rule, found: dict[str, str], parts: list[Tensor]) -> dict[str, Tensor] | None:
    """One group of their tensors through the steps of its rule; None where they have not the axes that the steps want."""
    made: dict[str, Tensor] = {}
    stacked = any("{all}" in ours for ours in several(rule.ours))
    if stacked and any(t.ndim == 0 or len(t) != len(parts[0]) for t in parts):
        return None
    for i in range(len(parts[0]) if stacked else 1):
        these = [t[i] for t in parts] if stacked else parts
        try:
            for step in several(rule.steps):
                these = STEPS[step].forward(these)
        except (RuntimeError, IndexError):
            return None
        values = {**found, "all": str(i)} if stacked else found
        made.update(zip((fill(p, values) for p in several(rule.ours)), these, strict=True))
    return made


def revert(tensors: Mapping[str, Tensor], rules: Iterable[Rule | Drop], heads: int = 0) -> dict[str, Tensor]:
    """Our tensors in their names: the inverse of `convert`. `heads`: of the attention, for the steps that keep them apart.

    Of several rules for one name the first that fits gives the name. Errors: `CheckpointError` for a name that no rule makes.
    """
    left, made = dict(tensors), {}
    for rule in rules:
        if isinstance(rule, Drop):
            continue
        fits = matcher(several(rule.ours)[0])
        stacks: dict[str, dict[int, Tensor]] = {}
        for name in list(left):
            found = fits(name)
            if found is None or name not in left or any(fill(p, found) not in left for p in several(rule.ours)):
                continue
            parts = give([left[fill(p, found)] for p in several(rule.ours)], rule, heads)
            if len(parts) != len(several(rule.theirs)):
                continue
            for p in several(rule.ours):
                del left[fill(p, found)]
            for theirs, part in zip((fill(p, found) for p in several(rule.theirs)), parts, strict=True):
                if "all" in found:
                    stacks.setdefault(theirs, {})[int(found["all"])] = part
                else:
                    made[theirs] = part
        made.update({theirs: torch.stack([of[i] for i in sorted(of)]) for theirs, of in stacks.items()})
    if left:
        raise CheckpointError(
            f"there is no name for {', '.join(sorted(left)[:5])} on their side", "the table of the family lacks a rule"
        )
    return {name: t.contiguous() for name, t in made.items()}


def give(parts: list[Tensor], rule: Rule, heads: int) -> list[Tensor]:
    """The steps of a rule backwards."""
    for step in reversed(several(rule.steps)):
        parts = STEPS[step].backward(parts, len(several(rule.theirs)))
        if step in AXIS_OF_HEADS:
            if not heads:
                raise CheckpointError(
                    "their side keeps attention heads apart, and their number was not said", "revert(..., heads=12)"
                )
            parts = [t.unflatten(AXIS_OF_HEADS[step], (heads, -1)) for t in parts]
    return parts


def several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def match(pattern: str, name: str) -> dict[str, str] | None:
    """The values of a pattern's placeholders in a name, or None where it does not fit."""
    return matcher(pattern)(name)


def matcher(pattern: str) -> Callable[[str], dict[str, str] | None]:
    """`match` for one pattern and many names."""
    parts = re.split(r"\{(\w+)\}", pattern)
    kinds = {"rest": ".+", "all": r"\d+"}
    seen: set[str] = set()
    regex = ""
    for i, part in enumerate(parts):
        if i % 2 == 0:
            regex += re.escape(part)
        else:
            regex += f"(?P={part})" if part in seen else f"(?P<{part}>{kinds.get(part, '[^.]+')})"
            seen.add(part)
    compiled = re.compile(regex)

    def fits(name: str) -> dict[str, str] | None:
        found = compiled.fullmatch(name)
        return found.groupdict() if found else None

    return fits


def fill(pattern: str, values: Mapping[str, str]) -> str:
    return pattern.format(**values)
