"""Tokenizers: texts -> token ids of a fixed length, by the `tokenizers` library. A tokenizer is one text of JSON, which
is kept as bytes with the model that was trained with it: data, never code.

Our own is byte-level BPE (Sennrich et al. 2016, arxiv.org/abs/1508.07909; on bytes as in GPT-2), trained on the
captions of a data set: any text in any script has tokens, and none is unknown. Those of published models (CLIP, SigLIP)
are read from the tokenizer.json beside their weights.
"""

import hashlib
import os
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vitrail.errors import CheckpointError, UsageError, many

PAD, START, END = "<pad>", "<start>", "<end>"  # ids 0, 1, 2 of a tokenizer of ours
SPECIAL = (PAD, START, END)
LEAST_VOCABULARY = 256 + len(SPECIAL)  # the bytes, and the special tokens
LARGEST = 64 * 2**20  # bytes of a tokenizer; the largest published one has 34 MB
Clean = Literal["", "lower", "canonicalize"]
MOST_TOKENS = 2**22  # ids of a tokenizer; the largest published one has 262,144
LONGEST = 64  # characters of a text for every token that is kept: what is behind them is not looked at


@dataclass(frozen=True)
class TokenizerFacts:
    """What a recipe says of a tokenizer, whose bytes are a tensor of the model."""

    size: int  # bytes
    sha256: str
    vocabulary: int  # ids of tokens, the largest and one more
    context: int  # tokens of a text, padding included


class Tokenizer:
    """Texts -> int64 [B context], padded and truncated. It is pickled, to worker processes, as its JSON."""

    def __init__(self, content: bytes):
        """Errors: `CheckpointError` for what is no tokenizer, or one without a fixed length."""
        self.content = content
        self.encoder = parse(content)
        padding: Any = self.encoder.padding
        self.context, self.pad = int((padding or {}).get("length") or 0), int((padding or {}).get("pad_id", 0))
        if not self.context:
            raise CheckpointError("the tokenizer has no fixed length", "use the one that is stored with the model")

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[bytes]]:
        return Tokenizer, (self.content,)

    @property
    def facts(self) -> TokenizerFacts:
        return TokenizerFacts(
            len(self.content), hashlib.sha256(self.content).hexdigest(), count_ids(self.encoder), self.context
        )

    @property
    def end(self) -> int | None:
        """The id of the special token that ends every text; None where none does."""
        ends = set[int | None]()
        for row in self.encoder.encode_batch(["a", "b c"]):
            last = max((i for i, used in enumerate(row.attention_mask) if used), default=-1)
            ends.add(row.ids[last] if last >= 0 and row.special_tokens_mask[last] else None)
        return ends.pop() if len(ends) == 1 else None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids, int64 [B context]. Of a longer text the first tokens are kept, and the end token."""
        rows = self.encoder.encode_batch([beginning(text, self.context) for text in texts])
        return np.array([row.ids for row in rows], np.int64).reshape(len(texts), self.context)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, without the special ones."""
        return str(self.encoder.decode(list(tokens), skip_special_tokens=True)).strip()

    def names(self, tokens: Iterable[int]) -> list[str]:
        """The tokens of such ids, those that are there."""
        return [name for token in tokens if (name := self.encoder.id_to_token(token)) is not None]

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """How many tokens of each text are no padding, int64 [B]."""
        rows = self.encoder.encode_batch([beginning(text, self.context) for text in texts])
        return np.array([sum(row.attention_mask) for row in rows], np.int64)


def beginning(text: str, context: int) -> str:
    """As much of a text as may be read, without halves of characters, which the library does not take."""
    return text[: LONGEST * context].encode("utf-8", "replace").decode("utf-8")


def count_ids(made: Any) -> int:
    """How many rows a table of all tokens has: ids may leave gaps."""
    return max(made.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def train_tokenizer(texts: Iterable[str], vocabulary: int, context: int) -> Tokenizer:
    """Byte-level BPE with at most so many tokens; the same texts give the same bytes. Case and runs of white space are
    dropped. Errors: `UsageError` for fewer tokens than bytes, or without the library."""
    if vocabulary < LEAST_VOCABULARY:
        raise UsageError(
            f"a vocabulary of {vocabulary} tokens is smaller than the bytes of a text",
            f"--task.vocabulary {LEAST_VOCABULARY} or more",
        )
    library = load_library()
    made = library.Tokenizer(library.models.BPE())
    parts = library.normalizers
    spaces = parts.Replace(library.Regex(r"\s+"), " ")
    made.normalizer = parts.Sequence([parts.NFC(), parts.Lowercase(), spaces, parts.Strip()])
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)  # a first word is a word like others
    made.decoder = library.decoders.ByteLevel()
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=alphabet,
        min_frequency=2,
        show_progress=False,
    )
    made.train_from_iterator((beginning(text, context) for text in texts), trainer)
    made.post_processor = library.processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, SPECIAL.index(START)), (END, SPECIAL.index(END))]
    )
    return with_length(made, context, SPECIAL.index(PAD), PAD)


