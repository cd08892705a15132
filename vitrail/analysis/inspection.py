"""One look at a model each: its arrays, its figures, a table where there is one, and what the numbers say in plain sentences."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.analysis import distance as distances
from vitrail.analysis import figures, gradient_flow, positions, sentences, tokens
from vitrail.analysis.attention import Layers, Look, attention
from vitrail.analysis.hooks import Given
from vitrail.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 4  # pictures whose patches are coloured


class Found(NamedTuple):
    """`name` begins the names of files; a table has a row of titles first."""

    name: str
    words: Sequence[str]
    arrays: Mapping[str, np.ndarray]
    figures: Mapping[str, "Figure"]
    table: Sequence[Sequence[str]] = ()


def distance(model: nn.Module, batches: Iterable[Given], layers: Layers = None) -> Found:
    """How far each head looks over all pictures of some batches. Errors: `UsageError` for a model without softmax attention."""
    given = iter(batches)
    first = next(given, None)
    if first is None:
        raise UsageError("there are no pictures to look at", "give one batch or more")
    one = tuple(x[:1] for x in first) if isinstance(first, tuple) else first[:1]
    reference = [even(look) for look in attention(model, one, layers)]
    profiles = distances.profile(model, chain([first], given), layers)
    rows = [["layer", "module", "head", "distance_pixels", "even_attention_pixels", "entropy_nats", "entropy_share"]]
    for number, (p, wide) in enumerate(zip(profiles, reference, strict=True)):
        for head, numbers in enumerate(zip(p.distance.tolist(), p.entropy.tolist(), p.share.tolist(), strict=True)):
            rows.append([str(number), p.name, str(head), *(f"{v:.5g}" for v in (numbers[0], wide, *numbers[1:]))])
    arrays = {f"{kind}/{p.name}": getattr(p, kind).numpy() for p in profiles for kind in ("distance", "entropy", "share")}
    arrays["even"] = np.array(reference, np.float32)
    return Found("distance", sentences.distances(profiles, reference), arrays, {"": figures.distance_figure(profiles)}, rows)


def even(look: Look) -> float:
    """The mean distance in pixels, if every query of a layer looked at all keys that it can see alike."""
    seen = (look.parts[:1, :, :1] > distances.TINY) & (look.key_index >= 0)[:, None, None]
    alike = seen / seen.sum(-1, keepdim=True).clamp(min=1)
    return float(distances.mean_distance(dataclasses.replace(look, parts=alike.to(look.parts))))


def places(model: nn.Module) -> Found:
    """How a model tells places. Errors: `UsageError` for one that has no position encoding."""
    found = positions.encodings(model)
    drawn = {one.name: figures.position_figure(one) for one in found}
    words = [sentence for one in found for sentence in one.sentences()]
    return Found("positions", words, {f"{one.kind}/{one.name}": one.values.numpy() for one in found}, drawn)


def filtering(model: nn.Module, count: int = 28) -> Found:
    """The first filters by their principal components."""
    found = positions.filters(model, count)
    arrays = {"components": found.pictures.numpy(), "shares": found.shares.numpy()}
    return Found("filters", sentences.filters(found), arrays, {"": figures.filter_figure(found)})


def patches(model: nn.Module, batches: Iterable[Given], pictures: Sequence[np.ndarray]) -> Found:
    """How alike patches grow over all batches, each picture counting the same, and the patches of the first few pictures in colours.

    pictures: uint8 [H W C], those of the first batch as they are."""
    sums, count, coloured = torch.zeros(1), 0, list[tokens.Coloured]()
    names: list[str] = []
    for batch in batches:
        size = len(batch[0] if isinstance(batch, tuple) else batch)
        names, mean = tokens.likeness(model, batch)
        sums, count = sums + size * mean, count + size
        coloured = coloured or tokens.coloured(model, batch)
    if not count:
        raise UsageError("there are no pictures to look at", "give one batch or more")
    alike = tokens.Alike(names, sums / count)
    drawn = {"": figures.likeness_figure([("all pictures", alike)])}
    for i in range(min(SHOWN, len(pictures), len(coloured[0].pictures))):
        drawn[f"picture-{i}"] = figures.coloured_figure(pictures[i], coloured, i)
    arrays = {"cosine": alike.cosine.numpy(), **{f"colours/{one.name}": one.pictures[:SHOWN].numpy() for one in coloured}}
    rows = [["block", "cosine"], *([name, f"{v:.5g}"] for name, v in zip(names, alike.cosine.tolist(), strict=True))]
    return Found("tokens", sentences.alike(alike), arrays, drawn, rows)


def cka(model: nn.Module, batches: Iterable[Given], other: nn.Module | None = None, names: tuple[str, str] = ("block", "block")) -> Found:
    """How alike the blocks of one model are, or of two on the same pictures. names: of the two models, for the figure."""
    found = tokens.cka(model, batches, other)
    rows = [["", *found.across], *([name, *(f"{v:.4f}" for v in row)] for name, row in zip(found.down, found.values.tolist(), strict=True))]
    drawn = {"": figures.cka_figure(found, names)}
    return Found("cka", sentences.kernels(found, other is None), {"cka": found.values.numpy()}, drawn, rows)


def gradients(model: nn.Module, loss: Callable[[nn.Module], Tensor | Mapping[str, Tensor]]) -> Found:
    """Norms of activations and gradients by block and part, and what each residual branch changes, on what `loss` is of."""
    found = gradient_flow.flow(model, loss)
    rows = [["block", "part", "activation", "gradient", "branches"]]
    for one in found:
        rows.append([one.name, "", f"{one.out.activation:.5g}", f"{one.out.gradient:.5g}", " ".join(f"{s:.4f}" for s in one.branches)])
        rows += [[one.name, part, f"{n.activation:.5g}", f"{n.gradient:.5g}", ""] for part, n in one.parts.items()]
    arrays = {"activation": np.array([one.out.activation for one in found]), "gradient": np.array([one.out.gradient for one in found])}
    arrays |= {f"branches/{one.name}": np.array(one.branches) for one in found}
    return Found("gradients", sentences.flows(found), arrays, {"": figures.flow_figure(found)}, rows)
