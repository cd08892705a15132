"""Which caption of an image a step sees, and what of the transform goes to workers."""

import pickle

import numpy as np
import pytest
import torch

from vitrail.data.dataset import ArrayReader, Split
from vitrail.data.sampling import Keys
from vitrail.data.texts.captions import Captions, CaptionTransform, KnownTokenizer, choose_captions
from vitrail.data.texts.tokenizer import train_tokenizer
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import BadImage

TEXTS = [("a red car", "красная машина", "one more"), ("a cat",), ()]


def read_texts(index):
    return TEXTS[index]


SPLIT = Split(
    ["a.png", "b.png", "c.png"], np.zeros(3, np.int64), ArrayReader(np.zeros((3, 8, 8, 3), np.uint8)), read_texts
)


def keys(epochs, image):
    return Keys(np.arange(epochs), np.full(epochs, image))


def test_a_caption_is_a_function_of_seed_epoch_and_image():
    chosen = choose_captions(SPLIT, keys(300, 0), 5)
    assert chosen == choose_captions(SPLIT, keys(300, 0), 5)
    assert chosen[::-1] == choose_captions(SPLIT, Keys(np.arange(300)[::-1].copy(), np.zeros(300, np.int64)), 5)
    assert chosen != choose_captions(SPLIT, keys(300, 0), 6)
    counts = [chosen.count(text) for text in TEXTS[0]]
    assert min(counts) > 70
    assert choose_captions(SPLIT, keys(3, 1), 5) == ["a cat"] * 3


def test_an_image_without_a_caption_is_named():
    with pytest.raises(BadImage, match=r"c\.png has no caption"):
        choose_captions(SPLIT, keys(1, 2), 5)
    assert list(Captions(SPLIT)) == [*TEXTS[0], *TEXTS[1]]  # left out of what a tokenizer learns from


def test_workers_get_the_tokenizer_and_no_model():
    words = train_tokenizer([text for own in TEXTS for text in own], 300, 8)
    pre = Preprocess((8, 8), 3, (0.5,) * 3, (0.5,) * 3)

    def opened():  # of a model, which cannot be pickled
        return words

    transform = CaptionTransform(pre, 5, opened)
    there = pickle.loads(pickle.dumps(transform))  # noqa: S301
    assert isinstance(there.tokenizer, KnownTokenizer)
    for one, other in zip(transform.load(SPLIT, keys(4, 0)), there.load(SPLIT, keys(4, 0)), strict=True):
        assert torch.equal(one, other)
    assert transform.load(SPLIT, keys(4, 0))[1].shape == (4, 8)
    assert not isinstance(transform.deterministic(), CaptionTransform)


def test_words_are_cut_by_seed_epoch_and_image():
    words = train_tokenizer([text for own in TEXTS for text in own], 300, 16)
    pre = Preprocess((8, 8), 3, (0.5,) * 3, (0.5,) * 3)

    def load(seed, rate, epochs=40):
        return CaptionTransform(pre, seed, KnownTokenizer(words), rate).load(SPLIT, keys(epochs, 1))[1]

    assert torch.equal(load(5, 0.0)[:1].expand(40, -1), load(5, 0.0))
    rows = load(5, 0.5)
    assert torch.equal(rows, load(5, 0.5))
    assert torch.equal(rows[:10], load(5, 0.5, 10))
    assert not torch.equal(rows, load(6, 0.5))
    assert len({tuple(row) for row in rows.tolist()}) > 3
    assert {words.decode(row) for row in rows.tolist()} == {"a cat"}
    transform = CaptionTransform(pre, 5, KnownTokenizer(words), 0.5)
    transform.load(SPLIT, keys(1, 1))
    there = pickle.loads(pickle.dumps(transform))  # noqa: S301
    assert torch.equal(there.load(SPLIT, keys(40, 1))[1], rows)
