"""What a denoiser should predict (x, noise or velocity) when a patch has more dimensions than the network width.

Small JiTs are trained on the same images, each with one of three predictions (x, eps, v) and its loss in one of three
spaces: once with patches of fewer dimensions than the network's width, once with a patch as large as the image. Noise
fills all dimensions of a patch and does not pass a narrow network; images lie on a manifold of lower dimension. After
table 2 of Li & He 2025 (arxiv.org/abs/2511.13720). Rows are compared by the Fréchet distance of generated to held-out
images in pixel space, and by the held-out loss in x, whatever the training loss was.
"""

import base64
import dataclasses
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitrail.assembly.model import ModelBundle
from vitrail.assembly.prepare import PreparedRun
from vitrail.data.splits import evaluation_part
from vitrail.engine.processes.world import World
from vitrail.evaluation import evaluate
from vitrail.inference.sample import SampleRequest, encode_sheet, sample_images
from vitrail.metrics.generation import frechet
from vitrail.recipe import Recipe, override
from vitrail.studies._bench.bench import Bench, Job, group_by_row
from vitrail.studies._bench.images import take_images
from vitrail.studies._bench.result import ResultPart, StudyResult, figure_svg
from vitrail.studies._bench.result import markdown_table as markdown
from vitrail.studies._bench.trial import Trial, run_trial, short_recipe
from vitrail.tasks.diffusion import Diffusion, Sampling
from vitrail.validation import Positive, PositiveFloat

SPACES = ("x", "eps", "v")
SAMPLER = Sampling(sampler="euler", steps=25)  # no guidance, which would hide the failures
SHOWN, LEVELS = 6, 7  # images of a cell in the figure, and its grey levels beside black
REAL = 4000  # held-out images at most
FAILS = 3.0  # times the distance of the best cell at the same patch


@dataclass(frozen=True)
class Config:
    data: str = "mini"  # training data: "mini", or any data set of images in classes that vitrail train accepts
    steps: Positive = 300  # of every row
    seeds: Positive = 1  # how often each row is trained, with seeds 0, 1, ...
    batch: Positive = 64  # images a step
    lr: PositiveFloat = 2e-3  # of every row
    side: Positive = 28  # pixels of an image's side, and of the large patch
    small: Positive = 7  # pixels of the small patch
    width: Positive = 64  # of the tokens; a multiple of 16, between the dimensions of the small and the large patch
    depth: Positive = 3  # blocks of the model
    count: Positive = 300  # images generated to evaluate a row


@dataclass(frozen=True)
class Row:
    """A training run: a cell of the table of its patch."""

    patch: int
    prediction: str
    loss: str

    @property
    def name(self) -> str:
        return f"patch {self.patch}, predicts {self.prediction}, loss in {self.loss}"

    @property
    def changes(self) -> dict[str, dict[str, Any]]:
        return {"model": {"patch": self.patch}, "task": {"prediction": self.prediction, "loss_space": self.loss}}


@dataclass(frozen=True)
class Real:
    """Held-out images in [0, 1] [N D], and the distance to them of as many training images as are generated."""

    images: Tensor
    floor: float


def build(config: Config) -> tuple[Row, ...]:
    """Nine cells for each patch."""
    return tuple(
        Row(patch, prediction, loss)
        for patch in (config.small, config.side)
        for prediction in SPACES
        for loss in SPACES
    )