def read_tokenizer(path: Path, context: int) -> Tokenizer:
    """The tokenizer of a tokenizer.json, for texts of so many tokens. Errors: `CheckpointError`, `UsageError`."""
    return fit_tokenizer(read_content(path), context, where=str(path))


def read_content(path: Path) -> bytes:
    """The bytes of a tokenizer.json. Errors: `CheckpointError` for a file that is too large, `UsageError`."""
    try:
        if path.stat().st_size > LARGEST:
            raise CheckpointError(f"{path} has more than {LARGEST:,} bytes", "it is no tokenizer")
        return path.read_bytes()
    except OSError as error:
        why = error.strerror or error
        raise UsageError(f"{path} cannot be read: {why}", "--task.tokenizer takes a tokenizer.json") from None


def fit_tokenizer(
    content: bytes,
    context: int,
    pad: str = "",
    where: str = "the tokenizer",
    clean: Clean = "",
    side: Literal["left", "right"] = "right",
) -> Tokenizer:
    """A tokenizer, padded and truncated to so many tokens. pad: the token that pads, by default that of the file, or
    the first of the usual names that it has. clean: what a tokenizer leaves to its caller; side: where texts are
    padded. Errors: `CheckpointError`, `UsageError`."""
    made = parse(content, where)
    if (count := count_ids(made)) > MOST_TOKENS:
        raise CheckpointError(f"{where} has token ids up to {count - 1:,}, as no model has", "copy it again")
    if first := normalizers_of(clean):
        own = made.normalizer
        made.normalizer = load_library().normalizers.Sequence([*first, *([own] if own is not None else [])])
    known = made.padding or {}
    for name in (pad, known.get("pad_token", ""), PAD, "<|endoftext|>", "</s>", "[PAD]"):
        if name and (number := made.token_to_id(name)) is not None:
            return with_length(made, context, number, name, side)
    raise CheckpointError(f"{where} has no token to pad texts with", "give it one named <pad>")


def normalizers_of(clean: Clean) -> list[Any]:
    """What is done with a text before a tokenizer's own normalisation: small letters, or also no punctuation and single
    spaces, as SigLIP was trained (big_vision's `canonicalize_text`)."""
    parts, regex = load_library().normalizers, load_library().Regex
    if clean != "canonicalize":
        return [parts.Lowercase()] if clean == "lower" else []
    marks = parts.Replace(regex(f"[{re.escape(string.punctuation)}]"), "")
    spaces = parts.Replace(regex(r"\s+"), " ")
    return [parts.Replace("_", " "), marks, parts.Lowercase(), spaces, parts.Strip()]


def with_length(made: Any, context: int, pad: int, name: str, side: str = "right") -> Tokenizer:
    """Errors: `UsageError` for a length that no text fits into."""
    around = made.num_special_tokens_to_add(False)
    if context <= around:
        what = f"a context of {many(context, 'token')} holds no text: {around} stand around each"
        raise UsageError(what, f"--task.context {around + 1} or more, better 8")
    made.enable_truncation(context)
    made.enable_padding(direction=side, length=context, pad_id=pad, pad_token=name)
    return Tokenizer(made.to_str().encode())


def parse(content: bytes, where: str = "the tokenizer") -> Any:
    """The library's object. Errors: `CheckpointError` for what is no tokenizer; `UsageError` without the library."""
    library = load_library()
    try:
        return library.Tokenizer.from_str(content.decode())
    except BaseException as error:  # the library raises plain ones, and its panics are no `Exception`
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        why = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{where} is damaged, or no tokenizer ({why})", "copy it again") from None


def load_library() -> Any:
    """The `tokenizers` library. Errors: `UsageError` where it is not installed."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the fork of a worker
    try:
        import tokenizers
    except ImportError:
        what = "texts need the tokenizers library, which is not installed"
        raise UsageError(what, "pip install 'vitrail[text]'") from None
    return tokenizers
