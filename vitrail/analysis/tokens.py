"""What becomes of tokens on their way through the blocks: how alike they grow, what they show, and how alike whole layers are."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.analysis.block_outputs import State, each, flat
from vitrail.analysis.hooks import Given, inputs
from vitrail.errors import UsageError

TINY = 1e-12


class Alike(NamedTuple):
    """How alike the patches of a picture are after each block: names, and the mean cosine over pairs and pictures [L]."""

    names: list[str]
    cosine: Tensor


class Coloured(NamedTuple):
    """After one block, what its patches show: pictures [B h w 3] in [0, 1]; and the shares of variance of the three colours [3]."""

    name: str
    pictures: Tensor
    shares: Tensor


class Kernels(NamedTuple):
    """Linear CKA between the layers of two models: names down and across, and values [L L']."""

    down: list[str]
    across: list[str]
    values: Tensor


def likeness(model: nn.Module, images: Given) -> Alike:
    """The mean cosine between two different patches of the same picture, after each block."""

    def make(state: State) -> Tensor:
        unit = F.normalize(flat(state), dim=-1)
        n = unit.shape[1]
        pairs = unit.sum(1).square().sum(-1) - unit.square().sum((1, 2))  # all pairs but those of a patch with itself
        return (pairs / max(1, n * (n - 1))).mean().cpu()

    names, made = each(model, inputs(model, images), make)
    return Alike(names, torch.stack(made))


def coloured(model: nn.Module, images: Given) -> list[Coloured]:
    """Patches after each block by the three directions in which those of the whole batch differ most, as red, green and blue."""
    return each(model, inputs(model, images), colours)[1]


def colours(state: State) -> Coloured:
    cells = state.cells().float()
    rows = cells.flatten(0, 2)
    rows = rows - rows.mean(0)
    _, lengths, components = torch.linalg.svd(rows, full_matrices=False)
    count = min(3, len(components))
    main = components[:count]
    main = main * main.gather(1, main.abs().argmax(1, keepdim=True)).sign()  # the same numbers give the same colours everywhere
    found = rows @ main.T
    low, high = found.amin(0), found.amax(0)
    shown = F.pad((found - low) / (high - low).clamp(min=TINY), (0, 3 - count))
    shares = F.pad(lengths[:count].square() / lengths.square().sum().clamp(min=TINY), (0, 3 - count))
    return Coloured(state.name, shown.unflatten(0, cells.shape[:3]).cpu(), shares.cpu())


def cka(model: nn.Module, batches: Iterable[Given], other: nn.Module | None = None) -> Kernels:
    """Linear CKA between all blocks of a model, or of two on the same pictures (Kornblith et al. 2019, arxiv.org/abs/1905.00414).

    A picture is all patches of a block in a row. HSIC is the unbiased estimate of each batch, summed over batches (Nguyen et al. 2020,
    arxiv.org/abs/2010.15327, equation 3), so only pictures by pictures is held, and batches may be small: 4 pictures and more.
    1 on the diagonal of a model with itself; around 0, also below, for layers that have nothing in common. NaN for a layer that
    says the same of all pictures. Errors: `UsageError` for batches of fewer pictures.
    """
    sums: list[Tensor] = []
    names: tuple[list[str], list[str]] = ([], [])
    for batch in batches:
        down, first = grams(model, batch)
        across, second = (down, first) if other is None else grams(other, batch)
        found = [hsic(first, second), hsic_each(first), hsic_each(second)]
        sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
        names = down, across
    if not sums:
        raise UsageError("there are no batches to compare layers on", "give some, of 4 pictures or more")
    between, one, two = sums
    return Kernels(*names, (between / (one[:, None] * two).sqrt()).float())


def grams(model: nn.Module, batch: Given) -> tuple[list[str], Tensor]:
    """Inner products of the pictures of a batch in each block, without those of a picture with itself: [L B B], float64."""

    def make(state: State) -> Tensor:
        rows = flat(state).flatten(1).cpu().double()  # float64 does not exist on every accelerator
        rows = rows - rows.mean(0)  # the estimate knows no mean, and without it there is less to round
        return (rows @ rows.T).fill_diagonal_(0.0)

    args = inputs(model, batch)
    if len(args[0]) < 4:
        raise UsageError(f"layers cannot be compared on a batch of {len(args[0])} pictures", "make batches of 4 or more")
    names, made = each(model, args, make)
    return names, torch.stack(made)


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
