"""Where signals and gradients explode or vanish: where the norm stands, residual connections, depth and the scale of the weights.

ViTs that have not been trained are shown one batch of images. Measured at every block: the root mean square of what it gives and of the
loss's gradient there, and, after the last one, how alike the tokens of an image have become. Then the same after a few steps of training,
at the usual initialisation. Apart from that, softmax by numbers alone: how sharp attention is for queries and keys of a given scale, with
and without the division by sqrt(d), and with normalised queries and keys.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.analysis.gradient_flow import measure_flow
from vitrail.analysis.hooks import blocks_of, evaluation_mode, temporary_hooks
from vitrail.assembly.model import build_preprocess, create_model
from vitrail.assembly.prepare import PreparedRun
from vitrail.engine.world import World
from vitrail.recipe import Recipe, from_tables
from vitrail.studies._bench.bench import Bench, Job
from vitrail.studies._bench.result import StudyResult, figure_svg, markdown_table
from vitrail.studies._bench.trial import load_batch, run_trial
from vitrail.validation import Count, Positive, PositiveFloat

NORMS = ("pre", "post", "none")
SPANS = (
    1e-3,
    1e3,
)  # of the gradient's growth from the last block back to the first: beyond them it vanishes or explodes
WAYS = ("q k", "q k / sqrt(d)", "normalised")
SCALES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # of the entries of queries and keys
DRAWS = 256  # queries


@dataclass(frozen=True)
class Config:
    data: str = "mini"  # the images: "mini", or any data set that vitrail train takes
    depths: tuple[Positive, ...] = (4, 12, 24, 48)  # blocks
    scales: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)  # of the weights in blocks, times 1 / sqrt(inputs)
    width: Positive = 64  # of the tokens; a multiple of 16
    patch: Positive = 7  # pixels
    batch: Positive = 32  # images
    steps: Count = 40  # of the short trainings, 12 blocks deep at most; 0: none
    seeds: Positive = 1  # how often each row is measured, with seeds 0, 1, ...
    head_widths: tuple[Positive, ...] = (16, 64, 256)  # of queries and keys, where softmax is looked at alone
    tokens: Positive = 196  # keys that a query looks at there


@dataclass(frozen=True)
class Row:
    """A network. scale: of its weights, None for the usual initialisation, with which it is trained for some steps first."""

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
    """Queries and keys of one width, at every scale and in every way."""

    width: int

    @property
    def name(self) -> str:
        return f"softmax, heads {self.width} wide"


def kind(norm: str, residual: bool) -> str:
    return f"{norm}{'' if residual else ', no residual'}"


def build(config: Config) -> tuple[Row | Heads, ...]:
    """Softmax first, then networks that were not trained, then those that were."""
    shapes = [(norm, residual) for norm in NORMS for residual in (True, False)]
    fresh = [Row(*shape, depth, scale) for shape in shapes for scale in config.scales for depth in config.depths]
    short = [Row(*shape, min(12, max(config.depths)), None) for shape in shapes] if config.steps else []
    return (*map(Heads, config.head_widths), *fresh, *short)


def recipe(config: Config) -> Recipe:
    """The short training: that of `vitrail study stability`, with its rate."""
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
    return {"width": config.width, "heads": max(1, config.width // 16), "patch": config.patch, "stem": "patch", "position": "sincos2d",
            "depth": row.depth, "norm_at": row.norm, "residual": row.residual}  # fmt: skip


def run(config: Config, bench: Bench) -> StudyResult:
    """Measures every row. Errors: those of preparing a run."""
    prepared = bench.prepare(recipe(config))
    rows = build(config)
    named = {row.name: row for row in rows}
    jobs = [Job(row.name, seed, weight(config, row)) for row in rows for seed in range(config.seeds)]
    values = bench.measure(jobs, lambda job: measure_row(named[job.row], job.seed, config, prepared, bench.world), line)
    found: dict[str, list[Any]] = {row.name: [] for row in rows}
    for job, value in zip(jobs, values, strict=True):
        found[job.row].append(value)
    numbers = {"rows": [{"name": name, "found": values} for name, values in found.items()]}
    lines = [*networks(config, found), "", *softmaxes(config, found)]
    return StudyResult(numbers, lines, {"figure.svg": figure(config, found)})


def weight(config: Config, row: Row | Heads) -> float:
    """About how many passes over 12 blocks a row takes."""
    return 0.1 if isinstance(row, Heads) else row.depth / 12 * (1 + config.steps * (row.scale is None))


def measure_row(row: Row | Heads, seed: int, config: Config, prepared: PreparedRun, world: World) -> dict[str, Any]:
    if isinstance(row, Heads):
        return {
            way: [sharpness(*logits(row.width, config.tokens, scale, way, seed)) for scale in SCALES] for way in WAYS
        }
    return network(row, seed, config, prepared, world)


def network(row: Row, seed: int, config: Config, prepared: PreparedRun, world: World) -> dict[str, Any]:
    """What passes through one network; numbers that are not finite are None. lost: why a training ended early."""
    dataset, lost = prepared.dataset, ""
    given = keys(config, row)
    if row.scale is None:
        trial = run_trial(prepared, {"model": given}, seed, world)
        model, lost = trial.session.bundle.model, trial.reason
    else:
        torch.manual_seed(seed)
        size, channels = prepared.recipe.input.size, prepared.recipe.input.channels
        model = create_model(
            "vit/nano", len(dataset.classes), {**given, "size": list(size or ()), "channels": channels}
        ).to(world.device)
        rescale(model, row.scale)
    images, labels = load_batch(
        dataset.splits["train"],
        range(min(config.batch, len(dataset.splits["train"]))),
        build_preprocess(prepared.recipe.input),
    )
    images, labels = images.to(world.device), labels.to(world.device)
    passed = measure_flow(model, lambda m: F.cross_entropy(m(images), labels))
    return {
        "activations": [finite(one.out.activation) for one in passed],
        "gradients": [finite(one.out.gradient) for one in passed],
        "alike": finite(alike(model, images)),
        "lost": lost,
    }


def rescale(model: nn.Module, scale: float) -> None:
    """Draws every matrix in the blocks anew: normal, with `scale` / sqrt(inputs); with 1, numbers keep their variance through it."""
    for block in blocks_of(model).values():
        for module in block.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=scale / module.in_features**0.5)


@torch.no_grad()
def alike(model: nn.Module, images: Tensor) -> float:
    """The mean cosine between two tokens of an image after the last block: 1 where all have become one, NaN where nothing is left."""
    seen: list[Tensor] = []
    last = list(blocks_of(model).values())[-1]
    with (
        evaluation_mode(model),
        temporary_hooks([last.register_forward_hook(lambda module, args, out: seen.append(out))]),
    ):
        model(images)
    x = seen[0].double()
    unit = x / x.norm(dim=-1, keepdim=True)
    count = unit.shape[1]
    return float(((unit.sum(1).square().sum(-1) - count) / (count * (count - 1))).mean())


def logits(width: int, tokens: int, scale: float, way: str, seed: int) -> tuple[Tensor, int]:
    """What softmax is given [queries keys] by random queries and keys with entries of a standard deviation, and the count of keys."""
    draw = torch.Generator().manual_seed(seed)
    q, k = (scale * torch.randn(n, width, generator=draw, dtype=torch.float64) for n in (DRAWS, tokens))
    if way == "normalised":
        q, k = (F.layer_norm(x, (width,)) for x in (q, k))
    found = q @ k.T
    return (found if way == "q k" else found / width**0.5), tokens


def sharpness(given: Tensor, tokens: int) -> dict[str, float]:
    """Means over queries. largest: the greatest weight; entropy: as a share of its most, log(keys); slope: 1 - sum of squared weights,
    the trace of softmax's derivative: 0 where no gradient comes through."""
    weights = given.softmax(-1)
    entropy = -(weights * given.log_softmax(-1)).sum(-1)
    return {
        "largest": float(weights.amax(-1).mean()),
        "entropy": float(entropy.mean() / math.log(tokens)) if tokens > 1 else 0.0,
        "slope": float(1 - weights.square().sum(-1).mean()),
    }


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def growth(values: list[float | None]) -> float | None:
    """How many times the first of some norms is the last; None where one is not finite or nothing is left of the last."""
    if any(v is None for v in values):
        return None
    first, last = values[0], values[-1]
    return first / last if first is not None and last else None


