"""A query: the images whose embeddings are most like that of a text or an image. One matrix product; up to a million
images nothing faster is needed."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from vitrail.inference.search.index import SearchIndex


class SearchResult(NamedTuple):
    """An image that was found: its number in the index, and the cosine of its embedding with that of the query."""

    number: int
    score: float


def search(index: SearchIndex, queries: Tensor, top: int) -> list[list[SearchResult]]:
    """The `top` images of each query [Q E], the most alike first; of equal ones in the order of the images."""
    scores = np.asarray(index.embeddings) @ queries.numpy().astype(np.float32).T  # [N Q]
    scores[index.unread] = -np.inf
    most = min(top, int((~index.unread).sum()))
    results = []
    for column in scores.T:
        best = np.argpartition(-column, most - 1)[:most] if most < len(column) else np.arange(len(column))
        tied = np.flatnonzero(column >= column[best].min()) if most < len(column) else best
        order = tied[np.argsort(-column[tied], kind="stable")][:most]
        results.append([SearchResult(int(i), float(column[i])) for i in order])
    return results
