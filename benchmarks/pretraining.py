"""Pre-training without labels, then few labels: a ViT learns from all images of CIFAR-10 without their labels, is then
trained on 1 % of the labels, and is held against the same ViT from random weights by two optimisers, and against what
vitrail chooses for so few labels. And what k-NN and a probe make of the features, of random ones, and of pixels.

    OMP_NUM_THREADS=1 python benchmarks/pretraining.py --data cifar-10.npz --runs runs/pretraining
    OMP_NUM_THREADS=1 python benchmarks/pretraining.py --data cifar-10.npz --runs runs/pretraining --parts pretrain

`--data` is any data set with classes and a test part that `vitrail check` takes. Runs are in this process, one after
the other; those that are there are not repeated, and one that was broken off goes on.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from history import append

from vitrail.assembly.data import open_data
from vitrail.assembly.model import assemble_model
from vitrail.cli.main import main as command
from vitrail.data.subset import evenly_spaced
from vitrail.engine.processes.world import World
from vitrail.evaluation.features import compute_features
from vitrail.inference.predictor import load_predictor
from vitrail.metrics.features import spectrum, variety
from vitrail.recipe import DataConfig
from vitrail.tasks._features import MOST, accuracies

MODEL = "--model vit/nano --model.patch 4 --model.stem patch --model.position sincos2d"
KEPT = "--train.eval-every 0 --runtime.save-every 500 --workers 0 --device cpu --quiet"
PRETRAIN = f"{MODEL} --batch-size 128 --seed 0"
WAYS = {  # a training on few labels
    "pre-trained": "--weights {weights} --optim.freeze none",
    "scratch": f"{MODEL} --optim.name adamw",
    "scratch, Muon": f"{MODEL} --optim.name muon",
    "scratch, as vitrail chooses": "",  # a model with a stem of convolutions, and Muon
}
FEW = "--data.val-fraction 0 --batch-size 32 --augment.crop pad"
PARTS = ("pretrain", "few", "probe")


def run(words: str, out: Path) -> dict[str, float]:
    """The final metrics of a run, and the seconds of processor time that it took here."""
    start = time.process_time()
    if not (out / "evaluation" / "test.json").is_file():
        given = ["train", "--resume", str(out)] if out.is_dir() else ["train", *words.split(), "--out", str(out)]
        if command(given):
            raise SystemExit(f"{' '.join(given)} failed")
    metrics = json.loads((out / "evaluation" / "test.json").read_text())
    return {**{k: v for k, v in metrics.items() if isinstance(v, float)}, "cpu_s": time.process_time() - start}


def few_labels(given: argparse.Namespace, weights: Path) -> dict[str, list[float]]:
    """Top-1 on the test part by way, of every seed: the same labels for all ways."""
    found: dict[str, list[float]] = {}
    for seed in range(given.seeds):
        for way, words in WAYS.items():
            out = given.runs / f"{way.replace(', ', '-').replace(' ', '-')}-{seed}"
            settings = f"--data {given.data} --data.fraction {given.share} --steps {given.few_steps} --seed {seed}"
            figures = run(f"{settings} {FEW} {words.format(weights=weights)} {KEPT}", out)
            found.setdefault(way, []).append(figures["top1"])
            print(f"{way}, seed {seed}: {figures['top1']:.4f} ({figures['cpu_s']:.0f} s of processor time)", flush=True)
    return found


def probes(given: argparse.Namespace, weights: Path) -> dict[str, dict[str, float]]:
    """k-NN and a linear probe on test images, half of them labelled, as while a run learns: of the pre-trained
    backbone, a random one, and pixels."""
    dataset, _ = open_data(DataConfig("", {"path": given.data}))
    test = dataset.splits["test"]
    part = test.select(evenly_spaced(len(test), MOST))
    predictor = load_predictor(weights)
    labels = torch.from_numpy(part.labels)
    pixels = torch.stack([torch.from_numpy(part.read(i)).flatten().float() / 255 for i in range(len(part))])
    found = {"pixels": accuracies(pixels, labels)}
    world = World(0, 1, torch.device("cpu"))
    torch.manual_seed(0)
    bundle = assemble_model(predictor.recipe, (), False)
    for name, net in (("random", bundle.model.eval()), ("pre-trained", predictor.model)):
        features = compute_features(net, part, predictor.preprocess, world)
        found[name] = {**accuracies(features, labels), **variety(features, spectrum(features))}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--task", default="masked_autoencoding")
    parser.add_argument("--words", default="--optim.lr 2e-3", help="further words of the pre-training")
    parser.add_argument("--steps", type=int, default=6000, help="of the pre-training")
    parser.add_argument("--few-steps", type=int, default=400)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.runs.mkdir(parents=True, exist_ok=True)
    weights = given.runs / given.task
    words = f"--data {given.data} --task {given.task} {PRETRAIN} {given.words} --steps {given.steps} {KEPT}"
    figures: dict[str, object] = {"pretrain": run(words, weights)}
    print(figures, flush=True)
    if "probe" in given.parts:
        figures["probe"] = probes(given, weights)
        print(json.dumps(figures["probe"], indent=1), flush=True)
    if "few" in given.parts:
        found = few_labels(given, weights)
        figures["few"] = {way: statistics.mean(values) for way, values in found.items()}
        figures["least_gain"] = min(a - b for a, b in zip(found["pre-trained"], found["scratch"], strict=True))
        for way, values in found.items():
            print(f"| {way} | {statistics.mean(values):.1%} | {min(values):.1%} to {max(values):.1%} |")
    settings = {k: v for k, v in vars(given).items() if k not in ("data", "runs", "parts")}
    append("pretraining", figures, settings)


if __name__ == "__main__":
    main()