def fate(found: dict[str, Any]) -> str:
    """What becomes of the gradient on its way from the last block to the first."""
    if found["lost"] or any(v is None for v in found["activations"] + found["gradients"]):
        return "not finite"
    times = growth(found["gradients"])
    if not found["gradients"][0]:
        return "vanishes"
    return "explodes" if times is None or times > SPANS[1] else "vanishes" if times < SPANS[0] else "arrives"


def line(job: Job, found: dict[str, Any]) -> str:
    if "activations" not in found:
        return f"entropy {found[WAYS[1]][SCALES.index(1.0)]['entropy']:.3f} of the most at scale 1, divided by sqrt(d)"
    return f"gradient, first over last block: {spelled(growth(found['gradients']))}  {fate(found)}"


def spelled(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def networks(config: Config, found: dict[str, list[Any]]) -> list[str]:
    """A table: growth of the gradient by depth, and of activations, likeness of tokens and fate at the greatest; of the first seed."""
    deepest, cells = max(config.depths), []
    for norm in NORMS:
        for residual in (True, False):
            for scale in (*config.scales, *((None,) if config.steps else ())):
                depths = config.depths if scale is not None else (min(12, deepest),)
                there = {depth: found[Row(norm, residual, depth, scale).name][0] for depth in depths}
                last = there[max(depths)]
                grown = growth(last["activations"])
                name = f"{scale:g}" if scale is not None else f"trained, {max(depths)} blocks"
                cells.append([
                    kind(norm, residual), name, *(spelled(growth(there[d]["gradients"])) if d in there else "" for d in config.depths),
                    spelled(1 / grown if grown else None), "-" if last["alike"] is None else f"{last['alike']:.2f}", fate(last),
                ])  # fmt: skip
    head = [
        "norm",
        "scale",
        *(f"gradient, {depth} blocks" for depth in config.depths),
        "activations",
        "tokens alike",
        "the gradient",
    ]
    return markdown_table(head, cells)


def softmaxes(config: Config, found: dict[str, list[Any]]) -> list[str]:
    """A table: largest weight and entropy by the scale of queries and keys, the first seed."""
    cells = []
    for width in config.head_widths:
        for way in WAYS:
            values = found[Heads(width).name][0][way]
            cells.append([str(width), way, *(f"{v['largest']:.2f} / {v['entropy']:.2f}" for v in values)])
    return markdown_table(["head width", "logits", *(f"scale {scale:g}" for scale in SCALES)], cells)


def figure(config: Config, found: dict[str, list[Any]]) -> bytes:
    """Activations above, gradients below by block at the greatest depth, a column for each place of the norm; softmax beside them."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(15, 6.4), layout="constrained")
    grid = made.subplots(2, len(NORMS) + 1)
    deepest = max(config.depths)
    for column, norm in enumerate(NORMS):
        for residual in (True, False):
            for number, scale in enumerate(config.scales):
                one = found[Row(norm, residual, deepest, scale).name][0]
                for axis, what in zip(grid[:, column], ("activations", "gradients"), strict=True):
                    values = [v or math.nan for v in one[what]]  # a logarithm shows no zero
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
            axis.set_ylim(min(low, high / 100), max(high, 100 * low))  # what hardly changes shall look so
    grid[0, 0].legend(fontsize="x-small")
    grid[0, 0].set_ylabel("activations, root mean square")
    grid[1, 0].set_ylabel("gradients, root mean square")
    for number, width in enumerate(config.head_widths):
        for way, style in zip(WAYS, ("-", "--", ":"), strict=True):
            values = found[Heads(width).name][0][way]
            for axis, what in zip(grid[:, -1], ("largest", "entropy"), strict=True):
                axis.plot(
                    SCALES, [v[what] for v in values], color=f"C{number}", linestyle=style, label=f"d = {width}, {way}"
                )
    grid[0, -1].set(title="softmax", ylabel="largest weight", ylim=(0, 1.02))
    grid[1, -1].set(xlabel="scale of queries and keys", ylabel="entropy / log N", ylim=(0, 1.02))
    grid[1, -1].legend(fontsize="x-small")
    return figure_svg(made)
