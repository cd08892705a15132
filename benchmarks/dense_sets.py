"""What detectors and segmenters learn from random weights in minutes of processor time, through the real command.
Writes the table of docs/dense.md.

    OMP_NUM_THREADS=1 python benchmarks/dense_sets.py --data data --runs runs/dense-sets
    OMP_NUM_THREADS=1 python benchmarks/dense_sets.py --data data --only trees
    python benchmarks/dense_sets.py --write                                   # the page alone, from what is there

`--data` is a folder with trees/ (photographs with Pascal VOC boxes) and lungs/ (images and masks); shapes are
generated. Each run is a process of its own, and what it used is counted by the kernel, start-up, final evaluation and
report included: a minute of two cores is 120 processor seconds, on any number of threads. Finished runs are kept in
`--runs` and not repeated.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import trees
from history import append
from product import processor_time

from vitrail.storage.atomic import write_file

PAGE = Path(__file__).parents[1] / "docs" / "dense.md"
START, END = "<!-- sets -->", "<!-- /sets -->"
HELD_OUT = "2019_YELL_2_541000_4977000_image_crop"
RESNET = "--model resnet/18 --model.width 16 --model.stem-stride 2"


class Row(NamedTuple):
    """A training. words: of the command, `{data}` is the folder; metric: of the test part, and what is aimed at;
    minutes: of two cores."""

    what: str
    words: str
    metric: str
    aim: float
    minutes: float


ROWS = {
    "trees": Row(
        "trees, three photographs to a fourth",
        f"--data {{data}}/trees --data.test {HELD_OUT} {trees.WORDS['dense']} --steps 8000",
        "AP50", 0.35, 15,
    ),
    "shapes-boxes": Row(
        "shapes, boxes",
        f"--data shapes --task detection --data.count-train 6000 {RESNET} --batch-size 32 --steps 1500 --lr 2e-3 "
        "--optim.ema-decay 0.998 --runtime.channels-last --augment.crop none --augment.vflip --augment.rotate90 "
        "--train.eval-every 0",
        "AP50", 0.95, 10,
    ),
    "shapes-masks": Row(
        "shapes, masks",
        f"--data shapes --data.count-train 12000 {RESNET} --task.width 32 --batch-size 16 --steps 4500 --lr 3e-3 "
        "--optim.ema-decay 0.998 --runtime.channels-last --precision bf16 --augment.crop none --augment.vflip "
        "--augment.rotate90 --train.eval-every 0",
        "miou", 0.95, 5,
    ),
    "lungs": Row(
        "lungs, 200 X-rays",
        "--data {data}/lungs --data.split 200 49 50 --steps 500 --optim.ema-decay 0.99 --runtime.channels-last "
        "--precision bf16 --train.eval-every 0",
        "dice", 0.96, 3,
    ),
}  # fmt: skip


def train(row: Row, data: Path, out: Path, more: list[str]) -> dict[str, float]:
    """The figures of a run, from its folder where it is finished. Errors: those of the command."""
    kept = out / "figures.json"
    if not kept.is_file():
        words = [*row.words.format(data=data).split(), *more, "--out", str(out)]
        used = processor_time(lambda: subprocess.run([sys.executable, "-m", "vitrail", "train", *words], check=True))()
        write_file(kept, json.dumps({"score": score(row, out), "seconds": used}).encode())
    figures: dict[str, float] = json.loads(kept.read_text())
    return figures


def score(row: Row, out: Path) -> float:
    """The metric of the test part; of Dice that of the last class alone, over all pixels."""
    part = "test" if (out / "evaluation" / "test.json").is_file() else "val"
    result = json.loads((out / "evaluation" / f"{part}.json").read_text())
    value = result["per_class"]["dice"][-1] if row.metric == "dice" else result[row.metric]
    return float(value)


def table(results: dict[str, dict[str, float]]) -> str:
    lines = ["| set | metric | aim | reached | minutes of two cores | aim |", "|---|---|---|---|---|---|"]
    for name, row in ROWS.items():
        found = results.get(name)
        reached = f"{found['score']:.3f}" if found else "not run"
        used = f"{found['seconds'] / 120:.1f}" if found else ""
        lines.append(f"| {row.what} | {row.metric} | {row.aim:g} | {reached} | {used} | {row.minutes:g} |")
    return "\n".join(lines)


def write_page(results: dict[str, dict[str, float]]) -> None:
    """Its part of the page; the commands stand below the table."""
    page = PAGE.read_text(encoding="utf-8")
    begin, end = page.index(START) + len(START), page.index(END)
    words = "\n".join(f"vitrail train {row.words.format(data='data')}" for row in ROWS.values())
    part = f"\n{table(results)}\n\n```text\n{words}\n```\n"
    write_file(PAGE, (page[:begin] + part + page[end:]).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs/dense-sets"))
    parser.add_argument("--only", nargs="*", choices=list(ROWS), default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="the page alone")
    given = parser.parse_args()
    results = {}
    for name, row in ROWS.items():
        out = given.runs / f"{name}-{given.seed}"
        wanted = not given.write and (not given.only or name in given.only)
        if wanted or (out / "figures.json").is_file():
            results[name] = train(row, given.data, out, ["--seed", str(given.seed)])
            print(name, results[name], flush=True)
            if wanted:
                append("dense_sets", {name: results[name]}, {"seed": given.seed, "words": row.words})
    write_page(results)


if __name__ == "__main__":
    main()