def recipe(config: Config) -> Recipe:
    """The recipe that all rows share: noise scale 1 for images in [-1, 1], no horizontal flips."""
    model = {"name": "jit/nano", "width": config.width, "depth": config.depth, "heads": max(1, config.width // 16),
             "bottleneck": config.width, "context": 1, "context_start": min(1, config.depth - 1)}  # fmt: skip
    common = override(short_recipe(config, model), "optim", {"ema_decay": 0.99, "ema_decay_2": 0.0})
    with_size = override(common, "input", {"size": [config.side, config.side]})
    return override(with_size, "task", {"name": "diffusion", "objective": "flow", "noise_scale": 1.0})


def run(config: Config, bench: Bench) -> StudyResult:
    """Trains every row, one after another. Errors: those of preparing a run."""
    prepared = bench.prepare(recipe(config))
    rows, real = build(config), load_real(config, prepared)
    rows_by_name = {row.name: row for row in rows}
    jobs = [
        Job(row.name, seed, float(config.side // row.patch) ** 2 + 1) for row in rows for seed in range(config.seeds)
    ]
    values = bench.measure(
        jobs, lambda job: measure_row(rows_by_name[job.row], job.seed, config, prepared, real, bench.world), line
    )
    measurements = group_by_row(jobs, values)
    cells = {row: measurements[row.name] for row in rows}
    numbers = {
        "distance_of_training_images": real.floor,
        "rows": [
            {
                **dataclasses.asdict(row),
                "trainings": [{k: v for k, v in one.items() if k != "images"} for one in trainings],
            }
            for row, trainings in cells.items()
        ],
    }  # fmt: skip
    head = ("prediction", *(f"patch {patch}, loss in {loss}" for patch in patches(config) for loss in SPACES))
    distances, losses = (cell_rows(config, cells, key) for key in ("frechet", "x_loss"))
    summary = sentences(config, cells, real)
    lines = [
        "Fréchet distance in pixels:",
        "",
        *markdown(head, distances),
        "",
        "Held-out loss in x:",
        "",
        *markdown(head, losses),
        "",
    ]
    figure_bytes = figure(config, cells)
    parts = (
        ResultPart("Generated images of each cell", tuple(summary), "figure.svg"),
        ResultPart("Fréchet distance in pixels", ("Lower is better.",), "", head, distances),
        ResultPart("Held-out loss, in x for every row", ("Lower is better.",), "", head, losses),
    )
    return StudyResult(numbers, [*lines, *summary], {"figure.svg": figure_bytes}, "Prediction space", parts)


def patches(config: Config) -> tuple[int, int]:
    return config.small, config.side


def load_real(config: Config, prepared: PreparedRun) -> Real:
    """Held-out images, and the distance of training images to them."""
    splits = prepared.dataset.splits
    held_out = take_images(splits[evaluation_part(prepared.dataset, final=True)], prepared, REAL)
    train = take_images(splits["train"], prepared, config.count)
    return Real(held_out, frechet(held_out, train))


def measure_row(row: Row, seed: int, config: Config, prepared: PreparedRun, real: Real, world: World) -> dict[str, Any]:
    """One training run, evaluated with EMA weights."""
    trial = run_trial(prepared, row.changes, seed, world)
    if trial.reason:
        return {"frechet": None, "x_loss": None, "final_loss": None, "reason": trial.reason, "images": ""}
    session = trial.session
    bundle = ModelBundle(session.state.best_model, session.bundle.task, session.recipe, session.bundle.classes)
    classes = len(bundle.classes)
    request = SampleRequest(tuple(i % classes for i in range(config.count)), tuple(range(config.count)))
    samples = sample_images(bundle, request, SAMPLER)
    flat = torch.from_numpy(samples.transpose(0, 3, 1, 2).copy()).flatten(1).double() / 255
    return {
        "frechet": frechet(real.images, flat), "x_loss": x_loss(bundle, trial),
        "final_loss": float(np.mean(trial.losses[-20:])),
        "reason": "", "images": base64.b64encode(encode_sheet(samples[:SHOWN], SHOWN)).decode(),
    }  # fmt: skip


def x_loss(bundle: ModelBundle, trial: Trial) -> float:
    """The held-out loss in x, comparable between rows that were trained in other spaces."""
    session = trial.session
    x_task = Diffusion(dataclasses.replace(bundle.task.config, loss_space="x"))
    split = session.dataset.splits[evaluation_part(session.dataset, final=True)]
    x_bundle = dataclasses.replace(bundle, task=x_task)
    result = evaluate.evaluate(x_bundle, split, session.world, session.preprocess, 0, session.precision)
    return float(result.metrics["held_out_loss"])


def line(job: Job, value: dict[str, Any]) -> str:
    return value["reason"] or f"distance {value['frechet']:8.2f}  loss in x {value['x_loss']:.4f}"


def mean(trainings: list[dict[str, Any]], key: str) -> float:
    """Over the seeds; infinite if one is not finite."""
    values = [one[key] for one in trainings]
    return math.inf if None in values else float(np.mean(values))


def cell_rows(config: Config, cells: dict[Row, list[dict[str, Any]]], key: str) -> tuple[tuple[str, ...], ...]:
    """A row for each prediction, a column for each patch and loss."""
    return tuple(
        (
            prediction,
            *(
                format_value(mean(cells[Row(patch, prediction, loss)], key))
                for patch in patches(config)
                for loss in SPACES
            ),
        )
        for prediction in SPACES
    )


def format_value(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"


def sentences(config: Config, cells: dict[Row, list[dict[str, Any]]], real: Real) -> list[str]:
    """The distances in sentences, patch by patch."""
    channels = real.images.shape[1] // config.side**2
    lines = []
    for patch in patches(config):
        best = {
            prediction: min(mean(cells[Row(patch, prediction, loss)], "frechet") for loss in SPACES)
            for prediction in SPACES
        }
        first = min(best.values())
        failed = [prediction for prediction in SPACES if best[prediction] > FAILS * first]
        verdict = f"{' and '.join(failed)} {'fail' if len(failed) > 1 else 'fails'}" if failed else "none fails"
        each = ", ".join(f"{prediction} {format_value(value)}" for prediction, value in best.items())
        lines.append(
            f"Patch {patch}, {patch**2 * channels} dimensions at a width of {config.width}: with its best loss each "
            f"prediction reaches {each}; {verdict} (more than {FAILS:g} times the best)."
        )
    return [
        *lines,
        f"The same number of training images has a distance of {format_value(real.floor)} from the held-out ones.",
    ]


def figure(config: Config, cells: dict[Row, list[dict[str, Any]]]) -> bytes:
    """Images of each cell, the first of seed 0, with its distance: patches and predictions downwards, losses across."""
    from matplotlib.figure import Figure

    chart = Figure(figsize=(9, 5.4), layout="constrained")
    axes = chart.subplots(6, 3, squeeze=False)
    for row, trainings in cells.items():
        position = 3 * patches(config).index(row.patch) + SPACES.index(row.prediction)
        axis = axes[position][SPACES.index(row.loss)]
        axis.set(xticks=[], yticks=[])
        distance = format_value(mean(trainings, "frechet"))
        axis.set_title(f"patch {row.patch}, predicts {row.prediction}, loss in {row.loss}: {distance}", fontsize=8)
        if trainings[0]["images"]:
            with Image.open(io.BytesIO(base64.b64decode(trainings[0]["images"]))) as strip:
                shades = np.round(np.asarray(strip) / 255 * LEVELS) / LEVELS  # fewer grey levels: a smaller file
                axis.imshow(shades, cmap="gray", vmin=0, vmax=1, interpolation="none")
    return figure_svg(chart)
