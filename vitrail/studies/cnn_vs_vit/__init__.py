"""Convolutions versus attention: ResNet, ViT, hybrid and Swin of about the same size, on the same images and steps.

Each is trained on fractions of the training images, with the same number of steps. The models of the greatest fraction
are then evaluated on shifted, noisy, blurred, occluded, patch-shuffled, low-pass, high-pass and downscaled images, and
the effective receptive field of each block is measured. The sentences of the report follow from the numbers.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from vitrail.analysis.cost import cost
from vitrail.assembly.prepare import PreparedRun
from vitrail.data.dataset import Split
from vitrail.engine.processes.world import World
from vitrail.layers.modes import evaluation_mode
from vitrail.recipe import Recipe
from vitrail.studies._bench.bench import Bench, Job, group_by_row
from vitrail.studies._bench.images import evaluation_split, load_resized
from vitrail.studies._bench.result import ResultPart, StudyResult, markdown_table
from vitrail.studies._bench.trial import run_trial, short_recipe
from vitrail.studies.cnn_vs_vit import draw, words
from vitrail.studies.cnn_vs_vit.disturb import KINDS, SHIFTS, shifted
from vitrail.studies.cnn_vs_vit.field import even, fields, radius
from vitrail.validation import Positive, PositiveFloat

PIXELS = (1, 2, 4, 8)  # of shifts
FIELD_IMAGES = 32  # images for the receptive field
MODELS: dict[str, dict[str, Any]] = {  # about 350,000 parameters each, for images of 28 x 28
    "ResNet": {"name": "resnet/18", "width": 12},
    "ViT": {"name": "vit/nano", "stem": "patch", "patch": 7, "width": 96, "depth": 3, "heads": 3},
    "hybrid": {"name": "hybrid/r_tiny", "stem_width": 32, "patch": 2, "width": 96, "depth": 3, "heads": 3},
    "Swin": {"name": "swin/tiny", "patch": 2, "width": 16, "depths": [1, 1, 2, 1], "heads": [1, 2, 4, 8]},
}
WEIGHTS = {"ResNet": 0.3, "ViT": 0.6, "hybrid": 0.6, "Swin": 1.0}  # relative time of a training step

Portion = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True)
class Config:
    data: str = "mini"  # training data: "mini", or any data set that vitrail train accepts, one class an image
    shares: tuple[Portion, ...] = (0.01, 0.1, 1.0)  # of the training images
    steps: Positive = 100  # of every training run
    seeds: Positive = 3  # how often each is trained, with seeds 0, 1, ...
    batch: Positive = 64  # images a step
    lr: PositiveFloat = 2e-3
    test: Positive = 400  # held-out images, at most


@dataclass(frozen=True)
class Row:
    """A model and the fraction of the training images that it is trained on."""

    model: str
    share: float

    @property
    def name(self) -> str:
        return f"{self.model}, {100 * self.share:g} %"


def build(config: Config) -> tuple[Row, ...]:
    return tuple(Row(model, share) for share in sorted(set(config.shares)) for model in MODELS)


def recipe(config: Config) -> Recipe:
    """The same for every model: AdamW, warm-up, no augmentation."""
    return short_recipe(config, {"name": "vit/nano"})


def run(config: Config, bench: Bench) -> StudyResult:
    """Trains and evaluates every model. Errors: those of preparing a run, and `DataError` for multi-label data."""
    prepared = bench.prepare(recipe(config))
    rows, split = build(config), evaluation_split(prepared, config.test)
    rows_by_name, most = {row.name: row for row in rows}, max(config.shares)
    jobs = [Job(row.name, seed, WEIGHTS[row.model]) for seed in range(config.seeds) for row in rows]

    def work(job: Job) -> dict[str, Any]:
        row = rows_by_name[job.row]
        return measure_row(row, job.seed, prepared, split, bench.world, row.share == most)

    values = bench.measure(jobs, work, lambda job, by_row: f"accuracy {by_row['accuracy']:.4f}  {by_row['lost']}")
    measurements = group_by_row(jobs, values)
    by_row = {row: measurements[row.name] for row in rows}
    return build_result(by_row, 1 / len(prepared.dataset.classes))


def measure_row(row: Row, seed: int, prepared: PreparedRun, split: Split, world: World, whole: bool) -> dict[str, Any]:
    """One training run and its accuracy; with `whole`, all other measurements. lost: why it ended early, or ""."""
    trial = run_trial(prepared, {"model": MODELS[row.model], "data": {"fraction": row.share}}, seed, world)
    model, pre = trial.session.bundle.model, trial.session.preprocess
    images, labels = load_resized(split, pre, pre.size, world.device)
    costs = cost(model, pre.size)
    clean = answers(model, images)
    result = {
        "accuracy": share(clean == labels),
        "lost": trial.reason,
        "parameters": costs.parameters,
        "macs": costs.macs,
    }
    if not whole:
        return result
    pixels = images * numbers(pre.std, images) + numbers(pre.mean, images)

    def predict(changed: Tensor) -> Tensor:
        return answers(model, (changed - numbers(pre.mean, images)) / numbers(pre.std, images))

    moved = {p: torch.stack([predict(shifted(pixels, p * down, p * right)) for down, right in SHIFTS]) for p in PIXELS}
    radii = [radius(field) for field in fields(model, images[:FIELD_IMAGES])]
    return {
        **result,
        "shift": {str(p): {"accuracy": share(m == labels), "same": share(m == clean)} for p, m in moved.items()},
        "disturbed": {
            kind: {f"{level:g}": share(predict(change(pixels, level, seed)) == labels) for level in levels}
            for kind, (change, levels) in KINDS.items()
        },
        "radii": radii,
        "even": even(pre.size),
    }  # fmt: skip


def numbers(values: tuple[float, ...], like: Tensor) -> Tensor:
    """One number a channel, [C 1 1]."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


