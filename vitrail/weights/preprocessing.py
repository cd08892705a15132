"""The preprocessing of published weights: a table of names has it as `PREPROCESSING`, by source."""

from typing import Literal, NamedTuple


class Preprocessing(NamedTuple):
    """mean and std of RGB pixels in [0, 1]; `resize_mode` as in the `[input]` of a recipe."""

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize_mode: Literal["stretch", "crop"] = "crop"
    crop_ratio: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"


IMAGENET = Preprocessing()
HALF = Preprocessing((0.5,) * 3, (0.5,) * 3)  # [0, 1] to [-1, 1]
