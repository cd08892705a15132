"""Does each part of a recipe pay? Trains small models on real images with and without it, over seeds, and writes
docs/results.md.

    python benchmarks/results.py --data data --tables 2 3 --jobs 2

`--data` is a folder with fashion-mnist/ (the four official files) and medmnist/bloodmnist.npz. Runs go to `--runs` and
are not repeated when they are there; `--jobs` run side by side, one thread each, since only accuracy is read from them.
Every figure is the accuracy on the official test images: mean and standard deviation over the seeds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from history import append

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
NANO = "--model vit/nano --model.patch 8"
BLOOD = "--data {data}/medmnist/bloodmnist.npz"
FASHION = "--data {data}/fashion-mnist"
SMALL_BLOOD = (
    f"{BLOOD} {NANO} --data.fraction 0.1 --epochs 20 --batch-size 64 --task.smoothing 0 "
    "--augment.crop none --augment.no-hflip"
)
TENTH = f"{BLOOD} --data.fraction 0.1 --epochs 40 --batch-size 64 --augment.crop none --augment.hflip --augment.vflip"
FEW_BLOOD = (
    f"{BLOOD} --data.fraction 0.05 --steps 900 --batch-size 64 --augment.crop none --augment.hflip --augment.vflip"
)
FEW_FASHION = f"{FASHION} --data.fraction 0.05 --steps 900 --batch-size 64 --augment.crop none --augment.hflip"
STUDENT = (
    "--model deit/tiny_distilled --model.width 96 --model.depth 3 --model.heads 3 --model.patch 8 "
    "--model.stem conv --lr 2e-3"
)
EVEN = "--optim.layer-decay 1"  # all blocks at one learning rate
HUNGER = f"{FASHION} --steps 300 --batch-size 64 --augment.crop none --augment.hflip"


class Row(NamedTuple):
    """One setting: `words` of `vitrail train`; {seed}, {data} and {runs} are filled in. `needs`: rows trained before
    it."""

    name: str
    words: str
    needs: tuple[str, ...] = ()


class Table(NamedTuple):
    title: str
    says: str  # what is held fixed
    rows: tuple[Row, ...]
    hidden: tuple[Row, ...] = ()  # trained once, because others need them


def one_more(words: str, parts: dict[str, str]) -> tuple[Row, ...]:
    """The plain row, each part alone, and all of them together."""
    alone = tuple(Row(name, f"{words} {more}") for name, more in parts.items())
    return (Row("none", words), *alone)


AUGMENTS = {
    "flips": "--augment.hflip --augment.vflip",
    "shifts of 2 pixels": "--augment.crop pad",
    "random crops": "--augment.crop random --augment.scale 0.5 1",
    "RandAugment 2, 9": "--augment.randaugment-ops 2",
    "TrivialAugment": "--augment.auto-augment trivialaugment",
    "3-Augment": "--augment.auto-augment 3-augment --augment.color-jitter 0.3",
    "erasing 0.25": "--augment.random-erasing 0.25",
    "MixUp 0.2": "--augment.mixup 0.2",
    "CutMix 1": "--augment.cutmix 1",
    "label smoothing 0.1": "--task.smoothing 0.1",
    "drop path 0.1": "--model.drop-path 0.1",
    "averaged weights 0.998": "--optim.ema-decay 0.998",
    "repeated augmentation 3, flips": "--augment.hflip --augment.vflip --augment.repeated-aug 3",
}
ALL = (
    "--augment.hflip --augment.vflip --augment.crop pad --augment.cutmix 1 "
    "--model.drop-path 0.1 --optim.ema-decay 0.998"
)
SWITCHES = {
    "half of the patches dropped": "--model.patch-dropout 0.5",
    "drop path 0.3": "--model.drop-path 0.3",
    "drop path 0.3, left uncomputed": "--model.drop-path 0.3 --model.drop-path-skip",
    "resolution grows from 16x16": "--train.start-size 16 16",
    "channels last": "--runtime.channels-last",
    "decoded images kept in memory": "--runtime.cache-images",
}
TEACHER = "--model resnet/18 --model.width 32 --lr 2e-3"
TAUGHT = "--task distillation --task.teacher {runs}"
SOFT = "--task.kind soft --task.alpha 0.9"
ARCHITECTURES = {
    "ViT (convolutional stem)": f"{NANO}",
    "ViT (plain patches)": f"{NANO} --model.stem patch --model.patch 7",
    "hybrid": "--model hybrid/r_tiny --model.width 96 --model.depth 3 --model.heads 3 --model.stem-width 32 "
    "--model.patch 2 --lr 2e-3",
    "Swin": "--model swin/tiny --model.patch 2 --model.width 32 --model.depths 1 1 2 1 --model.heads 1 2 4 8 --lr 2e-3",
    "ResNet": "--model resnet/18 --model.width 16 --lr 2e-3",
}
SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)

TABLES = {
    1: Table("Augmentation and regularisation, each alone and together",
             "BloodMNIST, 10 % of the training images, 20 epochs.",
             (*one_more(SMALL_BLOOD, AUGMENTS),
              Row("flips, shifts, CutMix, drop path, averaged weights", f"{SMALL_BLOOD} {ALL}"))),
    2: Table("Distillation", "BloodMNIST, 10 % of the training images, 40 epochs; the same augmentation for all.", (
        Row("student alone", f"{TENTH} {STUDENT}"),
        Row("hard, from a ResNet of the same 10 %", f"{TENTH} {STUDENT} {TAUGHT}/2-resnet-of-10-{{seed}}",
            ("ResNet of 10 %",)),
        Row("soft, from a ResNet of the same 10 %", f"{TENTH} {STUDENT} {TAUGHT}/2-resnet-of-10-{{seed}} {SOFT}",
            ("ResNet of 10 %",)),
        Row("hard, from a ResNet of all images", f"{TENTH} {STUDENT} {TAUGHT}/2-resnet-of-all-{{seed}}",
            ("ResNet of all",)),
        Row("soft, from a ResNet of all images", f"{TENTH} {STUDENT} {TAUGHT}/2-resnet-of-all-{{seed}} {SOFT}",
            ("ResNet of all",)),
        Row("ResNet of 10 %", f"{TENTH} {TEACHER}"),
        Row("ResNet of all", f"{TENTH} {TEACHER} --data.fraction 1 --epochs 10"),
    )),
    3: Table("Transfer with 5 % of the labels",
             "900 steps of 64 images each; pre-trained on all of the other set, 2,500 steps.", (
        Row("BloodMNIST from scratch", f"{FEW_BLOOD} {NANO}"),
        Row("BloodMNIST, all of it learns",
            f"{FEW_BLOOD} --weights {{runs}}/3-fashion-0 {EVEN} --lr 1e-3", ("fashion",)),
        Row("BloodMNIST, all of it learns, at the rate of scratch",
            f"{FEW_BLOOD} {NANO} --weights {{runs}}/3-fashion-0 {EVEN} --lr 2.1e-3", ("fashion",)),
        Row("BloodMNIST, thawed from the top", f"{FEW_BLOOD} --weights {{runs}}/3-fashion-0 {EVEN} --lr 1e-3 "
            "--optim.freeze backbone --optim.unfreeze-steps 100 200 300 400", ("fashion",)),
        Row("Fashion-MNIST from scratch", f"{FEW_FASHION} {NANO}"),
        Row("Fashion-MNIST, all of it learns",
            f"{FEW_FASHION} --weights {{runs}}/3-blood-0 {EVEN} --lr 1e-3", ("blood",)),
        Row("Fashion-MNIST, all of it learns, at the rate of scratch",
            f"{FEW_FASHION} {NANO} --weights {{runs}}/3-blood-0 {EVEN} --lr 2.1e-3", ("blood",)),
        Row("Fashion-MNIST, thawed from the top", f"{FEW_FASHION} --weights {{runs}}/3-blood-0 {EVEN} --lr 1e-3 "
            "--optim.freeze backbone --optim.unfreeze-steps 100 200 300 400", ("blood",)),
    ), (
        Row("fashion", f"{FASHION} {NANO} --steps 2500 --batch-size 64 --augment.crop none --augment.hflip"),
        Row("blood", f"{BLOOD} {NANO} --steps 2500 --batch-size 64 --augment.hflip --augment.vflip"),
    )),
    4: Table("Hunger for data", "Fashion-MNIST, 300 steps of 64 images whatever the share of the training images.",
             tuple(
        Row(f"{name}, {share:.0%}", f"{HUNGER} {words} --data.fraction {share}")
        for name, words in ARCHITECTURES.items() for share in SHARES)),
    5: Table("Switches that save work",
             "BloodMNIST, 10 % of the training images, 20 epochs; seconds are in docs/training.md.",
             one_more(f"{SMALL_BLOOD} --augment.hflip --augment.vflip", SWITCHES)),
}  # fmt: skip


def words_of(row: Row, **places: object) -> list[str]:
    """The words of a row, each option once: what is said later holds."""
    said: dict[str, list[str]] = {}
    for word in row.words.format(**places).split():
        if word.startswith("--"):
            key = word.replace(".no-", ".")
            said.pop(key, None)
            said[key] = [word]
        else:
            said[key].append(word)
    return [word for option in said.values() for word in option]


def slug(name: str) -> str:
    return "-".join("".join(ch if ch.isalnum() else " " for ch in name.lower()).split())


def folder(number: int, row: Row, seed: int, runs: Path) -> Path:
    return runs / f"{number}-{slug(row.name)}-{seed}"


def accuracy(run: Path) -> float | None:
    judged = run / "evaluation" / "test.json"
    return 100 * json.loads(judged.read_text())["top1"] if judged.is_file() else None


def train(number: int, row: Row, seed: int, given: argparse.Namespace) -> None:
    """One run, unless it is there. A run that was broken off is taken up again."""
    out = folder(number, row, seed, given.runs)
    if accuracy(out) is not None:
        return
    words = words_of(row, seed=seed, data=given.data, runs=given.runs)
    kept = ["--train.eval-every", "0", "--runtime.save-every", "100000", "--device", "cpu", "--quiet"]
    told = (
        ["--resume", str(out)]
        if (out / "recipe.toml").is_file()
        else [*words, *kept, "--seed", str(seed), "--out", str(out)]
    )
    done = subprocess.run([sys.executable, "-m", "vitrail", "train", *told], env={**os.environ, "OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True)  # fmt: skip
    print(f"{out.name}: {done.stderr.strip() or accuracy(out)}", flush=True)


def stages(number: int, given: argparse.Namespace) -> Iterator[list[tuple[Row, int]]]:
    """What can be trained side by side: first what others need."""
    table = TABLES[number]
    rows = (*table.hidden, *table.rows)
    needed = {name for row in rows for name in row.needs}
    for first in (True, False):
        yield [
            (row, seed)
            for seed in range(given.seeds)
            for row in rows
            if (row.name in needed) is first and not (seed and row in table.hidden)
        ]


def accuracies(number: int, row: Row, given: argparse.Namespace) -> list[float]:
    """Of the finished runs of a row, in per cent."""
    return [a for seed in range(given.seeds) if (a := accuracy(folder(number, row, seed, given.runs))) is not None]


def written(number: int, given: argparse.Namespace) -> str:
    """A table in Markdown; rows without a finished run are left out."""
    table, lines, base = TABLES[number], [], None
    for row in table.rows:
        found = accuracies(number, row, given)
        if not found:
            continue
        mean, spread = statistics.mean(found), statistics.stdev(found) if len(found) > 1 else 0.0
        base = mean if base is None or "from scratch" in row.name else base
        command = " ".join(words_of(row, seed="SEED", data="data", runs="runs/results"))
        lines.append(f"| {row.name} | {mean:.2f} ± {spread:.2f} | {mean - base:+.2f} | {len(found)} | `{command}` |")
    head = "| | top-1 % | against the first | seeds | `vitrail train ... --seed SEED` |\n|---|---|---|---|---|"
    return "\n".join([f"## {number}. {table.title}\n", f"{table.says}\n", head, *lines]) if lines else ""


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", type=Path, default=Path("data"))
    asked.add_argument("--runs", type=Path, default=Path("runs/results"))
    asked.add_argument("--tables", type=int, nargs="+", default=list(TABLES), choices=list(TABLES))
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--jobs", type=int, default=1)
    asked.add_argument("--write", action="store_true", help="only write the page from the runs that are there")
    given = asked.parse_args()
    for number in [] if given.write else given.tables:
        for stage in stages(number, given):
            with ThreadPoolExecutor(given.jobs) as pool:
                list(pool.map(lambda one, n=number: train(n, *one, given), stage))
    tables = "\n\n".join(filter(None, (written(number, given) for number in TABLES)))
    start, _, rest = (
        PAGE.read_text().partition("<!-- tables -->") if PAGE.exists() else ("# What each part is worth\n\n", "", "")
    )
    PAGE.write_text(
        f"{start}<!-- tables -->\n{tables}\n<!-- /tables -->{rest.partition('<!-- /tables -->')[2] or chr(10)}"
    )
    every = {f"{n}. {row.name}": accuracies(n, row, given) for n in TABLES for row in TABLES[n].rows}
    append("results", {name: statistics.mean(found) for name, found in every.items() if found}, {"seeds": given.seeds})


if __name__ == "__main__":
    main()
