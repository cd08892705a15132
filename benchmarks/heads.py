"""The head that `--optim.freeze backbone` starts with, held against scikit-learn's logistic regressions on the same
features: DINOv2's, of five sets, 50 to 600 images, three draws. Writes its part of docs/results.md.

    OMP_NUM_THREADS=1 python benchmarks/transfer.py --data data --tables 2 --dinov2 dinov2s.pt   # once: its model
    OMP_NUM_THREADS=1 python benchmarks/heads.py --data data

`--data` is that of benchmarks/transfer.py, with fashion-mnist/*.gz and lungs/pneumonia/{train,test}/CLASS/*. Features
of 2,000 training and 1,000 test images a set, and the regressions, are computed once; heads once for each text of
`vitrail/analysis/probe.py`, so that no table mixes two rules.
"""

import argparse
import gzip
import hashlib
import json
import statistics
from pathlib import Path

import numpy as np
import torch
from history import append
from PIL import Image
from transfer import OTHERS, PAGE, SOURCES, regressions, write_halves

from vitrail.analysis import probe as maths
from vitrail.engine.processes.world import World, best_device
from vitrail.evaluation.features import image_features
from vitrail.inference.predictor import load_predictor

START, END = "<!-- heads -->", "<!-- /heads -->"
SETS = ("blood", "organs", "cifar", "fashion", "lungs")
COUNTS = (50, 250, 600)
POOL = {"train": 2_000, "test": 1_000}
FASHION = {"train": "train", "test": "t10k"}
Arrays = dict[str, np.ndarray]
CODE = hashlib.sha256(Path(maths.__file__).read_bytes()).hexdigest()[:8]


def read_images(data: Path, name: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N H W] or [N H W 3], and labels [N]."""
    if name == "lungs":
        folder = data / "lungs" / "pneumonia" / part
        files = [(k, f) for k, kind in enumerate(("NORMAL", "PNEUMONIA")) for f in sorted((folder / kind).iterdir())]
        small = [Image.open(f).convert("L").resize((64, 64), Image.Resampling.BICUBIC) for _, f in files]
        return np.stack([np.asarray(image) for image in small]), np.array([k for k, _ in files])
    if name == "fashion":
        own = data / "fashion-mnist" / FASHION[part]
        kinds = ("images-idx3", "labels-idx1")
        bytes_of = [gzip.decompress(Path(f"{own}-{kind}-ubyte.gz").read_bytes()) for kind in kinds]
        images, labels = (np.frombuffer(b, np.uint8, offset=16 - 8 * k) for k, b in enumerate(bytes_of))
        return images.reshape(-1, 28, 28), labels
    arrays = np.load(data / SOURCES[name])
    return arrays[f"{part}_images"], arrays[f"{part}_labels"].reshape(-1)


def pool_features(given: argparse.Namespace, name: str) -> Arrays:
    """The features and labels of a part of a set: train_x, train_y, test_x, test_y; from a file if it is there."""
    file = given.runs / f"pool-{name}.npz"
    if not file.is_file():
        predictor, own = load_predictor(str(given.runs / "dino-blood-600")), {}
        for part, count in POOL.items():
            images, labels = read_images(given.data, name, part)
            chosen = np.random.default_rng(7).permutation(len(labels))[:count]
            images = images[chosen] if images.ndim == 4 else np.repeat(images[chosen][..., None], 3, -1)
            features = image_features(predictor, images, list(labels[chosen]), World(0, 1, best_device()))[1]
            own[f"{part}_x"], own[f"{part}_y"] = features.numpy(), labels[chosen].astype(np.int64)
        np.savez(file, **own)
    return dict(np.load(file))


def compare(pool: Arrays, count: int, seed: int, known: dict[str, float]) -> dict[str, float | str]:
    """Test accuracies in per cent, by name: the head's, and those of the regressions, unless they are known."""
    x, y, z, t = (pool[key] for key in ("train_x", "train_y", "test_x", "test_y"))
    chosen = maths.draw_subset(y, count / len(y), seed)
    x, y = x[chosen], y[chosen].astype(np.int64)
    features, labels = torch.from_numpy(x).double(), torch.from_numpy(y)
    classes = int(pool["train_y"].max()) + 1
    choice = maths.choose_l2(features, labels, classes, seed)
    probe = maths.fit_probe(features, labels, classes, choice.l2)
    right = probe.logits(torch.from_numpy(z).double()).argmax(1).numpy() == t
    return {"code": CODE, "l2": choice.l2, "head": 100 * float(right.mean()), **(known or regressions(x, y, z, t))}


