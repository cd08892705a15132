"""Recall@K both ways, against a ranking written by hand, and what ties are worth."""

import pytest
import torch
import torch.nn.functional as F

from vitrail.metrics.retrieval import KS, image_ranks, retrieval_metrics


def by_hand(images, texts, owners):
    """Sorted lists, one query at a time."""
    values = {}
    for k in KS:
        hits = [owners[t] == i for t in range(len(texts)) for i in (texts[t] @ images.T).argsort(descending=True)[:k]]
        values[f"text_to_image_r{k}"] = sum(map(bool, hits)) / len(texts)
        found = [
            bool((owners[(image @ texts.T).argsort(descending=True)[:k]] == i).any()) for i, image in enumerate(images)
        ]
        values[f"image_to_text_r{k}"] = sum(found) / len(images)
    return values


@pytest.mark.parametrize(("images", "texts"), [(40, 40), (30, 75), (3, 3)])
def test_as_a_ranking_by_hand(images, texts):
    draw = torch.Generator().manual_seed(images)
    owners = torch.cat([torch.arange(images), torch.randint(images, (texts - images,), generator=draw)])
    x = F.normalize(torch.randn(images, 8, generator=draw), dim=1)
    y = F.normalize(x[owners] + 0.8 * torch.randn(texts, 8, generator=draw), dim=1)
    found, expected = retrieval_metrics(x, y, owners), by_hand(x, y, owners)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["mean_recall"] == pytest.approx(sum(expected.values()) / 6)


def test_a_model_that_gives_all_the_same_scores_as_chance():
    same, owners = F.normalize(torch.ones(50, 4), dim=1), torch.arange(50)
    found = retrieval_metrics(same, same, owners)
    for k in KS:
        assert found[f"text_to_image_r{k}"] == pytest.approx(k / 50)
        assert found[f"image_to_text_r{k}"] == pytest.approx(k / 50)
    assert found["text_to_image_median_rank"] == 25.5


def test_one_caption_on_two_images_is_a_tie_of_two():
    x = F.normalize(torch.randn(20, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    y = x.clone()
    y[1] = y[0]
    found = retrieval_metrics(x, y, torch.arange(20))
    assert found["image_to_text_r1"] == pytest.approx((18 + 0.5) / 20)  # image 1 finds image 0's, and its own is far


def test_several_own_answers_are_each_enough():
    same = F.normalize(torch.ones(4, 4), dim=1)
    found = retrieval_metrics(same[:2], same, torch.tensor([0, 0, 0, 1]))
    assert found["image_to_text_r1"] == pytest.approx((3 / 4 + 1 / 4) / 2)


def test_the_rank_of_an_image_is_that_of_its_best_caption():
    images, texts = torch.eye(3), torch.eye(3)[[0, 2, 1, 2]]
    assert image_ranks(images, texts, torch.tensor([0, 0, 1, 2])).tolist() == [1, 1, 1.5]
    assert image_ranks(images, texts[:3], torch.tensor([0, 1, 2])).tolist() == [1, 2.5, 2.5]
