"""Tasks that learn from several crops of each image, without labels: a linear probe and 20 nearest neighbours on the
features of each, of random weights, and the probe on pixels; and the least standard deviation of a feature, by which a
collapse is seen.

    OMP_NUM_THREADS=1 python benchmarks/without_labels.py --data mini --runs runs/without-labels

`--data` is any data set with classes and a test part. Runs that are there are not repeated, and one that was broken off
goes on.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from history import append
from pretraining import pixel_probe, probe_json, run

TASKS = ("self_distillation", "joint_embedding")
KEPT = "--batch-size 128 --seed 0 --workers 0 --device cpu --train.precision fp32 --quiet"


def evaluate(source: str, given: argparse.Namespace) -> dict[str, float]:
    """Top-1 of the probe and of the neighbours, with so many labels."""
    found = json.loads(probe_json(["probe", source, "--data", given.data, "--labels", str(given.share)]))
    return {"probe": found["linear"]["top1"], "knn": found["knn"]["20"]["top1"]}


def train(task: str, given: argparse.Namespace) -> dict[str, Any]:
    """A run's features, and what it logged of their variety."""
    out = given.runs / task
    words = f"--data {given.data} --task {task} --model {given.model} --steps {given.steps} {KEPT}"
    cost = run(f"{words} --train.eval-every {max(1, given.steps // 4)} {given.words}", out)
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    logged = [row for row in rows if row.get("kind") == "eval"]
    curve = [round(row["probe_top1"], 4) for row in logged]
    least = min(row["least_feature_std"] for row in logged)
    return {**evaluate(str(out), given), "least_feature_std": least, "curve": curve, "cpu_s": cost["cpu_s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--model", default="vit/nano")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--share", type=float, default=1.0, help="of the labels, for probes")
    parser.add_argument("--words", default="", help="further words of the trainings")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.runs.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"pixels": {"probe": pixel_probe(given)}, "random": evaluate(given.model, given)}
    figures |= {task: train(task, given) for task in given.tasks}
    for name, row in figures.items():
        print(f"| {name} | " + " | ".join(f"{key} {value}" for key, value in row.items()) + " |", flush=True)
    append("without_labels", figures, {k: v for k, v in vars(given).items() if k not in ("data", "runs")})


if __name__ == "__main__":
    main()
