"""Tokenizers: the same texts give the same bytes, any text has tokens, and what is damaged or another's is refused."""

import pickle

import numpy as np
import pytest

from vitrail.data.texts import tokenizer as tokens
from vitrail.data.texts.tokenizer import Tokenizer, fit_tokenizer, read_tokenizer, train_tokenizer
from vitrail.errors import CheckpointError, UsageError

CAPTIONS = ["a red car", "a blue car", "красная машина", "синяя машина", "face with tears of joy", "cat", ""] * 5


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(CAPTIONS, 320, 12)


def test_the_same_captions_give_the_same_bytes_in_any_order(trained):
    assert train_tokenizer(CAPTIONS[::-1], 320, 12).content == trained.content
    assert train_tokenizer(CAPTIONS[:2], 320, 12).content != trained.content


def test_texts_become_rows_of_one_length(trained):
    rows = trained.encode(["a red car", "", "A  Red\nCAR ", "красная машина", "x " * 500, "😀 \ud800 \x00"])
    assert rows.shape == (6, 12)
    assert rows.dtype == np.int64
    assert rows[0].tolist() == rows[2].tolist()  # neither case nor white space
    assert rows[1].tolist() == [1, 2, *[0] * 10]
    assert (rows[4, 0], rows[4, -1]) == (1, 2)  # cut, and ended
    assert trained.decode(rows[3]) == "красная машина"
    assert trained.decode(rows[0]) == "a red car"
    assert trained.encode([]).shape == (0, 12)
    assert trained.lengths(["", "a red car"]).tolist()[0] == 2


def test_a_word_is_the_same_token_wherever_it_stands(trained):
    first, second = trained.encode(["car", "a car"]).tolist()
    assert first[1] == second[2]


def test_what_a_recipe_says_of_it(trained):
    facts = trained.facts
    assert facts.size == len(trained.content)
    assert facts.context == 12
    assert len(facts.sha256) == 64
    assert 259 < facts.vocabulary <= 320
    assert trained.encode(CAPTIONS).max() < facts.vocabulary


def test_it_goes_to_workers_and_into_files(trained, tmp_path):
    again = pickle.loads(pickle.dumps(trained))  # noqa: S301
    assert again.content == trained.content
    assert again.encode(["cat"]).tolist() == trained.encode(["cat"]).tolist()
    path = tmp_path / "tokenizer.json"
    path.write_bytes(trained.content)
    longer = read_tokenizer(path, 20)
    assert longer.context == 20
    assert longer.encode(["cat"])[0, :12].tolist() == trained.encode(["cat"])[0].tolist()


def test_a_long_caption_costs_little(trained):
    assert trained.encode(["word " * 20_000, "a" * 100_000]).shape == (2, 12)
    long = "ab" * 75_000  # one word: merges of all of it are tried
    cut = train_tokenizer([long[:768], *CAPTIONS], 320, 12)
    assert train_tokenizer([long, *CAPTIONS], 320, 12).content == cut.content
    assert trained.lengths([long]).tolist() == [12]


def words(ids, around=""):
    """A tokenizer of whole words; around: what stands around each text."""
    library = tokens.load_library()
    made = library.Tokenizer(library.models.WordLevel(ids, unk_token="[UNK]"))
    made.pre_tokenizer = library.pre_tokenizers.Whitespace()
    if around:
        special = [(name, ids[name]) for name in around.split() if name != "$A"]
        made.post_processor = library.processors.TemplateProcessing(single=around, special_tokens=special)
    return made.to_str().encode()


WORDS = {"[PAD]": 0, "[UNK]": 1, "red": 2, "car": 3, "[CLS]": 4, "[SEP]": 9}


def test_the_token_that_ends_a_text_is_known(trained):
    assert trained.end == 2
    for around, end in (("[CLS] $A [SEP]", 9), ("$A [PAD]", 0), ("[CLS] $A", None), ("", None)):
        for side in ("left", "right"):
            assert fit_tokenizer(words(WORDS, around), 8, side=side).end == end


def test_ids_may_leave_gaps(trained):
    assert fit_tokenizer(words(WORDS), 8).facts.vocabulary == 10
    with pytest.raises(CheckpointError, match="token ids up to 5,000,000"):
        fit_tokenizer(words({**WORDS, "blue": 5_000_000}), 8)


def test_a_context_holds_a_text(trained):
    with pytest.raises(UsageError, match="a context of 2 tokens holds no text"):
        train_tokenizer(CAPTIONS, 320, 2)
    assert train_tokenizer(CAPTIONS, 320, 3).encode(["cat"]).shape == (1, 3)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"model": {"type": "Nobody"}}', b"[" * 5000])
def test_what_is_no_tokenizer_is_refused(content, tmp_path):
    with pytest.raises(CheckpointError, match="no tokenizer"):
        fit_tokenizer(content, 12)


def test_a_tokenizer_without_a_length_or_without_padding_is_refused(trained):
    library = tokens.parse(trained.content)
    library.no_padding()
    with pytest.raises(CheckpointError, match="no fixed length"):
        Tokenizer(library.to_str().encode())
    bare = trained.content.replace(b"<pad>", b"<gap>")
    library = tokens.parse(bare)
    library.no_padding()
    with pytest.raises(CheckpointError, match="no token to pad"):
        fit_tokenizer(library.to_str().encode(), 12)


def test_a_vocabulary_has_room_for_bytes(tmp_path):
    with pytest.raises(UsageError, match="smaller than the bytes"):
        train_tokenizer(CAPTIONS, 100, 12)
    with pytest.raises(UsageError, match="cannot be read"):
        read_tokenizer(tmp_path / "missing.json", 12)


def test_without_the_library_there_is_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(UsageError, match="tokenizers") as caught:
        train_tokenizer(CAPTIONS, 320, 12)
    assert caught.value.fix == "pip install 'vitrail[text]'"
