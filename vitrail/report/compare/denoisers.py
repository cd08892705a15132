"""Comparable metrics of denoisers: held-out losses of the same objective, and the quality of generated images."""

import json
from collections.abc import Sequence
from typing import Any

from vitrail.assembly.resolve import Names
from vitrail.report.run_data import RunData
from vitrail.tasks.diffusion import Config

QUALITY = ("frechet", "precision", "recall", "density", "coverage")
SAME = ("by", "part", "real", "made")  # what the quality of generated images depends on beside the model
MEASURE = ("objective", "loss_space", "t_mean", "t_std", "noise_scale", "steps")  # what the held-out loss depends on


def common_qualities(runs: Sequence[RunData]) -> list[tuple[str, list[float]]]:
    """The results of `vitrail eval --features`, if those of all runs have the same features, part and counts."""
    results: list[dict[str, Any]] = []
    for run in runs:
        try:
            results.append(json.loads(run.folder.quality.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return []
    if any(one.get(key) != results[0].get(key) for one in results for key in SAME):
        return []
    return [
        (name, [float(one["metrics"][name]) for one in results])
        for name in QUALITY
        if all(name in one["metrics"] for one in results)
    ]


def differing_settings(runs: Sequence[RunData]) -> list[str]:
    """The settings that make the held-out losses of denoisers incomparable."""
    tables = [measure(run) for run in runs]
    return [key for key in tables[0] if any(one[key] != tables[0][key] for one in tables)]


def measure(run: RunData) -> dict[str, Any]:
    keys, default = run.recipe.task.keys, Config()
    settings = {f"task.{key}": keys.get(key, getattr(default, key)) for key in MEASURE}
    flow = settings["task.objective"] == "flow"
    for key in ("task.steps",) if flow else ("task.loss_space", "task.t_mean", "task.t_std", "task.noise_scale"):
        settings[key] = None  # has no meaning for this objective
    model = vars(Names().model_config(run.recipe.model))
    return {**settings, "model.learn_sigma": model.get("learn_sigma", False),
            "input.size": list(run.recipe.input.size or ()),
            "input.channels": run.recipe.input.channels, "input.vae_hash": run.recipe.input.vae_hash}  # fmt: skip
