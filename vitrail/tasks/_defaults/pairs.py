"""Defaults for images with captions: those of images with classes, and the tokenizer."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from vitrail.contracts import Defaults
from vitrail.data.texts.subwords import SubwordDropout
from vitrail.data.texts.tokenizer import Tokenizer, fit_tokenizer, read_tokenizer, train_tokenizer
from vitrail.errors import UsageError
from vitrail.facts import Choices, check_absent
from vitrail.recipe import Recipe
from vitrail.tasks._defaults.classes import MANY, ClassDefaults
from vitrail.validation import as_path, update_config

LEAST_CONTEXT = 8  # tokens
COVERED = 0.99  # share of the captions that fit into the context
WORD = re.compile(r"\w+")
SIDES = {
    "left", "right", "leftwards", "rightwards", "links", "rechts", "gauche", "droite", "izquierda", "derecha", "влево",
    "вправо", "слева", "справа", "налево", "направо", "левая", "левый", "левой", "правая", "правый", "правой",
}  # fmt: skip
MANY_PAIRS = 8000  # from which on the loss and the optimiser are the published ones
FEW = "learns more of few pairs from random weights"
BATCHES = ((50_000, 1024), (8000, 512), (2000, 256), (500, 128), (0, 32))  # by the number of images, on a CPU


class PairDefaults(Defaults):
    """Of a task that learns from captions. `config`: its own; `text_of`: the config of the text tower of one."""

    max_epochs, least_epochs = 150, 16

    def __init__(self, config: Any, text_of: Callable[[Any], Any]):
        self.config, self.text_of, self.images = config, text_of, ClassDefaults()

    def images_shown(self, gpu: bool) -> int:
        return self.images.images_shown(gpu)

    def choose_input(self, c: Choices) -> None:
        self.images.choose_input(c)

    def choose_model(self, c: Choices) -> None:
        self.images.choose_model(c)
        batch = next(size for least, size in BATCHES if c.facts.count >= least) * (4 if c.facts.gpu else 1)
        why = f"for {c.facts.count:,} training images, each of which is compared with all of its batch"
        c.set_default("train", "batch_size", min(batch, max(2, c.facts.count)), why)
        if (c.recipe.train.batch_size or 0) > c.facts.count > 1:
            what = f"more than the {c.facts.count:,} training images: a batch has a pair several times"
            c.reasons.append(f"train.batch_size = {c.recipe.train.batch_size:,}: {what}, and each as a wrong answer")
        if is_small(c):
            c.set_key("task", "loss", "softmax", FEW)
            if not self.config.tokenizer:
                c.set_key("task", "subword_dropout", 0.2, "few captions: words are cut differently each time")
        if c.facts.gpu:
            c.set_key("task", "text", "tiny" if c.facts.count < MANY else "small", "on a GPU")
        config = update_config(self.config, c.recipe.task.keys, "contrastive")  # with what came with initial weights
        known = config.tokenizer_hash
        if known and not config.tokenizer:
            return
        text = self.text_of(config)
        tokenizer = make_tokenizer(config, text, c.facts.captions)
        facts = tokenizer.facts
        if config.subword_dropout:
            SubwordDropout(tokenizer, config.subword_dropout)  # refuses a tokenizer whose words it cannot cut
        if known and facts.sha256 != known:
            raise UsageError(
                f"{config.tokenizer} is the tokenizer of another model than the weights",
                "leave --task.tokenizer out: theirs came with them",
            )
        why = f"of {config.tokenizer}" if config.tokenizer else "byte-level BPE, trained on the captions"
        c.set_key("task", "vocabulary", facts.vocabulary, why)
        fits = "as given" if config.context else f"{COVERED:.0%} of the captions are no longer"
        c.set_key("task", "context", facts.context, fits)
        for key, value in (("tokenizer_size", facts.size), ("tokenizer_hash", facts.sha256)):
            c.set_key("task", key, value, "of the tokenizer, which is kept with the model")
            if (given := c.recipe.task.keys[key]) != value:
                raise UsageError(f"task.{key} is {given}, and that of the tokenizer {value}", "leave it out")
        if text.summary != "last" and (end := find_end(config, text, tokenizer)) != text.end:
            c.set_key("task", "text_end", end, "the token that ends a text, at which the text tower is summarised")

    def choose_optimizer(self, c: Choices) -> None:
        c.set_default("init", "fit_head", False)
        if is_small(c):
            c.set_default("optim", "name", "muon", FEW)
        c.set_default("optim", "name", "adamw", "as published for images with texts")
        if c.recipe.optim.name == "adamw":
            c.set_default("optim", "betas", [0.9, 0.98], "likewise")

    def choose_augmentation(self, c: Choices) -> None:
        if any(SIDES & set(WORD.findall(text.lower())) for text in c.facts.captions):
            c.set_default("augment", "hflip", False, "captions speak of left and right")
        elif c.facts.is_mirrorable:
            c.set_default("augment", "hflip", True, "no caption speaks of left or right")
        self.images.choose_augmentation(c)

    def peak_lr(self, recipe: Recipe, model_config: Any) -> float:
        return min(2e-3 if recipe.optim.name == "muon" else 1e-3, self.images.peak_lr(recipe, model_config))

    def check(self, recipe: Recipe) -> None:
        self.images.check(recipe)
        a = recipe.augment
        asked = {"augment.mixup": a.mixup > 0, "augment.cutmix": a.cutmix > 0}
        check_absent(asked, "mixes images, and captions cannot be mixed")
        check_absent({"data.sampler balanced": recipe.data.sampler == "balanced"}, "is for images with classes")
        if (recipe.train.batch_size or 2) < 2:
            raise UsageError("a batch of one pair has nothing to compare it with", "--batch-size 32, or more")


def is_small(c: Choices) -> bool:
    """Whether few pairs are learned from random weights."""
    r = c.recipe
    return c.facts.count < MANY_PAIRS and not r.init.weights and r.optim.freeze != "backbone"


def find_end(config: Any, text: Any, tokenizer: Tokenizer) -> int:
    """The token that ends a text. A tower that is summarised at another one would give all texts the same embedding.
    Errors: `UsageError` where none ends it, or not the one that was asked for."""
    end = tokenizer.end
    if end is None:
        what = f"{config.tokenizer} ends no text with a token, and the text tower {config.text} is summarised there"
        raise UsageError(what, "give its post-processor one; or --task.text siglip_base, which is summarised elsewhere")
    if config.text_end not in (None, end):
        raise UsageError(f"no text ends with token {config.text_end}", f"--task.text-end {end}, or leave it out")
    return end


def make_tokenizer(config: Any, text: Any, captions: Iterable[str]) -> Tokenizer:
    """The tokenizer that a task's config asks for: of a file, or trained on captions. The same whenever it is asked
    for. Errors: `UsageError`, `CheckpointError`."""
    if config.tokenizer:
        return read_tokenizer(as_path(config.tokenizer), text.context)
    texts = list(captions)
    if not texts:
        raise UsageError("there are no captions to train a tokenizer on", "vitrail check DATA shows what there is")
    if config.context:
        return train_tokenizer(texts, text.vocabulary, config.context)
    trained = train_tokenizer(texts, text.vocabulary, text.context)
    longest = -(-int(np.quantile(trained.lengths(texts), COVERED)) // 8) * 8
    return fit_tokenizer(trained.content, max(LEAST_CONTEXT, min(text.context, longest)))
