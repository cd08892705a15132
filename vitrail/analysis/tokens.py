"""Tokens after each block: their similarity, their principal components as colours, and the CKA of whole layers."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.analysis.block_outputs import BlockOutput, flatten_tokens, map_outputs
from vitrail.analysis.hooks import ModelInputs, prepare_inputs
from vitrail.errors import UsageError

TINY = 1e-12


class TokenSimilarity(NamedTuple):
    """The similarity of the patches of an image after each block: names, and the mean cosine over pairs and images
    [L]."""

    names: list[str]
    cosine: Tensor


class TokenColors(NamedTuple):
    """The patches after one block in colours: images [B h w 3] in [0, 1]; and the shares of variance of the three
    colours [3]."""

    name: str
    images: Tensor
    shares: Tensor


class CkaMatrix(NamedTuple):
    """Linear CKA between the layers of two models: names down and across, and values [L L']."""

    row_names: list[str]
    column_names: list[str]
    values: Tensor


def compute_similarity(model: nn.Module, images: ModelInputs) -> TokenSimilarity:
    """The mean cosine between two different patches of the same image, after each block."""

    def make(state: BlockOutput) -> Tensor:
        unit = F.normalize(flatten_tokens(state), dim=-1)
        n = unit.shape[1]
        pairs = unit.sum(1).square().sum(-1) - unit.square().sum(
            (1, 2)
        )  # all pairs except those of a patch with itself
        return (pairs / max(1, n * (n - 1))).mean().cpu()

    names, means = map_outputs(model, prepare_inputs(model, images), make)
    return TokenSimilarity(names, torch.stack(means))


def compute_colors(model: nn.Module, images: ModelInputs) -> list[TokenColors]:
    """Patches after each block by the first three principal components over the whole batch, as red, green and blue."""
    return map_outputs(model, prepare_inputs(model, images), principal_colors)[1]


def principal_colors(state: BlockOutput) -> TokenColors:
    cells = state.cells().float()
    rows = cells.flatten(0, 2)
    rows = rows - rows.mean(0)
    _, lengths, components = torch.linalg.svd(rows, full_matrices=False)
    count = min(3, len(components))
    main = components[:count]
    # the sign of the largest element, so that the same features have the same colours
    main = main * main.gather(1, main.abs().argmax(1, keepdim=True)).sign()
    projected = rows @ main.T
    low, high = projected.amin(0), projected.amax(0)
    scaled = F.pad((projected - low) / (high - low).clamp(min=TINY), (0, 3 - count))
    shares = F.pad(lengths[:count].square() / lengths.square().sum().clamp(min=TINY), (0, 3 - count))
    return TokenColors(state.name, scaled.unflatten(0, cells.shape[:3]).cpu(), shares.cpu())


def compute_cka(model: nn.Module, batches: Iterable[ModelInputs], other: nn.Module | None = None) -> CkaMatrix:
    """Linear CKA between all blocks of a model, or of two on the same images (Kornblith et al. 2019,
    arxiv.org/abs/1905.00414).

    The features of an image are all patches of a block, flattened. HSIC is the unbiased estimate of each batch, summed
    over batches (Nguyen et al. 2020, arxiv.org/abs/2010.15327, equation 3), so that memory is images by images, and
    batches may be small: 4 images and more. 1 on the diagonal of a model with itself; around 0, also below, for
    unrelated layers. NaN for a layer with the same output for all images. Errors: `UsageError` for batches of fewer
    images.
    """
    sums: list[Tensor] = []
    names: tuple[list[str], list[str]] = ([], [])
    for batch in batches:
        down, first = grams(model, batch)
        across, second = (down, first) if other is None else grams(other, batch)
        values = [hsic(first, second), hsic_each(first), hsic_each(second)]
        sums = [a + b for a, b in zip(sums, values, strict=True)] if sums else values
        names = down, across
    if not sums:
        raise UsageError("there are no batches to compare layers on", "pass batches of 4 images or more")
    between, one, two = sums
    return CkaMatrix(*names, (between / (one[:, None] * two).sqrt()).float())


def grams(model: nn.Module, batch: ModelInputs) -> tuple[list[str], Tensor]:
    """Inner products of the images of a batch in each block, without those of an image with itself: [L B B],
    float64."""

    def make(state: BlockOutput) -> Tensor:
        rows = flatten_tokens(state).flatten(1).cpu().double()  # float64 does not exist on every accelerator
        rows = rows - rows.mean(
            0
        )  # the estimate does not depend on the mean, and rounding errors are smaller without it
        return (rows @ rows.T).fill_diagonal_(0.0)

    args = prepare_inputs(model, batch)
    if len(args[0]) < 4:
        raise UsageError(f"layers cannot be compared on a batch of {len(args[0])} images", "use batches of 4 or more")
    names, matrices = map_outputs(model, args, make)
    return names, torch.stack(matrices)


def hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741  the names of the paper
    """The unbiased HSIC of all pairs of two stacks of Gram matrices with empty diagonals, [L n n] and [L' n n]: [L L']
    (Song et al. 2012, equation 5)."""
    n = k.shape[-1]
    rows_k, rows_l = k.sum(-1), l.sum(-1)  # [L n]
    both = torch.einsum("aij,bij->ab", k, l)
    totals = rows_k.sum(-1)[:, None] * rows_l.sum(-1) / ((n - 1) * (n - 2))
    return (both + totals - 2 / (n - 2) * rows_k @ rows_l.T) / (n * (n - 3))


def hsic_each(k: Tensor) -> Tensor:
    """Of every matrix with itself: [L]."""
    return torch.stack([hsic(one[None], one[None])[0, 0] for one in k])
