"""What convolutions and attention are each good at: ResNet, ViT, hybrid and Swin of about the same size on the same images and steps.

Each is trained on shares of the training images, the number of steps being the same whatever the share. With the greatest share it is
then shown images that it was not trained for: shifted, noisy, blurred, covered in part, cut into patches that are shuffled, with low or
high frequencies alone, and drawn small; and each block is asked how far it sees. The page says what the numbers say.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from vitrail.analysis.cost import cost
from vitrail.analysis.hooks import evaluation_mode
from vitrail.assembly.prepare import PreparedRun
from vitrail.data.dataset import Split
from vitrail.engine.world import World
from vitrail.recipe import Recipe
from vitrail.studies._bench.bench import Bench, Job, group_by_row
from vitrail.studies._bench.result import ResultPart, StudyResult, markdown_table
from vitrail.studies._bench.trial import evaluation_split, load_resized, run_trial, short_recipe
from vitrail.studies.cnn_vs_vit import draw, words
from vitrail.studies.cnn_vs_vit.disturb import KINDS, SHIFTS, shifted
from vitrail.studies.cnn_vs_vit.field import even, fields, radius
from vitrail.validation import Positive, PositiveFloat

PIXELS = (1, 2, 4, 8)  # of shifts
LOOKED_AT = 32  # images, for the receptive field
MODELS: dict[str, dict[str, Any]] = {  # about 350,000 parameters each, for images of 28 x 28
    "ResNet": {"name": "resnet/18", "width": 12},
    "ViT": {"name": "vit/nano", "stem": "patch", "patch": 7, "width": 96, "depth": 3, "heads": 3},
    "hybrid": {"name": "hybrid/r_tiny", "stem_width": 32, "patch": 2, "width": 96, "depth": 3, "heads": 3},
    "Swin": {"name": "swin/tiny", "patch": 2, "width": 16, "depths": [1, 1, 2, 1], "heads": [1, 2, 4, 8]},
}
WEIGHTS = {"ResNet": 0.3, "ViT": 0.6, "hybrid": 0.6, "Swin": 1.0}  # time of a training step, about

Portion = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True)
class Config:
    data: str = (
        "mini"  # what is learned: "mini", or any data set of classes that vitrail train takes, one class an image
    )
    shares: tuple[Portion, ...] = (0.01, 0.1, 1.0)  # of the training images
    steps: Positive = 100  # of every training
    seeds: Positive = 3  # how often each is trained, with seeds 0, 1, ...
    batch: Positive = 64  # images a step
    lr: PositiveFloat = 2e-3
    test: Positive = 400  # held-out images, at most


@dataclass(frozen=True)
class Row:
    """A model and the share of the images that it learns from."""

    model: str
    share: float

    @property
    def name(self) -> str:
        return f"{self.model}, {100 * self.share:g} %"


def build(config: Config) -> tuple[Row, ...]:
    return tuple(Row(model, share) for share in sorted(set(config.shares)) for model in MODELS)


def recipe(config: Config) -> Recipe:
    """The same for every model: AdamW, warm-up, nothing augmented."""
    return short_recipe(config, {"name": "vit/nano"})


def run(config: Config, bench: Bench) -> StudyResult:
    """Trains and tries every model. Errors: those of preparing a run, and `DataError` for images of several classes each."""
    prepared = bench.prepare(recipe(config))
    rows, split = build(config), evaluation_split(prepared, config.test)
    named, most = {row.name: row for row in rows}, max(config.shares)
    jobs = [Job(row.name, seed, WEIGHTS[row.model]) for seed in range(config.seeds) for row in rows]

    def work(job: Job) -> dict[str, Any]:
        row = named[job.row]
        return measure_row(row, job.seed, prepared, split, bench.world, row.share == most)

    values = bench.measure(jobs, work, lambda job, found: f"accuracy {found['accuracy']:.4f}  {found['lost']}")
    measurements = group_by_row(jobs, values)
    found = {row: measurements[row.name] for row in rows}
    return build_result(found, 1 / len(prepared.dataset.classes))


def measure_row(row: Row, seed: int, prepared: PreparedRun, split: Split, world: World, whole: bool) -> dict[str, Any]:
    """One training, and its accuracy; where `whole`, everything else too. lost: why the training ended early, where it did."""
    trial = run_trial(prepared, {"model": MODELS[row.model], "data": {"fraction": row.share}}, seed, world)
    model, pre = trial.session.bundle.model, trial.session.preprocess
    images, labels = load_resized(split, pre, pre.size, world.device)
    costs = cost(model, pre.size)
    clean = answers(model, images)
    found = {
        "accuracy": share(clean == labels),
        "lost": trial.reason,
        "parameters": costs.parameters,
        "macs": costs.macs,
    }
    if not whole:
        return found
    pixels = images * numbers(pre.std, images) + numbers(pre.mean, images)

    def said(changed: Tensor) -> Tensor:
        return answers(model, (changed - numbers(pre.mean, images)) / numbers(pre.std, images))

    moved = {p: torch.stack([said(shifted(pixels, p * down, p * right)) for down, right in SHIFTS]) for p in PIXELS}
    looked = [radius(field) for field in fields(model, images[:LOOKED_AT])]
    return {
        **found,
        "shift": {str(p): {"accuracy": share(m == labels), "same": share(m == clean)} for p, m in moved.items()},
        "disturbed": {
            kind: {f"{level:g}": share(said(change(pixels, level, seed)) == labels) for level in levels}
            for kind, (change, levels) in KINDS.items()
        },
        "radii": looked,
        "even": even(pre.size),
    }  # fmt: skip


def numbers(values: tuple[float, ...], like: Tensor) -> Tensor:
    """One number a channel, [C 1 1]."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


