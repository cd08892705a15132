"""Position encodings of a ViT at other resolutions: none, learned, sin-cos, factorised, relative, rotary.

One small ViT is trained on the same images in the same order with each kind of position encoding. It is evaluated at
the training size, at that size with its patches shuffled, and at other sizes, in two ways: with positions stretched
over the new grid (tables resampled, angles scaled down), and with positions kept, where each patch has its own row and
column and positions beyond the training grid are new to the model: formulas extrapolate, tables repeat their edge.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.assembly.prepare import PreparedRun
from vitrail.contracts import trunk_of
from vitrail.data.dataset import Split
from vitrail.engine.processes.world import World
from vitrail.layers.attention import SelfAttention, named_attentions
from vitrail.layers.position import Factorised, Learned, Position
from vitrail.layers.relative import RelativeBias
from vitrail.layers.resample import displacements, resample
from vitrail.layers.rotary import Rotary, axis_angles, rotate
from vitrail.recipe import Recipe
from vitrail.studies._bench.bench import Bench, Job, group_by_row
from vitrail.studies._bench.images import compute_accuracy, evaluation_split, load_resized
from vitrail.studies._bench.result import StudyResult, figure_svg, markdown_table
from vitrail.studies._bench.trial import run_trial, short_recipe
from vitrail.validation import Positive, PositiveFloat

KINDS = {
    "none": "none", "learned": "learned", "sin-cos 1-D": "sincos1d", "sin-cos 2-D": "sincos2d",
    "factorised": "factorised", "relative": "relative", "rotary": "rope",
}  # fmt: skip
WAYS = ("stretched", "kept")
Grid = tuple[int, int]


@dataclass(frozen=True)
class Config:
    data: str = "mini"  # training data: "mini", or any data set that vitrail train accepts
    steps: Positive = 600  # of every training run
    seeds: Positive = 3  # how often each kind is trained, with seeds 0, 1, ...
    batch: Positive = 64  # images a step
    lr: PositiveFloat = 2e-3
    depth: Positive = 3  # blocks of the model
    width: Positive = 64  # of its tokens; a multiple of 16
    patch: Positive = 7  # pixels
    factors: tuple[PositiveFloat, ...] = (0.75, 1.25, 1.5)  # evaluation size / training size; rounded to whole patches
    test: Positive = 500  # held-out images, at most


@dataclass(frozen=True)
class Row:
    """A kind of position encoding. position: its name in the config of the ViT."""

    name: str
    position: str


def build(config: Config) -> tuple[Row, ...]:
    return tuple(Row(name, position) for name, position in KINDS.items())


def recipe(config: Config) -> Recipe:
    """No augmentation and no dropout: the rows differ in their position encodings only."""
    return short_recipe(config, {
        "name": "vit/nano", "stem": "patch", "patch": config.patch, "width": config.width, "depth": config.depth,
        "heads": max(1, config.width // 16),
    })  # fmt: skip


def run(config: Config, bench: Bench) -> StudyResult:
    """Trains every kind with every seed. Errors: those of preparing a run, and `DataError` for multi-label data."""
    prepared = bench.prepare(recipe(config))
    rows, split = build(config), evaluation_split(prepared, config.test)
    rows_by_name = {row.name: row for row in rows}
    jobs = [Job(row.name, seed) for seed in range(config.seeds) for row in rows]
    values = bench.measure(
        jobs, lambda job: measure_row(rows_by_name[job.row], job.seed, config, prepared, split, bench.world), line
    )
    by_row = group_by_row(jobs, values)
    numbers = {"rows": [{"name": row.name, "position": row.position, "trainings": by_row[row.name]} for row in rows]}
    return StudyResult(numbers, lines(by_row), {"figure.svg": figure(config, by_row)})


def line(job: Job, result: dict[str, Any]) -> str:
    return f"accuracy {result['own']:.4f}  {result['lost']}"


def measure_row(
    row: Row, seed: int, config: Config, prepared: PreparedRun, split: Split, world: World
) -> dict[str, Any]:
    """One training run and its evaluations. lost: why it ended early, or ""."""
    trial = run_trial(prepared, {"model": {"position": row.position}}, seed, world)
    model, pre = trial.session.bundle.model, trial.session.preprocess
    images, labels = load_resized(split, pre, pre.size, world.device)
    grid: Grid = (-(-pre.size[0] // config.patch), -(-pre.size[1] // config.patch))
    sizes = {}
    for factor in config.factors:
        new: Grid = (max(1, round(factor * grid[0])), max(1, round(factor * grid[1])))
        others, _ = load_resized(split, pre, (new[0] * config.patch, new[1] * config.patch), world.device)
        accuracies = {way: compute_accuracy(with_positions(model, way, grid), others, labels) for way in WAYS}
        sizes[f"{factor:g}"] = {"size": [new[0] * config.patch, new[1] * config.patch], **accuracies}
        with_positions(model, "", grid)
    shuffled_images = (
        shuffle_patches(images, config.patch, seed)
        if pre.size == (grid[0] * config.patch, grid[1] * config.patch)
        else None
    )
    return {
        "own": compute_accuracy(model, images, labels),
        "shuffled": None if shuffled_images is None else compute_accuracy(model, shuffled_images, labels),
        "sizes": sizes,
        "lost": trial.reason,
    }


def shuffle_patches(images: Tensor, patch: int, seed: int) -> Tensor:
    """Images [N C H W] with their patches shuffled, in another random order for each."""
    n, (height, width) = len(images), images.shape[2:]
    cells = nn.functional.unfold(images, patch, stride=patch)  # [N C*p*p cells]
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(n, cells.shape[2], generator=generator).argsort(1).to(images.device)
    return nn.functional.fold(cells.gather(2, order[:, None].expand_as(cells)), (height, width), patch, stride=patch)


def with_positions(model: nn.Module, way: str, grid: Grid) -> nn.Module:
    """The model with its positions on other grids "stretched", "kept", or, for "", as it was built."""
    backbone = trunk_of(model)
    old = backbone.position.inner if isinstance(backbone.position, ResizedPosition) else backbone.position
    backbone.position = ResizedPosition(old, grid, way == "stretched") if way and isinstance(old, Position) else old
    for part in named_attentions(model).values():
        if isinstance(part, SelfAttention):
            part.rotary = wrap_part(part.rotary, StretchedRotary, way, "stretched", grid)
            part.relative = wrap_part(part.relative, ClampedBias, way, "kept", grid)
    return model


def wrap_part(part: Any, wrapper: type["StretchedRotary | ClampedBias"], way: str, wanted: str, grid: Grid) -> Any:
    """A part of attention, wrapped where `way` is not its own behaviour."""
    bare: Any = part.inner if isinstance(part, wrapper) else part
    return wrapper(bare, grid) if bare is not None and way == wanted else bare


class ResizedPosition(Position):
    """A position table on another grid: stretched, or kept (formulas extrapolate, learned tables repeat their edge)."""

    def __init__(self, inner: Position, grid: Grid, stretch: bool):
        super().__init__()
        self.inner, self.grid, self.stretch = inner, grid, stretch

    def encoding(self, grid: Grid) -> Tensor:
        if self.stretch:
            return resample(self.inner.encoding(self.grid), self.grid, grid)
        if not isinstance(self.inner, Learned | Factorised):
            return self.inner.encoding(grid)
        cells = self.inner.encoding(self.grid).unflatten(0, self.grid)  # [h w D]
        return cells[clamped_indices(grid[0], self.grid[0])][:, clamped_indices(grid[1], self.grid[1])].flatten(0, 1)


def clamped_indices(new: int, old: int) -> Tensor:
    """0, 1, ..., with the last index of the old axis repeated."""
    return torch.arange(new).clamp(max=old - 1)


class StretchedRotary(nn.Module):
    """Rotary positions stretched: a grid of any size spans the angles of the training grid."""

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
        rotated = rotate(x[..., skip:, :], angles, self.inner.pairs)
        return torch.cat([x[..., :skip, :], rotated], dim=-2) if skip else rotated


class ClampedBias(nn.Module):
    """A relative bias without resampling: displacements are clamped to its table. For models without extra tokens."""

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
    """Mean and standard deviation of fractions, in percent."""
    percents = [100 * v for v in values if v is not None]
    if not percents:
        return "-"
    return f"{np.mean(percents):.1f}" + (f" ± {np.std(percents, ddof=1):.1f}" if percents[1:] else "")


def lines(by_row: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A table: accuracy in percent by kind, at every size in both ways; mean and standard deviation over seeds."""
    first = next(iter(by_row.values()))[0]
    sizes = {factor: one["size"] for factor, one in first["sizes"].items()}
    head = ["position", "own size", "patches shuffled", *(f"{h}x{w}, {way}" for h, w in sizes.values() for way in WAYS)]
    cells = []
    for name, each in by_row.items():
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


def figure(config: Config, by_row: dict[str, list[dict[str, Any]]]) -> bytes:
    """Accuracy over size, a chart for each way, with the standard deviation over seeds."""
    from matplotlib.figure import Figure

    chart = Figure(figsize=(10, 4.2), layout="constrained")
    charts = chart.subplots(1, len(WAYS), sharey=True)
    across = sorted([1.0, *config.factors])
    for axis, way in zip(charts, WAYS, strict=True):
        for number, (name, each) in enumerate(by_row.items()):
            values = [[100 * (one["own"] if f == 1.0 else one["sizes"][f"{f:g}"][way]) for one in each] for f in across]
            spread = [np.std(v, ddof=1) if v[1:] else 0.0 for v in values]
            axis.errorbar(
                across, [np.mean(v) for v in values], spread, color=f"C{number}", marker="o", capsize=2, label=name
            )
        axis.set(title=f"positions {way}", xlabel="evaluation size / training size")
        axis.grid(alpha=0.3)
    charts[0].set_ylabel("accuracy, %")
    charts[0].legend(fontsize="small")
    return figure_svg(chart)
