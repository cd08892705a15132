"""What token merging gains, and what it costs in accuracy.

    python benchmarks/merge.py [--model vit/small] [--batch 8] [--rounds 5] [--run runs/mini]

Speed: a forward pass in evaluation mode with 0, 4, 8, 13 and 16 tokens merged a block, in turns on one thread; the
ratio is of the least processor times, since other work on the machine changes the clock and not the work. Accuracy: of
the run that is given (`make demo` makes one), on its held-out images, not trained with merging. Exit code 1 where r = 8
is not 1.2 times as fast, r = 13 not 1.5 times, or half of the run's tokens cost more than 0.5 points.
"""

import argparse
import sys
import time

import torch
from history import append

import vitrail
from vitrail.engine.processes import world as worlds
from vitrail.evaluation.subject import SubjectRequest, evaluate_readable
from vitrail.inference.predictor import load_predictor

COUNTS = (0, 4, 8, 13, 16)
BARS = {"8": 1.2, "13": 1.5}
SETTINGS = (0, 1, 2, 3, 4, "half")  # of the run, which may be small
MOST_LOST = 0.5  # points, at "half"


def measure_speed(name: str, batch: int, rounds: int) -> dict[str, float]:
    """How many times as fast as without merging, by tokens merged a block; and milliseconds an image without."""
    models = {r: vitrail.backbone(name, merge=r).eval() for r in COUNTS}
    images = torch.randn(batch, 3, *models[0].config.size)
    best = dict.fromkeys(COUNTS, float("inf"))
    with torch.inference_mode():
        for _ in range(rounds):
            for r, model in models.items():
                start = time.process_time()
                model(images)
                best[r] = min(best[r], time.process_time() - start)
    ratios = {str(r): round(best[0] / best[r], 3) for r in COUNTS[1:]}
    return {"ms": round(1000 * best[0] / batch, 2), **ratios}


def measure_accuracy(run: str) -> dict[str, float]:
    """Top-1 in percent on the held-out part of a run's data, by setting."""
    found = {}
    world = worlds.join("cpu")
    for merge in SETTINGS:
        _, result = evaluate_readable(SubjectRequest(run), load_predictor(run, "cpu", merge=merge), world)
        found[str(merge)] = round(100 * result.metrics["top1"], 2)
        print(f"{run}, merge {merge}: top-1 {found[str(merge)]:.2f} %", flush=True)
    worlds.leave(world)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit/small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run", default="")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    speed = measure_speed(given.model, given.batch, given.rounds)
    print(f"{given.model}: {speed['ms']} ms an image; " + ", ".join(f"r = {r}: {speed[str(r)]}x" for r in COUNTS[1:]))
    accuracy = measure_accuracy(given.run) if given.run else {}
    settings = {"model": given.model, "batch": given.batch, "rounds": given.rounds, "run": bool(given.run)}
    append("merge", {"times as fast": speed, "top-1": accuracy}, settings)
    failed = [f"r = {r} is {speed[r]}x, not {bar}x" for r, bar in BARS.items() if speed[r] < bar]
    if accuracy and accuracy["half"] < accuracy["0"] - MOST_LOST:
        failed.append(f"half of the tokens cost {accuracy['0'] - accuracy['half']:.2f} points")
    sys.exit("; ".join(failed) or 0)


if __name__ == "__main__":
    main()
