"""The images that the rows of a study are measured on, and the accuracy on them."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.assembly.model import build_preprocess
from vitrail.assembly.prepare import PreparedRun
from vitrail.data.dataset import Split
from vitrail.data.loader import Fetcher
from vitrail.data.sampling import Keys
from vitrail.data.splits import evaluation_part
from vitrail.data.subset import evenly_spaced
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import DataError
from vitrail.layers.modes import evaluation_mode


def evaluation_split(prepared: PreparedRun, most: int) -> Split:
    """The final evaluation part, or `most` of its images, evenly spaced. Errors: `DataError` for multi-label data."""
    if prepared.dataset.multi_label:
        raise DataError(
            "these images have several classes each, and this study measures accuracy",
            "give data with one class an image",
        )
    split = prepared.dataset.splits[evaluation_part(prepared.dataset, final=True)]
    return split if len(split) <= most else split.select(evenly_spaced(len(split), most))


def take_images(split: Split, prepared: PreparedRun, most: int) -> Tensor:
    """Evenly spaced images of a part, at the model's size, float64 [N D] in [0, 1]."""
    ids = evenly_spaced(len(split), most)
    pixels = Fetcher(split, build_preprocess(prepared.recipe.input))(Keys(np.zeros_like(ids), ids)).images
    return pixels.flatten(1).double() / 255


def load_batch(split: Split, indices: Sequence[int], pre: Preprocess) -> tuple[Tensor, Tensor]:
    """Some images of a part as model input, float [B C H W], and their labels."""
    images = torch.stack([pre.image(split.read(int(i))) for i in indices])
    return pre.batch(images), torch.from_numpy(split.labels[np.asarray(indices)])


@torch.no_grad()
def compute_accuracy(model: nn.Module, images: Tensor, labels: Tensor, chunk: int = 250) -> float:
    """The accuracy of a classifier in evaluation mode on images [N C H W]."""
    with evaluation_mode(model):
        correct = [model(x).argmax(1) == y for x, y in zip(images.split(chunk), labels.split(chunk), strict=True)]
    return float(torch.cat(correct).double().mean())


def load_resized(split: Split, pre: Preprocess, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """All images of a part as model input, at a size, [N C h w] and their labels."""
    images, labels = load_batch(split, range(len(split)), dataclasses.replace(pre, size=size))
    return images.to(device), labels.to(device)
