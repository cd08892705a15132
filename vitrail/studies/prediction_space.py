"""What a denoiser should say, the image, the noise or the velocity, when a patch has more numbers than the network is wide.

Small JiTs learn the same images, each with one of three predictions (x, eps, v) and its error measured in one of three spaces: once with
patches of fewer numbers than the network's width, once with a patch as large as the image. Noise fills every number of a patch and does
not go through a narrow network; images need fewer. After table 2 of Li & He 2025 (arxiv.org/abs/2511.13720). Rows are compared by the
Fréchet distance of made to held-out images in the pixels themselves, and by the held-out loss of every row in x, whatever it learned by.
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

from vitrail.assembly.model import ModelBundle, build_preprocess
from vitrail.assembly.prepare import PreparedRun
from vitrail.data.dataset import Split
from vitrail.data.loader import Fetcher
from vitrail.data.sampling import Keys
from vitrail.data.splits import evaluation_part
from vitrail.data.subset import evenly_spaced
from vitrail.engine.world import World
from vitrail.evaluation import evaluate
from vitrail.inference.sample import SampleRequest, encode_sheet, sample_images
from vitrail.metrics.generation import frechet
from vitrail.recipe import Recipe, override
from vitrail.studies._bench.bench import Bench, Job, group_by_row
from vitrail.studies._bench.result import ResultPart, StudyResult, figure_svg
from vitrail.studies._bench.result import markdown_table as markdown
from vitrail.studies._bench.trial import Trial, run_trial, short_recipe
from vitrail.tasks.diffusion import Diffusion, Sampling
from vitrail.validation import Positive, PositiveFloat

SPACES = ("x", "eps", "v")
SAMPLER = Sampling(sampler="euler", steps=25)  # no guidance, which would hide what the network cannot
SHOWN, LEVELS = 6, 7  # images of a cell in the figure, and its shades of grey beside black
REAL = 4000  # held-out images at most
FAILS = 3.0  # times the distance of the best cell at the same patch


@dataclass(frozen=True)
class Config:
    data: str = "mini"  # what is learned: "mini", or any data set of images in classes that vitrail train takes
    steps: Positive = 300  # of every row
    seeds: Positive = 1  # how often each row is trained, with seeds 0, 1, ...
    batch: Positive = 64  # images a step
    lr: PositiveFloat = 2e-3  # of every row
    side: Positive = 28  # pixels of an image's side, and of the large patch
    small: Positive = 7  # pixels of the small patch
    width: Positive = (
        64  # of the tokens; a multiple of 16, below the numbers of the large patch and above those of the small one
    )
    depth: Positive = 3  # blocks of the model
    count: Positive = 300  # images made to judge a row


@dataclass(frozen=True)
class Row:
    """A training: a cell of the table of its patch."""

    patch: int
    prediction: str
    loss: str

    @property
    def name(self) -> str:
        return f"patch {self.patch}, says {self.prediction}, loss in {self.loss}"

    @property
    def changes(self) -> dict[str, dict[str, Any]]:
        return {"model": {"patch": self.patch}, "task": {"prediction": self.prediction, "loss_space": self.loss}}


@dataclass(frozen=True)
class Real:
    """Held-out images in [0, 1] [N D], and the distance that as many training images have from them as are made."""

    images: Tensor
    floor: float


def build(config: Config) -> tuple[Row, ...]:
    """Nine cells for each patch."""
    return tuple(Row(patch, said, loss) for patch in (config.small, config.side) for said in SPACES for loss in SPACES)


def recipe(config: Config) -> Recipe:
    """What all rows have in common. Noise is as strong as images in [-1, 1] can be, and nothing is mirrored."""
    model = {"name": "jit/nano", "width": config.width, "depth": config.depth, "heads": max(1, config.width // 16),
             "bottleneck": config.width, "context": 1, "context_start": min(1, config.depth - 1)}  # fmt: skip
    common = override(short_recipe(config, model), "optim", {"ema_decay": 0.99, "ema_decay_2": 0.0})
    sized = override(common, "input", {"size": [config.side, config.side]})
    return override(sized, "task", {"name": "diffusion", "objective": "flow", "noise_scale": 1.0})


def run(config: Config, bench: Bench) -> StudyResult:
    """Trains every row, one after another. Errors: those of preparing a run."""
    prepared = bench.prepare(recipe(config))
    rows, known = build(config), load_real(config, prepared)
    named = {row.name: row for row in rows}
    jobs = [
        Job(row.name, seed, float(config.side // row.patch) ** 2 + 1) for row in rows for seed in range(config.seeds)
    ]
    values = bench.measure(
        jobs, lambda job: measure_row(named[job.row], job.seed, config, prepared, known, bench.world), line
    )
    measurements = group_by_row(jobs, values)
    cells = {row: measurements[row.name] for row in rows}
    numbers = {
        "distance_of_training_images": known.floor,
        "rows": [{**dataclasses.asdict(row), "trainings": [{k: v for k, v in one.items() if k != "images"} for one in found]}
                 for row, found in cells.items()],
    }  # fmt: skip
    head = ("the network says", *(f"patch {patch}, loss in {loss}" for patch in patches(config) for loss in SPACES))
    distances, losses = (cell_rows(config, cells, key) for key in ("frechet", "x_loss"))
    said = sentences(config, cells, known)
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
    drawn = figure(config, cells)
    parts = (
        ResultPart("What each cell makes", tuple(said), "figure.svg"),
        ResultPart("Fréchet distance in pixels", ("Less is better.",), "", head, distances),
        ResultPart("Held-out loss, in x for every row", ("Less is better.",), "", head, losses),
    )
    return StudyResult(numbers, [*lines, *said], {"figure.svg": drawn}, "Prediction space", parts)


def patches(config: Config) -> tuple[int, int]:
    return config.small, config.side


def load_real(config: Config, prepared: PreparedRun) -> Real:
    """Held-out images, and what images of the training part are worth by them."""
    splits = prepared.dataset.splits
    held = take_images(splits[evaluation_part(prepared.dataset, final=True)], prepared, REAL)
    train = take_images(splits["train"], prepared, config.count)
    return Real(held, frechet(held, train))


def take_images(split: Split, prepared: PreparedRun, most: int) -> Tensor:
    """Images evenly spaced through a part, as the model sees them, float64 [N D] in [0, 1]."""
    ids = evenly_spaced(len(split), most)
    found = Fetcher(split, build_preprocess(prepared.recipe.input))(Keys(np.zeros_like(ids), ids)).images
    return found.flatten(1).double() / 255


def measure_row(
    row: Row, seed: int, config: Config, prepared: PreparedRun, known: Real, world: World
) -> dict[str, Any]:
    """One training, judged with averaged weights."""
    trial = run_trial(prepared, row.changes, seed, world)
    if trial.reason:
        return {"frechet": None, "x_loss": None, "final_loss": None, "reason": trial.reason, "images": ""}
    session = trial.session
    bundle = ModelBundle(session.state.best_model, session.bundle.task, session.recipe, session.bundle.classes)
    classes = len(bundle.classes)
    request = SampleRequest(tuple(i % classes for i in range(config.count)), tuple(range(config.count)))
    made = sample_images(bundle, request, SAMPLER)
    flat = torch.from_numpy(made.transpose(0, 3, 1, 2).copy()).flatten(1).double() / 255
    return {
        "frechet": frechet(known.images, flat), "x_loss": x_loss(bundle, trial), "final_loss": float(np.mean(trial.losses[-20:])),
        "reason": "", "images": base64.b64encode(encode_sheet(made[:SHOWN], SHOWN)).decode(),
    }  # fmt: skip


def x_loss(bundle: ModelBundle, trial: Trial) -> float:
    """The held-out loss with its error measured in x, so that rows that learned by others can be compared."""
    session = trial.session
    common = Diffusion(dataclasses.replace(bundle.task.config, loss_space="x"))
    split = session.dataset.splits[evaluation_part(session.dataset, final=True)]
    asked = dataclasses.replace(bundle, task=common)
    return float(
        evaluate.evaluate(asked, split, session.world, session.preprocess, 0, session.precision).metrics[
            "held_out_loss"
        ]
    )


def line(job: Job, value: dict[str, Any]) -> str:
    return value["reason"] or f"distance {value['frechet']:8.2f}  loss in x {value['x_loss']:.4f}"


def mean(found: list[dict[str, Any]], key: str) -> float:
    """Over the seeds; infinite where one was not finite."""
    values = [one[key] for one in found]
    return math.inf if None in values else float(np.mean(values))


def cell_rows(config: Config, cells: dict[Row, list[dict[str, Any]]], key: str) -> tuple[tuple[str, ...], ...]:
    """A row for each prediction, a column for each patch and loss."""
    return tuple(
        (said, *(spelt(mean(cells[Row(patch, said, loss)], key)) for patch in patches(config) for loss in SPACES))
        for said in SPACES
    )


def spelt(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"


def sentences(config: Config, cells: dict[Row, list[dict[str, Any]]], known: Real) -> list[str]:
    """What the distances say, patch by patch."""
    channels = known.images.shape[1] // config.side**2
    found = []
    for patch in patches(config):
        best = {said: min(mean(cells[Row(patch, said, loss)], "frechet") for loss in SPACES) for said in SPACES}
        first = min(best.values())
        failed = [said for said in SPACES if best[said] > FAILS * first]
        told = f"{' and '.join(failed)} {'fail' if len(failed) > 1 else 'fails'}" if failed else "none fails"
        each = ", ".join(f"{said} {spelt(value)}" for said, value in best.items())
        found.append(
            f"Patch {patch}, {patch**2 * channels} numbers to a width of {config.width}: at its best loss each prediction reaches {each}; "
            f"{told} (more than {FAILS:g} times the best)."
        )
    return [
        *found,
        f"As many training images as were made have a distance of {spelt(known.floor)} from the held-out ones.",
    ]


def figure(config: Config, cells: dict[Row, list[dict[str, Any]]]) -> bytes:
    """Images of each cell, the first of seed 0, with its distance: patches and predictions downwards, losses across."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(9, 5.4), layout="constrained")
    axes = made.subplots(6, 3, squeeze=False)
    for row, found in cells.items():
        place = 3 * patches(config).index(row.patch) + SPACES.index(row.prediction)
        axis = axes[place][SPACES.index(row.loss)]
        axis.set(xticks=[], yticks=[])
        axis.set_title(
            f"patch {row.patch}, says {row.prediction}, loss in {row.loss}: {spelt(mean(found, 'frechet'))}", fontsize=8
        )
        if found[0]["images"]:
            with Image.open(io.BytesIO(base64.b64decode(found[0]["images"]))) as strip:
                shades = (
                    np.round(np.asarray(strip) / 255 * LEVELS) / LEVELS
                )  # noise of 256 shades would be most of the file
                axis.imshow(shades, cmap="gray", vmin=0, vmax=1, interpolation="none")
    return figure_svg(made)
