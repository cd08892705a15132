"""Accuracy at equal processor time, from random weights: `vitrail train` against timm's ViT and ResNet-18, yolo11n-cls
and a linear model of pixels. Writes its part of docs/results.md.

    OMP_NUM_THREADS=1 python benchmarks/race.py --data data --runs runs/race
    OMP_NUM_THREADS=1 python benchmarks/race.py --data data --sets bloodmnist --budgets 45 --only ours vit
    python benchmarks/race.py --write                                        # the page alone, from what is there

`--data` is a folder with fashion-mnist/ (the four official files), medmnist/{bloodmnist,organamnist}.npz and cifar-10/
(train/CLASS/*.png and test/CLASS/*.png). Ours is the real command with its defaults for the set; the others are in
`race_peers.py`. Each run is a process of its own with one thread, and what it used is counted by the kernel. Both sides
alike: every image lies decoded in memory, the whole training part is trained on, nothing is evaluated on the way, the
last weights are evaluated on the official test part. What a run of one step uses (imports, reading the set, the test,
the report) is start-up and not counted, everything else is. Steps are fixed before the first run of a set: by what a
step took in `--rounds` short runs, so no clock ends a run and each schedule ends at its budget; what a run really used
stands in its row. Finished runs are kept in `--runs` and not repeated; `--again ours` repeats those of a rival, and
`--tolerance 0.15` those off their budget by more than that. What a step takes is known better after a run than before.
`--yolo-python` is a Python that has ultralytics beside torch and numpy; without it yolo11n-cls is left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from history import append
from safetensors import safe_open

from vitrail.datasets import idx, imagefolder
from vitrail.metrics.intervals import wilson_interval
from vitrail.storage.atomic import write_file

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
START, END = "<!-- race -->", "<!-- /race -->"
SETS = {
    "bloodmnist": "medmnist/bloodmnist.npz",
    "cifar-10": "cifar-10",
    "fashion-mnist": "fashion-mnist",
    "organamnist": "medmnist/organamnist.npz",
}
TITLES = dict(zip(SETS, ("BloodMNIST", "CIFAR-10", "Fashion-MNIST", "OrganAMNIST"), strict=True))
SIDED = ("organamnist",)  # left and right are classes, so rivals do not flip
RIVALS = {
    "ours": "vitrail train",
    "vit": "timm ViT",
    "resnet": "timm ResNet-18",
    "resnet-small-stem": "timm ResNet-18, stem for small images",
    "yolo": "yolo11n-cls",
    "linear": "linear model of pixels",
}
BUDGETS, SEEDS = (45, 120, 600), 3  # processor seconds; seeds
PROBE = {"ours": 100, "vit": 80, "resnet": 30, "resnet-small-stem": 3, "yolo": 60, "linear": 4000}  # steps
KEPT = "--train.eval-every 0 --device cpu --quiet"


class Cell(NamedTuple):
    data: str
    budget: int
    rival: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.data}/{self.budget}/{self.rival}/{self.seed}"


class Race:
    """What has been run, in one file of JSON: starts and steps by set and rival, and rows by cell."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.file = given, given.runs / "race.json"
        known = json.loads(self.file.read_text()) if self.file.is_file() else {}
        self.steps: dict[str, dict[str, float]] = known.get("steps", {})
        self.rows: dict[str, dict[str, Any]] = known.get("rows", {})

    def save(self) -> None:
        write_file(self.file, json.dumps({"steps": self.steps, "rows": self.rows}, indent=1).encode())

    def forget(self, cells: list[Cell]) -> None:
        for cell in cells:
            self.rows.pop(cell.key, None)
            self.steps.pop(f"{cell.data}/{cell.rival}", None)

    def calibrate(self, data: str, rivals: list[str]) -> None:
        """Start-up and seconds a step of those that have none yet, in turns; medians of the rounds."""
        missing = [rival for rival in rivals if f"{data}/{rival}" not in self.steps]
        found: dict[str, list[tuple[float, float]]] = {rival: [] for rival in missing}
        for _ in range(self.given.rounds):
            for rival in missing:
                steps = max(2, round(PROBE[rival] * self.given.probe))
                short, long = (self.run(Cell(data, 0, rival, 0), count)["whole_s"] for count in (1, steps))
                found[rival].append((short, max(1e-6, (long - short) / (steps - 1))))
        for rival, pairs in found.items():
            start, step = (statistics.median(values) for values in zip(*pairs, strict=True))
            self.steps[f"{data}/{rival}"] = {"start_s": round(start, 2), "step_s": step}
            print(f"{data} {rival}: start {start:.1f} s, step {1e3 * step:.2f} ms", flush=True)
            self.save()

    def is_off(self, cell: Cell) -> bool:
        """Whether the run of a cell used more or less than its budget by more than `--tolerance`."""
        return abs(self.rows[cell.key]["seconds"] / cell.budget - 1) > self.given.tolerance

    def pace(self, cell: Cell) -> float:
        """Seconds a step of a rival on a set: the median of its runs, before the first by the calibration."""
        runs = [
            row for key, row in self.rows.items() if (one := key.split("/"))[0] == cell.data and one[2] == cell.rival
        ]
        if not runs:
            return self.steps[f"{cell.data}/{cell.rival}"]["step_s"]
        return statistics.median(row["seconds"] / row["steps"] for row in runs)

    def run(self, cell: Cell, steps: int) -> dict[str, Any]:
        """One run of so many steps: what is right of how many test images, and the processor seconds of all of it."""
        if cell.rival == "ours":
            return self.run_ours(cell, steps)
        python = self.given.yolo_python if cell.rival == "yolo" else sys.executable
        file = npz_of(cell.data, self.given)
        words = ["train", cell.rival, "--file", str(file), "--steps", str(steps), "--seed", str(cell.seed)]
        words += ["--no-flip"] if cell.data in SIDED else []
        output, seconds = launch([str(python), str(Path(__file__).with_name("race_peers.py")), *words])
        return {"whole_s": seconds, **json.loads(output.splitlines()[-1])}

    def run_ours(self, cell: Cell, steps: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=self.given.runs) as folder:
            out = Path(folder) / "run"
            words = [*data_words(cell.data, self.given), *KEPT.split(), *self.given.ours.split()]
            words += ["--steps", str(steps), "--seed", str(cell.seed), "--out", str(out)]
            _, seconds = launch([sys.executable, "-m", "vitrail", "train", *words])
            found = json.loads((out / "evaluation" / "test.json").read_text())
            recipe = tomllib.loads((out / "recipe.toml").read_text())
            with safe_open(out / "model.safetensors", "np") as file:
                size = sum(int(np.prod(file.get_slice(key).get_shape())) for key in file.keys())  # noqa: SIM118
        right = round(found["top1"] * found["count"])
        what = f"{recipe['model']['name']}, {recipe['optim']['name']}, batch {recipe['train']['batch_size']}"
        return {"whole_s": seconds, "right": right, "images": found["count"], "parameters": size, "settings": what}

    def race(self, cells: list[Cell]) -> list[Cell]:
        """Runs what is missing or used another time than its budget, and writes the page after each. Returns the cells
        that were run."""
        missing = [cell for cell in cells if cell.key not in self.rows or self.is_off(cell)]
        for cell in missing:
            self.calibrate(cell.data, [rival for rival in RIVALS if rival in {c.rival for c in missing}])
            start = self.steps[f"{cell.data}/{cell.rival}"]["start_s"]
            steps = max(1, round(cell.budget / self.pace(cell)))
            row = self.run(cell, steps)
            row |= {"steps": steps, "seconds": row["whole_s"] - start}
            self.rows[cell.key] = row
            print(f"{cell.key}: {100 * row['right'] / row['images']:.2f} %, {row['seconds']:.0f} s", flush=True)
            self.save()
            write_page(self)
        return missing


