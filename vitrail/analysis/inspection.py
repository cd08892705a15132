"""Inspections of a model: arrays, figures, a table where there is one, and a summary in plain sentences."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.analysis import distance as distances
from vitrail.analysis import figures, gradient_flow, positions, sentences, tokens
from vitrail.analysis.attention import LayerAttention, Layers, attention
from vitrail.analysis.hooks import ModelInputs
from vitrail.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_SHOWN = 4  # images whose patches are coloured


class Inspection(NamedTuple):
    """name: the prefix of file names. table: a header row first."""

    name: str
    sentences: Sequence[str]
    arrays: Mapping[str, np.ndarray]
    figures: Mapping[str, "Figure"]
    table: Sequence[Sequence[str]] = ()


def inspect_distance(model: nn.Module, batches: Iterable[ModelInputs], layers: Layers = None) -> Inspection:
    """The attention distance of each head over all images of some batches.

    Errors: `UsageError` for a model without softmax attention."""
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None:
        raise UsageError("there are no images to inspect", "pass at least one batch")
    one = tuple(x[:1] for x in first) if isinstance(first, tuple) else first[:1]
    reference = [uniform_distance(look) for look in attention(model, one, layers)]
    profiles = distances.profile_layers(model, chain([first], remaining), layers)
    rows = [["layer", "module", "head", "distance_pixels", "even_attention_pixels", "entropy_nats", "entropy_share"]]
    for number, (p, wide) in enumerate(zip(profiles, reference, strict=True)):
        for head, numbers in enumerate(
            zip(p.distance.tolist(), p.entropy.tolist(), p.entropy_share.tolist(), strict=True)
        ):
            rows.append([str(number), p.name, str(head), *(f"{v:.5g}" for v in (numbers[0], wide, *numbers[1:]))])
    arrays = {}
    for p in profiles:
        for kind, values in (("distance", p.distance), ("entropy", p.entropy), ("share", p.entropy_share)):
            arrays[f"{kind}/{p.name}"] = values.numpy()
    arrays["even"] = np.array(reference, np.float32)
    return Inspection(
        "distance",
        sentences.describe_distances(profiles, reference),
        arrays,
        {"": figures.draw_distances(profiles)},
        rows,
    )


def uniform_distance(look: LayerAttention) -> float:
    """The mean distance in pixels of uniform attention of every query of a layer over the keys that it can attend
    to."""
    visible = (look.parts[:1, :, :1] > distances.TINY) & (look.key_index >= 0)[:, None, None]
    uniform = visible / visible.sum(-1, keepdim=True).clamp(min=1)
    return float(distances.mean_distance(dataclasses.replace(look, parts=uniform.to(look.parts))))


def inspect_positions(model: nn.Module) -> Inspection:
    """The position encodings of a model. Errors: `UsageError` for one that has none."""
    encodings = positions.find_encodings(model)
    drawings = {one.name: figures.draw_positions(one) for one in encodings}
    words = [sentence for one in encodings for sentence in one.sentences()]
    return Inspection("positions", words, {f"{one.kind}/{one.name}": one.values.numpy() for one in encodings}, drawings)


def inspect_filters(model: nn.Module, count: int = 28) -> Inspection:
    """The principal components of the first layer's filters."""
    filters = positions.compute_filters(model, count)
    arrays = {"components": filters.images.numpy(), "shares": filters.shares.numpy()}
    return Inspection("filters", sentences.describe_filters(filters), arrays, {"": figures.draw_filters(filters)})


def inspect_tokens(model: nn.Module, batches: Iterable[ModelInputs], images: Sequence[np.ndarray]) -> Inspection:
    """The similarity of patches after each block over all batches, with equal weight for each image, and the patches of
    the first few images in colours. images: uint8 [H W C], the images of the first batch, not preprocessed."""
    sums, count, colors = torch.zeros(1), 0, list[tokens.TokenColors]()
    names: list[str] = []
    for batch in batches:
        size = len(batch[0] if isinstance(batch, tuple) else batch)
        names, mean = tokens.compute_similarity(model, batch)
        sums, count = sums + size * mean, count + size
        colors = colors or tokens.compute_colors(model, batch)
    if not count:
        raise UsageError("there are no images to inspect", "pass at least one batch")
    similarity = tokens.TokenSimilarity(names, sums / count)
    drawings = {"": figures.draw_similarity([("all images", similarity)])}
    for i in range(min(MAX_SHOWN, len(images), len(colors[0].images))):
        drawings[f"image-{i}"] = figures.draw_token_colors(images[i], colors, i)
    arrays = {
        "cosine": similarity.cosine.numpy(),
        **{f"colours/{one.name}": one.images[:MAX_SHOWN].numpy() for one in colors},
    }
    rows = [
        ["block", "cosine"],
        *([name, f"{v:.5g}"] for name, v in zip(names, similarity.cosine.tolist(), strict=True)),
    ]
    return Inspection("tokens", sentences.describe_similarity(similarity), arrays, drawings, rows)


def inspect_cka(
    model: nn.Module,
    batches: Iterable[ModelInputs],
    other: nn.Module | None = None,
    names: tuple[str, str] = ("block", "block"),
) -> Inspection:
    """The CKA of the blocks of one model, or of two on the same images. names: of the two models, for the figure."""
    cka = tokens.compute_cka(model, batches, other)
    rows = [
        ["", *cka.column_names],
        *([name, *(f"{v:.4f}" for v in row)] for name, row in zip(cka.row_names, cka.values.tolist(), strict=True)),
    ]
    drawings = {"": figures.draw_cka(cka, names)}
    return Inspection("cka", sentences.describe_cka(cka, other is None), {"cka": cka.values.numpy()}, drawings, rows)


def inspect_gradients(model: nn.Module, loss: Callable[[nn.Module], Tensor | Mapping[str, Tensor]]) -> Inspection:
    """Norms of activations and gradients of `loss` by block and part, and the contribution of each residual branch."""
    flows = gradient_flow.measure_flow(model, loss)
    rows = [["block", "part", "activation", "gradient", "branches"]]
    for one in flows:
        rows.append(
            [
                one.name,
                "",
                f"{one.out.activation:.5g}",
                f"{one.out.gradient:.5g}",
                " ".join(f"{s:.4f}" for s in one.branches),
            ]
        )
        rows += [[one.name, part, f"{n.activation:.5g}", f"{n.gradient:.5g}", ""] for part, n in one.parts.items()]
    arrays = {
        "activation": np.array([one.out.activation for one in flows]),
        "gradient": np.array([one.out.gradient for one in flows]),
    }
    arrays |= {f"branches/{one.name}": np.array(one.branches) for one in flows}
    return Inspection(
        "gradients", sentences.describe_flow(flows), arrays, {"": figures.draw_gradient_flow(flows)}, rows
    )
