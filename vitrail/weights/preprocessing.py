"""The preprocessing of published weights: a table of names has it as `PREPROCESSING`, by source."""

from typing import Literal, NamedTuple


class Preprocessing(NamedTuple):
    """mean and std of RGB pixels in [0, 1]; `resize_mode` as in the `[input]` of a recipe."""

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize_mode: Literal["stretch", "crop"] = "crop"
    crop_ratio: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"


class Assumed(NamedTuple):
    """The preprocessing of a file that nothing beside it states. whose: the weights that have it; other: mean and std
    of others with the same tensors, None where no others are known."""

    preprocessing: Preprocessing
    whose: str
    other: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    others: str = ""

    @property
    def reason(self) -> str:
        if self.other is None:
            return f"as is usual for {self.whose}"
        mean, std = (" ".join(f"{value:g}" for value in values) for values in self.other)
        flags = f"--input.mean {mean} --input.std {std}"
        return f"assumed, as of {self.whose}; those of {self.others} have the same tensors and need {flags}"


IMAGENET = Preprocessing()
OPENAI = Preprocessing(
    (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), crop_ratio=1.0, interpolation="bicubic"
)
HALF = Preprocessing((0.5,) * 3, (0.5,) * 3)  # [0, 1] to [-1, 1]
GENERATED = HALF._replace(crop_ratio=1.0, interpolation="bilinear")  # images of a generative model are in [-1, 1]