def launch(words: list[str]) -> tuple[str, float]:
    """What a command prints, and the processor seconds of it and of all processes that it has waited for."""
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {child.returncode}")
    return output, usage.ru_utime + usage.ru_stime


def npz_of(data: str, given: argparse.Namespace) -> Path:
    """The decoded images of a set: MedMNIST's own file, or one that is written once."""
    if SETS[data].endswith(".npz"):
        return Path(given.data / SETS[data])
    file: Path = given.runs / f"{data}.npz"
    if not file.is_file():
        source, arrays = str(given.data / SETS[data]), {}
        dataset = (
            idx.build(idx.Config(source)) if idx.matches(source) else imagefolder.build(imagefolder.Config(source))
        )
        for part in ("train", "test"):
            split = dataset.splits[part]
            arrays[f"{part}_images"] = np.stack([np.asarray(split.read(i)) for i in range(len(split))])
            arrays[f"{part}_labels"] = np.asarray(split.labels)
        np.savez(file, **arrays)
    return file


def data_words(data: str, given: argparse.Namespace) -> list[str]:
    """What `vitrail train` is told of a set: for files in folders the decoded file, and the names of their classes."""
    source = given.data / SETS[data]
    if data != "cifar-10":
        return ["--data", str(source)]
    return ["--data", str(npz_of(data, given)), "--data.classes", *sorted(p.name for p in (source / "train").iterdir())]


class Standing(NamedTuple):
    """All runs of a rival with one budget."""

    rival: str
    rows: list[dict[str, Any]]

    def mean(self, key: str) -> float:
        return statistics.mean(row[key] for row in self.rows)

    @property
    def share(self) -> float:
        return self.mean("right") / self.rows[0]["images"]

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.share, self.rows[0]["images"])


def standings(race: Race, data: str, budget: int) -> list[Standing]:
    """Of those who ran, the best first."""
    found = []
    for rival in RIVALS:
        rows = [row for seed in range(99) if (row := race.rows.get(Cell(data, budget, rival, seed).key))]
        found += [Standing(rival, rows)] if rows else []
    return sorted(found, key=lambda one: -one.share)


