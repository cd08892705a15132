"""How many times faster a training step and an inference are in bf16 than in fp32, and whether predictions stay right.

    OMP_NUM_THREADS=1 python benchmarks/bf16.py [--models vit/nano,vit/tiny] [--rounds 7]
    OMP_NUM_THREADS=1 python benchmarks/bf16.py --run RUN

The first: processor time, fp32 and bf16 in turns, the order turned around each round; median and quartiles of the
ratios. With `--run`: the images that `vitrail eval` takes in both, how many predictions differ, and the change of the
metric with its 95 % interval over the same images.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from history import append

import vitrail
from vitrail.engine.precision import Precision, bf16_unit
from vitrail.engine.processes import world as worlds
from vitrail.evaluation.difference import measure_change
from vitrail.evaluation.subject import SubjectRequest, evaluate_readable
from vitrail.inference.load_any import load_any

SIZES = {"vit/nano": 28, "vit/tiny": 224, "vit/small": 224, "resnet/18": 224, "swin/tiny": 224}


def compare_speed(name: str, size: int, batch: int, rounds: int) -> dict[str, tuple[float, float, float]]:
    """Lower quartile, median and upper quartile of time in fp32 / time in bf16, of a step and of an inference."""
    torch.manual_seed(0)
    net = vitrail.create(name, classes=10)
    images = torch.randn(batch, net.backbone.config.channels, size, size)
    labels = torch.arange(batch) % 10
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)

    def step(precision: str) -> None:
        optimizer.zero_grad()
        with Precision(precision, "cpu").autocast():
            out = net(images)
        F.cross_entropy(out.float(), labels).backward()
        optimizer.step()

    def infer(precision: str) -> None:
        with torch.inference_mode(), Precision(precision, "cpu").autocast():
            net(images)

    found = {}
    for what, act in (("step", step), ("inference", infer)):
        net.train(what == "step")
        ratios = []
        for i in range(-1, rounds):
            took = {}
            for precision in ("fp32", "bf16") if i % 2 else ("bf16", "fp32"):
                start = time.process_time()
                act(precision)
                took[precision] = time.process_time() - start
            if i >= 0:
                ratios.append(took["fp32"] / took["bf16"])
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        found[what] = (low, middle, high)
    return found


def compare_answers(run: str) -> dict[str, float]:
    """Of the images that `vitrail eval` takes: how many predictions differ, and the change of the metric."""
    world = worlds.join("cpu")
    request = SubjectRequest(run, "", "", {}, False)
    loaded = {p: load_any(run, "", "cpu", precision=p) for p in ("fp32", "bf16")}
    found = {p: evaluate_readable(request, predictor, world)[1].predictions for p, predictor in loaded.items()}
    change = measure_change(loaded["fp32"].task, found["fp32"], found["bf16"])
    print(change.sentence())
    differ = int((found["fp32"].rows.argmax(1) != found["bf16"].rows.argmax(1)).sum())
    figures = {"images": change.images, "fp32": change.before, "bf16": change.after}
    return {**figures, "low": change.low, "high": change.high, "predictions that differ": differ}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(SIZES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--run", default="")
    given = parser.parse_args()
    figures: dict[str, object] = {}
    if given.run:
        figures = dict(compare_answers(given.run))
    else:
        print(bf16_unit() or "no unit for bf16")
        print("\n| model | pixels | training step | inference |\n|---|---|---|---|")
        for name in given.models.split(","):
            batch = given.batch * (16 if SIZES[name] < 64 else 1)
            found = compare_speed(name, SIZES[name], batch, given.rounds)
            cells = " | ".join(f"{middle:.2f} ({low:.2f} to {high:.2f})" for low, middle, high in found.values())
            print(f"| {name} | {SIZES[name]} | {cells} |", flush=True)
            figures[name] = {what: middle for what, (_, middle, _) in found.items()}
    append("bf16", figures, {**vars(given), "run": "", "unit": bf16_unit()})


if __name__ == "__main__":
    main()
