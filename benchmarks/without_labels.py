"""Tasks that learn from several crops of each image, without labels: a linear probe and 20 nearest neighbours on the
features of each, of the same model with random weights, and on pixels; and the least standard deviation of a feature,
by which a collapse is seen.

    OMP_NUM_THREADS=1 python benchmarks/without_labels.py --data mini --runs runs/without-labels

`--data` is any data set with classes and a test part, of whose images every second one is labelled. Runs that are there
are not repeated, and one that was broken off goes on.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from history import append
from pretraining import probes, run

TASKS = ("self_distillation", "joint_embedding")
KEPT = "--batch-size 128 --seed 0 --workers 0 --device cpu --train.precision fp32 --quiet"


def train(task: str, given: argparse.Namespace) -> dict[str, Any]:
    """What the features of a run are worth, with the probe's curve as it learned."""
    out = given.runs / task
    words = f"--data {given.data} --task {task} --model {given.model} --steps {given.steps} {KEPT}"
    cost = run(f"{words} --train.eval-every {max(1, given.steps // 4)} {given.words}", out)
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    curve = {str(row["step"]): row["probe_top1"] for row in rows if row.get("kind") == "eval"}
    return {**probes(given, out), "curve": curve, "cpu_s": cost["cpu_s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--model", default="vit/nano")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--words", default="", help="further words of the trainings")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.runs.mkdir(parents=True, exist_ok=True)
    figures = {task: train(task, given) for task in given.tasks}
    print(json.dumps(figures, indent=1), flush=True)
    append("without_labels", figures, {k: v for k, v in vars(given).items() if k not in ("data", "runs")})


if __name__ == "__main__":
    main()
