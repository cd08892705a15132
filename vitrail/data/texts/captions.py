"""Images with one of their captions as token ids: which one is a function of (seed, epoch, image)."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.data.dataset import Split
from vitrail.data.sampling import Keys, mixed_bits, uniform_numbers
from vitrail.data.subset import evenly_spaced
from vitrail.data.texts.subwords import SubwordDropout
from vitrail.data.texts.tokenizer import Tokenizer
from vitrail.data.transforms.base import Transform
from vitrail.errors import BadImage

CAPTION = 1 << 18  # purpose of the number that chooses a caption
PIECES = CAPTION + 1  # of that by which its words are cut
MOST = 200_000  # images whose captions a tokenizer is trained on


class CaptionTransform(Transform):
    """The images as another transform has them; in place of labels the token ids of a caption, int64 [B N]."""

    def __init__(self, images: Transform, seed: int, tokenizer: Callable[[], Tokenizer], subword_dropout: float = 0.0):
        """tokenizer: gives that of the model, which is loaded after this is made. subword_dropout: the probability that
        two pieces of a word are not merged."""
        self.images, self.seed, self.tokenizer, self.subword_dropout = images, seed, tokenizer, subword_dropout
        self.cutter: SubwordDropout | None = None

    def __getstate__(self) -> dict[str, Any]:  # for workers, which need no model
        return {**vars(self), "tokenizer": KnownTokenizer(self.tokenizer()), "cutter": None}

    @property
    def works_per_image(self) -> bool:
        return self.images.works_per_image

    def load(self, split: Split, keys: Keys) -> tuple[Any, Tensor]:
        pixels, _ = self.images.load(split, keys)
        return pixels, torch.from_numpy(self.encode(choose_captions(split, keys, self.seed), keys))

    def encode(self, texts: list[str], keys: Keys) -> np.ndarray:
        """Token ids [B N] of a caption of each image."""
        if not self.subword_dropout:
            return self.tokenizer().encode(texts)
        if self.cutter is None:
            self.cutter = SubwordDropout(self.tokenizer(), self.subword_dropout)
        return self.cutter.encode(texts, mixed_bits(self.seed, keys, PIECES).tolist())

    def batch(self, images: Any, keys: Keys | None = None) -> Any:
        return self.images.batch(images, keys)

    def deterministic(self) -> Transform:
        """Of the images alone: an evaluation reads all captions."""
        return self.images.deterministic()


class KnownTokenizer:
    """A tokenizer as what gives it."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def __call__(self) -> Tokenizer:
        return self.tokenizer


def captions_of(split: Split, index: int) -> tuple[str, ...]:
    """The captions of an image. Errors: `BadImage` for one that has none."""
    captions: tuple[str, ...] = split.annotation(index) if split.annotation is not None else ()
    if not captions:
        raise BadImage(f"{split.names[index]} has no caption", "give it one, or leave it out")
    return captions


def choose_captions(split: Split, keys: Keys, seed: int) -> list[str]:
    """One caption of each image. Errors: `BadImage`."""
    chosen = []
    for i, chance in zip(keys.ids.tolist(), uniform_numbers(seed, keys, CAPTION).tolist(), strict=True):
        captions = captions_of(split, i)
        chosen.append(captions[int(chance * len(captions))])
    return chosen


class Captions:
    """The captions of a part of the data, or of `MOST` of its images evenly spaced, as often as they are asked for."""

    def __init__(self, split: Split):
        self.split = split

    def __iter__(self) -> Iterator[str]:
        if self.split.annotation is None:
            return
        for i in evenly_spaced(len(self.split), MOST).tolist():
            try:
                yield from captions_of(self.split, i)
            except BadImage:  # an image that cannot be read later either
                continue
