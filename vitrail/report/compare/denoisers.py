"""What two denoisers or more can be compared by: their held-out losses, where these measure the same, and how good their images are."""

import json
from collections.abc import Sequence
from typing import Any

from vitrail.assembly.resolve import Names
from vitrail.report.run_data import RunData
from vitrail.tasks.diffusion import Config

QUALITY = ("frechet", "precision", "recall", "density", "coverage")
SAME = ("by", "part", "real", "made")  # what numbers of made images depend on beside the model
MEASURE = ("objective", "loss_space", "t_mean", "t_std", "noise_scale", "steps")  # what the held-out loss depends on


def common_qualities(runs: Sequence[RunData]) -> list[tuple[str, list[float]]]:
    """What `vitrail eval --features` found of every run, where it was by one classifier, part and count; else nothing."""
    found: list[dict[str, Any]] = []
    for known in runs:
        try:
            found.append(json.loads(known.folder.quality.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return []
    if any(one.get(key) != found[0].get(key) for one in found for key in SAME):
        return []
    return [
        (name, [float(one["metrics"][name]) for one in found])
        for name in QUALITY
        if all(name in one["metrics"] for one in found)
    ]


def differing_settings(runs: Sequence[RunData]) -> list[str]:
    """The settings by which the held-out losses of denoisers measure different things."""
    tables = [measure(known) for known in runs]
    return [key for key in tables[0] if any(one[key] != tables[0][key] for one in tables)]


def measure(known: RunData) -> dict[str, Any]:
    keys, usual = known.recipe.task.keys, Config()
    said = {f"task.{key}": keys.get(key, getattr(usual, key)) for key in MEASURE}
    flow = said["task.objective"] == "flow"
    for key in ("task.steps",) if flow else ("task.loss_space", "task.t_mean", "task.t_std", "task.noise_scale"):
        said[key] = None  # has no meaning for this objective
    model = vars(Names().model_config(known.recipe.model))
    return {**said, "model.learn_sigma": model.get("learn_sigma", False), "input.size": list(known.recipe.input.size or ()),
            "input.channels": known.recipe.input.channels, "input.vae_hash": known.recipe.input.vae_hash}  # fmt: skip
