"""Attention maps: the weights of every softmax attention and their positions on the image, in an unchanged forward
pass.

The fused kernel never materialises the weights. Hooks on the chosen attentions compute them again from the same
arguments (`Attention.weights`), reduce them over heads if requested, and copy them to the CPU one after the other.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from vitrail.analysis.hooks import ModelInputs, backbone_of, prepare_inputs, temporary_hooks
from vitrail.errors import UsageError, choose
from vitrail.layers.attention import Attention, named_attentions
from vitrail.layers.merge import unmerge_weights
from vitrail.layers.modes import evaluation_mode
from vitrail.layers.token_layout import AttentionLayout, Side
from vitrail.types import MergedGroups, each_tensor

Reduction = Literal["mean", "min", "max"]
Heads = Reduction | Sequence[int] | None
Layers = int | str | Sequence[int | str] | None


@dataclass(frozen=True, repr=False)
class LayerAttention:
    """The attention of one layer. Weights are stored by group, since with windows most of a full matrix is empty:
    `parts` [B g h n m], the indices of queries and keys of each group in `query_index` [g n] and `key_index` [g m], -1
    for padding."""

    name: str  # of the module
    parts: Tensor
    queries: Side
    keys: Side
    query_index: Tensor
    key_index: Tensor

    def __repr__(self) -> str:
        images, _, heads = self.parts.shape[:3]
        sides = f"{self.queries.tokens} queries, {self.keys.tokens} keys"
        return f"LayerAttention of {self.name}: {images} images, {heads} heads, {sides}; .weights [B heads N N]"

    @property
    def weights(self) -> Tensor:
        """The weights of each query on each key: [B h Nq Nk], 0 outside its group. Rows sum to one, or less where
        windows extend beyond the image and padding is attended to."""
        parts = self.parts.transpose(1, 2)  # [B h g n m]
        if len(self.query_index) == 1 and parts.shape[3:] == (self.queries.tokens, self.keys.tokens):
            return parts[:, :, 0]
        whole = parts.new_zeros(*parts.shape[:2], self.queries.tokens + 1, self.keys.tokens + 1)
        places = (
            self.query_index[:, :, None] % whole.shape[2] * whole.shape[3] + self.key_index[:, None] % whole.shape[3]
        )
        shared = parts * self.shares[:, :, None]
        return whole.flatten(2).index_add(2, places.flatten(), shared.flatten(2)).view_as(whole)[:, :, :-1, :-1]

    @property
    def shares(self) -> Tensor:
        """What each query of each group counts [g n]: one over the number of groups that it is in, 0 for padding. Only
        tokens without a position are in several."""
        places = self.query_index.flatten() + 1  # counted by index_add, which can be traced, unlike bincount
        times = torch.zeros(self.queries.tokens + 1).index_add(0, places, torch.ones(places.shape))
        return torch.where(self.query_index < 0, 0.0, 1.0 / times[self.query_index + 1])

    def attention_from(self, query: int | tuple[int, int], level: int = 0) -> Tensor:
        """The attention from one query, on a map of the keys: [B h hk wk]. query: the number of a token without a
        position, those before the cells first, or a cell (row, column)."""
        if isinstance(query, tuple):
            cells = merge_maps(self, self.queries, "queries")
            if not (0 <= query[0] < cells[0] and 0 <= query[1] < cells[1]):
                raise UsageError(f"there is no cell {query}", f"the grid is {cells[0]} x {cells[1]}")
            number = self.queries.leading + query[0] * cells[1] + query[1]
        else:
            side = self.queries
            if not 0 <= query < side.leading + side.trailing:
                raise UsageError(
                    f"{self.name} has no token {query} without a position",
                    f"it has {side.leading + side.trailing}; for a cell use (row, column)",
                )
            number = query if query < side.leading else query + side.cells
        found = (self.query_index == number).nonzero().tolist()
        rows = (self.scatter(self.parts[:, g, :, place], self.key_index[g]) for g, place in found)
        return self.to_map(torch.stack(list(rows)).mean(0), level)

    def attention_to(self, level: int = 0) -> Tensor:
        """The mean attention to each key over all queries, on a map of the keys: [B h hk wk]."""
        each = torch.einsum("bghnm,gn->bhgm", self.parts, self.shares.to(self.parts)) / self.queries.tokens
        return self.to_map(self.scatter(each.flatten(2), self.key_index.flatten()), level)

    def scatter(self, values: Tensor, index: Tensor) -> Tensor:
        """Values [B h k] of some keys -> of all of them [B h Nk]."""
        whole = values.new_zeros(*values.shape[:2], self.keys.tokens + 1)
        return whole.index_add(2, index % (self.keys.tokens + 1), values)[:, :, :-1]

    def to_map(self, values: Tensor, level: int) -> Tensor:
        """Values of all keys [B h Nk] -> of those of a map [B h hk wk]."""
        if level >= len(self.keys.maps):
            maps = f"{len(self.keys.maps)} maps" if self.keys.maps else "no map, since its keys have no positions"
            raise UsageError(f"{self.name} attends to {maps}", "choose other layers")
        sizes = [cells.grid[0] * cells.grid[1] for cells in self.keys.maps]
        first = self.keys.leading + sum(sizes[:level])
        return values[:, :, first : first + sizes[level]].unflatten(2, self.keys.maps[level].grid)


def attention(
    model: nn.Module, images: ModelInputs, layers: Layers = None, heads: Heads = None
) -> list[LayerAttention]:
    """The attention of each layer, in evaluation mode, for images [B C H W], normalised, or the tuple of all model
    inputs.

    layers: numbers in order of depth (-1 the last), names of modules, or None for all. heads: numbers, or "mean", "min"
    or "max" over them, or None for all. The weights are float32 on the CPU.
    Errors: `UsageError` for a model without softmax attention, and for layers and heads that it does not have.
    """
    args = prepare_inputs(model, images)
    with torch.no_grad(), evaluation_mode(model), recorded_attention(model, layers, heads) as results:
        model(*args)
    return results()


@contextmanager
def recorded_attention(
    model: nn.Module, layers: Layers = None, heads: Heads = None
) -> Iterator[Callable[[], list[LayerAttention]]]:
    """Inside it every forward pass records the attention of the chosen layers; its value returns that of the last pass,
    in order of depth. Arguments and errors as those of `attention`."""
    chosen = choose_attentions(model, layers)
    parts, results = dict[str, list[Tensor]](), dict[str, LayerAttention]()

    def record(name: str, module: Attention, args: tuple) -> None:
        weights = module.weights(*args).float()
        site = next(s for s, modules in chosen.items() if name in modules)
        alone = len(chosen[site]) == 1
        parts.setdefault(site, []).append((select_heads(weights, heads, name) if alone else weights).cpu())
        if len(parts[site]) == len(chosen[site]):
            joined = parts[site][0] if alone else select_heads(torch.cat(parts[site], dim=1), heads, site)
            results[site] = build_layer_attention(site, joined, module.locate(*args))
            del parts[site]

    def after(name: str) -> Callable[..., None]:
        return lambda module, args, out: record(name, module, args)

    modules_by_name = {name: m for modules in chosen.values() for name, m in modules.items()}
    with temporary_hooks([m.register_forward_hook(after(name)) for name, m in modules_by_name.items()]):
        yield lambda: [results[site] for site in chosen if site in results]


def build_layer_attention(name: str, weights: Tensor, at: AttentionLayout) -> LayerAttention:
    """Weights [B*g h n m] with their layout; of merged tokens those of every cell."""
    if at.merged is not None:
        groups: MergedGroups = each_tensor(lambda t: t.to(weights.device), at.merged)
        weights = unmerge_weights(weights, groups, at.queries.leading)
    return LayerAttention(name, weights.unflatten(0, (-1, len(at.query_index))), *at[:4])


def find_attentions(model: nn.Module) -> dict[str, dict[str, Attention]]:
    """The softmax attentions of a model in order; those in one `ModuleList` are the heads of one layer."""
    attentions: dict[str, dict[str, Attention]] = {}
    for name, module in named_attentions(model).items():
        parent = name.rpartition(".")[0]
        attentions.setdefault(parent if isinstance(model.get_submodule(parent), nn.ModuleList) else name, {})[name] = (
            module
        )
    return attentions


def choose_attentions(model: nn.Module, layers: Layers) -> dict[str, dict[str, Attention]]:
    """Those of `find_attentions` in the chosen layers, in their order."""
    attentions = find_attentions(model)
    if not attentions:
        raise UsageError(
            f"{type(backbone_of(model)).__name__} has no softmax attention, so it has no attention weights",
            "use gradient CAM: vitrail look, or vitrail.analysis.cam.gradient_cam",
        )
    if layers is None:
        return attentions
    names: set[str] = set()
    for layer in [layers] if isinstance(layers, int | str) else layers:
        names.update(
            match_names(layer, list(attentions)) if isinstance(layer, str) else [match_numbers(layer, list(attentions))]
        )
    return {name: modules for name, modules in attentions.items() if name in names}


def match_names(layer: str, names: Sequence[str]) -> list[str]:
    """All layers inside a module, given by its name in the model or in its backbone."""
    matches = [n for n in names if f"{n}.".startswith((f"{layer}.", f"backbone.{layer}."))]
    return matches or [choose(layer, names, "layer")]


def match_numbers(layer: int, names: Sequence[str]) -> str:
    number = operator.index(layer)
    if not -len(names) <= number < len(names):
        raise UsageError(
            f"there is no layer {number}", f"layers are 0 to {len(names) - 1}, or -1 to {-len(names)} from the last"
        )
    return names[number]


def select_heads(weights: Tensor, heads: Heads, name: str) -> Tensor:
    """Weights [B h N M] -> those of the chosen heads, or their reduction to one."""
    if heads is None:
        return weights
    if isinstance(heads, str):
        kind = choose(heads, get_args(Reduction), "reduction of heads")
        joined = weights.mean(1) if kind == "mean" else weights.amin(1) if kind == "min" else weights.amax(1)
        return joined[:, None]
    chosen = [operator.index(h) for h in ([heads] if isinstance(heads, int) else cast(Iterable[int], heads))]
    if not chosen or not all(0 <= h < weights.shape[1] for h in chosen):
        raise UsageError(f"{name} has no heads {chosen}", f"heads are 0 to {weights.shape[1] - 1}")
    return weights[:, chosen]


def merge_maps(layer: LayerAttention, side: Side, what: str) -> tuple[int, int]:
    """The grid of queries or keys. Errors: `UsageError` where they are not the cells of one map."""
    if len(side.maps) != 1:
        raise UsageError(f"the {what} of {layer.name} are not the cells of one map", "choose other layers")
    return side.maps[0].grid