def table(race: Race, data: str) -> list[str]:
    """A row a budget and rival, and a sentence about ours."""
    lines, verdicts = [], []
    for budget in BUDGETS:
        ranked = standings(race, data, budget)
        for one in ranked:
            low, high = (100 * side for side in one.interval)
            shares = [100 * row["right"] / row["images"] for row in one.rows]
            spread = f"{statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
            name = f"**{RIVALS[one.rival]}**" if one.rival == "ours" else RIVALS[one.rival]
            accuracy = f"{100 * one.share:.1f} | {spread} | {low:.1f} to {high:.1f} | {len(one.rows)}"
            cost = f"{one.mean('steps'):,.0f} | {one.mean('seconds'):.0f} ({one.mean('whole_s'):.0f})"
            lines.append(f"| {budget} s | {name} | {one.rows[0]['parameters']:,} | {accuracy} | {cost} |")
        if (ours := next((one for one in ranked if one.rival == "ours"), None)) and len(ranked) > 1:
            verdicts.append(f"at {budget} s {verdict(ours, ranked[0])}")
    if not lines:
        return []
    head = "| budget | | parameters | top-1 % | sd | 95 % interval | seeds | steps | seconds used (with start-up) |"
    sentence = [f"Ours {'; '.join(verdicts)}.", ""] if verdicts else []
    return [head, "|---|---|---|---|---|---|---|---|---|", *lines, "", *sentence]


def verdict(ours: Standing, best: Standing) -> str:
    """Where ours stands: first, within its own interval of the first, or behind."""
    behind = f"{100 * (best.share - ours.share):.1f} points behind {RIVALS[best.rival]}"
    if best is ours:
        return "is first"
    return f"is within its interval, {behind}" if best.share <= ours.interval[1] else f"is {behind}"


def not_run(race: Race) -> str:
    """The cells of the whole matrix of three seeds that have fewer runs."""
    found = []
    for data, title in TITLES.items():
        for budget in BUDGETS:
            counts = {rival: sum(Cell(data, budget, rival, seed).key in race.rows for seed in range(SEEDS))
                      for rival in RIVALS}  # fmt: skip
            few = [f"{RIVALS[rival]} ({n or 'no'} seed{'s' * (n > 1)})" for rival, n in counts.items() if n < SEEDS]
            if few:
                which = "everyone (no seed)" if not any(counts.values()) else ", ".join(few)
                found.append(f"{title} at {budget} s: {which}")
    return "; ".join(found)


def write_page(race: Race) -> None:
    parts = []
    for data, title in TITLES.items():
        if rows := table(race, data):
            parts += [f"### {title}\n", *rows]
    if missing := not_run(race):
        parts += [f"Not run with three seeds: {missing}.", ""]
    before, _, rest = PAGE.read_text().partition(START)
    PAGE.write_text("\n".join([f"{before}{START}", *parts, f"{END}{rest.partition(END)[2]}"]))


def figures(race: Race, cells: list[Cell]) -> dict[str, float]:
    """Means over the seeds, by set, budget and rival, of what was run."""
    groups: dict[str, list[float]] = {}
    for cell in cells:
        row = race.rows[cell.key]
        groups.setdefault(cell.key.rpartition("/")[0], []).append(100 * row["right"] / row["images"])
    return {key: round(statistics.mean(values), 2) for key, values in groups.items()}


def main(words: list[str] | None = None) -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", type=Path, default=Path("data"))
    asked.add_argument("--runs", type=Path, default=Path("runs/race"))
    asked.add_argument("--sets", nargs="+", default=tuple(SETS), choices=tuple(SETS))
    asked.add_argument("--budgets", nargs="+", type=int, default=BUDGETS)
    asked.add_argument("--seeds", nargs="+", type=int, default=range(SEEDS))
    asked.add_argument("--only", nargs="+", default=tuple(RIVALS), choices=tuple(RIVALS), help="rivals")
    asked.add_argument("--again", nargs="*", default=(), choices=tuple(RIVALS), help="rivals to run anew")
    asked.add_argument("--ours", default="", help="more words for `vitrail train`, to try what is not a default")
    asked.add_argument("--rounds", type=int, default=3, help="of the calibration")
    asked.add_argument("--probe", type=float, default=1.0, help="length of the calibration's runs")
    asked.add_argument("--tolerance", type=float, default=float("inf"), help="run again what is off by more, as 0.15")
    asked.add_argument("--yolo-python", default="")
    asked.add_argument("--write", action="store_true", help="only write the page from the runs that are there")
    given = asked.parse_args(words)
    given.runs.mkdir(parents=True, exist_ok=True)
    race, rivals = Race(given), [r for r in given.only if r != "yolo" or given.yolo_python]
    cells = [
        Cell(d, b, r, s) for b in given.budgets for s in given.seeds for d in given.sets for r in RIVALS if r in rivals
    ]
    if not given.write:
        race.forget([cell for cell in cells if cell.rival in given.again])
        done = race.race(cells)
        if done:
            append("race", figures(race, done), {"seeds": len(given.seeds), "ours": given.ours})
    write_page(race)


if __name__ == "__main__":
    main()
