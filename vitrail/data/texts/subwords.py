"""BPE-dropout: a word is cut into other pieces each time it is seen (Provilkov et al. 2020, arxiv.org/abs/1910.13267).

With few captions most words are seen a few times, whole, and what a word shares with others, its stem or its ending, is
never a token of its own. Cut at random it is, so that words that were not trained on have pieces that were.
"""

import heapq
import json
import random
from collections.abc import Sequence

import numpy as np

from vitrail.data.texts.tokenizer import Tokenizer, beginning
from vitrail.errors import UsageError

PROBES = ("a", "b c", "Ab, cé: ня", "0" * 500)  # texts of which all is known once these are encoded alike


class SubwordDropout:
    """Texts -> int64 [B context] as of a tokenizer, in which each merge of two pieces is left out with a probability,
    each time anew. At 0 it is the tokenizer, at 1 a token is a byte."""

    def __init__(self, tokenizer: Tokenizer, share: float):
        """Errors: `UsageError` for a tokenizer that is no byte-level BPE."""
        self.encoder, self.context, self.pad = tokenizer.encoder, tokenizer.context, tokenizer.pad
        model = json.loads(tokenizer.content)["model"]
        merges = model.get("merges", []) if model.get("type") == "BPE" else []
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
        self.ranks = {(left, right): i for i, (left, right) in enumerate(pairs)}
        self.ids = model["vocab"] if self.ranks else {}
        row = self.encoder.encode("a")
        used = sum(row.attention_mask)
        own = [i for i in range(used) if not row.special_tokens_mask[i]] or [used]
        self.head, self.tail = row.ids[: own[0]], row.ids[own[-1] + 1 : used]  # what stands around every text
        self.share = 0.0
        if not self.is_alike(tokenizer):
            raise UsageError(
                "task.subword_dropout is for byte-level BPE, which this tokenizer is not",
                "--task.subword-dropout 0, or leave --task.tokenizer out",
            )
        self.share = share

    def is_alike(self, tokenizer: Tokenizer) -> bool:
        """Whether it encodes as the tokenizer does where nothing is left out."""
        if not self.ranks or self.encoder.pre_tokenizer is None:
            return False
        try:
            return bool(np.array_equal(self.encode(PROBES, [0] * len(PROBES)), tokenizer.encode(PROBES)))
        except (KeyError, ValueError):  # a character that is no token; texts that do not fit as cut here
            return False

    def encode(self, texts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Token ids, int64 [B context]: a function of a text and its seed."""
        rows = np.full((len(texts), self.context), self.pad, np.int64)
        room = self.context - len(self.head) - len(self.tail)
        for row, text, seed in zip(rows, texts, seeds, strict=True):
            numbers = random.Random(seed)
            own = [self.ids[piece] for word in self.words(text) for piece in self.cut(word, numbers)]
            ids = [*self.head, *own[:room], *self.tail]
            row[: len(ids)] = ids
        return rows

    def words(self, text: str) -> list[str]:
        """The words of a text, a character a byte."""
        clean = beginning(text, self.context)
        if self.encoder.normalizer is not None:
            clean = self.encoder.normalizer.normalize_str(clean)
        return [word for word, _ in self.encoder.pre_tokenizer.pre_tokenize_str(clean)]

    def cut(self, word: str, numbers: random.Random) -> list[str]:
        """Merges the pair that the tokenizer learned first among those not left out, until none is left. After each
        merge what was left out is a candidate again."""
        pieces, end = list(word), len(word)
        before, after = list(range(-1, end - 1)), list(range(1, end + 1))
        queue: list[tuple[int, int, str, str]] = []  # rank, place, both pieces
        left_out: list[tuple[int, int, str, str]] = []

        def offer(place: int) -> None:
            if place >= 0 and (other := after[place]) < end:
                pair = pieces[place], pieces[other]
                if (rank := self.ranks.get(pair)) is not None:
                    heapq.heappush(queue, (rank, place, *pair))

        for place in range(end):
            offer(place)
        while queue:
            entry = heapq.heappop(queue)
            _, place, left, right = entry
            other = after[place]
            if pieces[place] != left or other == end or pieces[other] != right:
                continue  # one of the two has become part of another piece
            if self.share and numbers.random() < self.share:
                left_out.append(entry)
                continue
            pieces[place], pieces[other], after[place] = left + right, "", after[other]
            if after[place] < end:
                before[after[place]] = place
            offer(before[place])
            offer(place)
            while left_out:
                heapq.heappush(queue, left_out.pop())
        return [piece for piece in pieces if piece]
