"""The weights before the first step. A new head on a frozen backbone starts as the linear probe of its features, and
learns on from there.

Gradient descent needs hundreds of epochs for the directions in which features hardly vary, L-BFGS some seconds (see
`analysis/probe.py`); a head that fits is also the better start where the backbone unfreezes later (Kumar et al. 2022,
arxiv.org/abs/2202.10054).
"""

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.analysis.probe import choose_l2, draw_subset, fit_probe
from vitrail.assembly import pretrained
from vitrail.assembly.pretrained import WeightsOrigin
from vitrail.data.dataset import Split
from vitrail.data.texts.captions import Captions
from vitrail.errors import UsageError
from vitrail.evaluation.features import Progress, part_features
from vitrail.heads.image_text import ImageTextModel, TextTask
from vitrail.heads.linear import Classifier
from vitrail.inference.predictor import Predictor
from vitrail.training.session import Session

NUMBERS = 30_000_000  # images x width x classes at most; more would take minutes
LEAST = 5  # images a class


def load_initial_weights(session: Session, origin: WeightsOrigin | None) -> None:
    """Loads the initial weights of the recipe, if it has any, with a report in the session, and the tokenizer of a
    model that reads texts. The averaged weights are set at the first step."""
    if origin is not None:
        session.load_report = pretrained.load_origin(session.bundle, origin, session.recipe.init)
        session.bundle = dataclasses.replace(session.bundle, origin=origin.about)
    fill_tokenizer(session, origin)


def fill_tokenizer(session: Session, origin: WeightsOrigin | None) -> None:
    """Puts the tokenizer into a model that reads texts, unless it came with the initial weights. The same on every
    process. Errors: `UsageError` for the text tower of other weights, which knows other tokens, and for captions that
    are not those of the recipe."""
    task, net, report = session.bundle.task, session.state.model, session.load_report
    if not isinstance(task, TextTask) or not isinstance(net, ImageTextModel):
        return
    if net.tokenizer.is_filled:
        if report is not None and origin is not None and {"text.tokens.weight", "text.position"} & {*report.new}:
            what = (
                f"the text tower of {origin.name or origin.path} has other tokens, places or widths than are asked for"
            )
            fix = "leave --task.text, --task.vocabulary and --task.context out; or --init.head new for a new tower"
            raise UsageError(what, fix)
        return
    if report is not None and origin is not None and not any(name.startswith("text.") for name in report.new):
        what = f"the text tower of {origin.name or origin.path} was trained with another tokenizer"
        raise UsageError(what, "leave --task.tokenizer and --task.vocabulary out; or --init.head new for a new tower")
    train = session.dataset.splits["train"]
    tokenizer = session.world.on_rank_zero(lambda: task.make_tokenizer(Captions(train)))
    if tokenizer.facts.sha256 != net.tokenizer.sha256:
        what = "the captions give another tokenizer than that of which the recipe has the SHA-256"
        raise UsageError(what, "leave task.tokenizer_size and task.tokenizer_hash out of it")
    net.tokenizer.fill(tokenizer)


@torch.no_grad()
def fit_head(session: Session, progress: Progress | None = None) -> list[str]:
    """Fits a new linear head to the features of the training images, where `init.fit_head` is set; returns notes. The
    same on every process."""
    bundle, recipe, net = session.bundle, session.recipe, session.state.model
    report = session.load_report
    is_new = report is None or any(name.startswith("heads.") for name in report.new)
    if not (recipe.init.fit_head and is_new and isinstance(net, Classifier)) or bundle.task.teacher is not None:
        return []
    train, width = session.dataset.splits["train"], sum(net.backbone.summary_widths)
    known = session.features.splits["train"] if session.features else None
    classes, count = len(bundle.classes), len(train)
    share = min(1.0, NUMBERS / (width * classes * count))
    if share * count < LEAST * classes and share < 1:
        return [f"{classes:,} classes are too many to fit the head before the first step"]
    if share < 1:
        chosen_images = draw_subset(train.labels, share, recipe.train.seed)
        train, known = train.select(chosen_images), known.select(chosen_images) if known else None
    features = (read_rows(known) if known else compute_rows(session, train, progress)).double()
    labels = torch.from_numpy(np.ascontiguousarray(train.labels))
    with torch.enable_grad():
        choice = choose_l2(features, labels, classes, recipe.train.seed)
        fitted = fit_probe(features, labels, classes, choice.l2)
    weight: Tensor = fitted.weight / fitted.std[:, None]
    bias = fitted.bias - fitted.mean @ weight
    parts = weight.split(list(net.backbone.summary_widths))
    for head, part in zip(net.heads.children(), parts, strict=True):  # the prediction is the mean over the heads
        assert isinstance(head, nn.Linear)
        head.weight.copy_(part.T * len(parts))
        head.bias.copy_(bias)
    found = f"L2 {choice.l2:.2g}: {choice.reason}"
    return [f"the head starts as the linear probe of {len(train):,} training images, {found}"]


def read_rows(split: Split) -> Tensor:
    """Cached features [N D]."""
    return torch.from_numpy(np.stack([split.read(i) for i in range(len(split))]))


def compute_rows(session: Session, train: Split, progress: Progress | None) -> Tensor:
    """The features of images [N D]."""
    bundle = session.bundle
    predictor = Predictor(session.state.model, bundle.classes, session.recipe, bundle.task, session.folder.path)
    dataset = dataclasses.replace(session.dataset, splits={"train": train})
    return part_features(predictor, dataset, "train", None, session.world, progress)[0]
