"""BPE-dropout: the tokenizer's own pieces where nothing is left out, bytes where all is, the published odds between."""

import collections
import json
import random

import numpy as np
import pytest

from vitrail.data.texts.subwords import SubwordDropout
from vitrail.data.texts.tokenizer import Tokenizer, load_library, train_tokenizer
from vitrail.errors import UsageError

CAPTIONS = ["a red car", "a blue car", "красная машина", "синяя машина", "face with tears of joy", "cat", ""] * 5


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(CAPTIONS, 320, 24)


def test_nothing_left_out_is_the_tokenizer(trained):
    texts = [*CAPTIONS, "Cats,  cars!", "face" * 100, "😀 \x00", "end> of it"]
    assert np.array_equal(SubwordDropout(trained, 0.0).encode(texts, range(len(texts))), trained.encode(texts))


def test_all_left_out_is_the_bytes(trained):
    row = SubwordDropout(trained, 1.0).encode(["red car"], [0])[0]
    assert (row != trained.pad).sum() == 2 + len(" red car")
    assert trained.decode(row) == "red car"


def test_a_text_and_its_seed_give_the_same_pieces(trained):
    cutter = SubwordDropout(trained, 0.5)
    rows = cutter.encode(["a blue car"] * 200, range(200))
    assert np.array_equal(rows, SubwordDropout(trained, 0.5).encode(["a blue car"] * 200, range(200)))
    assert len({tuple(row) for row in rows.tolist()}) > 5
    assert {trained.decode(row) for row in rows} == {"a blue car"}


P = 0.3  # probability that a merge is left out


@pytest.mark.parametrize(
    ("word", "merges", "expected"),
    [
        ("aab", [("a", "b"), ("a", "a"), ("a", "ab")],
         {"aab": (1 - P) ** 2, "a ab": (1 - P) * P, "aa b": P * (1 - P), "a a b": P**2}),
        ("abcd", [("a", "b"), ("c", "d")],  # a+b, left out, is possible again once c+d is done
         {"ab cd": (1 - P) ** 2 * (1 + P), "ab c d": (1 - P) * P, "a b cd": P * (1 - P) * P, "a b c d": P**2}),
    ],
)  # fmt: skip
def test_the_odds_are_the_published_ones(word, merges, expected):
    """Algorithm 1 of the paper by hand: at each step every merge that is possible is left out with P, and the first of
    what is left is done."""
    cutter = object.__new__(SubwordDropout)
    cutter.share, cutter.ranks = P, {pair: i for i, pair in enumerate(merges)}
    counts = collections.Counter(" ".join(cutter.cut(word, random.Random(seed))) for seed in range(20_000))
    assert counts.keys() == expected.keys()
    for pieces, share in expected.items():
        assert abs(counts[pieces] / 20_000 - share) < 0.015, pieces


def test_a_tokenizer_of_another_kind_is_refused(trained):
    library = load_library()
    words = library.Tokenizer(library.models.WordLevel({"[UNK]": 0, "<pad>": 1, "red": 2}, unk_token="[UNK]"))
    words.enable_padding(length=8, pad_id=1, pad_token="<pad>")
    words.enable_truncation(8)
    suffixed = json.loads(trained.content)  # as CLIP's, whose last pieces of words are other tokens
    suffixed["model"]["end_of_word_suffix"] = "</w>"
    for content in (words.to_str().encode(), json.dumps(suffixed).encode()):
        with pytest.raises(UsageError, match="is for byte-level BPE") as caught:
            SubwordDropout(Tokenizer(content), 0.1)
        assert "--task.subword-dropout 0" in str(caught.value)


def test_a_long_word_takes_no_longer_than_its_length_asks(trained):
    """A caption in a script without spaces is one word: looking at all of it for every merge would take minutes."""
    cutter = SubwordDropout(trained, 0.2)
    calls = []

    class Counted(dict):
        def get(self, key, default=None):
            calls.append(key)
            return super().get(key, default)

    cutter.ranks = Counted(cutter.ranks)
    pieces = cutter.cut("face" * 500, random.Random(0))
    assert "".join(pieces) == "face" * 500
    assert len(calls) < 3 * 2000
