"""How a Vision Transformer is told where its patches are: none, learned, sin-cos, factorised, relative, rotary; and other resolutions.

One small ViT is trained on the same images in the same order with each kind of position. It is judged at the size it was trained at, at
that size with its patches in random order, and at other sizes, in two ways: with its positions stretched over the new grid (resampled
tables, angles scaled down), and with its positions kept, where a patch is told the row and column that it really has and what lies beyond
the grid of training is new to the model: formulas are carried on, tables give what they have at their edge.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.assembly.prepare import PreparedRun
from vitrail.contracts import trunk_of
from vitrail.data.dataset import Split
from vitrail.engine.world import World
from vitrail.layers.attention import SelfAttention, named_attentions
from vitrail.layers.position import Factorised, Learned, Position
from vitrail.layers.relative import RelativeBias
from vitrail.layers.resample import displacements, resample
from vitrail.layers.rotary import Rotary, axis_angles, rotate
from vitrail.recipe import Recipe
from vitrail.studies._bench.bench import Bench, Job, group_by_row
from vitrail.studies._bench.result import StudyResult, figure_svg, markdown_table
from vitrail.studies._bench.trial import compute_accuracy, evaluation_split, load_resized, run_trial, short_recipe
from vitrail.validation import Positive, PositiveFloat

KINDS = {"none": "none", "learned": "learned", "sin-cos 1-D": "sincos1d", "sin-cos 2-D": "sincos2d", "factorised": "factorised",
         "relative": "relative", "rotary": "rope"}  # fmt: skip
WAYS = ("stretched", "kept")
Grid = tuple[int, int]


@dataclass(frozen=True)
class Config:
    data: str = "mini"  # what is learned: "mini", or any data set that vitrail train takes
    steps: Positive = 600  # of every training
    seeds: Positive = 3  # how often each kind is trained, with seeds 0, 1, ...
    batch: Positive = 64  # images a step
    lr: PositiveFloat = 2e-3
    depth: Positive = 3  # blocks of the model
    width: Positive = 64  # of its tokens; a multiple of 16
    patch: Positive = 7  # pixels
    factors: tuple[PositiveFloat, ...] = (
        0.75,
        1.25,
        1.5,
    )  # sizes to be judged at, times that of training; rounded to whole patches
    test: Positive = 500  # held-out images, at most


@dataclass(frozen=True)
class Row:
    """A kind of position, by the name that the ViT has for it."""

    name: str
    position: str


def build(config: Config) -> tuple[Row, ...]:
    return tuple(Row(name, position) for name, position in KINDS.items())


def recipe(config: Config) -> Recipe:
    """Nothing is augmented and nothing dropped: kinds differ in their positions only."""
    return short_recipe(config, {"name": "vit/nano", "stem": "patch", "patch": config.patch, "width": config.width, "depth": config.depth,
                          "heads": max(1, config.width // 16)})  # fmt: skip


def run(config: Config, bench: Bench) -> StudyResult:
    """Trains every kind with every seed. Errors: those of preparing a run, and `DataError` for images of several classes each."""
    prepared = bench.prepare(recipe(config))
    rows, split = build(config), evaluation_split(prepared, config.test)
    named = {row.name: row for row in rows}
    jobs = [Job(row.name, seed) for seed in range(config.seeds) for row in rows]
    values = bench.measure(
        jobs, lambda job: measure_row(named[job.row], job.seed, config, prepared, split, bench.world), line
    )
    found = group_by_row(jobs, values)
    numbers = {"rows": [{"name": row.name, "position": row.position, "trainings": found[row.name]} for row in rows]}
    return StudyResult(numbers, lines(found), {"figure.svg": figure(config, found)})


def line(job: Job, found: dict[str, Any]) -> str:
    return f"accuracy {found['own']:.4f}  {found['lost']}"


def measure_row(
    row: Row, seed: int, config: Config, prepared: PreparedRun, split: Split, world: World
) -> dict[str, Any]:
    """One training and its judgements. lost: why it ended early, where it did."""
    trial = run_trial(prepared, {"model": {"position": row.position}}, seed, world)
    model, pre = trial.session.bundle.model, trial.session.preprocess
    images, labels = load_resized(split, pre, pre.size, world.device)
    grid: Grid = (-(-pre.size[0] // config.patch), -(-pre.size[1] // config.patch))
    sizes = {}
    for factor in config.factors:
        new: Grid = (max(1, round(factor * grid[0])), max(1, round(factor * grid[1])))
        others, _ = load_resized(split, pre, (new[0] * config.patch, new[1] * config.patch), world.device)
        found = {way: compute_accuracy(with_positions(model, way, grid), others, labels) for way in WAYS}
        sizes[f"{factor:g}"] = {"size": [new[0] * config.patch, new[1] * config.patch], **found}
        with_positions(model, "", grid)
    mixed = (
        shuffled(images, config.patch, seed) if pre.size == (grid[0] * config.patch, grid[1] * config.patch) else None
    )
    return {"own": compute_accuracy(model, images, labels), "shuffled": None if mixed is None else compute_accuracy(model, mixed, labels),
            "sizes": sizes, "lost": trial.reason}  # fmt: skip


def shuffled(images: Tensor, patch: int, seed: int) -> Tensor:
    """Images [N C H W] cut into patches and put together in a random order, another one for each."""
    n, (height, width) = len(images), images.shape[2:]
    cells = nn.functional.unfold(images, patch, stride=patch)  # [N C*p*p cells]
    draw = torch.Generator().manual_seed(seed)
    order = torch.rand(n, cells.shape[2], generator=draw).argsort(1).to(images.device)
    return nn.functional.fold(cells.gather(2, order[:, None].expand_as(cells)), (height, width), patch, stride=patch)


def with_positions(model: nn.Module, way: str, grid: Grid) -> nn.Module:
    """The model with its positions on other grids than its own as `way` says: "stretched", "kept", or "" as it was built."""
    backbone = trunk_of(model)
    old = backbone.position.inner if isinstance(backbone.position, Elsewhere) else backbone.position
    backbone.position = Elsewhere(old, grid, way == "stretched") if way and isinstance(old, Position) else old
    for part in named_attentions(model).values():
        if isinstance(part, SelfAttention):
            part.rotary = of(part.rotary, Turned, way, "stretched", grid)
            part.relative = of(part.relative, Clamped, way, "kept", grid)
    return model


def of(part: Any, wrapper: type["Turned | Clamped"], way: str, wanted: str, grid: Grid) -> Any:
    """A part of attention in its wrapper where the way is the one that it does not take by itself."""
    bare: Any = part.inner if isinstance(part, wrapper) else part
    return wrapper(bare, grid) if bare is not None and way == wanted else bare


class Elsewhere(Position):
    """A table on another grid than its own: stretched over it, or its rows where they were and beyond them what a formula goes on to say;
    a learned table repeats its edge."""

    def __init__(self, inner: Position, grid: Grid, stretch: bool):
        super().__init__()
        self.inner, self.grid, self.stretch = inner, grid, stretch

    def encoding(self, grid: Grid) -> Tensor:
        if self.stretch:
            return resample(self.inner.encoding(self.grid), self.grid, grid)
        if not isinstance(self.inner, Learned | Factorised):
            return self.inner.encoding(grid)
        cells = self.inner.encoding(self.grid).unflatten(0, self.grid)  # [h w D]
        return cells[edged(grid[0], self.grid[0])][:, edged(grid[1], self.grid[1])].flatten(0, 1)


def edged(new: int, old: int) -> Tensor:
    """0, 1, ..., and the last place of the old axis again and again."""
    return torch.arange(new).clamp(max=old - 1)


class Turned(nn.Module):
    """Rotary positions stretched: a grid of any size takes the angles that that of training had, those in between included."""

    def __init__(self, inner: Rotary, grid: Grid):
        super().__init__()
        self.inner, self.grid = inner, grid

    def forward(self, x: Tensor, grid: Grid, skip: int = 0) -> Tensor:
        bands, base = self.inner.head_width // 4, self.inner.base
        down, across = (
            axis_angles(n, bands, base, x.device) * (old / n) for n, old in zip(grid, self.grid, strict=True)
        )
        y, x_ = down.repeat_interleave(grid[1], dim=0), across.repeat(grid[0], 1)
        angles = torch.cat([x_, y] if self.inner.pairs == "interleaved" else [y, x_], dim=1)
        turned = rotate(x[..., skip:, :], angles, self.inner.pairs)
        return torch.cat([x[..., :skip, :], turned], dim=-2) if skip else turned


class Clamped(nn.Module):
    """A relative bias that is not resampled: a displacement beyond its table counts as the farthest of it. For models without tokens."""

    def __init__(self, inner: RelativeBias, grid: Grid):
        super().__init__()
        self.inner, self.grid = inner, grid

    def forward(self, grid: Grid | None = None) -> Tensor:
        new = grid or self.grid
        far = [n - 1 for n in self.grid]
        y = torch.arange(new[0], device=self.inner.table.device).repeat_interleave(new[1])
        x = torch.arange(new[1], device=self.inner.table.device).repeat(new[0])
        down = (y[:, None] - y).clamp(-far[0], far[0]) + far[0]
        across = (x[:, None] - x).clamp(-far[1], far[1]) + far[1]
        return self.inner.table[down * displacements(self.grid)[1] + across].permute(2, 0, 1).contiguous()


def format_spread(values: list[float | None]) -> str:
    """Mean and spread of shares, in percent."""
    kept = [100 * v for v in values if v is not None]
    if not kept:
        return "-"
    return f"{np.mean(kept):.1f}" + (f" ± {np.std(kept, ddof=1):.1f}" if kept[1:] else "")


def lines(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A table: accuracy in percent by kind, at every size in both ways; mean and standard deviation over the seeds."""
    first = next(iter(found.values()))[0]
    sizes = {factor: one["size"] for factor, one in first["sizes"].items()}
    head = ["position", "own size", "patches shuffled", *(f"{h}x{w}, {way}" for h, w in sizes.values() for way in WAYS)]
    cells = []
    for name, each in found.items():
        others = [format_spread([one["sizes"][factor][way] for one in each]) for factor in sizes for way in WAYS]
        cells.append(
            [
                name,
                format_spread([one["own"] for one in each]),
                format_spread([one["shuffled"] for one in each]),
                *others,
            ]
        )
    return markdown_table(head, cells)


def figure(config: Config, found: dict[str, list[dict[str, Any]]]) -> bytes:
    """Accuracy over the size, a chart for each way, with the spread over seeds."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(10, 4.2), layout="constrained")
    charts = made.subplots(1, len(WAYS), sharey=True)
    across = sorted([1.0, *config.factors])
    for axis, way in zip(charts, WAYS, strict=True):
        for number, (name, each) in enumerate(found.items()):
            values = [[100 * (one["own"] if f == 1.0 else one["sizes"][f"{f:g}"][way]) for one in each] for f in across]
            spread = [np.std(v, ddof=1) if v[1:] else 0.0 for v in values]
            axis.errorbar(
                across, [np.mean(v) for v in values], spread, color=f"C{number}", marker="o", capsize=2, label=name
            )
        axis.set(title=f"positions {way}", xlabel="size, times that of training")
        axis.grid(alpha=0.3)
    charts[0].set_ylabel("accuracy, %")
    charts[0].legend(fontsize="small")
    return figure_svg(made)