@torch.no_grad()
def answers(model: nn.Module, images: Tensor, chunk: int = 250) -> Tensor:
    """The predicted class of each image, [N]."""
    with evaluation_mode(model):
        return torch.cat([model(x).argmax(1) for x in images.split(chunk)])


def share(correct: Tensor) -> float:
    return float(correct.double().mean())


def build_result(by_row: dict[Row, list[dict[str, Any]]], chance: float) -> StudyResult:
    """Sentences, tables and figures, from the numbers alone. chance: the accuracy of guessing."""
    most = max(row.share for row in by_row)
    whole = {row.model: values for row, values in by_row.items() if row.share == most}
    accuracy = {row: [v["accuracy"] for v in values] for row, values in by_row.items()}
    by_share = {
        s: {row.model: v for row, v in accuracy.items() if row.share == s}
        for s in sorted({row.share for row in by_row})
    }
    by_model = {m: {row.share: v for row, v in accuracy.items() if row.model == m} for m in whole}
    macs = {m: values[0]["macs"] / 1e6 for m, values in whole.items()}
    clean = by_share[most]
    levels = {kind: {m: by_level(clean[m], kind, values) for m, values in whole.items()} for kind in KINDS}
    retained = {
        kind: words.retained_accuracy(clean, {m: over(line) for m, line in lines.items()}, chance)
        for kind, lines in levels.items()
    }
    shifts = {what: {m: by_shift(what, values) for m, values in whole.items()} for what in ("accuracy", "same")}
    radii = {m: [v["radii"] for v in values] for m, values in whole.items()}
    wide = next(iter(whole.values()))[0]["even"]
    figures = {
        "hunger.svg": draw.data_efficiency(by_model, macs, clean),
        "shift.svg": draw.shift(shifts["accuracy"], shifts["same"]),
        "disturbed.svg": draw.disturbed(levels), "fields.svg": draw.fields(radii, wide),
    }  # fmt: skip
    same = {p: {m: shifts["same"][m][p] for m in whole} for p in map(float, PIXELS)}
    cells = disturbances(retained, shifts["accuracy"])
    parts = (
        ResultPart("Data efficiency", tuple(words.efficiency(by_share)), "hunger.svg", *accuracies(by_model, whole)),
        ResultPart("Compute", tuple(words.compute(clean, macs))),
        ResultPart("Shift invariance", tuple(words.shift(same)), "shift.svg"),
        ResultPart("Robustness to corruptions", tuple(words.disturbed(retained)), "disturbed.svg", *cells),
        ResultPart("Shape or texture", tuple(words.texture(retained["patch shuffle"]))),
        ResultPart("Noise and frequencies", (
            *words.noise(retained["noise"]),
            *words.frequencies(retained["low frequencies only"], retained["high frequencies only"]),
        )),
        ResultPart("Effective receptive field", tuple(words.fields(radii, wide)), "fields.svg"),
    )  # fmt: skip
    head, rows = accuracies(by_model, whole)
    lines = [
        *markdown_table(head, rows),
        "",
        *markdown_table(*cells),
        "",
        *(f"- {sentence}" for part in parts for sentence in part.sentences),
    ]
    rows_as_json = [{"model": row.model, "share": row.share, "trainings": values} for row, values in by_row.items()]
    return StudyResult({"chance": chance, "rows": rows_as_json}, lines, figures, "Convolutions and attention", parts)


def by_level(clean: list[float], kind: str, values: list[dict[str, Any]]) -> dict[float, list[float]]:
    """Accuracy of a model by the level of a corruption, 0 for the original images; one number per seed."""
    return {0.0: clean, **{float(k): [v["disturbed"][kind][k] for v in values] for k in values[0]["disturbed"][kind]}}


def by_shift(what: str, values: list[dict[str, Any]]) -> dict[float, list[float]]:
    """A measurement of a model by the shift in pixels; one number per seed."""
    return {float(p): [v["shift"][p][what] for v in values] for p in values[0]["shift"]}


def over(line: dict[float, list[float]]) -> list[float]:
    """The mean over levels, for each seed, without the original images."""
    return [words.mean(each) for each in zip(*list(line.values())[1:], strict=True)]


def percent(values: list[float]) -> str:
    return f"{100 * words.mean(values):.1f}" + (f" ± {100 * words.spread(values):.1f}" if values[1:] else "")


def accuracies(
    by_model: dict[str, dict[float, list[float]]], whole: dict[str, Any]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Accuracy in percent by fraction of the images, and the cost of each model: the head and the rows of a table."""
    head = (
        "model",
        "parameters",
        "multiply-adds",
        *(f"{100 * s:g} % of the images" for s in next(iter(by_model.values()))),
    )
    rows = tuple(
        (m, f"{whole[m][0]['parameters']:,}", f"{whole[m][0]['macs'] / 1e6:.1f} M", *map(percent, line.values()))
        for m, line in by_model.items()
    )
    return head, rows


def disturbances(
    left: dict[str, words.Values], moved: dict[str, dict[float, list[float]]]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Retained accuracy above chance over all levels, in percent, and the accuracy on shifted images."""
    models = list(moved)
    shifts = tuple(
        (f"shifted by {p:g}, accuracy", *(percent(moved[m][p]) for m in models)) for p in next(iter(moved.values()))
    )
    retained = tuple(
        (f"{kind}, retained", *(percent(list(values[m])) for m in models)) for kind, values in left.items()
    )
    return ("", *models), (*shifts, *retained)
