"""The Fréchet distance of a denoiser's images at every evaluation, by the features of the classifier `eval.features`.

Fewer images in fewer steps than `vitrail eval --features`, so its numbers differ. Every evaluation of a run generates
the same number of images, from the same noise, and compares them with the same real ones, so that the numbers of one
run can be compared.
"""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from vitrail.assembly.model import ModelBundle
from vitrail.data.dataset import Dataset
from vitrail.data.splits import evaluation_part
from vitrail.engine.processes.world import World
from vitrail.errors import UsageError
from vitrail.evaluation.features import image_features, part_features
from vitrail.inference.predictor import Predictor, load_predictor
from vitrail.inference.sample import SampleRequest, default_sampling, null_label, sample_images
from vitrail.metrics.generation import frechet
from vitrail.recipe import Recipe
from vitrail.tasks.diffusion import Sampling

STEPS = 10
STEP_COST = 3  # forward and backward of an image cost three times as much as forward alone
LEAST, MOST = 64, 1000  # images
SHARE = 0.05  # of the network's work in a run for all evaluations together, if it allows `LEAST`


def load_classifier(recipe: Recipe, task: Any, device: str = "cpu") -> Predictor | None:
    """The classifier; None where none is named. Errors: `UsageError`, `CheckpointError`."""
    name = recipe.eval.features
    if not name:
        return None
    if not task.is_generative:
        raise UsageError(
            f"eval.features is for generative models, and {recipe.model.name} is none", "leave --eval.features out"
        )
    classifier = load_predictor(name, device)
    if not classifier.task.is_classifier:
        raise UsageError(f"{name} is no classifier", "--eval.features names a run of a classifier")
    if classifier.preprocess.channels != recipe.input.channels and recipe.input.channels not in (1, 3):
        raise UsageError(
            f"{name} takes images of {classifier.preprocess.channels} channels",
            "use a classifier for the channels of these images",
        )
    return classifier


def count_images(recipe: Recipe) -> int:
    """Images at every evaluation: the same through a run, as many as a fraction of its time allows."""
    p = recipe.train
    steps, batch = p.steps or 0, p.batch_size or 1
    times = (steps // p.eval_every if p.eval_every else 0) + 1
    return max(LEAST, min(MOST, int(SHARE * STEP_COST * steps * batch / (times * STEPS * 2))))


class FrechetMonitor:
    """Measures the distance, on rank 0. cache_dir: the folder for the features of the real images."""

    def __init__(self, recipe: Recipe, task: Any, dataset: Dataset, cache_dir: Path, world: World):
        self.recipe, self.task, self.dataset, self.cache_dir, self.world = recipe, task, dataset, cache_dir, world

    @cached_property
    def classifier(self) -> Predictor | None:
        return load_classifier(self.recipe, self.task, str(self.world.device))

    @cached_property
    def real(self) -> Tensor:
        """The features of the split for evaluations during a run, [N D]."""
        assert self.classifier is not None
        return part_features(
            self.classifier, self.dataset, evaluation_part(self.dataset, final=False), self.cache_dir, self.world
        )[0].double()

    def measure(self, bundle: ModelBundle) -> dict[str, float]:
        """The distance by its name; empty without a classifier, and on other ranks."""
        if not self.world.is_first or self.classifier is None:
            return {}
        count, null = count_images(self.recipe), null_label(bundle)
        labels = tuple(i % null if null else 0 for i in range(count))
        images = sample_images(bundle, SampleRequest(labels, tuple(range(count))), fast_sampling(bundle, STEPS))
        _, features = image_features(self.classifier, images, labels, self.world)
        return {"frechet": frechet(self.real, features.double())}


def fast_sampling(bundle: ModelBundle, steps: int) -> Sampling:
    """Sampling in few deterministic steps of one network evaluation each."""
    sampler: Literal["ddim", "euler"] = "ddim" if bundle.task.config.objective == "gaussian" else "euler"
    return dataclasses.replace(default_sampling(bundle, steps=steps), sampler=sampler)
