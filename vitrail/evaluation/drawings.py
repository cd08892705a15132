"""What a task draws of images, such as the reconstructions of a masked autoencoder, as images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from vitrail.data.transforms.preprocess import Preprocess
from vitrail.evaluation.look import prepare_images
from vitrail.inference.predictor import Predictor
from vitrail.layers.modes import evaluation_mode
from vitrail.tasks._features import DrawingTask


class Drawings(NamedTuple):
    """Of one image: its drawings by title, uint8 [H W C] each."""

    panels: dict[str, np.ndarray]


@torch.no_grad()
def draw_images(predictor: Predictor, images: Sequence[np.ndarray], ids: Sequence[int]) -> list[Drawings]:
    """Of images uint8 [H W C]; none of a task that draws nothing. ids: their numbers, of which what is random is a
    function."""
    task = predictor.task
    if not isinstance(task, DrawingTask) or not images:
        return []
    batch = prepare_images(predictor, images)
    with evaluation_mode(predictor.model):
        drawn = task.draw(predictor.model, torch.as_tensor(batch), np.asarray(ids))
    panels = {title: to_pixels(values.float().cpu(), predictor.preprocess) for title, values in drawn.items()}
    return [Drawings({title: pixels[i] for title, pixels in panels.items()}) for i in range(len(images))]


def to_pixels(images: torch.Tensor, pre: Preprocess) -> np.ndarray:
    """Normalised images [B C H W] -> uint8 [B H W C]."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (pre.mean, pre.std))
    pixels = (images * std + mean).clamp(0, 1).mul(255).round().byte()
    return pixels.permute(0, 2, 3, 1).numpy()
