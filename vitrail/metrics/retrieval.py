"""Retrieval: how often what belongs to a query is among the first K of all by similarity, recall@K, both ways between
images and their captions (Karpathy and Fei-Fei 2015, arxiv.org/abs/1412.2306, section 4.2).

Those of the same similarity are in random order: the recall is its expectation over it, so a model that gives all the
same similarity scores as chance does.
"""

import torch
from torch import Tensor

KS = (1, 5, 10)
CHUNK = 2**24  # similarities at a time


def retrieval_metrics(images: Tensor, texts: Tensor, owners: Tensor) -> dict[str, float]:
    """ "image_to_text_r1", "text_to_image_r1" and so on for `KS`, their mean "mean_recall", and median ranks. images
    [N E], texts [T E] of unit length; owners int64 [T]: the image of each text, each image has one at least."""
    values: dict[str, float] = {}
    ways = {
        "image_to_text": (images, texts, torch.arange(len(images)), owners),
        "text_to_image": (texts, images, owners, torch.arange(len(images))),
    }
    for name, (queries, answers, query_owner, answer_owner) in ways.items():
        counts = rank_counts(queries, answers, query_owner, answer_owner)
        values |= {f"{name}_r{k}": float(expected_hits(*counts, k).mean()) for k in KS}
        values[f"{name}_median_rank"] = float(expected_ranks(*counts[:2]).quantile(0.5)) if len(queries) else 0.0
    recalls = [value for name, value in values.items() if "_r" in name and not name.endswith("rank")]
    return {"mean_recall": sum(recalls) / len(recalls), **values}


def image_ranks(images: Tensor, texts: Tensor, owners: Tensor) -> Tensor:
    """The rank, from 1, of each image's best caption among all texts, float64 [N]; arguments as of
    `retrieval_metrics`."""
    return expected_ranks(*rank_counts(images, texts, torch.arange(len(images)), owners)[:2])


def rank_counts(
    queries: Tensor, answers: Tensor, query_owner: Tensor, answer_owner: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """For each query, by its best own answer: how many others are more similar, how many as similar, and how many own
    answers are as similar, float64 [Q] each."""
    parts = []
    rows = max(1, CHUNK // max(1, len(answers)))
    for start in range(0, len(queries), rows):
        similarity = queries[start : start + rows].double() @ answers.double().T
        own = query_owner[start : start + rows, None] == answer_owner
        best = similarity.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
        equal = (similarity - best).abs() <= 1e-9  # rounding
        above = (similarity > best) & ~equal & ~own
        parts.append(torch.stack([above.sum(1), (equal & ~own).sum(1), (equal & own).sum(1)]).double())
    above, equal, own = torch.cat(parts, dim=1) if parts else torch.zeros(3, 0, dtype=torch.float64)
    return above, equal, own


def expected_ranks(above: Tensor, equal: Tensor) -> Tensor:
    """The rank of a query's best own answer, in the middle of those of the same similarity: [Q]."""
    return above + equal / 2 + 1


def expected_hits(above: Tensor, equal: Tensor, own: Tensor, k: int) -> Tensor:
    """The probability that an own answer is among the first k, where those of the same similarity are in random
    order: [Q]."""
    missed = torch.ones_like(above)
    for place in range(k):  # at each place from `above` on, none of the `own` ones is drawn
        is_drawn = above + place < k
        odds = ((equal - place) / (equal + own - place).clamp(min=1)).clamp(min=0)
        missed = torch.where(is_drawn, missed * odds, missed)
    return 1 - missed