@torch.no_grad()
def answers(model: nn.Module, images: Tensor, chunk: int = 250) -> Tensor:
    """The class that is said of each image, [N]."""
    with evaluation_mode(model):
        return torch.cat([model(x).argmax(1) for x in images.split(chunk)])


def share(right: Tensor) -> float:
    return float(right.double().mean())


def build_result(found: dict[Row, list[dict[str, Any]]], chance: float) -> StudyResult:
    """Everything that is said, from the numbers alone. chance: the accuracy of guessing."""
    most = max(row.share for row in found)
    whole = {row.model: values for row, values in found.items() if row.share == most}
    accuracy = {row: [v["accuracy"] for v in values] for row, values in found.items()}
    by_share = {
        s: {row.model: v for row, v in accuracy.items() if row.share == s} for s in sorted({row.share for row in found})
    }
    by_model = {m: {row.share: v for row, v in accuracy.items() if row.model == m} for m in whole}
    macs = {m: values[0]["macs"] / 1e6 for m, values in whole.items()}
    clean = by_share[most]
    levels = {kind: {m: {0.0: clean[m], **{float(k): [v["disturbed"][kind][k] for v in values] for k in values[0]["disturbed"][kind]}}
                     for m, values in whole.items()} for kind in KINDS}  # fmt: skip
    left = {
        kind: words.kept(clean, {m: over(line) for m, line in lines.items()}, chance) for kind, lines in levels.items()
    }
    moved = {what: {m: {float(p): [v["shift"][p][what] for v in values] for p in values[0]["shift"]} for m, values in whole.items()}
             for what in ("accuracy", "same")}  # fmt: skip
    radii, wide = (
        {m: [v["radii"] for v in values] for m, values in whole.items()},
        next(iter(whole.values()))[0]["even"],
    )
    figures = {
        "hunger.svg": draw.hunger(by_model, macs, clean), "shift.svg": draw.shift(moved["accuracy"], moved["same"]),
        "disturbed.svg": draw.disturbed(levels), "fields.svg": draw.fields(radii, wide),
    }  # fmt: skip
    same = {p: {m: moved["same"][m][p] for m in whole} for p in map(float, PIXELS)}
    cells = disturbances(left, moved["accuracy"])
    parts = (
        ResultPart("Hunger for data", tuple(words.hunger(by_share)), "hunger.svg", *accuracies(by_model, whole)),
        ResultPart("Compute", tuple(words.compute(clean, macs))),
        ResultPart("Shifts", tuple(words.shift(same)), "shift.svg"),
        ResultPart("Images that were not trained for", tuple(words.disturbed(left)), "disturbed.svg", *cells),
        ResultPart("Shape or texture", tuple(words.texture(left["patch shuffle"]))),
        ResultPart("Noise and frequencies", (*words.noise(left["noise"]), *words.frequencies(left["low frequencies only"],
                                                                                       left["high frequencies only"]))),
        ResultPart("How far blocks see", tuple(words.fields(radii, wide)), "fields.svg"),
    )  # fmt: skip
    head, rows = accuracies(by_model, whole)
    lines = [
        *markdown_table(head, rows),
        "",
        *markdown_table(*cells),
        "",
        *(f"- {said}" for part in parts for said in part.sentences),
    ]
    listed = [{"model": row.model, "share": row.share, "trainings": values} for row, values in found.items()]
    return StudyResult({"chance": chance, "rows": listed}, lines, figures, "Convolutions and attention", parts)


def over(line: dict[float, list[float]]) -> list[float]:
    """The mean over levels, for each seed; the image as it is left out."""
    return [words.mean(each) for each in zip(*list(line.values())[1:], strict=True)]


def percent(values: list[float]) -> str:
    return f"{100 * words.mean(values):.1f}" + (f" ± {100 * words.spread(values):.1f}" if values[1:] else "")


def accuracies(
    by_model: dict[str, dict[float, list[float]]], whole: dict[str, Any]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Accuracy in percent by share, with what each model costs: the head and the rows of a table."""
    head = (
        "model",
        "parameters",
        "multiply-adds",
        *(f"{100 * s:g} % of the images" for s in next(iter(by_model.values()))),
    )
    rows = tuple((m, f"{whole[m][0]['parameters']:,}", f"{whole[m][0]['macs'] / 1e6:.1f} M", *map(percent, line.values()))
                 for m, line in by_model.items())  # fmt: skip
    return head, rows


def disturbances(
    left: dict[str, words.Values], moved: dict[str, dict[float, list[float]]]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """What is left above guessing, over all levels, in percent; and the accuracy of shifted images."""
    models = list(moved)
    shifts = tuple(
        (f"shifted by {p:g}, accuracy", *(percent(moved[m][p]) for m in models)) for p in next(iter(moved.values()))
    )
    kept = tuple((f"{kind}, left", *(percent(list(values[m])) for m in models)) for kind, values in left.items())
    return ("", *models), (*shifts, *kept)