def table(found: dict[str, dict[str, float]], seeds: int) -> list[str]:
    """A row a set and count: means of the draws, and the least that one draw is ahead of each regression."""
    lines = []
    for name in SETS:
        for count in COUNTS:
            rows = [row for seed in range(seeds) if (row := found.get(f"{name}-{count}-{seed}"))]
            if not rows:
                continue
            cells = [f"{statistics.mean(row['head'] for row in rows):.1f}"]
            for other in OTHERS:
                pairs = [(row["head"] - row[other], row[other]) for row in rows if other in row]
                if not pairs:
                    cells.append("")
                    continue
                ahead, theirs = (statistics.mean(values) for values in zip(*pairs, strict=True))
                cells.append(f"{theirs:.1f} ({round(ahead, 1) + 0.0:+.1f}; {min(gap for gap, _ in pairs):+.1f})")
            lines.append(f"| {name}, {count} images | {' | '.join(cells)} | {len(rows)} |")
    head = f"| | head | {' | '.join(OTHERS)} | draws |"
    return [head, "|---" * (len(OTHERS) + 3) + "|", *lines] if lines else []


def write_page(given: argparse.Namespace, found: dict[str, dict[str, float]]) -> None:
    what = (
        "The head as it starts, before its first step, on the features of the table above; 1,000 test images (634 "
        "X-rays), the same for all draws. Beside it scikit-learn's logistic regression on the same features, "
        "standardised, with C = 1 and with C of ten chosen by five-fold cross-validation. In brackets how far the head "
        "is ahead: the mean of the draws, and the draw where it is least. "
        "`OMP_NUM_THREADS=1 python benchmarks/heads.py --data data`.\n"
    )
    gaps = {key: row["head"] - row[OTHERS[0]] for key, row in found.items()}
    behind = ", ".join(f"{key} ({gap:+.1f})" for key, gap in sorted(gaps.items(), key=lambda one: one[1]) if gap < -1)
    sentence = f"More than a point behind C = 1, of {len(found)} draws: {behind or 'none'}."
    before, _, rest = PAGE.read_text().partition(START)
    own = ["## The start of a head\n", what, *table(found, given.seeds), "", sentence, ""]
    PAGE.write_text("\n".join([f"{before}{START}", *own, f"{END}{rest.partition(END)[2]}"]))


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", type=Path, default=Path("data"))
    asked.add_argument("--runs", type=Path, default=Path("runs/transfer"))
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    given = asked.parse_args()
    file = given.runs / "heads.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    if "cifar" in given.sets:
        write_halves(given.data)
    for name in given.sets:
        pool = pool_features(given, name)
        for key, count, seed in ((f"{name}-{c}-{s}", c, s) for c in COUNTS for s in range(given.seeds)):
            before = found.get(key, {})
            if before.get("code") != CODE:
                known = {other: before[other] for other in OTHERS if other in before}
                found[key] = compare(pool, count, seed, known)
                file.write_text(json.dumps(found, indent=1))
                print(key, found[key], flush=True)
    write_page(given, found)
    append("heads", {k: v["head"] - v["CV by log loss"] for k, v in found.items() if "CV by log loss" in v})


if __name__ == "__main__":
    main()
