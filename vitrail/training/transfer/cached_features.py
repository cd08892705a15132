"""The features of a frozen backbone, computed once: training, and the evaluations during a run, read them in place of
images. The head then learns in seconds, and what comes out is what a forward pass in every step would give, but for
rounding.

That holds where an image has the same features in every step: the whole backbone frozen to the end, no random
augmentation, no mixing, no dropout, no change of size, and a loss that sees images through the model alone.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.data.dataset import Split
from vitrail.data.splits import evaluation_part
from vitrail.data.transforms.features import FeatureReader, FeatureTransform
from vitrail.engine.freeze import set_train_mode
from vitrail.evaluation.features import Progress, part_features, save_features
from vitrail.heads.linear import Classifier, FeatureClassifier
from vitrail.inference.predictor import Predictor
from vitrail.tasks._defaults.transfer import RANDOM_KEYS, random_settings
from vitrail.training.session import CachedFeatures, Session

LARGEST = 2**32  # bytes of features in memory
PROBED = 2  # images whose features are computed twice


def cache_features(session: Session, is_resumed: bool, progress: Progress | None = None) -> None:
    """Sets the features of the training and evaluation images of a session with its weights loaded, where its recipe
    has runtime.cache_features; those of a resumed run are read from its files, or computed again."""
    if not session.recipe.runtime.cache_features:
        return
    if reason := reason_against(session):
        session.notes.append(f"runtime.cache_features is ignored: {reason}")
        return
    net, folder = session.state.model, features_folder(session) if is_resumed else None
    assert isinstance(net, Classifier)
    splits = {}
    for part in cached_parts(session):
        rows, notes = part_features(predictor_of(session), session.dataset, part, folder, session.world, progress)
        split = session.dataset.splits[part]
        splits[part] = Split(split.names, split.labels, FeatureReader(rows.numpy()))
        session.notes += [note for note in notes if "computed again" in note]
    transform = FeatureTransform(session.preprocess)
    session.features = CachedFeatures(splits, transform, FeatureClassifier(net))
    session.feed = replace(session.feed, transform=transform)
    counted = " and ".join(f"{len(split):,} images of {part}" for part, split in splits.items())
    session.notes.append(f"the features of {counted} are computed once: no step passes an image through the backbone")


def write_features(session: Session) -> None:
    """Writes the features into the folder of the run, for a resume; a full disk is a note, since they can be computed
    again."""
    if session.features is None:
        return
    for part, split in session.features.splits.items():
        reader: Any = split.read
        rows = torch.from_numpy(reader.rows)
        notes = save_features(predictor_of(session), session.dataset, part, features_folder(session), rows)
        session.notes += [note for note in notes if "could not" in note]


def features_folder(session: Session) -> Path:
    """That of `vitrail probe` too, which reads the same files."""
    return session.folder.path / "features"


def cached_parts(session: Session) -> list[str]:
    """Those that training and the evaluations during a run read."""
    evaluated = [evaluation_part(session.dataset, final=False)] if session.recipe.train.eval_every else []
    return list(dict.fromkeys(["train", *evaluated]))


def predictor_of(session: Session) -> Predictor:
    """The model with the preprocessing of its recipe."""
    return Predictor(
        session.state.model, session.bundle.classes, session.recipe, session.bundle.task, session.folder.path
    )


def reason_against(session: Session) -> str:
    """Why features cannot stand for images; "" where they can."""
    net, recipe = session.state.model, session.recipe
    if session.parallel.shards > 1:
        return "the model is divided among processes"
    if not isinstance(net, Classifier) or not session.bundle.task.takes_features:
        return "the loss of this task needs the images"
    if any(p.requires_grad for p in net.backbone.parameters()) or session.unfreeze_stages:
        return "the backbone learns"
    config = vars(net.backbone.config)
    if on := random_settings(recipe) + [f"model.{key}" for key in RANDOM_KEYS if config.get(key)]:
        return f"{on[0]} gives other features in every step"
    count = sum(len(session.dataset.splits[part]) for part in cached_parts(session))
    if (size := count * sum(net.backbone.summary_widths) * 4) > LARGEST:
        return f"the features of {count:,} images are {size / 2**30:,.1f} GiB, more than {LARGEST >> 30}"
    if is_random(net, recipe.input.channels, recipe.input.size or (0, 0)):
        return f"{recipe.model.name} gives an image other features in every step"
    return ""


@torch.no_grad()
def is_random(net: Classifier, channels: int, size: tuple[int, int]) -> bool:
    """Whether a frozen backbone gives the same image other features at other random numbers, as one of a family of the
    user's own may: found on noise, in the mode of training."""
    weight = next(net.parameters())
    outputs: list[Tensor] = []
    modes = [(m, m.training) for m in net.modules()]
    set_train_mode(net)
    with torch.random.fork_rng([weight.device] if weight.is_cuda else []):
        torch.manual_seed(0)
        images = torch.randn(PROBED, channels, *size).to(weight.device)
        for seed in (1, 2):
            torch.manual_seed(seed)
            outputs.append(torch.cat(net.backbone(images).summaries, dim=1))
    restore(modes)
    return not torch.equal(*outputs)


def restore(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, training in modes:
        module.training = training
