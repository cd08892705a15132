"""Classes that texts name: a classifier out of a model of images with texts."""

import dataclasses
from collections.abc import Sequence

from vitrail.assembly.model import ModelBundle
from vitrail.data.annotations.captions import clean_caption
from vitrail.errors import UsageError
from vitrail.heads.image_text import ImageTextModel
from vitrail.heads.text_classifier import TextClassifier
from vitrail.recipe import Choice
from vitrail.tasks import classification


def text_model_of(bundle: ModelBundle, source: str) -> ImageTextModel:
    """The model with its text tower. source: for messages. Errors: `UsageError` where it has none."""
    model = bundle.model.model if isinstance(bundle.model, TextClassifier) else bundle.model
    if not isinstance(model, ImageTextModel):
        what = f"the model of {source} has no text tower: it was trained for {bundle.recipe.task.name}"
        raise UsageError(what, "vitrail train --data DATA --task contrastive trains one, on images with captions")
    return model


def label_bundle(bundle: ModelBundle, labels: Sequence[str], templates: Sequence[str], source: str) -> ModelBundle:
    """The classifier of the classes that some texts name. templates: of texts for a label, which replaces {}; none: it
    is one by itself. source: for messages. Errors: `UsageError` for a model without a text tower, for fewer than two
    labels, and for those that are empty or come twice."""
    model = text_model_of(bundle, source)
    names = tuple(clean_caption(label) for label in labels)
    check_labels(names)
    classifier = TextClassifier(model, model.embed_classes(names, templates).to(model.log_scale)).eval()
    task = classification.build(classification.Config(classes=len(names)))
    recipe = dataclasses.replace(bundle.recipe, task=Choice("classification"))
    return dataclasses.replace(bundle, model=classifier, classes=names, task=task, recipe=recipe)


def check_labels(names: Sequence[str]) -> None:
    """Errors: `UsageError` for labels that cannot be told apart."""
    fix = '--labels "a cat,a dog"; a label with a comma stands in quotes: --labels \'"a cat, asleep",a dog\''
    if not all(names):
        raise UsageError("a label is empty", fix)
    if twice := next((name for i, name in enumerate(names) if name in names[:i]), ""):
        raise UsageError(f"the label {twice[:80]!r} is given twice", "give each once")
    if len(names) < 2:
        what = f"there is one label only, {names[0][:80]!r}" if names else "there is no label"
        raise UsageError(f"{what}, and nothing to tell it apart from", fix)
