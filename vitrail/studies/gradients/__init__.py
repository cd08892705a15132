"""Exploding and vanishing gradients: position of the norm, residual connections, depth, scale of the weights.

Untrained ViTs process one batch of images. Measured at every block: the root mean square of its output and of the
gradient of the loss there, and, after the last one, the cosine similarity of the tokens of an image. Then the same
after a few training steps from the default initialisation. Separately, the softmax of random logits: how sharp
attention is for queries and keys of a given scale, with and without the division by sqrt(d), and with normalised
queries and keys.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from vitrail.analysis.gradient_flow import measure_flow
from vitrail.assembly.model import build_preprocess, create_model
from vitrail.assembly.prepare import PreparedRun
from vitrail.engine.processes.world import World
from vitrail.recipe import Recipe, from_tables
from vitrail.studies._bench.bench import Bench, Job
from vitrail.studies._bench.images import load_batch
from vitrail.studies._bench.result import StudyResult, figure_svg, markdown_table
from vitrail.studies._bench.trial import run_trial
from vitrail.studies.gradients.signals import rescale, token_similarity
from vitrail.studies.gradients.softmax import SCALES, WAYS, logits, sharpness
from vitrail.validation import Count, Positive, PositiveFloat

NORMS = ("pre", "post", "none")
SPANS = (1e-3, 1e3)  # growth of the gradient from the last block to the first: outside, it vanishes or explodes


@dataclass(frozen=True)
class Config:
    data: str = "mini"  # the images: "mini", or any data set that vitrail train accepts
    depths: tuple[Positive, ...] = (4, 12, 24, 48)  # blocks
    scales: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)  # of the weights in blocks, times 1 / sqrt(inputs)
    width: Positive = 64  # of the tokens; a multiple of 16
    patch: Positive = 7  # pixels
    batch: Positive = 32  # images
    steps: Count = 40  # of the short training runs, at most 12 blocks deep; 0: none
    seeds: Positive = 1  # how often each row is measured, with seeds 0, 1, ...
    head_widths: tuple[Positive, ...] = (16, 64, 256)  # of queries and keys, for the softmax alone
    tokens: Positive = 196  # keys of a query there


@dataclass(frozen=True)
class Row:
    """A network. scale: of its weights; None: the default initialisation, trained for some steps first."""

    norm: str
    residual: bool
    depth: int
    scale: float | None

    @property
    def name(self) -> str:
        way = "trained" if self.scale is None else f"scale {self.scale:g}"
        return f"{kind(self.norm, self.residual)}, {self.depth} blocks, {way}"


@dataclass(frozen=True)
class Heads:
    """Queries and keys of one width, at every scale, for every kind of logits."""

    width: int

    @property
    def name(self) -> str:
        return f"softmax, heads {self.width} wide"


def kind(norm: str, residual: bool) -> str:
    return f"{norm}{'' if residual else ', no residual'}"


def build(config: Config) -> tuple[Row | Heads, ...]:
    """Softmax first, then untrained networks, then trained ones."""
    shapes = [(norm, residual) for norm in NORMS for residual in (True, False)]
    fresh = [Row(*shape, depth, scale) for shape in shapes for scale in config.scales for depth in config.depths]
    short = [Row(*shape, min(12, max(config.depths)), None) for shape in shapes] if config.steps else []
    return (*map(Heads, config.head_widths), *fresh, *short)


def recipe(config: Config) -> Recipe:
    """The short training run."""
    steps = max(1, config.steps)
    return from_tables({
        "model": {"name": "vit/nano", **keys(config, Row("pre", True, 1, 1.0))},
        "data": {"path": config.data},
        "augment": {"crop": "none", "hflip": False},
        "optim": {"lr": 1e-3, "warmup_steps": max(1, steps // 5), "clip_grad": 1.0},
        "train": {"steps": steps, "batch_size": config.batch, "eval_every": 0, "precision": "fp32"},
        "runtime": {"workers": 0},
    })  # fmt: skip


def keys(config: Config, row: Row) -> dict[str, Any]:
    """The model of a row as keys of the ViT."""
    return {
        "width": config.width, "heads": max(1, config.width // 16), "patch": config.patch, "stem": "patch",
        "position": "sincos2d", "depth": row.depth, "norm_at": row.norm, "residual": row.residual,
    }  # fmt: skip


def run(config: Config, bench: Bench) -> StudyResult:
    """Measures every row. Errors: those of preparing a run."""
    prepared = bench.prepare(recipe(config))
    rows = build(config)
    rows_by_name = {row.name: row for row in rows}
    jobs = [Job(row.name, seed, weight(config, row)) for row in rows for seed in range(config.seeds)]
    values = bench.measure(
        jobs, lambda job: measure_row(rows_by_name[job.row], job.seed, config, prepared, bench.world), line
    )
    by_row: dict[str, list[Any]] = {row.name: [] for row in rows}
    for job, value in zip(jobs, values, strict=True):
        by_row[job.row].append(value)
    numbers = {"rows": [{"name": name, "found": values} for name, values in by_row.items()]}
    lines = [*networks(config, by_row), "", *softmaxes(config, by_row)]
    return StudyResult(numbers, lines, {"figure.svg": figure(config, by_row)})


def weight(config: Config, row: Row | Heads) -> float:
    """The run time of a row, about that of so many passes over 12 blocks."""
    return 0.1 if isinstance(row, Heads) else row.depth / 12 * (1 + config.steps * (row.scale is None))


def measure_row(row: Row | Heads, seed: int, config: Config, prepared: PreparedRun, world: World) -> dict[str, Any]:
    if isinstance(row, Heads):
        return {
            way: [sharpness(*logits(row.width, config.tokens, scale, way, seed)) for scale in SCALES] for way in WAYS
        }
    return network(row, seed, config, prepared, world)


def network(row: Row, seed: int, config: Config, prepared: PreparedRun, world: World) -> dict[str, Any]:
    """The signals and gradients of one network; values that are not finite are None. lost: why training ended early."""
    dataset, lost = prepared.dataset, ""
    model_keys = keys(config, row)
    if row.scale is None:
        trial = run_trial(prepared, {"model": model_keys}, seed, world)
        model, lost = trial.session.bundle.model, trial.reason
    else:
        torch.manual_seed(seed)
        size, channels = prepared.recipe.input.size, prepared.recipe.input.channels
        model = create_model(
            "vit/nano", len(dataset.classes), {**model_keys, "size": list(size or ()), "channels": channels}
        ).to(world.device)
        rescale(model, row.scale)
    images, labels = load_batch(
        dataset.splits["train"],
        range(min(config.batch, len(dataset.splits["train"]))),
        build_preprocess(prepared.recipe.input),
    )
    images, labels = images.to(world.device), labels.to(world.device)
    flow = measure_flow(model, lambda m: F.cross_entropy(m(images), labels))
    return {
        "activations": [finite(one.out.activation) for one in flow],
        "gradients": [finite(one.out.gradient) for one in flow],
        "alike": finite(token_similarity(model, images)),
        "lost": lost,
    }


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def growth(values: list[float | None]) -> float | None:
    """The first norm divided by the last; None where one is not finite or the last is zero."""
    if any(v is None for v in values):
        return None
    first, last = values[0], values[-1]
    return first / last if first is not None and last else None


def fate(result: dict[str, Any]) -> str:
    """What happens to the gradient on its way from the last block to the first."""
    if result["lost"] or any(v is None for v in result["activations"] + result["gradients"]):
        return "not finite"
    times = growth(result["gradients"])
    if not result["gradients"][0]:
        return "vanishes"
    return "explodes" if times is None or times > SPANS[1] else "vanishes" if times < SPANS[0] else "arrives"


def line(job: Job, result: dict[str, Any]) -> str:
    if "activations" not in result:
        return (
            f"entropy {result[WAYS[1]][SCALES.index(1.0)]['entropy']:.3f} of the maximum at scale 1, divided by sqrt(d)"
        )
    return f"gradient, first over last block: {format_number(growth(result['gradients']))}  {fate(result)}"


def format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def networks(config: Config, results: dict[str, list[Any]]) -> list[str]:
    """A table: growth of the gradient by depth; at the greatest, that of activations, token similarity and outcome."""
    deepest, cells = max(config.depths), []
    for norm in NORMS:
        for residual in (True, False):
            for scale in (*config.scales, *((None,) if config.steps else ())):
                depths = config.depths if scale is not None else (min(12, deepest),)
                by_depth = {depth: results[Row(norm, residual, depth, scale).name][0] for depth in depths}
                last = by_depth[max(depths)]
                activation_growth = growth(last["activations"])
                name = f"{scale:g}" if scale is not None else f"trained, {max(depths)} blocks"
                cells.append([
                    kind(norm, residual), name,
                    *(format_number(growth(by_depth[d]["gradients"])) if d in by_depth else "" for d in config.depths),
                    format_number(1 / activation_growth if activation_growth else None),
                    "-" if last["alike"] is None else f"{last['alike']:.2f}", fate(last),
                ])  # fmt: skip
    head = [
        "norm",
        "scale",
        *(f"gradient, {depth} blocks" for depth in config.depths),
        "activations",
        "token similarity",
        "the gradient",
    ]
    return markdown_table(head, cells)


def softmaxes(config: Config, results: dict[str, list[Any]]) -> list[str]:
    """A table: largest weight and entropy by the scale of queries and keys, for the first seed."""
    cells = []
    for width in config.head_widths:
        for way in WAYS:
            values = results[Heads(width).name][0][way]
            cells.append([str(width), way, *(f"{v['largest']:.2f} / {v['entropy']:.2f}" for v in values)])
    return markdown_table(["head width", "logits", *(f"scale {scale:g}" for scale in SCALES)], cells)


def figure(config: Config, results: dict[str, list[Any]]) -> bytes:
    """Activations above, gradients below by block at the greatest depth, a column per norm position; softmax beside."""
    from matplotlib.figure import Figure

    chart = Figure(figsize=(15, 6.4), layout="constrained")
    grid = chart.subplots(2, len(NORMS) + 1)
    deepest = max(config.depths)
    for column, norm in enumerate(NORMS):
        for residual in (True, False):
            for number, scale in enumerate(config.scales):
                one = results[Row(norm, residual, deepest, scale).name][0]
                for axis, what in zip(grid[:, column], ("activations", "gradients"), strict=True):
                    values = [v or math.nan for v in one[what]]  # zero has no logarithm
                    name = f"scale {scale:g}{'' if residual else ', no residual'}"
                    axis.plot(
                        range(1, deepest + 1),
                        values,
                        label=name,
                        color=f"C{number}",
                        linestyle="-" if residual else ":",
                    )
        grid[0, column].set(title=f"norm: {norm}", yscale="log")
        grid[1, column].set(xlabel="block", yscale="log")
        for axis in grid[:, column]:
            axis.minorticks_off()
            low, high = axis.get_ylim()
            axis.set_ylim(
                min(low, high / 100), max(high, 100 * low)
            )  # at least two decades, so that small changes look small
    grid[0, 0].legend(fontsize="x-small")
    grid[0, 0].set_ylabel("activations, root mean square")
    grid[1, 0].set_ylabel("gradients, root mean square")
    for number, width in enumerate(config.head_widths):
        for way, style in zip(WAYS, ("-", "--", ":"), strict=True):
            values = results[Heads(width).name][0][way]
            for axis, what in zip(grid[:, -1], ("largest", "entropy"), strict=True):
                axis.plot(
                    SCALES, [v[what] for v in values], color=f"C{number}", linestyle=style, label=f"d = {width}, {way}"
                )
    grid[0, -1].set(title="softmax", ylabel="largest weight", ylim=(0, 1.02))
    grid[1, -1].set(xlabel="scale of queries and keys", ylabel="entropy / log N", ylim=(0, 1.02))
    grid[1, -1].legend(fontsize="x-small")
    return figure_svg(chart)
